import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_worlds import design_rows, outputs_of
from scipy import stats

from jdt.checks import UserError
from jdt.estimators import DifferenceOfMeans, Ridge
from jdt.evaluate import p_values, q_values, significance

SEEDS = st.integers(0, 2**32 - 1)


class TestQValues:
    @settings(max_examples=50, deadline=None)
    @given(SEEDS, st.sampled_from([None, 0, 1, 2, -1]))
    def test_they_are_scipys(self, seed, axis):
        p = np.random.default_rng(seed).uniform(size=(5, 7, 3)) ** 3
        p[0] = np.round(p[0], 1)  # Ties, zeros and ones.
        expected = stats.false_discovery_control(p, axis=axis).reshape(p.shape)
        np.testing.assert_allclose(q_values(p, axis), expected, rtol=1e-12)

    @settings(max_examples=25, deadline=None)
    @given(SEEDS)
    def test_what_was_not_tested_counts_nowhere(self, seed):
        rng = np.random.default_rng(seed)
        p = rng.uniform(size=40) ** 2
        missing = rng.random(40) < 0.3
        holed = np.where(missing, np.nan, p)
        found = q_values(holed)
        np.testing.assert_array_equal(np.isnan(found), missing)
        np.testing.assert_allclose(found[~missing], stats.false_discovery_control(p[~missing]), rtol=1e-12)
        by_row = np.stack([holed, p])
        np.testing.assert_allclose(q_values(by_row, axis=1)[0], found, rtol=1e-12)

    @pytest.mark.parametrize("axis", [None, 0, 1])
    def test_nothing_tested_and_nothing_there(self, axis):
        assert np.isnan(q_values(np.full((3, 2), np.nan), axis)).all()
        assert q_values(np.empty((0, 2)), axis).shape == (0, 2)

    def test_p_outside_zero_and_one_is_refused(self):
        with pytest.raises(UserError, match="outside \\[0, 1\\]"):
            q_values(np.array([0.5, 1.5]))


class TestPValues:
    def test_they_are_two_sided_and_keep_tiny_ones(self):
        z = np.array([[2.0, -2.0], [30.0, 0.0]], np.float32)
        degrees = np.array([[10.0], [np.inf]])
        found = p_values(z, degrees)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found[0], 2 * stats.t.sf(2.0, 10))
        np.testing.assert_allclose(found[1], [2 * stats.norm.sf(30.0), 1.0])
        assert 0 < found[1, 0] < 1e-150

    @pytest.mark.parametrize("kind", ["fixed-size", "antithetic"])
    @pytest.mark.parametrize("estimator", [DifferenceOfMeans(), Ridge()], ids=lambda e: e.name)
    def test_they_are_uniform_where_nothing_is(self, estimator, kind):
        rng = np.random.default_rng(0)
        masks = design_rows(kind, 60, 12, 0)
        found = estimator.fit(masks, rng.normal(size=(60, 2000)), paired=kind == "antithetic")
        p = significance(found).p
        for level in (0.01, 0.05, 0.2):
            # Units of one target are dependent: the scatter is that of the targets' means.
            share = (p < level).mean(axis=0)
            assert abs(share.mean() - level) < 4 * share.std() / np.sqrt(2000) + 0.1 * level


class TestSignificance:
    @pytest.mark.parametrize("kind", ["fixed-size", "bernoulli", "antithetic"])
    @pytest.mark.parametrize("estimator", [DifferenceOfMeans(), Ridge()], ids=lambda e: e.name)
    def test_the_false_discovery_rate_is_kept_where_nothing_is_and_where_something_is(self, estimator, kind):
        units, worlds, level, rng = 24, 300, 0.1, np.random.default_rng(1)
        planted = np.arange(units) < 8
        # The average unit has no effect, so that units without one have none relative to it either.
        beta = np.where(planted, np.where(np.arange(units) % 2, 1.0, -1.0), 0.0)
        rates = {}
        for strength in (0.0, 2.0):
            false, found = [], []
            for world in range(worlds // 30):
                masks = design_rows(kind, 160, units, int(rng.integers(2**31)) + world)
                outputs = outputs_of(masks, np.repeat(strength * beta[:, None], 30, axis=1), rng)
                called = significance(
                    estimator.fit(masks, outputs, paired=kind == "antithetic"), level=level, axis=0
                ).q < level  # fmt: skip
                number = np.maximum(called.sum(axis=0), 1)
                wrong = called[~planted] if strength else called
                false.append(wrong.sum(axis=0) / number)
                found.append(called[planted].mean(axis=0))
            rates[strength] = np.concatenate(false), np.concatenate(found)
        for false, _ in rates.values():
            assert false.mean() < level + 3 * false.std() / np.sqrt(worlds)
        assert rates[2.0][1].mean() > 0.9  # And the planted ones are found.

    def test_units_that_the_models_cannot_tell_are_no_tests(self):
        rng = np.random.default_rng(0)
        masks = design_rows("bernoulli", 80, 6, 0)
        masks[:, 2] = True
        beta = np.zeros((6, 3))
        beta[0] = 2.0
        found = significance(Ridge().fit(masks, outputs_of(masks, beta, rng)))
        assert np.isnan(found.p[2]).all()
        assert np.isnan(found.q[2]).all()
        assert found.tested == 5 * 3
        assert (found.q[0] < 0.05).all()
        assert found.count == int((found.q < 0.05).sum()) >= 3

    def test_without_standard_errors_there_is_no_test(self):
        found = DifferenceOfMeans().fit(design_rows("bernoulli", 20, 4, 0), np.ones((20, 2)))
        bare = dataclasses.replace(found, z=None, standard_error=None, degrees_of_freedom=None, estimator="lasso")
        with pytest.raises(UserError, match="'lasso' gives no standard errors"):
            significance(bare)
        with pytest.raises(UserError, match="level is 5"):
            significance(found, level=5)
