"""Variances of noise and effects, against quadrature of the likelihood of the outputs themselves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_worlds import design_rows, outputs_of
from scipy import integrate, stats
from scipy.linalg import null_space

from jdt.estimators import Ridge
from jdt.estimators.variance import independent_targets

CASES = [("bernoulli", 30, 8), ("bernoulli", 12, 30), ("fixed-size", 30, 8), ("antithetic", 24, 8)]


def quadrature(masks, outputs, *, paired):
    """Posterior means of both variances of one target, from the density of contrasts of its outputs.

    The prior is uniform on the share s of variance that effects explain in the mean direction, and 1 / noise on noise.
    """
    x = masks.astype(float)
    rows, values = (x[0::2] - x[1::2], outputs[0::2] - outputs[1::2]) if paired else (x, outputs)
    contrasts = np.eye(len(rows)) if paired else null_space(np.ones((1, len(rows)))).T
    gram, seen = contrasts @ rows @ rows.T @ contrasts.T, contrasts @ values
    eigen = np.linalg.eigvalsh(gram)
    scale, count = eigen[eigen > 1e-9].mean(), len(seen)

    def at(share):
        ratio = share / (1 - share) / scale
        covariance = np.eye(count) + ratio * gram
        square = seen @ np.linalg.solve(covariance, seen)
        return np.exp(-0.5 * np.linalg.slogdet(covariance)[1]) * square ** (-count / 2), square / count, ratio

    def integral(what):
        return integrate.quad(lambda share: what(*at(share)), 0, 1, limit=200)[0]

    total = integral(lambda density, *_: density)
    noise = integral(lambda density, noise, _: density * noise)
    return noise / total, integral(lambda density, noise, ratio: density * noise * ratio) / total


@pytest.mark.parametrize(("kind", "models", "units"), CASES)
@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_one_targets_variances_are_those_of_its_likelihood(kind, models, units, strength):
    rng = np.random.default_rng(0)
    masks = design_rows(kind, models, units, 0)
    outputs = outputs_of(masks, strength * rng.normal(size=(units, 1)), rng)
    noise, effect = quadrature(masks, outputs[:, 0], paired=kind == "antithetic")
    with jax.enable_x64(True):
        found = Ridge().fit(masks, outputs, paired=kind == "antithetic").info
    np.testing.assert_allclose(found["noise_deviation"] ** 2, noise, rtol=0.02)
    np.testing.assert_allclose(found["effect_deviation"] ** 2, effect, rtol=0.05)


@pytest.mark.parametrize(("models", "units"), [(240, 20), (60, 100)])
def test_targets_with_effects_are_told_from_targets_without(models, units):
    rng = np.random.default_rng(1)
    masks = design_rows("bernoulli", models, units, 1)
    strength = np.repeat([0.0, 1.0], 40)
    found = Ridge().fit(masks, outputs_of(masks, strength * rng.normal(size=(units, 80)), rng)).info
    assert found["effect_deviation"][:40].max() < 0.3
    assert 0.9 < np.sqrt((found["effect_deviation"][40:] ** 2).mean()) < 1.1
    assert 0.9 < np.sqrt((found["noise_deviation"][:40] ** 2).mean()) < 1.1


def test_what_one_target_cannot_tell_others_can():
    rng = np.random.default_rng(2)
    masks = design_rows("bernoulli", 240, 20, 2)
    outputs = rng.normal(size=(240, 200))
    together, alone = Ridge().fit(masks, outputs), Ridge().fit(masks, outputs[:, :1])
    assert together.standard_error[:, 0].mean() < alone.standard_error[:, 0].mean()
    # Copies say nothing new.
    copied = Ridge().fit(masks, np.repeat(outputs[:, :1], 50, axis=1))
    np.testing.assert_allclose(copied.standard_error[:, :1], alone.standard_error, rtol=0.03)
    # Targets that are constant do not vote for "no effects".
    padded = Ridge().fit(masks, np.column_stack([outputs[:, :1], np.ones((240, 50))]))
    np.testing.assert_allclose(padded.standard_error[:, :1], alone.standard_error, rtol=1e-5)
    assert not padded.standard_error[:, 1:].any()


@pytest.mark.parametrize(("rows", "targets"), [(200, 30), (200, 600)])
def test_independent_targets_count_and_copies_do_not(rows, targets):
    def count(values):
        return float(independent_targets(jnp.asarray(values), rows))

    values = stats.norm.rvs(size=(rows, targets), random_state=3).astype(np.float32)
    assert 0.9 * targets < count(values) <= targets
    twice = np.concatenate([values, -values, 0 * values], axis=1)
    np.testing.assert_allclose(count(twice), count(values), rtol=0.15)
    assert count(np.repeat(values[:, :1], targets, axis=1)) < 1.01
    assert count(values[:, :1]) == 1.0
    assert np.isfinite(count(0 * values))
