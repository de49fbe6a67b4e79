import jax
import jaxtyping
import numpy as np
import pytest
from lasso_reference import (
    EXACT,
    KINDS,
    compilations,
    in_scale,
    null_gap,
    objective,
    reference,
    sparse_world,
    stationarity,
)

from jdt.checks import UserError
from jdt.estimators import explain_status, lasso_path, paths
from jdt.linalg.lasso import CONSTANT, CONVERGED, LIMIT, MEANING

every_precision = pytest.mark.parametrize("x64", [False, True], ids=["float32", "float64"])


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_every_objective_is_scikit_learns_in_float64(kind, l1_ratio):
    masks, outputs, _ = sparse_world(kind)
    with jax.enable_x64(True):
        path = lasso_path(masks, outputs, num_penalties=12, l1_ratio=l1_ratio)
    assert path.weights.dtype == path.bias.dtype == path.gap.dtype == np.float64
    assert (path.status == CONVERGED).all()
    x, y, w, penalties = in_scale(path, masks, outputs)
    best = reference(x, y, penalties, l1_ratio)
    for k in range(12):
        least, found = (objective(x, y, v[k], penalties[k], l1_ratio) for v in (best, w))
        np.testing.assert_allclose(found, least, rtol=1e-6)
        assert (null_gap(x, y, w[k], penalties[k], l1_ratio) <= 1e-5).all()
    # All of it in the unit of the outputs.
    np.testing.assert_allclose(penalties[0], np.abs(x.T @ y).max(axis=0) / len(x) / l1_ratio, rtol=1e-9)
    np.testing.assert_allclose(penalties[1:] / penalties[:-1], 1e-3 ** (1 / 11), rtol=1e-9)
    predicted = path.bias[:, None] + masks.astype(float) @ path.weights
    np.testing.assert_allclose(predicted.mean(axis=1) - outputs.mean(axis=0), 0.0, atol=1e-10)
    assert not path.weights[0].any()


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_gaps_are_honest_in_float32(kind, l1_ratio):
    masks, outputs, _ = sparse_world(kind)
    outputs = outputs.astype(np.float32)
    path = lasso_path(masks, outputs, num_penalties=12, l1_ratio=l1_ratio)
    assert path.weights.dtype == path.bias.dtype == path.gap.dtype == np.float32
    assert (path.status == CONVERGED).all()
    x, y, w, penalties = in_scale(path, masks, outputs)
    best = reference(x, y, penalties, l1_ratio)
    for k in range(12):
        assert (null_gap(x, y, w[k], penalties[k], l1_ratio) <= 1.2e-5).all()
        least, found = (objective(x, y, v[k], penalties[k], l1_ratio) for v in (best, w))
        assert ((found - least) / 0.5 <= path.gap[k] + 5e-7).all()  # Rounding of a float32 objective.


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimality_conditions_hold_in_float32(kind):
    masks, outputs, _ = sparse_world(kind)
    outputs = outputs.astype(np.float32)
    path = lasso_path(masks, outputs, num_penalties=12, gap=1e-6)
    assert (path.status == CONVERGED).all()
    x, y, w, penalties = in_scale(path, masks, outputs)
    assert max(stationarity(x, y, w[k], penalties[k]).max() for k in range(12)) <= 1e-4


