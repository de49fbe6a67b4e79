"""Subsets reach the correlation that they are asked for, at one size, and are parts of one another cell by cell."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.checks import UserError
from jdt.data import NO_STAMP, from_arrays
from jdt.plant import Square, balanced_cells, composition, correlated_subsets, phi, planted_attribute, stamped_view

COUNTS = st.lists(st.integers(1, 40), min_size=4, max_size=4)
PHIS = st.lists(st.floats(-1, 1), min_size=1, max_size=3)


def cells_of(counts, classes=2):
    """Labels and groups with so many examples of each cell, shuffled."""
    labels, groups = np.divmod(np.repeat(np.arange(2 * classes), counts), 2)
    order = np.random.default_rng(sum(counts)).permutation(len(labels))
    return labels[order], groups[order].astype(np.int8)


def counted(rows, labels, groups):
    return np.stack(
        [[np.bincount(groups[row & (labels == y)], minlength=2) for y in np.unique(labels)] for row in rows]
    )


@given(COUNTS)
@settings(max_examples=20, deadline=None)
def test_phi_is_the_correlation_of_two_columns(counts):
    labels, groups = cells_of(counts)
    assert phi(labels, groups) == pytest.approx(np.corrcoef(labels, groups)[0, 1])
    assert phi(labels, groups == 0) == pytest.approx(-phi(labels, groups))


@given(COUNTS, PHIS, st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_subsets_reach_their_phi_at_the_largest_common_size(counts, phis, seed):
    labels, groups = cells_of(counts)
    rows = correlated_subsets(labels, groups, phis, seed=seed)
    found = counted(rows, labels, groups)
    assert found.shape == (len(phis), 2, 2)
    per_label = found.sum(axis=2)
    assert (per_label == per_label[0, 0]).all()
    size = 2 * per_label[0, 0]
    for row, wanted, (zeros, ones) in zip(rows, phis, found, strict=True):
        # Halves are rounded up in both labels, so that the difference of their shares is right to one example.
        assert abs(ones[1] / (size / 2) - zeros[1] / (size / 2) - wanted) <= 2 / size + 1e-9
        if len(np.unique(groups[row])) == 2:
            assert abs(phi(labels[row], groups[row]) - wanted) <= 2 / size + 1e-9
    # One example of each label more does not fit into some cell.
    more = np.array([[[(1 + p) / 2, (1 - p) / 2], [(1 - p) / 2, (1 + p) / 2]] for p in phis]) * (size / 2 + 1)
    available = counted(np.ones((1, len(labels)), bool), labels, groups)[0]
    assert (more >= available + 0.5 - 1e-9).any()


@given(COUNTS, st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_subsets_are_nested_cell_by_cell(counts, shares, classes):
    labels, groups = cells_of([10 + count for count in (counts * 2)[: 2 * classes]], classes)
    rows = composition(labels, groups, shares, size=6 * classes, seed=1)
    larger = composition(labels, groups, shares, size=10 * classes, seed=1)
    assert (rows <= larger).all()
    for y in range(classes):
        for g in range(2):
            one, other = (set(np.flatnonzero(row & (labels == y) & (groups == g))) for row in rows)
            assert one <= other or other <= one
    assert (counted(rows, labels, groups).sum(axis=2) == 6).all()
    np.testing.assert_allclose(
        counted(rows, labels, groups)[:, :, 1], np.repeat(shares, classes).reshape(2, -1) * 6, atol=0.5
    )


def test_compositions_have_their_share_whatever_the_label():
    labels, groups = cells_of([30, 20, 25, 40, 35, 22], 3)
    found = counted(composition(labels, groups, [1.0, 0.8, 0.5, 0.0], seed=0), labels, groups)
    assert found[:, :, 1].tolist() == [[20] * 3, [16] * 3, [10] * 3, [0] * 3]
    assert (found.sum(axis=2) == 20).all()
    other = composition(labels, groups, [1.0, 0.8], seed=1)
    assert (other[1] != composition(labels, groups, [1.0, 0.8], seed=0)[1]).any()


def test_a_test_set_has_equal_cells():
    labels, groups = cells_of([30, 20, 25, 7, 35, 22], 3)
    rows = balanced_cells(labels, groups, seed=0)
    assert (counted(rows[None], labels, groups) == 7).all()
    assert rows.dtype == bool


def test_a_planted_attribute_is_on_half_of_every_class():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1], [10, 7]))
    data = from_arrays("toy", rng.integers(0, 256, (17, 8, 8, 3), np.uint8), labels, ["a", "b"])
    stamp = Square().stamp(data.image_shape)
    planted, groups = planted_attribute(data, stamp, seed=0)
    assert np.bincount(labels[groups == 1]).tolist() == [5, 3]
    assert groups.dtype == np.int8
    np.testing.assert_array_equal(planted.stamps.of_example != NO_STAMP, groups == 1)
    assert planted.fingerprint not in {data.fingerprint, stamped_view(data, stamp, seed=0).fingerprint}
    np.testing.assert_array_equal(planted_attribute(data, stamp, seed=0)[1], groups)
    assert (planted_attribute(data, stamp, seed=1)[1] != groups).any()
    rows = correlated_subsets(labels, groups, [0.0, 1.0], seed=0)
    assert phi(labels[rows[1]], groups[rows[1]]) == 1


LABELS, GROUPS = cells_of([6, 6, 6, 6])
EMPTY = cells_of([6, 0, 6, 6])


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda: phi(LABELS, LABELS * 2), r"a group has values \[0, 2\], but must be 0 or 1"),
        (lambda: phi(LABELS * 0, GROUPS), "the label is 0 throughout"),
        (lambda: correlated_subsets(LABELS, GROUPS * 0 + 1, [0.5], seed=0), "the group is 1 throughout"),
        (lambda: composition(LABELS, GROUPS * 0, [0.5], seed=0), "the group is 0 throughout"),
        (lambda: balanced_cells(LABELS, GROUPS * 0, seed=0), "the group is 0 throughout"),
        (lambda: correlated_subsets(LABELS, GROUPS, [1.2], seed=0), "a phi of 1.2"),
        (lambda: correlated_subsets(LABELS, GROUPS, [np.nan], seed=0), "a phi of nan"),
        (lambda: composition(LABELS, GROUPS, [-0.1], seed=0), "a share of -0.1 of group 1"),
        (lambda: correlated_subsets(*EMPTY, [1.0, 0.5], seed=0), "no example has label 0 and group 1"),
        (lambda: composition(*EMPTY, [0.5], seed=0), "no example has label 0 and group 1"),
        (lambda: balanced_cells(*EMPTY, seed=0), "no example has label 0 and group 1"),
        (lambda: correlated_subsets(LABELS, GROUPS, [1.0], size=14, seed=0), "subsets of 14 .* up to 12, the largest"),
        (lambda: correlated_subsets(LABELS, GROUPS, [0.0], size=7, seed=0), "a multiple of 2 .* up to 24"),
        (lambda: composition(LABELS, GROUPS, [0.5], size=0, seed=0), "subsets of 0 examples"),
        (lambda: phi(LABELS, GROUPS[:4]), "24 labels and 4 groups"),
        (lambda: composition(LABELS, GROUPS[:4], [0.5], seed=0), "24 labels and 4 groups"),
    ],
)
def test_bad_orders_say_how_to_mend_them(order, message):
    with pytest.raises(UserError, match=message) as caught:
        order()
    assert "\n" not in str(caught.value)


def test_a_cell_that_no_subset_needs_may_be_empty():
    labels, groups = EMPTY
    row = correlated_subsets(labels, groups, [1.0], seed=0)[0]
    assert phi(labels[row], groups[row]) == 1
