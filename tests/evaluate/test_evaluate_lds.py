import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_worlds import worlds
from scipy import stats

from jdt.checks import UserError
from jdt.estimators import TABLE, DifferenceOfMeans, Ridge
from jdt.evaluate import lds, lds_intervals, mean_scores, score_datamodel, similarity_scores
from jdt.evaluate.lds import model_draws, resampled_counts
from jdt.masks import OUTSIDE

SEEDS = st.integers(0, 2**32 - 1)


def spearman(predicted, actual):
    return np.array([stats.spearmanr(p, a).statistic for p, a in zip(predicted.T, actual.T, strict=True)])


def drawn(seed, models, targets, *, levels=0):
    """Correlated columns; with few levels, full of ties."""
    rng = np.random.default_rng(seed)
    actual = rng.normal(size=(models, targets))
    predicted = actual + rng.normal(size=(models, targets))
    if levels:
        predicted, actual = np.round(predicted * levels), np.round(actual * levels)
    return predicted, actual


class TestLds:
    @settings(max_examples=25, deadline=None)
    @given(SEEDS, st.sampled_from([5, 12, 201]), st.sampled_from([0, 1, 3]))
    def test_it_is_scipys_with_ties(self, seed, models, levels):
        # In single precision from the start: rounding makes ties.
        predicted, actual = (x.astype(np.float32) for x in drawn(seed, models, 4, levels=levels))
        varies = (np.ptp(predicted, axis=0) > 0) & (np.ptp(actual, axis=0) > 0)
        found = lds(predicted, actual)
        np.testing.assert_allclose(found[varies], spearman(predicted[:, varies], actual[:, varies]), atol=2e-6)
        np.testing.assert_array_equal(found[~varies], 0.0)

    def test_it_is_scipys_to_rounding_in_float64(self):
        with jax.enable_x64(True):
            predicted, actual = drawn(0, 300, 5, levels=2)
            found = lds(predicted, actual)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, spearman(predicted, actual), atol=1e-14)

    @pytest.mark.parametrize("value", [0.0, 0.1, -12345.678])
    def test_a_constant_column_scores_zero(self, value):
        varied, _ = drawn(0, 30, 2)
        constant = np.full((30, 2), value)
        for pair in ((constant, varied), (varied, constant), (constant, constant)):
            np.testing.assert_array_equal(lds(*pair), 0.0)

    @settings(max_examples=10, deadline=None)
    @given(SEEDS)
    def test_only_ranks_count_and_turning_them_turns_the_sign(self, seed):
        predicted, actual = drawn(seed, 40, 3)
        found = lds(predicted, actual)
        np.testing.assert_allclose(lds(np.exp(predicted), actual**3), found, atol=1e-6)
        np.testing.assert_allclose(lds(-predicted, actual), -found, atol=1e-6)
        np.testing.assert_allclose(lds(actual, predicted), found, atol=1e-6)
        np.testing.assert_allclose(lds(actual, actual), 1.0, atol=1e-6)

    @pytest.mark.parametrize(
        ("predicted", "actual", "message"),
        [
            (np.ones((3, 2)), np.ones((4, 2)), r"predicted has shape \(3, 2\) and actual \(4, 2\)"),
            (np.ones((1, 2)), np.ones((1, 2)), "there is 1 model, but"),
            (np.full((3, 1), np.nan), np.ones((3, 1)), "predicted has NaN or infinite values"),
            (np.ones((3, 1)), np.full((3, 1), np.inf), "actual has NaN or infinite values"),
        ],
    )
    def test_what_cannot_be_ranked_is_refused(self, predicted, actual, message):
        with pytest.raises(UserError, match=message):
            lds(predicted, actual)


