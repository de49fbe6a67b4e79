import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_worlds import design_rows, identified, outputs_of, worlds
from sklearn.metrics import roc_auc_score

from jdt.checks import UserError
from jdt.estimators import TABLE, DifferenceOfMeans, Ridge
from jdt.evaluate import (
    auroc,
    column_correlation,
    models_needed,
    pair_correlation,
    permutation_control,
    permuted_masks,
    reliability_curve,
    spearman_brown,
    split_half,
)

SEEDS = st.integers(0, 2**32 - 1)
every_estimator = pytest.mark.parametrize("estimator", TABLE, ids=lambda e: e.name)


class TestSplitHalf:
    def test_it_is_the_share_of_true_variance(self):
        # Var(beta) / (Var(beta) + standard error^2), the error being that of all the models.
        estimator, strength = DifferenceOfMeans(), 0.2
        masks, outputs, beta = next(worlds("bernoulli", strength, count=1, seed=4))
        error = estimator.fit(masks, outputs).standard_error
        theory = strength**2 / (strength**2 + (error**2).mean())
        mean, low, high = split_half(estimator, masks, outputs, paired=False)
        assert abs(mean - theory) < 0.05
        assert abs(mean - column_correlation(estimator.fit(masks, outputs).influence, beta).mean() ** 2) < 0.07
        assert low < mean < high <= 1

    @pytest.mark.parametrize("kind", ["fixed-size", "bernoulli", "antithetic"])
    @every_estimator
    def test_it_is_high_where_effects_are_and_zero_where_none_are(self, estimator, kind):
        masks, outputs, _ = next(worlds(kind, 0.0, count=1))
        paired, repeats = kind == "antithetic", 2 if estimator.name == "lasso" else 4
        mean, low, high = split_half(estimator, masks, outputs, paired=paired, repeats=repeats)
        assert abs(mean) < 0.1
        assert low <= mean <= high
        masks, outputs, beta = next(worlds(kind, 1.0, count=1))
        difference = DifferenceOfMeans()
        true = identified(kind, difference, beta).var(axis=0).mean()
        theory = true / (true + (difference.fit(masks, outputs, paired=paired).standard_error ** 2).mean())
        mean, _, _ = split_half(estimator, masks, outputs, paired=paired, repeats=repeats)
        # Ridge explains the other units' effects, which are noise to the difference of means.
        assert abs(mean - theory) < 0.05 if estimator.name == "difference" else theory < mean <= 1

    @pytest.mark.parametrize(("models", "paired"), [(2, False), (3, False), (2, True), (6, True)])
    @every_estimator
    def test_too_few_models_have_no_reliability(self, estimator, models, paired):
        masks = design_rows("antithetic" if paired else "bernoulli", models, 6, 0)
        assert np.isnan(split_half(estimator, masks, np.ones((models, 2)), paired=paired)).all()

    @settings(max_examples=10, deadline=None)
    @given(SEEDS)
    def test_it_stays_between_minus_one_and_one(self, seed):
        # Two or three units correlate by chance at -1, where 2 r / (1 + r) has its pole.
        for units in (2, 3):
            masks = design_rows("fixed-size", 12, units, seed)
            outputs = np.random.default_rng(seed).normal(size=(12, 1))
            found = split_half(DifferenceOfMeans(), masks, outputs, paired=False, repeats=10)
            assert min(found) >= -1
            assert max(found) <= 1 + 1e-6

    def test_it_depends_on_its_seed_alone(self):
        masks, outputs, _ = next(worlds("bernoulli", 0.2, count=1))
        first, again, other = (
            split_half(DifferenceOfMeans(), masks, outputs, paired=False, repeats=3, seed=s) for s in (0, 0, 1)
        )
        assert first == again != other


