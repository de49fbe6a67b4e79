import math

import jax
import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.checks import UserError
from jdt.masks import KINDS, Design, Listed, check_num_models, sample

SEEDS = st.integers(0, 2**31 - 1)
every_design = pytest.mark.parametrize("kind", KINDS)
paired_designs = pytest.mark.parametrize("kind", ["antithetic", "balanced-pairs"])


def rows(kind, seed=0, *, fraction=0.5, models=10, units=12):
    return sample(Design(kind, fraction, seed), np.arange(models), units)


@pytest.mark.parametrize("kind", ["fixed-size", "balanced"])
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, units=st.sampled_from([2, 9]), fraction=st.floats(0.01, 0.99))
def test_rows_of_one_size_have_exactly_the_kept_number(kind, seed, units, fraction):
    design = Design(kind, fraction, seed)
    kept = design.kept(units)
    assert 1 <= kept <= units - 1
    assert abs(kept - fraction * units) <= 0.5 or kept in (1, units - 1)
    assert (sample(design, np.arange(6), units).sum(axis=1) == kept).all()


@settings(max_examples=4, deadline=None)
@given(SEEDS, st.sampled_from([2, 3, 8]))
def test_bernoulli_rows_are_never_empty(seed, units):
    assert rows("bernoulli", seed, fraction=0.05, models=64, units=units).any(axis=1).all()


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_bernoulli_rows_keep_the_fraction_on_average(fraction):
    models, units = 1000, 16
    mask = rows("bernoulli", 1, fraction=fraction, models=models, units=units)
    expected = fraction / (1 - (1 - fraction) ** units)  # Given that the row is not empty.
    assert abs(mask.mean() - expected) < 4 * math.sqrt(fraction * (1 - fraction) / (models * units))


@paired_designs
@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, units=st.sampled_from([5, 12]))
def test_pairs_are_complements_with_equal_randomness(kind, seed, units):
    design = Design(kind, seed=seed)
    ids = np.arange(8)
    mask, randomness = sample(design, ids, units), design.randomness_id(ids)
    assert design.is_paired
    assert (mask[0::2] == ~mask[1::2]).all()
    assert (randomness[0::2] == randomness[1::2]).all()
    assert len(np.unique(randomness)) == 4
    assert (mask[0::2].sum(axis=1) == design.kept(units)).all()


@pytest.mark.parametrize("kind", ["fixed-size", "bernoulli", "balanced"])
def test_other_designs_give_every_model_its_own_randomness(kind):
    design = Design(kind)
    assert not design.is_paired
    assert design.randomness_id(np.arange(5)).tolist() == [0, 1, 2, 3, 4]


@every_design
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, order=st.permutations(range(10)))
def test_a_row_depends_on_seed_and_model_id_alone(kind, seed, order):
    whole = rows(kind, seed)
    design = Design(kind, seed=seed)
    np.testing.assert_array_equal(sample(design, np.array(order), 12), whole[order])
    np.testing.assert_array_equal(sample(design, np.array([5]), 12), whole[[5]])


@every_design
def test_64_bit_types_change_no_row(kind):
    narrow = rows(kind, 3)
    with jax.enable_x64(True):
        np.testing.assert_array_equal(rows(kind, 3), narrow)


@every_design
def test_seeds_and_models_differ(kind):
    first, second = rows(kind, 0, units=40), rows(kind, 1, units=40)
    assert not (first == second).all(axis=1).any()
    assert len(np.unique(first, axis=0)) == len(first)


@every_design
def test_every_unit_is_kept_equally_often(kind):
    models, units = 4000, 15
    ids = 2 * np.arange(models) if Design(kind).is_paired else np.arange(models)  # One row of each pair.
    design = Design(kind, seed=5)
    rate = sample(design, ids, units).mean(axis=0)
    expected = 0.5 if kind == "bernoulli" else design.kept(units) / units
    assert (abs(rate - expected) < 4 * math.sqrt(expected * (1 - expected) / models)).all()


