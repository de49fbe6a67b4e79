import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from linear_worlds import (
    brute_ridge_errors,
    design_rows,
    normal_equations,
    penalty_unit,
    refitted_residuals,
    regression,
)
from sklearn.linear_model import Ridge as SklearnRidge

from jdt.checks import UserError
from jdt.estimators import Ridge
from jdt.estimators.ridge import left_out_residuals, project
from jdt.linalg import thin_spectrum

SEEDS = st.integers(0, 2**32 - 1)
CASES = [  # kind, models, units: more models than units, and fewer
    ("fixed-size", 40, 8), ("bernoulli", 40, 8), ("antithetic", 40, 8),
    ("fixed-size", 12, 20), ("bernoulli", 12, 20), ("antithetic", 12, 21),
]  # fmt: skip
every_case = pytest.mark.parametrize(("kind", "models", "units"), CASES)


def data(kind, models, units, seed, targets=3):
    masks, rng = design_rows(kind, models, units, seed), np.random.default_rng(seed)
    return masks, 5.0 + masks @ rng.normal(size=(units, targets)) + rng.normal(size=(models, targets))


@every_case
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, penalty=st.sampled_from([1e-3, 0.1, 2.0]))
def test_weights_solve_the_normal_equations_and_residuals_those_without_the_row(kind, models, units, seed, penalty):
    paired = kind == "antithetic"
    masks, outputs = data(kind, models, units, seed)
    x, y, shrunk = regression(masks, outputs, paired=paired)
    amount = penalty * penalty_unit(masks, paired=paired)
    coefficients, residuals = normal_equations(x, y, shrunk, amount), refitted_residuals(x, y, shrunk, amount)
    weights = coefficients if paired else coefficients[1:]
    intercept = outputs.mean(axis=0) - masks.mean(axis=0) @ weights if paired else coefficients[0]
    with jax.enable_x64(True):
        found = Ridge(penalties=(penalty,)).fit(masks, outputs, paired=paired)
    np.testing.assert_allclose(found.info["penalty"], amount, rtol=1e-8)
    np.testing.assert_allclose(found.influence, weights, atol=1e-8)
    np.testing.assert_allclose(found.intercept, intercept, atol=1e-8)
    np.testing.assert_allclose(found.info["leave_one_out_mse"], (residuals**2).mean(axis=0), rtol=1e-8)
    centred = y - (0 if paired else y.mean(axis=0))
    shares = 1 - (residuals**2).mean(axis=0) / (centred**2).mean(axis=0)
    np.testing.assert_allclose(found.info["r_squared"], shares, atol=1e-8)
    narrow = Ridge(penalties=(penalty,)).fit(masks, outputs, paired=paired)
    np.testing.assert_allclose(narrow.influence, weights, atol=1e-4 * max(1, abs(weights).max()))
    np.testing.assert_allclose(narrow.info["leave_one_out_mse"], (residuals**2).mean(axis=0), rtol=1e-3)


@every_case
@pytest.mark.parametrize("penalty", [0.02, 3.0])
def test_every_left_out_residual_is_that_of_a_refit(kind, models, units, penalty):
    paired = kind == "antithetic"
    masks, outputs = data(kind, models, units, 5)
    x, y, shrunk = regression(masks, outputs, paired=paired)
    rows, values = (x, y) if paired else (x[:, 1:] - x[:, 1:].mean(axis=0), y - y.mean(axis=0))
    expected = refitted_residuals(x, y, shrunk, penalty)
    with jax.enable_x64(True):
        found = residuals_of(rows, values, penalty, has_intercept=not paired)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    narrow = residuals_of(rows, values, penalty, has_intercept=not paired)
    np.testing.assert_allclose(narrow, expected, atol=1e-4 * max(1, abs(expected).max()))


def residuals_of(rows, values, penalty, *, has_intercept):
    rows, values, penalty = (jnp.asarray(x) for x in (rows, values, penalty))
    return left_out_residuals(project(thin_spectrum(rows), values, has_intercept=has_intercept), penalty)


def odd_masks(case):
    masks = design_rows("bernoulli", *((9, 30) if case == "more units" else (30, 9)), 6)
    if case == "duplicates":
        masks[:, 3:6] = masks[:, :3]
    elif case == "constant":
        masks[:, 0], masks[:, 1] = True, False
    elif case == "one model has it":
        masks[:, 2] = np.arange(30) == 4
    elif case == "equal models":
        masks[10:20] = masks[:10]
    elif case == "no unit varies":
        masks[:] = masks[0]
    return masks