class TestReliabilityCurve:
    @pytest.mark.parametrize("kind", ["bernoulli", "antithetic"])
    def test_each_size_has_the_share_of_true_variance_that_it_would_have_alone(self, kind):
        estimator, strength, paired = DifferenceOfMeans(), 0.4, kind == "antithetic"
        masks, outputs, beta = next(worlds(kind, strength, count=1, models=480, seed=2))
        error = (estimator.fit(masks, outputs, paired=paired).standard_error ** 2).mean()
        true = identified(kind, estimator, beta).var(axis=0).mean()
        curve = reliability_curve(estimator, masks, outputs, paired=paired)
        assert curve.sizes.tolist() == ([14, 30, 60, 120, 240, 480] if paired else [7, 15, 30, 60, 120, 240, 480])
        theory = true / (true + error * 480 / curve.sizes)
        np.testing.assert_allclose(curve.mean[1:], theory[1:], atol=0.06)
        assert (np.diff(curve.mean) > 0).all()
        assert (curve.low <= curve.mean).all()
        assert (curve.mean <= curve.high).all()

    @every_estimator
    def test_its_end_is_split_half_whatever_the_other_sizes(self, estimator):
        masks, outputs, _ = next(worlds("antithetic", 0.5, count=1, targets=16))
        curve = reliability_curve(estimator, masks, outputs, paired=True, sizes=(240, 120), repeats=3)
        assert curve.sizes.tolist() == [120, 240]
        assert (curve.mean[-1], curve.low[-1], curve.high[-1]) == split_half(
            estimator, masks, outputs, paired=True, repeats=3
        )

    def test_it_stays_at_zero_where_nothing_is(self):
        masks, outputs, _ = next(worlds("fixed-size", 0.0, count=1))
        curve = reliability_curve(Ridge(), masks, outputs, paired=False, sizes=(60, 240))
        assert abs(curve.mean).max() < 0.1

    def test_sizes_that_cannot_be_halved_are_nan_and_larger_ones_refused(self):
        masks, outputs, _ = next(worlds("antithetic", 0.5, count=1, models=16))
        curve = reliability_curve(DifferenceOfMeans(), masks, outputs, paired=True, sizes=(6, 16), repeats=3)
        assert np.isnan(curve.mean).tolist() == [True, False]
        few = reliability_curve(DifferenceOfMeans(), masks[:4], outputs[:4], paired=True)
        assert few.sizes.tolist() == [4]
        assert np.isnan(few.mean).all()
        with pytest.raises(UserError, match="size 18 is asked for, but there are 16 models"):
            reliability_curve(DifferenceOfMeans(), masks, outputs, paired=True, sizes=(18,))


class TestModelsNeeded:
    @settings(max_examples=100, deadline=None)
    @given(st.floats(0.001, 0.999), st.floats(0.001, 0.999), st.integers(1, 5000), st.booleans())
    def test_it_is_the_least_number_that_spearman_and_brown_expect_to_do(self, reliability, target, pairs, paired):
        size = 2 if paired else 1
        num_models = pairs * size
        needed = models_needed(reliability, num_models, target, paired=paired)
        assert needed % size == 0
        assert spearman_brown(reliability, needed / num_models) >= target - 1e-6
        if needed > size:
            assert spearman_brown(reliability, (needed - size) / num_models) < target

    def test_it_foretells_what_more_models_do(self):
        # A fifth of the models says how many give 0.8; the rest of them prove it.
        masks, outputs, _ = next(worlds("bernoulli", 0.2, count=1, models=1200, targets=100, seed=3))
        few = split_half(DifferenceOfMeans(), masks[:240], outputs[:240], paired=False)[0]
        needed = int(models_needed(few, 240, 0.8))
        assert 300 < needed < 1200
        found = split_half(DifferenceOfMeans(), masks[:needed], outputs[:needed], paired=False)[0]
        assert abs(found - 0.8) < 0.03

    def test_what_has_no_reliability_never_will(self):
        assert models_needed(0.0, 100, 0.9) == models_needed(-0.3, 100, 0.9) == np.inf
        assert np.isnan(models_needed(float("nan"), 100, 0.9))
        assert models_needed(1.0, 100, 0.9, paired=True) == 2
        with pytest.raises(UserError, match=r"target is 1.0"):
            models_needed(0.5, 100, 1.0)


