import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jdt.checks import UserError
from jdt.masks import OUTSIDE, atoms

SUBSETS = hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 30))).filter(np.any)


@given(SUBSETS)
def test_subsets_are_rows_over_what_tells_them_apart(members):
    names = [f"arm {number}" for number in range(len(members))]
    units, masks = atoms(members, names)
    np.testing.assert_array_equal(units.members(masks), members)
    np.testing.assert_array_equal(units.of_example == OUTSIDE, ~members.any(axis=0))
    assert len(np.unique(masks, axis=1).T) == len(units) == len(set(units.names))
    assert masks.any(axis=0).all()
    _, first = np.unique(units.of_example[units.of_example != OUTSIDE], return_index=True)
    assert (np.diff(first) > 0).all()  # In the order of their first examples.


@given(st.integers(0, 2**31), st.lists(st.sampled_from(["a", "b", "a, b", "a (2)", "a, b (2)"]), unique=True))
def test_names_are_short_and_none_is_there_twice(seed, some):
    draw = np.random.default_rng(seed)
    names = [*some, *(f"phi=0.8 without blamed units {number}" for number in range(60))]
    members = draw.random((len(names), 40)) < 0.7
    units, _ = atoms(members, names)
    assert len(set(units.names)) == len(units.names)
    assert max(map(len, units.names)) < 100


def test_a_unit_tells_who_holds_it():
    members = np.array([[1, 1, 1], [1, 1, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    units, _ = atoms(members, list("abcde"))
    assert units.names == ("a, b and 3 more", "a, b, c", "a")
    units, masks = atoms(np.eye(3, dtype=bool)[:, [0, 0, 2, 1]], ["a", "b", "c"])
    assert units.names == ("a", "c", "b")
    assert masks.tolist() == [[True, False, False], [False, False, True], [False, True, False]]


@pytest.mark.parametrize(
    ("members", "names", "words"),
    [(np.zeros((2, 3), bool), "ab", "no subset holds any example"), (np.ones((2, 3), bool), "aa", "named a, a")],
)
def test_what_cannot_be_told_apart_is_refused(members, names, words):
    with pytest.raises(UserError, match=re.escape(words)):
        atoms(members, list(names))
