"""Choice of pre-training data against plain loops, published numbers, planted truth with controls, and coverage."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from jdt import analyses
from jdt.checks import UserError

# Best of the grid of seven sources of 2.7 M images in percent, from the published log of arXiv 2302.13602:
# 1, 5, 10 and 20 shots, then all target examples.
SOURCES = ("CC3m", "CC12m", "Redcaps", "YFCC", "LAION", "WIT", "Shutterstock")
LOG = {
    "PETS": {
        "CC12m": (6.352, 26.254, 42.067, 64.613, 85.523),
        "Redcaps": (7.879, 29.226, 48.855, 71.401, 87.841),
        "YFCC": (7.388, 25.573, 38.332, 60.605, 84.378),
        "LAION": (6.216, 26.854, 41.603, 65.213, 85.714),
        "WIT": (6.543, 22.110, 34.406, 57.007, 83.152),
        "Shutterstock": (5.453, 24.373, 42.721, 66.712, 86.668),
    },
    "REAL": {
        "CC3m": (8.986, 31.652, 43.449, 54.623, 82.702),
        "CC12m": (8.986, 30.783, 43.913, 55.377, 82.748),
        "Redcaps": (7.536, 30.957, 42.493, 53.971, 82.923),
        "YFCC": (6.087, 26.899, 37.971, 49.232, 82.172),
        "LAION": (8.406, 31.246, 43.681, 54.899, 82.752),
        "WIT": (5.217, 23.072, 33.797, 45.928, 81.772),
        "Shutterstock": (7.826, 29.739, 42.551, 54.580, 82.769),
    },
    "CLIPART": {
        "CC3m": (3.188, 20.348, 34.609, 48.319, 72.211),
        "CC12m": (3.768, 19.826, 35.739, 48.826, 72.389),
        "Redcaps": (4.058, 18.145, 31.565, 44.623, 70.773),
        "YFCC": (3.478, 15.594, 26.841, 40.928, 69.890),
        "LAION": (4.638, 21.507, 34.580, 49.188, 70.376),
        "WIT": (3.188, 13.101, 26.000, 39.145, 68.986),
        "Shutterstock": (3.188, 21.275, 36.638, 48.870, 72.334),
    },
}
SPREADS = {
    "PETS": (2.4, 7.1, 14.4, 14.4, 4.7),
    "REAL": (3.8, 8.6, 10.1, 9.4, 1.2),
    "CLIPART": (1.4, 8.4, 10.6, 10.0, 3.4),
}
# Full fine-tuning: scratch, LAION of 1, 2.7 and 15 M images, of 2 B, and supervised ImageNet of 1.28 M.
SIZES = {
    "CIFAR100": (72.8, 83.3, 83.7, 83.7, 90.5, 84.9),
    "DTD": (44.6, 60.6, 65.8, 68.8, 74.3, 71.2),
    "CALTECH101": (55.3, 80.8, 86.9, 90.1, 92.5, 92.2),
    "PETS": (68.0, 85.6, 85.7, 87.5, 93.1, 92.6),
    "REAL": (77.8, 82.3, 82.8, 84.5, 88.0, 85.1),
    "CLIPART": (55.2, 72.0, 70.4, 72.5, 76.0, 74.1),
}


def accuracies(target):
    """float `[shots, sources]` in [0, 1], NaN where the log has been left out."""
    missing = (math.nan,) * 5
    return np.array([LOG[target].get(source, missing) for source in SOURCES]).T / 100


def simulated(seed, mean, *, seeds, draws, examples, of_seed=0.0, of_draw=0.0, of_example=0.0):
    """Correct predictions `[sources, seeds, draws, examples]` with planted variance of each kind."""
    draw = np.random.default_rng(seed)
    shape = (len(mean), seeds, draws, examples)
    chance = np.asarray(mean)[:, None, None, None] + sum(
        scale * draw.standard_normal([n if keep else 1 for n, keep in zip(shape, axes, strict=True)])
        for scale, axes in ((of_seed, (1, 1, 0, 0)), (of_draw, (1, 1, 1, 0)), (of_example, (1, 0, 0, 1)))
    )
    return draw.random(shape) < np.clip(chance, 0, 1)


def _itself(rates):
    return rates


class TestMetrics:
    @pytest.mark.parametrize("target", LOG)
    def test_published_spreads(self, target):
        found = analyses.spread(accuracies(target))
        np.testing.assert_allclose(100 * found, SPREADS[target], atol=0.06)
        assert analyses.fade(found[:4], found[4]) == pytest.approx(found[4] / max(found[:4]))
        assert analyses.fade(found[:4], found[4]) < 0.4  # The published claim.
        assert SOURCES[np.nanargmin(accuracies(target)[4])] == "WIT"

    def test_against_loops(self):
        draw = np.random.default_rng(0)
        values = draw.random((3, 4, 6)).round(1)  # Ties.
        values[0, 0, 2] = values[1, 3, 5] = values[1, 1, 5] = math.nan
        there = [[[x for x in row if math.isfinite(x)] for row in rest] for rest in values]
        for index in np.ndindex(3, 4):
            row = there[index[0]][index[1]]
            assert analyses.spread(values)[index] == max(row) - min(row)
            assert analyses.relative_spread(values)[index] == pytest.approx((max(row) - min(row)) / max(row))
            pairs = [abs(a - b) for a, b in itertools.combinations(row, 2)]
            assert analyses.pairwise_difference(values)[index] == pytest.approx(sum(pairs) / len(pairs))
        ranks = analyses.rank_stability(values)
        for rest, one, other in np.ndindex(3, 4, 4):
            both = values[rest, [one, other]]
            both = both[:, np.isfinite(both).all(axis=0)]
            assert ranks[rest, one, other] == pytest.approx(stats.spearmanr(*both)[0])

    def test_what_has_no_value(self):
        alone = np.array([0.5, math.nan])
        assert np.isnan(
            [analyses.spread(alone), analyses.relative_spread(alone), analyses.pairwise_difference(alone)]
        ).all()
        assert np.isnan(analyses.rank_stability(np.array([[0.1, 0.2], [0.1, 0.2]]))).all()
        assert np.isnan(analyses.fade(np.zeros(3), 0.1))
        assert np.isnan(analyses.error_reduction(alone, 1.0)).all()

    def test_gains(self):
        scratch = SIZES["DTD"][0] / 100
        found = np.array(SIZES["DTD"][1:]) / 100
        np.testing.assert_allclose(100 * analyses.gain_over_scratch(found, scratch), [16, 21.2, 24.2, 29.7, 26.6])
        np.testing.assert_allclose(analyses.error_reduction(found, scratch)[0], 1 - (100 - 60.6) / (100 - 44.6))

    def test_selection_never_looks_at_the_test_set(self):
        draw = np.random.default_rng(1)
        validation, test = draw.random((2, 50, 4))
        validation[0] = test[0] = math.nan
        found = analyses.select(validation, test)
        again = analyses.select(validation, test[:, ::-1])
        np.testing.assert_array_equal(found.chosen, again.chosen)
        assert found.chosen[0] == -1
        assert np.isnan(found.accuracy[0])
        assert (found.optimism[1:] >= 0).all()
        assert found.optimism[1:].mean() > 0.1  # Noise alone: choosing on the test set claims too much.
        with pytest.raises(UserError, match="on only one of validation and test"):
            analyses.select(np.array([math.nan, 0.5]), np.array([0.5, 0.5]))


class TestNullBand:
    def test_two_sources_are_the_paired_t_test(self):
        values = np.random.default_rng(2).random((2, 5, 3))
        expected = stats.ttest_rel(*values.mean(axis=2)).pvalue
        assert analyses.null_band(values).p_value == pytest.approx(expected, rel=1e-5)

    def test_against_permuting_sources_within_seeds(self):
        values = np.random.default_rng(3).normal(0.5, 0.02, (4, 6, 1))
        values[0] += 0.02
        draw = np.random.default_rng(4)
        permuted = draw.permuted(np.broadcast_to(values[..., 0], (4000, 4, 6)), axis=1).mean(axis=2)
        found = analyses.null_band(values)
        assert found.p_value == pytest.approx((np.ptp(permuted, axis=1) >= found.spread).mean(), abs=0.05)

    def test_equal_sources_stay_below_and_different_ones_do_not(self):
        same, different = (
            [analyses.null_band(np.random.default_rng([5, i]).normal(mean, 0.01, (3, 5, 2))) for i in range(60)]
            for mean in (0.5, np.array([0.5, 0.55, 0.6])[:, None, None])
        )
        assert sum(found.is_beyond_noise for found in same) <= 9  # Binomial(60, 0.05): more has chance 0.1 %.
        assert all(found.is_beyond_noise for found in different)

    def test_without_repetition_nothing_is_told(self):
        once = analyses.null_band(np.array([[[0.5]], [[0.9]]]))
        assert math.isnan(once.band)
        assert not once.is_beyond_noise
        assert analyses.null_band(np.random.default_rng(0).random((2, 1, 4))).blocks == "draws"


class TestResample:
    def test_covers_a_planted_mean_where_examples_alone_do_not(self):
        covered = np.zeros(2)
        for i in range(80):
            correct = simulated([6, i], [0.5], seeds=4, draws=3, examples=80, of_seed=0.05, of_draw=0.08)[0]
            found = analyses.resample(correct, resamples=120, seed=i)
            alone = analyses.resample(correct.reshape(12, 1, 1, 80), resamples=120, seed=i)
            of_examples = analyses.estimate(lambda rates: rates.mean(axis=-1), alone)
            for k, each in enumerate((analyses.estimate(_itself, found), of_examples)):
                covered[k] += each.low <= 0.5 <= each.high
        assert covered[0] >= 71  # Binomial(80, 0.95): fewer has chance below 1 %.
        assert covered[1] < 68

    def test_is_as_wide_as_the_t_interval_over_seeds(self):
        correct = simulated(7, [0.5], seeds=5, draws=4, examples=4000, of_seed=0.1)[0]
        found = analyses.estimate(_itself, analyses.resample(correct, resamples=1000))
        _, low, high = analyses.mean_interval(correct.mean(axis=(1, 2)))
        assert found.high - found.low == pytest.approx(high - low, rel=0.1)

    def test_parts_of_an_interval_vary_alone(self):
        correct = simulated(22, [0.5], seeds=5, draws=1, examples=50, of_seed=0.1)[0]
        widths = {}
        for over in ("both", "models", "examples"):
            found = analyses.estimate(_itself, analyses.resample(correct, over=over, resamples=1000))
            widths[over] = found.high - found.low
        assert widths["both"] == pytest.approx(math.hypot(widths["models"], widths["examples"]), rel=0.1)
        once = analyses.estimate(_itself, analyses.resample(correct[:1], over="models"))
        assert math.isnan(once.low)

    def test_spread_is_covered_and_its_bias_is_not_reported(self):
        mean = [0.4, 0.5, 0.5, 0.6]
        covered, above = 0, 0
        for i in range(30):
            correct = simulated([8, i], mean, seeds=4, draws=2, examples=200, of_seed=0.02, of_draw=0.02)
            found = analyses.estimate(analyses.spread, analyses.resample(correct, resamples=60, seed=i), least=0)
            covered += found.low <= 0.2 <= found.high
            equal = simulated([9, i], [0.5] * 4, seeds=4, draws=2, examples=200, of_seed=0.02, of_draw=0.02)
            found = analyses.estimate(analyses.spread, analyses.resample(equal, resamples=60, seed=i), least=0)
            above += found.low > 0.005
        assert covered >= 25
        assert above <= 5

    def test_pairs_by_seed_draw_and_example(self):
        correct = simulated(10, [0.5], seeds=3, draws=2, examples=50)
        twice = analyses.resample(np.concatenate([correct, correct]), resamples=20)
        assert analyses.estimate(lambda rates: rates[..., 0] - rates[..., 1], twice).high == 0
        other_draws = analyses.resample(np.repeat(correct, 2, axis=2), resamples=20)
        np.testing.assert_allclose(other_draws.draws[:, 0], twice.draws[:, 0])

    def test_diverged_models_are_left_out(self):
        correct = simulated(11, [0.5, 0.5], seeds=3, draws=2, examples=50)
        usable = np.ones((2, 3, 2), bool)
        usable[0, 1] = False
        usable[1] = False
        found = analyses.resample(correct, usable, resamples=20)
        np.testing.assert_allclose(found.value, [correct[0, [0, 2]].mean(), math.nan])

    def test_accuracies_alone_have_no_interval(self):
        found = analyses.estimate(analyses.spread, analyses.exactly(accuracies("REAL")[0]))
        assert (round(100 * found.value, 1), math.isnan(found.low), found.clear_of(0)) == (3.8, True, False)

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda: analyses.resample(np.ones((2, 0, 1, 5), bool)), "0 seeds"),
            (lambda: analyses.resample(np.ones((2, 1, 1, 5), bool), level=95.0), "level"),
            (
                lambda: analyses.estimate(
                    np.subtract, *(analyses.resample(np.ones((1, 1, 5), bool), resamples=n) for n in (4, 5))
                ),
                "drawn together",
            ),
        ],
    )
    def test_refuses(self, call, message):
        with pytest.raises(UserError, match=message):
            call()


class TestEquivalence:
    def test_published_brackets(self):
        table = np.array(list(SIZES.values())) / 100
        sizes = np.array([1e6, 2.7e6, 15e6, 2e9])
        for row in table:
            curve, supervised = analyses.exactly(row[1:5]), analyses.exactly(row[5])
            short = analyses.data_equivalence(sizes[:3], curve[:3], supervised, 1.28e6)
            assert (short.size.text, short.ratio.text) == ("> 15,000,000", "> 11.7")
            assert short.size_low.text == "unknown"
            found = analyses.data_equivalence(sizes, curve, supervised, 1.28e6).ratio
            assert found.is_measured
            assert 11.7 < found.value <= 1563

    def test_reads_a_known_curve(self):
        sizes = np.array([100.0, 300.0, 1000.0, 9000.0])
        wanted = np.linspace(0.21, 0.79, 7)
        found = analyses.equivalent_size(sizes, np.tile(0.1 * np.log(sizes) - 0.2, (7, 1)), wanted)
        inside = np.exp((wanted + 0.2) / 0.1)
        expected = np.where(
            inside > 9000, analyses.NOT_REACHED, np.where(inside < 100, analyses.AT_ONCE_REACHED, inside)
        )
        np.testing.assert_allclose(found, expected)
        assert {analyses.NOT_REACHED, analyses.AT_ONCE_REACHED} <= set(found.tolist())

    def test_monotone_is_the_least_squares_curve(self):
        values = np.random.default_rng(12).random((20, 6))
        for row, found in zip(values, analyses.monotone(values), strict=True):
            minmax = [max(min(row[j : k + 1].mean() for k in range(i, 6)) for j in range(i + 1)) for i in range(6)]
            np.testing.assert_allclose(found, minmax)

    def test_planted_ratio_is_found_and_covered(self):
        """Source X equals Y with one useful image in four: 4 of X are worth 1 of Y."""
        sizes, covered = 500 * 2 ** np.arange(6), 0
        for i in range(20):
            means = 0.3 + 0.08 * np.log2(np.append(sizes / 4, 500) / 100)
            correct = simulated([13, i], means, seeds=5, draws=2, examples=500, of_seed=0.01)
            found = analyses.resample(correct, resamples=100, seed=i)
            result = analyses.data_equivalence(sizes, found[:6], found[6], 500)
            assert 4 / 1.5 < result.ratio.value < 4 * 1.5
            covered += result.ratio_low.value <= 4 <= result.ratio_high.value
        assert covered >= 16

    def test_ends_of_an_interval_may_lie_beyond(self):
        correct = simulated(14, [0.4, 0.5, 0.6, 0.59], seeds=4, draws=2, examples=400, of_seed=0.02)
        found = analyses.resample(correct, resamples=200)
        near = analyses.data_equivalence([10, 20, 40], found[:3], found[3], 10)
        assert near.size_low.is_measured
        assert near.size_high.text == "> 40"
        assert 0.025 < near.not_reached < 1
        never = analyses.label_worth(
            analyses.resample(np.ones((4, 2, 400), bool), resamples=200), 10, found[:3], [10, 20, 40]
        )
        assert (never.ratio.text, never.ratio_low.text, never.not_reached) == ("> 4", "> 4", 1)

    @pytest.mark.parametrize(
        ("sizes", "reference", "message"),
        [([100, 100], 5, "ascending"), ([0, 10], 5, "above 0"), ([1, 2], 0, "above 0")],
    )
    def test_refuses(self, sizes, reference, message):
        curve, wanted = analyses.exactly(np.array([0.1, 0.2])), analyses.exactly(0.15)
        with pytest.raises(UserError, match=message):
            analyses.data_equivalence(sizes, curve, wanted, reference)


class TestChoice:
    def test_components_predict_the_variance_of_a_mean(self):
        """Components of one study predict how much the means of many such studies vary; examples have their share."""
        shape = {"seeds": 4, "draws": 3, "examples": 60}
        planted = {"of_seed": 0.04, "of_draw": 0.06, "of_example": 0.3}
        means, predicted, found = [], [], []
        for i in range(200):
            a, b = simulated([15, i], [0.5, 0.5], **shape, **planted).astype(int)
            parts = analyses.variance_components(a - b)
            means.append((a - b).mean())
            predicted.append(parts.model_variance(4, 3) + parts.example_variance)
            found.append((parts.seed, parts.draw, parts.example))
        assert np.mean(predicted) == pytest.approx(np.var(means), rel=0.25)
        assert (np.mean(found, axis=0) > 0).all()

    def test_components_are_those_of_a_balanced_layout(self):
        """Mean squares by plain sums over the cells, for effects that are there exactly."""
        draw = np.random.default_rng(16)
        seed, inner, example = draw.normal(size=(4, 1, 1)), draw.normal(size=(4, 3, 1)), draw.normal(size=(1, 1, 50))
        parts = analyses.variance_components(seed + inner + example)
        cells = (seed + inner)[..., 0]
        assert parts.rest == pytest.approx(0, abs=1e-12)
        assert parts.example == pytest.approx(example.var(ddof=1))
        assert parts.draw == pytest.approx(np.mean([row.var(ddof=1) for row in cells]))
        assert parts.seed == pytest.approx(max(0, cells.mean(axis=1).var(ddof=1) - parts.draw / 3))

    def test_says_how_many_seeds_are_enough(self):
        a, b = simulated(17, [0.56, 0.5], seeds=3, draws=2, examples=2000, of_seed=0.08).astype(int)
        found = analyses.surer(a - b)
        assert not found.is_clear
        assert found.seeds is not None
        assert found.components.margin(found.seeds, 2) < abs(found.difference)
        assert found.components.margin(found.seeds - 1, 2) >= abs(found.difference)
        assert found.examples is None

    def test_says_what_no_seed_can_reduce(self):
        a, b = simulated(18, [0.52, 0.5], seeds=3, draws=2, examples=60, of_example=0.6).astype(int)
        found = analyses.surer(a - b)
        assert abs(found.difference) <= found.floor
        assert (found.seeds, found.draws) == (None, None)
        assert found.examples is not None
        assert found.examples > 60

    def test_one_seed_says_nothing_of_others(self):
        a, b = simulated(19, [0.6, 0.5], seeds=1, draws=4, examples=200).astype(int)
        found = analyses.surer(a - b)
        assert math.isnan(found.components.seed)
        assert found.seeds is None

    def test_ranks_a_planted_order_and_shares_the_rank_of_equals(self):
        correct = simulated(20, [0.3, 0.6, 0.5], seeds=4, draws=2, examples=400, of_seed=0.01)
        found = analyses.rank_sources(["far", "near", "grey"], correct, resamples=200)
        assert found.names == ("near", "grey", "far")
        assert found.best[0] > 0.95
        assert found.noise.is_beyond_noise
        assert found.behind[2].clear_of(0)
        assert found.surer is not None
        assert found.surer.is_clear
        same = analyses.rank_sources(["a", "b"], np.stack([correct[0]] * 2), resamples=20)
        assert same.best.tolist() == [0.5, 0.5]
        assert same.surer is not None
        assert (same.surer.is_clear, same.surer.seeds) == (False, None)

    def test_methods_are_compared_under_one_transfer_rule(self):
        found = analyses.resample(simulated(21, [0.6, 0.7, 0.5, 0.5], seeds=3, draws=1, examples=300), resamples=100)
        gaps = analyses.method_gap(found[:2], found[2:], first_transfer="LP", second_transfer="LP")
        assert gaps[2].value == pytest.approx((gaps[0].value + gaps[1].value) / 2)
        assert gaps[1].clear_of(0)
        with pytest.raises(UserError, match="one rule for both"):
            analyses.method_gap(found[:2], found[2:], first_transfer="LP-FT", second_transfer="FT")