@pytest.mark.parametrize("penalty", [1e-6, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize(
    "case", ["more units", "duplicates", "constant", "one model has it", "equal models", "no unit varies"]
)
def test_leaving_one_out_is_exact_for_odd_masks_and_targets_too(case, penalty):
    masks = odd_masks(case)
    outputs = np.random.default_rng(1).normal(size=(len(masks), 3))
    outputs[:, 1] = 0.0
    x, y, shrunk = regression(masks, outputs, paired=False)
    amount = penalty * (1.0 if case == "no unit varies" else penalty_unit(masks, paired=False))
    expected = (refitted_residuals(x, y, shrunk, amount) ** 2).mean(axis=0)
    with jax.enable_x64(True):
        found = Ridge(penalties=(penalty,)).fit(masks, outputs)
    np.testing.assert_allclose(found.info["leave_one_out_mse"], expected, rtol=1e-8)
    np.testing.assert_allclose(found.influence, normal_equations(x, y, shrunk, amount)[1:], atol=1e-8)
    assert not found.influence[:, 1].any()
    assert not found.standard_error[np.isfinite(found.standard_error[:, 1]), 1].any()
    for values in (found.standard_error, found.z, *(v for v in found.info.values() if isinstance(v, np.ndarray))):
        assert not np.isnan(values).any()


def test_leaving_a_pair_out_of_the_differences_leaves_two_models_out_of_the_regression():
    masks, outputs = data("antithetic", 24, 7, 2)
    x, y, shrunk = regression(masks, outputs, paired=False)
    penalty = 0.3 * penalty_unit(masks, paired=True)
    errors = []
    for pair in range(12):
        out = np.isin(np.arange(24) // 2, [pair])
        # The squares of both models are half the square of their difference, beside one that masks have no part in.
        left = y[out] - x[out] @ normal_equations(x[~out], y[~out], shrunk, penalty / 2)
        errors.append((left[0] - left[1]) ** 2)
    with jax.enable_x64(True):
        found = Ridge(penalties=(0.3,)).fit(masks, outputs, paired=True)
    np.testing.assert_allclose(found.info["leave_one_out_mse"], np.mean(errors, axis=0), rtol=1e-8)


@pytest.mark.parametrize(("models", "units"), [(200, 8), (8, 200)])
def test_the_smaller_gram_matrix_is_factored(models, units):
    rows = jax.ShapeDtypeStruct((models, units), np.float32)
    assert thin_spectrum.eval_shape(rows).values.shape == (8,)
    assert "200,200" not in thin_spectrum.lower(rows).as_text().replace("x", ",")


@pytest.mark.parametrize("penalties", [(), (0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"),)])
def test_penalties_are_positive(penalties):
    with pytest.raises(UserError, match=r"penalties is \(.*expected positive numbers"):
        Ridge(penalties=penalties)


@every_case
def test_each_target_gets_the_penalty_with_the_least_left_out_error(kind, models, units):
    paired = kind == "antithetic"
    masks, outputs = data(kind, models, units, 8, targets=12)
    outputs[:, ::3] += 20 * np.random.default_rng(0).normal(size=outputs[:, ::3].shape)  # These want more shrinkage.
    estimator = Ridge()
    grid = penalty_unit(masks, paired=paired) * np.array(estimator.penalties)
    errors = [(refitted_residuals(*regression(masks, outputs, paired=paired), p) ** 2).mean(axis=0) for p in grid]
    with jax.enable_x64(True):
        found = estimator.fit(masks, outputs, paired=paired)
    np.testing.assert_allclose(found.info["penalty"], grid[np.argmin(errors, axis=0)], rtol=1e-8)
    np.testing.assert_allclose(found.info["leave_one_out_mse"], np.min(errors, axis=0), rtol=1e-8)
    assert len(set(found.info["penalty"].tolist())) > 1


@every_case
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS, penalty=st.sampled_from([0.01, 0.5, 3.0]))
@example(seed=1_327_211_313, penalty=0.01)  # Of twelve subsets of one size, a unit is in all.
def test_errors_are_those_of_the_weights_and_z_divides_by_the_sampling_deviation(kind, models, units, seed, penalty):
    paired = kind == "antithetic"
    masks, outputs = data(kind, models, units, seed)
    relative = kind != "bernoulli" and units % 2 == 0
    amount = penalty * penalty_unit(masks, paired=paired)
    with jax.enable_x64(True):
        found = Ridge(penalties=(penalty,)).fit(masks, outputs, paired=paired)
    noise, effect = (found.info[f"{name}_deviation"] ** 2 for name in ("noise", "effect"))
    error, sampling = brute_ridge_errors(masks, outputs, amount, noise, effect, paired=paired, relative=relative)
    assert found.info["relative"] == relative
    varied = masks.any(axis=0) & ~masks.all(axis=0)
    np.testing.assert_allclose(found.standard_error[varied], error[varied], rtol=1e-7)
    np.testing.assert_allclose(found.z[varied], found.influence[varied] / sampling[varied], rtol=1e-7)
    assert not found.z[~varied].any()
    assert found.degrees_of_freedom.tolist() == [[models / 2 if paired else models - 1]]


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([1e-3, 0.1, 2.0]))
def test_ridge_agrees_with_scikit_learn(seed, penalty):
    masks, outputs = data("bernoulli", 40, 8, seed)
    with jax.enable_x64(True):
        found = Ridge(penalties=(penalty,)).fit(masks, outputs)
    reference = SklearnRidge(alpha=float(found.info["penalty"][0])).fit(masks.astype(float), outputs)
    np.testing.assert_allclose(found.influence, reference.coef_.T, atol=1e-8)
    np.testing.assert_allclose(found.intercept, reference.intercept_, atol=1e-8)
    np.testing.assert_allclose(found.predict(masks), reference.predict(masks.astype(float)), atol=1e-8)
