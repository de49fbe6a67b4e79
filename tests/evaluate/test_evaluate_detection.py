"""Detection scores of influences whose answer is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdt.checks import UserError
from jdt.evaluate import detect_harmful_unit, detect_pairs, share_of


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**31), st.booleans())
def test_planted_pairs_are_first_when_their_influence_is_and_at_chance_when_it_is_not(num_pairs, seed, seek_harm):
    rng = np.random.default_rng(seed)
    influence = rng.normal(size=(200, 40))
    units, examples = rng.permutation(200)[:num_pairs], rng.permutation(40)[:num_pairs]
    chance = detect_pairs(influence, units, examples, seek_harm=seek_harm)
    # The rank is that of a plain sort.
    order = np.argsort(influence if seek_harm else -influence, axis=0)
    for rank, unit, example in zip(chance.ranks, units, examples, strict=True):
        assert order[rank - 1, example] == unit
    planted = influence.copy()
    planted[units, examples] = -9.0 if seek_harm else 9.0
    found = detect_pairs(planted, units, examples, seek_harm=seek_harm)
    assert found.ranks.tolist() == [1] * num_pairs
    assert found.first.value == found.extreme.value == 1.0
    missed = detect_pairs(planted, units, examples, seek_harm=not seek_harm)
    assert (missed.ranks == 200).all()
    assert missed.extreme.count == 0


def test_ties_and_what_is_not_a_number_count_against_detection():
    flat = np.zeros((5, 1))
    pair = np.array([0])
    assert detect_pairs(flat, pair, pair, seek_harm=False).ranks.tolist() == [5]
    flat[0] = np.nan
    assert detect_pairs(flat, pair, pair, seek_harm=True).ranks.tolist() == [5]
    assert detect_harmful_unit(np.zeros(5), 2).rank == 5
    assert detect_harmful_unit(np.array([0.0, np.nan]), 1).rank == 2


@pytest.mark.parametrize(("rank", "num_units", "is_extreme"), [(1, 22, True), (2, 22, False), (5, 100, True)])
def test_a_harmful_unit_is_in_the_bottom_or_is_not(rank, num_units, is_extreme):
    influence = np.arange(num_units, dtype=float)
    found = detect_harmful_unit(influence, rank - 1)
    assert (found.rank, found.is_extreme) == (rank, is_extreme)


@given(st.integers(0, 20), st.integers(0, 20))
def test_intervals_of_shares_are_exact(count, rest):
    if not count + rest:
        return
    found = share_of(np.arange(count + rest) < count)
    expected = stats.binomtest(count, count + rest).proportion_ci(0.95, "exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert found.low <= found.value <= found.high


def test_what_has_no_score_is_refused():
    with pytest.raises(UserError, match="no case"):
        detect_pairs(np.zeros((3, 3)), np.zeros(0, int), np.zeros(0, int), seek_harm=False)
    with pytest.raises(UserError, match="extreme-share"):
        detect_harmful_unit(np.zeros(3), 0, extreme_share=1.0)
