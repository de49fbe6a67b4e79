"""The control of dropped units: as many random ones."""

import numpy as np
import pytest

from experiments.bias_blame import random_units


@pytest.mark.parametrize("count", [0, 1, 5])
def test_as_many_random_units_are_dropped_and_none_to_blame(count):
    order = np.array([7, 2, 9, 0, 4, 1, 8, 3, 6, 5])
    found = [random_units(order, count, root=0, seed=seed).tolist() for seed in range(8)]
    assert {len(set(units)) for units in found} == {count}
    assert all(set(units) <= set(order[count:].tolist()) for units in found)
    # Of its seed alone: not of how blamed units are ordered among themselves.
    assert found[3] == random_units(np.r_[order[:count][::-1], order[count:]], count, root=0, seed=3).tolist()
    assert len({tuple(units) for units in found}) > 1 or not count
