"""The control of dropped units: as many random ones."""

import numpy as np
import pytest

from experiments.bias_blame import random_units


@pytest.mark.parametrize("count", [0, 1, 5, 6, 9])
def test_as_many_random_units_are_dropped_and_none_to_blame_where_others_are_left(count):
    order = np.array([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])
    found = [random_units(order, count, root=0, seed=seed).tolist() for seed in range(8)]
    assert {len(set(units)) for units in found} == {count}
    outside = set(order[count:].tolist()) if count <= 5 else set(range(10))
    assert all(set(units) <= outside for units in found)
    # Of its seed alone: not of how blamed units are ordered among themselves.
    assert found[3] == random_units(np.r_[order[:count][::-1], order[count:]], count, root=0, seed=3).tolist()
    assert len({tuple(units) for units in found}) > 1 or not count