@pytest.mark.parametrize("l1_ratio", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_with_more_units_than_models_answers_are_right_or_say_that_they_are_not(kind, l1_ratio):
    masks, outputs, _ = sparse_world(kind, 14, 20)
    with jax.enable_x64(True):
        path = lasso_path(masks, outputs, num_penalties=12, min_ratio=1e-2, l1_ratio=l1_ratio)
    assert np.isfinite(path.weights).all()
    assert np.isfinite(path.gap).all()
    assert set(np.unique(path.status)) <= MEANING.keys()
    assert (path.status == CONVERGED).mean() > 0.9
    x, y, w, penalties = in_scale(path, masks, outputs)
    best = reference(x, y, penalties, l1_ratio)
    for k in range(12):
        least, found = (objective(x, y, v[k], penalties[k], l1_ratio) for v in (best, w))
        assert ((found - least) / 0.5 <= path.gap[k] + 1e-12).all()
        converged = path.status[k] == CONVERGED
        np.testing.assert_allclose(found[converged], least[converged], atol=0.5e-6)


def test_one_unit_is_a_soft_threshold():
    masks, outputs, _ = sparse_world(units=1)
    with jax.enable_x64(True):
        path = lasso_path(masks, outputs, **EXACT)
    x, y, w, penalties = in_scale(path, masks, outputs)
    correlation = x[:, 0] @ y / len(x)
    expected = np.sign(correlation) * np.maximum(np.abs(correlation) - penalties, 0.0)
    np.testing.assert_allclose(w[:, 0], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_in_tiles_on_eight_devices_or_one_are_solved_as_they_are_alone(kind, monkeypatch):
    masks, outputs, _ = sparse_world(kind, targets=100)
    monkeypatch.setitem(paths.TILE, "cpu", 16)
    with jax.enable_x64(True):
        tiled, alone = lasso_path(masks, outputs, **EXACT), lasso_path(masks, outputs[:, 90:93], **EXACT)
        monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        one = lasso_path(masks, outputs, **EXACT)
    # Subsets of one size leave the level of the weights to the penalty, which may like a range of levels equally.
    weights, by_itself, by_one = (p.weights - p.weights.mean(axis=1, keepdims=True) for p in (tiled, alone, one))
    np.testing.assert_allclose(weights[..., 90:93], by_itself, atol=2e-4)
    np.testing.assert_allclose(weights, by_one, atol=2e-4)
    fitted, fitted_alone, fitted_by_one = (
        p.bias[:, None] + masks.astype(float) @ p.weights for p in (tiled, alone, one)
    )
    np.testing.assert_allclose(fitted[..., 90:93], fitted_alone, atol=2e-4)
    np.testing.assert_allclose(fitted, fitted_by_one, atol=2e-4)
    np.testing.assert_allclose(tiled.penalties, one.penalties, rtol=1e-12)


@every_precision
def test_no_target_among_many_stays_behind_where_the_level_of_the_weights_is_free(x64):
    masks, outputs, _ = sparse_world("fixed-size", targets=300)
    with jax.enable_x64(x64):
        path = lasso_path(masks, outputs, num_penalties=12)
    assert (path.gap <= 1e-5).all()
    assert (path.status == CONVERGED).all()


@every_precision
def test_odd_columns_and_targets(x64):
    masks, outputs, _ = sparse_world()
    masks = np.column_stack([masks[:, :16], np.ones((120, 1), bool), np.zeros((120, 1), bool), masks[:, :2]])
    outputs = outputs.copy()
    outputs[:, 0], outputs[:, 1] = 0.0, 12345.678
    with jax.enable_x64(x64):
        path = lasso_path(masks, outputs, num_penalties=12)
    for values in (path.weights, path.bias, path.penalties, path.gap):
        assert np.isfinite(values).all()
    assert not path.weights[:, 16:18].any()
    assert not path.weights[:, :, :2].any()
    assert not path.gap[:, :2].any()
    assert (path.status[:, :2] == CONSTANT).all()
    assert (path.status[:, 2:] == CONVERGED).all()
    np.testing.assert_allclose(path.bias[:, :2], np.broadcast_to([0.0, 12345.678], (12, 2)), rtol=1e-6)
    # A unit twice is worth as much as once; a constant one nothing.
    twice, y, w, penalties = in_scale(path, masks, outputs)
    x = twice[:, :16]
    best = reference(x, y[:, 2:], penalties[:, 2:])
    for k in range(12):
        found = objective(twice, y, w[k], penalties[k])[2:]
        least = objective(x, y[:, 2:], best[k], penalties[k, 2:])
        np.testing.assert_allclose(found, least, rtol=1e-6 if x64 else 1e-5)


@every_precision
@pytest.mark.parametrize(("models", "units"), [(2, 20), (2, 1), (3, 1)])
def test_few_models(x64, models, units):
    masks = np.arange(models)[:, None] % 2 == np.arange(units) % 2
    with jax.enable_x64(x64):
        path = lasso_path(masks, np.arange(models * 2.0).reshape(models, 2), num_penalties=12)
    assert np.isfinite(path.weights).all()
    assert (path.gap <= 1e-5).all()
    if models == 2:  # Two models lie on a line, but for the penalty.
        np.testing.assert_allclose(path.bias[-1] + masks.astype(float) @ path.weights[-1], [[0, 1], [2, 3]], atol=2e-3)


@every_precision
def test_identical_masks_tell_nothing(x64):
    with jax.enable_x64(x64):
        path = lasso_path(np.ones((5, 20), bool), np.arange(10.0).reshape(5, 2), num_penalties=12)
    assert not path.weights.any()
    assert (path.status == CONSTANT).all()
    np.testing.assert_allclose(path.bias, np.broadcast_to([4.0, 5.0], (12, 2)))


def test_running_out_of_sweeps_is_said_and_the_gap_is_that_of_the_weights():
    masks, outputs, _ = sparse_world("bernoulli", 30, 40)
    with jax.enable_x64(True):
        path = lasso_path(masks, outputs, num_penalties=12, max_sweeps=4)
    assert (path.status == LIMIT).any()
    assert ((path.gap > 1e-6) == (path.status == LIMIT)).all()
    x, y, w, penalties = in_scale(path, masks, outputs)
    for k in range(12):
        np.testing.assert_allclose(path.gap[k], null_gap(x, y, w[k], penalties[k]), atol=1e-9)


def test_a_second_call_of_one_shape_compiles_nothing():
    masks, outputs, _ = sparse_world()
    jax.clear_caches()
    with compilations() as first:
        lasso_path(masks, outputs, num_penalties=12)
    with compilations() as second:
        lasso_path(masks[::-1], -3 * outputs[::-1], num_penalties=12, gap=1e-4, max_sweeps=500)
    assert first
    assert not second


def test_status_is_explained():
    assert explain_status(np.array([[3, 0], [0, 2]])) == {MEANING[0]: 2, MEANING[2]: 1, MEANING[3]: 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_penalties": 0}, "num_penalties is 0, but it must be at least 1"),
        ({"max_sweeps": 0}, "max_sweeps is 0, but it must be at least 1"),
        ({"min_ratio": 1.0}, "min_ratio is 1.0, but it must lie strictly between 0 and 1"),
        ({"gap": 0.0}, "gap is 0.0, but it must lie strictly between 0 and 1"),
        ({"l1_ratio": 0.0}, "l1_ratio is 0.0, but it must lie above 0 and at most at 1"),
        ({"l1_ratio": 1.5}, "l1_ratio is 1.5, but it must lie above 0 and at most at 1"),
    ],
)
def test_bad_options_are_refused(options, message):
    masks, outputs, _ = sparse_world()
    with pytest.raises(UserError, match=message):
        lasso_path(masks, outputs, **options)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (np.zeros((3, 2)), r"masks have shape \(4, 4\) and outputs \(3, 2\), expected"),
        (np.array([[0.0]] * 3 + [[np.nan]]), r"1 models .*\(first row: 3\).*finite_models"),
    ],
)
def test_what_does_not_fit_is_refused(outputs, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # As in users' programs.
    with pytest.raises(UserError, match=message):
        lasso_path(np.eye(4, dtype=bool), outputs)


@pytest.mark.parametrize(("x64", "models", "units"), [(False, 30, 70), (True, 14, 20)], ids=["float32", "float64"])
def test_a_gram_matrix_that_is_not_formed_gives_the_same_path(x64, models, units, monkeypatch):
    masks, outputs, _ = sparse_world("bernoulli", models, units)
    with jax.enable_x64(x64):
        formed = lasso_path(masks, outputs, num_penalties=12, min_ratio=0.1)
        monkeypatch.setattr(paths, "MOST_UNITS", units - 1)
        found = lasso_path(masks, outputs, num_penalties=12, min_ratio=0.1)
    assert (found.status == CONVERGED).all()
    x, y, w, penalties = in_scale(found, masks, outputs)
    for k in range(12):
        assert (null_gap(x, y, w[k], penalties[k]) <= 1.2e-5).all()
    np.testing.assert_allclose(found.penalties, formed.penalties, rtol=1e-6)
