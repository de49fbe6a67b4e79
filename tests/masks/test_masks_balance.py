import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.masks import Design, designs, sample
from jdt.masks.balance import balanced_rows, group_size


def random_orders(models, units, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(units) for _ in range(models)])


def unevenness(masks):
    """Mean square by which pairs of units go together more or less often than the average pair."""
    together = masks.T.astype(float) @ masks
    pairs = together[~np.eye(len(together), dtype=bool)]
    return ((pairs - pairs.mean()) ** 2).mean()


def uneven_at(kind, models, units, *, fraction=0.5, seed=0):
    return unevenness(sample(Design(kind, fraction, seed), np.arange(models), units))


@pytest.mark.parametrize(("units", "fraction"), [(10, 0.5), (22, 0.5), (31, 0.5), (30, 0.2), (22, 0.7), (100, 0.5)])
@pytest.mark.parametrize(("models_a_unit", "left"), [(1, 0.3), (2, 0.2), (4, 0.12)])
def test_pairs_of_units_go_together_equally_often(units, fraction, models_a_unit, left):
    models = models_a_unit * units
    random = np.mean([uneven_at("fixed-size", models, units, fraction=fraction, seed=s) for s in range(3)])
    assert uneven_at("balanced", models, units, fraction=fraction, seed=1) < left * random


def test_random_subsets_are_as_uneven_as_chance_has_it():
    """Control: of 60 fixed-size rows of 30 units, co-occurrences scatter like hypergeometric counts."""
    share = 15 * 14 / (30 * 29)
    found = np.mean([uneven_at("fixed-size", 60, 30, seed=s) for s in range(8)])
    assert found == pytest.approx(60 * share * (1 - share), rel=0.2)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(2, 24), st.floats(0.05, 0.95), st.integers(1, 96))
def test_any_first_part_keeps_every_unit_about_equally_often(seed, units, fraction, models):
    design = Design("balanced", fraction, seed)
    counts = sample(design, np.arange(models), units).sum(axis=0)
    assert abs(counts - models * design.kept(units) / units).max() <= 4


def test_pairs_of_a_partial_group_are_more_even_than_at_random():
    units = 20
    models = 2 * group_size(units) + 30
    rows = sample(Design("balanced", seed=4), np.arange(models), units)
    assert unevenness(rows) < 0.3 * uneven_at("fixed-size", models, units)
    assert unevenness(rows[-30:]) < 0.4 * uneven_at("fixed-size", 30, units)


def test_first_rows_of_balanced_pairs_are_the_balanced_rows():
    pairs = sample(Design("balanced-pairs", seed=3), np.arange(80), 21)
    np.testing.assert_array_equal(pairs[0::2], sample(Design("balanced", seed=3), np.arange(40), 21))


def test_groups_differ():
    size = group_size(12)
    rows = sample(Design("balanced", seed=0), np.arange(2 * size), 12)
    assert (rows[:size] != rows[size:]).any(axis=1).mean() > 0.9


def test_the_first_row_is_that_of_the_fixed_size_design():
    first, other = (sample(Design(kind, seed=7), np.arange(1), 20) for kind in ("balanced", "fixed-size"))
    np.testing.assert_array_equal(first, other)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 999), st.integers(2, 12), st.data())
def test_names_of_units_decide_nothing(seed, units, data):
    orders, kept = random_orders(20, units, seed), data.draw(st.integers(1, units - 1))
    renamed = np.array(data.draw(st.permutations(range(units))))
    np.testing.assert_array_equal(balanced_rows(renamed[orders], kept)[:, renamed], balanced_rows(orders, kept))


def test_every_single_row_is_a_uniform_subset():
    draws = np.stack([balanced_rows(random_orders(5, 4, seed), 2)[4] for seed in range(1200)])
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(counts) == 6  # Of 4 units, 2.
    assert abs(counts - 200).max() < 4 * np.sqrt(1200 / 6 * 5 / 6)


def test_rows_are_the_same_whatever_is_asked_for_together():
    design, ids = Design("balanced", seed=3), np.arange(200)
    whole = sample(design, ids, 24)
    for some in ([0], [95, 96, 97], [199, 3, 100], [64], [63]):
        np.testing.assert_array_equal(sample(design, np.array(some), 24), whole[some])


def test_every_exchange_pays():
    """Brute force: no single exchange in the last row lowers the sum that is minimised (short list and all)."""
    orders, kept = random_orders(15, 9, 5), 4
    rows = balanced_rows(orders, kept).astype(int)

    def badness(row):
        overlaps = rows[:-1] @ row
        return ((overlaps - kept**2 / 9) ** 2).sum() + rows[:-1].sum(axis=0) @ row

    best = badness(rows[-1])
    for leaving in np.flatnonzero(rows[-1]):
        for entering in np.flatnonzero(rows[-1] == 0):
            other = rows[-1].copy()
            other[[leaving, entering]] = 0, 1
            assert badness(other) >= best - 1e-9


def test_many_units_are_balanced_in_blocks_with_rows_of_one_size():
    units = 1100
    rows = sample(Design("balanced", 0.3, 2), np.arange(64), units)
    assert (rows.sum(axis=1) == 330).all()
    assert np.std(rows.sum(axis=0)) < 0.6 * np.sqrt(64 * 0.3 * 0.7)


def test_differences_of_means_lose_the_noise_of_other_units():
    rng = np.random.default_rng(0)
    beta = rng.normal(size=22)
    truth = 22 / 21 * (beta - beta.mean())

    def error(kind, seed):
        masks = sample(Design(kind, seed=seed), np.arange(88), 22)
        y = masks @ beta
        found = np.array([y[masks[:, u]].mean() - y[~masks[:, u]].mean() for u in range(22)])
        return ((found - truth) ** 2).mean()

    assert np.mean([error("balanced", s) for s in range(5)]) < 0.1 * np.mean([error("fixed-size", s) for s in range(5)])


def test_64_bit_types_change_no_balanced_row():
    def draw():
        designs._balanced_group.cache_clear()
        return sample(Design("balanced", seed=11), np.arange(40), 10)

    narrow = draw()
    with jax.enable_x64(True):
        np.testing.assert_array_equal(draw(), narrow)