class TestIntervals:
    @pytest.mark.parametrize(("paired", "levels"), [(False, 0), (True, 0), (False, 1)])
    def test_each_resample_is_spearmans_correlation_of_the_drawn_models(self, paired, levels):
        predicted, actual = drawn(3, 20, 3, levels=levels)
        found = model_draws(predicted, actual, paired=paired, resamples=25, seed=7)
        size = 2 if paired else 1
        for resample, value in enumerate(found):
            counts = np.asarray(resampled_counts(7, resample, 20 // size, size))
            assert counts.sum() == 20
            assert not paired or (counts[0::2] == counts[1::2]).all()
            rows = np.repeat(np.arange(20), counts)
            assert value == pytest.approx(spearman(predicted[rows], actual[rows]).mean(), abs=1e-5)

    def test_every_model_is_drawn_equally_often(self):
        counts = np.stack([resampled_counts(0, r, 10, 1) for r in range(400)])
        assert abs(counts.mean(axis=0) - 1).max() < 4 * np.sqrt(0.9 / 400)
        assert len(np.unique(counts, axis=0)) > 300

    def test_they_hold_the_score_and_depend_on_the_seed_alone(self):
        predicted, actual = drawn(0, 50, 20)
        first, again, other = (lds_intervals(predicted, actual, resamples=200, seed=s) for s in (0, 0, 1))
        assert first.over_models == again.over_models != other.over_models
        assert first.over_examples == again.over_examples != other.over_examples
        for low, high in (first.over_models, first.over_examples):
            assert low < first.value < high
        np.testing.assert_array_equal(first.per_target, lds(predicted, actual))
        assert first.value == pytest.approx(first.per_target.mean())

    def test_they_cover_the_score_of_other_models_and_of_other_targets(self):
        # Of jointly normal values with correlation rho, Spearman's is expected to be (David and Mallows 1961)
        # 6 / pi (asin(rho) + (n - 2) asin(rho / 2)) / (n + 1). Targets differ in how well they are predicted.
        rng = np.random.default_rng(0)
        models, targets, worlds_ = 80, 40, 150

        def expected(rho):
            return np.mean(6 / np.pi * (np.arcsin(rho) + (models - 2) * np.arcsin(rho / 2)) / (models + 1))

        everywhere = expected(np.linspace(0.1, 0.9, 10001))
        inside = np.zeros((worlds_, 2), bool)
        for world in range(worlds_):
            rho = rng.uniform(0.1, 0.9, targets)
            predicted, noise = rng.normal(size=(2, models, targets))
            found = lds_intervals(predicted, rho * predicted + np.sqrt(1 - rho**2) * noise, resamples=200, seed=world)
            inside[world, 0] = found.over_models[0] <= expected(rho) <= found.over_models[1]
            inside[world, 1] = found.over_examples[0] <= everywhere <= found.over_examples[1]
        assert (abs(inside.mean(axis=0) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / worlds_)).all()

    def test_bad_arguments_are_refused(self):
        predicted, actual = drawn(0, 5, 2)
        with pytest.raises(UserError, match="paired=True, but there are 5 models"):
            lds_intervals(predicted, actual, paired=True)
        with pytest.raises(UserError, match="level is 95"):
            lds_intervals(predicted, actual, level=95)
        with pytest.raises(UserError, match="resamples is 0"):
            lds_intervals(predicted, actual, resamples=0)


class TestBaselines:
    @pytest.mark.parametrize("kind", ["fixed-size", "bernoulli", "antithetic"])
    @pytest.mark.parametrize("estimator", TABLE, ids=lambda e: e.name)
    def test_a_datamodel_beats_the_mean_where_targets_differ_and_not_where_they_do_not(self, estimator, kind):
        masks, outputs, beta = next(worlds(kind, 0.5, count=1, models=400))
        rng, paired = np.random.default_rng(0), kind == "antithetic"
        alike = masks @ (beta[:, :1] / 2 + np.zeros_like(beta)) + rng.normal(size=outputs.shape)
        scores = {}
        for name, values in (("differ", outputs), ("alike", alike)):
            fitted = estimator.fit(masks[:240], values[:240], paired=paired)
            baselines = {
                "mean": mean_scores(estimator, masks[:240], values[:240], paired=paired),
                "constant": np.zeros((20, 1)),
            }
            scores[name] = score_datamodel(fitted, masks[240:], values[240:], baselines, paired=paired, resamples=200)
        differ, alike = scores["differ"], scores["alike"]
        assert differ.datamodel.value > 0.3
        assert differ.lead["mean"][0] > 0
        assert abs(differ.baselines["mean"].value) < 0.25
        # One number for all targets is known better from fifty targets than from one.
        assert alike.baselines["mean"].value > alike.datamodel.value
        assert alike.lead["mean"][1] < 0
        assert differ.baselines["constant"].value == 0.0
        assert differ.baselines["constant"].over_models == (0.0, 0.0)

    def test_the_mean_of_one_target_is_the_datamodel(self):
        masks, outputs, _ = next(worlds("bernoulli", 0.5, count=1))
        fitted = Ridge().fit(masks, outputs[:, :1])
        found = score_datamodel(
            fitted, masks, outputs[:, :1], {"mean": mean_scores(Ridge(), masks, outputs[:, :1])}, resamples=50
        )
        assert found.baselines["mean"].value == pytest.approx(found.datamodel.value, abs=1e-3)

    def test_the_lead_is_of_the_same_resamples(self):
        masks, outputs, _ = next(worlds("fixed-size", 0.3, count=1))
        fitted = DifferenceOfMeans().fit(masks, outputs)
        found = score_datamodel(fitted, masks, outputs, {"itself": fitted.influence}, resamples=50)
        np.testing.assert_allclose(found.lead["itself"], 0.0, atol=1e-3)  # Prediction's order up to rounding.

    def test_a_baseline_of_another_shape_is_refused(self):
        masks, outputs, _ = next(worlds("fixed-size", 0.3, count=1))
        fitted = DifferenceOfMeans().fit(masks, outputs)
        with pytest.raises(UserError, match=r"baseline 'odd' has shape \(19, 1\), expected \[20 units, 50 targets\]"):
            score_datamodel(fitted, masks, outputs, {"odd": np.zeros((19, 1))})


class TestSimilarity:
    def images(self, labels, rng, *, noise=40):
        prototypes = np.random.default_rng(5).integers(0, 200, (4, 5, 5, 3))
        return np.clip(prototypes[labels] + rng.integers(0, noise, (len(labels), 5, 5, 3)), 0, 255).astype(np.uint8)

    def test_it_is_the_cosine_written_out(self):
        rng = np.random.default_rng(0)
        units, classes = np.repeat([0, 1, 2, 3, OUTSIDE], 6), np.repeat([3, 1], 4)
        source, target = self.images(units, rng), self.images(classes, rng)
        groups = np.array([0, 0, 0, 0, 1, 1, 1, 1])
        found = similarity_scores(source, units, target, groups)
        means = np.stack([source[units == u].astype(float).mean(axis=0).ravel() for u in range(4)])
        centre = means.mean(axis=0)
        for u in range(4):
            for j in range(2):
                a, b = means[u] - centre, target[groups == j].astype(float).mean(axis=0).ravel() - centre
                assert found[u, j] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-12)
        assert found.argmax(axis=0).tolist() == [3, 1]

    def test_columns_are_images_where_no_classes_are_given_and_units_come_in_any_order(self):
        rng = np.random.default_rng(1)
        units, labels = rng.permutation(np.repeat([0, 1, 2, 3], 2000)), np.array([2, 0, 1])
        found = similarity_scores(self.images(units, rng), units, self.images(labels, rng))
        assert found.shape == (4, 3)
        assert found.argmax(axis=0).tolist() == labels.tolist()

    def test_what_has_no_mean_has_no_similarity(self):
        same = np.ones((4, 2))
        np.testing.assert_array_equal(similarity_scores(same, np.arange(4), same[:2]), 0.0)

    def test_bad_input_is_refused(self):
        images = np.zeros((4, 3, 3, 1), np.uint8)
        with pytest.raises(UserError, match=r"source images have shape \(3, 3, 1\) and target images \(5, 5, 1\)"):
            similarity_scores(images, np.arange(4), np.zeros((2, 5, 5, 1), np.uint8))
        with pytest.raises(UserError, match="there are 4 images, but 3 groups"):
            similarity_scores(images, np.arange(3), images)
        with pytest.raises(UserError, match="group 1 has no image"):
            similarity_scores(images, np.array([0, 0, 2, 2]), images)
        with pytest.raises(UserError, match="no image is in any group"):
            similarity_scores(images, np.full(4, OUTSIDE), images)
