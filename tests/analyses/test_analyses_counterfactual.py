"""Laws of counterfactual subsets and of the curves made from them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jdt.analyses import accuracy_curves, best_points, counts_of, halves, mean_interval, removal_orders, removals
from jdt.checks import UserError

INFLUENCE = np.array([0.1, -0.4, 0.0, 0.3, -0.2, 0.5])
REMOVED = np.array([0, 1, 3])


def plan_of(num_seeds=2, seed=0, **orders):
    return removals(removal_orders(INFLUENCE) | orders, REMOVED, len(INFLUENCE), num_seeds=num_seeds, seed=seed)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40), st.integers(0, 2**31 - 1))
def test_halves_are_disjoint_cover_everything_and_divide_each_class(labels, seed):
    labels = np.array(labels)
    parts = halves(labels, seed)
    assert (parts.score ^ parts.report).all()
    for label in np.unique(labels):
        of_class = labels == label
        assert int(parts.report[of_class].sum()) - int(parts.score[of_class].sum()) in (0, 1)


def test_halves_depend_on_the_seed_alone():
    labels = np.repeat(np.arange(4), 50)
    assert (halves(labels, 1).score == halves(labels, 1).score).all()
    assert (halves(labels, 1).score != halves(labels, 2).score).any()


def test_subsets_leave_out_what_their_arm_says():
    plan = plan_of(picked=np.array([2, 0]))
    bottom, top = [1, 4, 2], [5, 3, 0]
    for arm, count, mask in zip(plan.arm, plan.count, plan.masks, strict=True):
        left_out = np.flatnonzero(~mask).tolist()
        assert len(left_out) == count
        name = "all" if arm == -1 else plan.arms[arm]
        expected = {"all": [], "bottom": bottom[:count], "top": top[:count], "picked": [2, 0][:count]}
        if name in expected:
            assert sorted(left_out) == sorted(expected[name])
    assert (plan.arm == plan.arms.index("picked")).sum() == 2, "an arm of two units has no point at three"


def test_random_removals_are_nested_differ_by_seed_and_share_randomness_with_the_other_arms():
    plan = plan_of(num_seeds=3)
    random = plan.arm == plan.arms.index("random")
    for repetition in range(3):
        one, three = (plan.masks[random & (plan.seed_index == repetition) & (plan.count == k)][0] for k in (1, 3))
        assert (three <= one).all()
        assert len(np.unique(plan.randomness_ids[plan.seed_index == repetition])) == 1
    assert len(np.unique(plan.masks[random & (plan.count == 3)], axis=0)) > 1
    assert len(np.unique(plan.randomness_ids)) == 3


def test_more_seeds_are_more_models_at_the_end():
    two, three = plan_of(num_seeds=2), plan_of(num_seeds=3)
    for name in ("masks", "arm", "count", "seed_index", "randomness_ids"):
        before = getattr(two, name)
        assert (getattr(three, name)[: len(before)] == before).all()


def test_unknown_influences_are_removed_last():
    orders = removal_orders(np.array([np.nan, 0.2, -0.1]))
    assert orders["bottom"].tolist() == [2, 1, 0]
    assert orders["top"].tolist() == [1, 2, 0]


def test_curves_of_a_world_where_units_add_up_fall_and_rise_as_planted():
    plan = plan_of(num_seeds=2)
    skill = plan.masks @ INFLUENCE  # Accuracy rises with what is kept.
    images = np.arange(400)
    correct = images[None] < (200 + 100 * skill)[:, None]
    curves = accuracy_curves(plan, correct, np.ones(400, bool))
    everything = (200 + 100 * INFLUENCE.sum()) / 400
    for arm, gains in (("bottom", [0, 0.4, 0.6]), ("top", [0, -0.5, -0.9])):
        np.testing.assert_allclose(curves[arm], (everything + np.array(gains) / 4)[:, None] + np.zeros(2), atol=0.003)


def test_points_of_models_that_diverged_or_of_short_arms_are_unknown():
    plan = plan_of(num_seeds=1, picked=np.array([2]))
    usable = ~((plan.arm == 0) & (plan.count == 3))
    curves = accuracy_curves(plan, np.ones((len(plan.masks), 5), bool), np.ones(5, bool), usable)
    assert np.isnan(curves["bottom"][:, 0]).tolist() == [False, False, True]
    assert np.isnan(curves["picked"][:, 0]).tolist() == [False, False, True]
    with pytest.raises(UserError, match="no test image"):
        accuracy_curves(plan, np.ones((len(plan.masks), 5), bool), np.zeros(5, bool))


@pytest.mark.parametrize(
    ("amounts", "words"),
    [((22,), "1 to 21"), ((0.001,), "a unit or more"), ((2.5,), "2.5"), ((-1,), "-1"), ((), "no amount")],
)
def test_amounts_that_are_no_number_of_units_are_refused(amounts, words):
    with pytest.raises(UserError, match=words):
        counts_of(amounts, 22)


def test_the_best_point_gains_nothing_where_there_is_nothing_to_gain():
    draw, gains, naive = np.random.default_rng(0), [], []
    for _ in range(1000):
        common = draw.normal(size=(6, 5))  # What a model has from its training, both halves see.
        ranking, reporting = (common + 0.5 * draw.normal(size=(6, 5)) for _ in range(2))
        gains.append((reporting[best_points(ranking), np.arange(5)] - reporting[0]).mean())
        naive.append((reporting[ranking.mean(axis=1).argmax()] - reporting[0]).mean())
    assert abs(np.mean(gains)) < 4 * np.std(gains) / np.sqrt(len(gains))
    assert np.mean(naive) > 0.4, "choosing on the same models is not harmless"


def test_intervals_are_those_of_a_t_test():
    values = np.array([1.0, 2.0, 4.0, 3.5])
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    found = mean_interval(np.append(values, np.nan))
    assert found == pytest.approx((values.mean(), expected.low, expected.high))
    assert np.isnan(mean_interval(np.array([1.0]))[1])
    assert np.isnan(mean_interval(np.array([np.nan]))[0])