class TestPairCorrelation:
    @pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
    def test_it_is_the_share_of_variance_that_pairs_have_in_common(self, share):
        rng = np.random.default_rng(0)
        common, own = rng.normal(size=(500, 20)), rng.normal(size=(1000, 20))
        outputs = np.sqrt(share) * np.repeat(common, 2, axis=0) + np.sqrt(1 - share) * own
        assert abs(pair_correlation(outputs) - share) < 4 * (1 - share**2) / np.sqrt(500 * 20) + 1e-3

    def test_it_is_negative_where_units_decide(self):
        masks = design_rows("antithetic", 200, 6, 0)
        outputs = outputs_of(masks, np.ones((6, 1)) * np.arange(6)[:, None], np.random.default_rng(0), noise=0.1)
        assert pair_correlation(outputs) < -0.95


class TestPermutationControl:
    @pytest.mark.parametrize("kind", ["fixed-size", "antithetic"])
    @every_estimator
    def test_planted_units_are_found_and_shuffled_masks_find_none(self, estimator, kind):
        planted = np.arange(20) < 10
        masks, rng = design_rows(kind, 240, 20, 1), np.random.default_rng(1)
        outputs = outputs_of(masks, np.where(planted, 1.0, 0.0)[:, None], rng)

        def statistic(influence):
            return auroc(influence[:, 0], planted)

        paired = kind == "antithetic"
        assert statistic(estimator.fit(masks, outputs, paired=paired).influence) > 0.95
        # The LASSO takes as long for forty shuffles as the others for thousands.
        fewer = {"repeats": 40} if estimator.name == "lasso" else {}
        control = permutation_control(estimator, masks, outputs, statistic, paired=paired, **fewer)
        assert control.shape == (fewer.get("repeats", 100),)
        assert abs(control.mean() - 0.5) < 0.05
        assert control.std() < 0.25  # A single shuffle scatters by sqrt(21 / 1200) = 0.13,
        assert control.std() > 0.05 or estimator.name == "lasso"  # but weights of zero tie at 0.5.
        again = permutation_control(estimator, masks, outputs, statistic, paired=paired, repeats=3)
        np.testing.assert_array_equal(again, control[:3])

    @settings(max_examples=25, deadline=None)
    @given(SEEDS)
    def test_shuffles_keep_the_rows_and_pairs_stay_pairs(self, seed):
        rng = np.random.default_rng(seed)
        masks = design_rows("antithetic", 20, 8, seed)
        before = masks.copy()
        for paired in (False, True):
            shuffled = permuted_masks(masks, rng, paired=paired)
            assert sorted(shuffled.tolist()) == sorted(masks.tolist())
            if paired:
                assert (shuffled[0::2] == ~shuffled[1::2]).all()
        np.testing.assert_array_equal(masks, before)

    def test_pairs_are_turned_half_of_the_time(self):
        masks = np.tile([[True, False], [False, True]], (2000, 1))
        first = permuted_masks(masks, np.random.default_rng(0), paired=True)[0::2, 0]
        assert abs(first.mean() - 0.5) < 4 * 0.5 / np.sqrt(2000)


class TestScores:
    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
    def test_auroc_is_scikit_learns_with_ties(self, rows):
        scores, positive = np.array([float(s) for s, _ in rows]), np.array([p for _, p in rows])
        if 0 < positive.sum() < len(rows):
            assert auroc(scores, positive) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
            assert auroc(-scores, positive) == pytest.approx(1 - auroc(scores, positive), abs=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(SEEDS, st.sampled_from([np.float32, np.float64]))
    def test_correlations_are_numpys_column_by_column(self, seed, dtype):
        first, second = np.random.default_rng(seed).normal(3.0, 1.0, (2, 12, 4)).astype(dtype)
        expected = [np.corrcoef(first[:, c], second[:, c])[0, 1] for c in range(4)]
        np.testing.assert_allclose(column_correlation(first, second), expected, atol=1e-5)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("value", [0.0, 0.1, 12345.678])
    def test_constant_columns_correlate_with_nothing(self, value, dtype):
        constant = np.full((10, 2), value, dtype)
        varied = np.random.default_rng(0).normal(size=(10, 2)).astype(dtype)
        for first, second in ((constant, varied), (varied, constant), (constant, constant)):
            np.testing.assert_array_equal(column_correlation(first, second), 0.0)