@pytest.mark.parametrize("kind", ["fixed-size", "antithetic", "balanced", "balanced-pairs"])
@settings(max_examples=25, deadline=None)
@given(sizes=st.sampled_from([2, 11]).flatmap(lambda n: st.lists(st.integers(1, 50), min_size=n, max_size=n)))
def test_the_smallest_subset_is_a_tight_lower_bound(kind, sizes):
    sizes = np.array(sizes)
    design = Design(kind, seed=2)
    held = sample(design, np.arange(64), len(sizes)) @ sizes
    assert design.smallest_subset(sizes) <= held.min()
    fewest = len(sizes) // 2 if design.is_paired else (len(sizes) + 1) // 2
    assert design.smallest_subset(sizes) == sum(sorted(sizes.tolist())[:fewest])


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5])
def test_bernoulli_subsets_stay_above_what_is_expected_of_them(fraction):
    sizes = np.random.default_rng(0).integers(1, 30, 100)
    design = Design("bernoulli", fraction)
    assert sizes.min() <= design.smallest_subset(sizes) <= (sample(design, np.arange(2000), 100) @ sizes).min()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(UserError, match=rf"fraction is {fraction}, .*strictly between 0 and 1.*fraction=0\.5"):
        Design("fixed-size", fraction)


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_that_keys_cannot_hold_are_refused(seed):
    with pytest.raises(UserError, match=f"seed is {seed}, but it must lie between 0 and 2147483647"):
        Design(seed=seed)


def test_unknown_designs_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # As in users' programs.
    with pytest.raises(UserError, match="unknown design 'latin'; known: fixed-size, bernoulli, antithetic, balanced, "):
        Design("latin")


@paired_designs
def test_pairs_need_one_half(kind):
    with pytest.raises(UserError, match=r"fraction is 0\.3, .*complement: use fraction=0\.5, or design=fixed-size"):
        Design(kind, 0.3)


@pytest.mark.parametrize("units", [0, 1])
@every_design
def test_one_unit_is_refused(kind, units):
    with pytest.raises(UserError, match=f"there is {units} unit, but subsets need at least 2"):
        rows(kind, units=units)


@pytest.mark.parametrize("models", [0, 1])
@every_design
def test_fewer_than_two_models_are_refused(kind, models):
    with pytest.raises(UserError, match=f"num-models is {models}, .*use at least 2"):
        check_num_models(Design(kind), models)


@paired_designs
def test_an_odd_number_of_paired_models_is_refused(kind):
    with pytest.raises(UserError, match=r"num-models is 7, which is odd.*use 8, or design=fixed-size"):
        check_num_models(Design(kind), 7)
    check_num_models(Design(kind), 8)
    check_num_models(Design("fixed-size"), 7)


def test_listed_rows_are_what_is_listed():
    masks = np.array([[True, False, True], [False, True, False], [True, True, True]])
    design = Listed(masks, np.array([7, 7, 9]))
    assert (sample(design, np.array([2, 0]), 3) == masks[[2, 0]]).all()
    assert design.randomness_id(np.array([2, 0])).tolist() == [9, 7]
    sizes = np.array([10, 20, 30])
    assert (design.smallest_subset(sizes), design.epoch_size(sizes)) == (20, 60)
    check_num_models(design, 3)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Listed(np.eye(3, dtype=bool)[[0, 1]] & [True, False, True], np.arange(2)), "subset 1 keeps no unit"),
        (lambda: Listed(np.ones((2, 3), bool), np.arange(2), seed=-1), "seed is -1"),
        (lambda: check_num_models(Listed(np.ones((2, 3), bool), np.arange(2)), 3), "2 subsets are listed"),
        (lambda: sample(Listed(np.ones((2, 3), bool), np.arange(2)), np.arange(2), 4), "of 3 units, but there are 4"),
    ],
)
def test_lists_that_do_not_fit_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make()
