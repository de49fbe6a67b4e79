import dataclasses

import jax
import numpy as np
import pytest
from linear_worlds import design_rows, outputs_of
from sklearn.linear_model import Lasso

from jdt.checks import UserError
from jdt.estimators import TABLE, SagaParity, saga_path
from jdt.estimators.saga import STATUS
from jdt.estimators.saga_path import Rules, batches_of

FAST = SagaParity(batch_size=30, learning_rate=0.05, num_penalties=12, min_ratio=1e-3, max_epochs=2000)


def sparse_world(models=150, units=12, targets=6, *, noise=0.5, seed=0, kind="bernoulli"):
    rng = np.random.default_rng(seed)
    masks = design_rows(kind, models, units, seed)
    beta = rng.normal(size=(units, targets)) * (rng.random((units, targets)) < 0.3)
    return masks, outputs_of(masks, beta, rng, noise=noise), beta


def published_stage(x, y, val_x, val_y, w, b, start, settings, *, num_penalties, phase):
    """One call of the original's `train_saga` for one target, in float64 NumPy, without its swapping of targets."""
    n, lr = len(x), settings.learning_rate
    mean = x.mean(axis=0)
    std = np.sqrt((x**2).mean(axis=0) - mean**2)
    x, val_x = (x - mean) / (std + 1e-32), (val_x - mean) / (std + 1e-32)
    table, w_average, b_average = np.zeros(n), np.zeros(len(w)), 0.0
    lam, lambdas_done, last, best, best_lam, t = 0.0, 0, np.inf, np.inf, 0.0, 0
    decay = np.exp(np.log(settings.min_ratio) / settings.num_penalties)
    rules = Rules(lr, decay, num_penalties, 10, 0.0, 0, settings.seed, phase)
    while t < settings.max_epochs:
        before = w.copy()
        for batch in np.asarray(batches_of(rules, t, n, -(-n // settings.batch_size))):
            batch = batch[batch < n]
            residual = x[batch] @ w + b - y[batch]
            w_saga = x[batch].T @ (residual - table[batch]) / len(batch) + w_average
            b_saga = (residual - table[batch]).sum() / len(batch) + b_average
            w, b = w - lr * w_saga, b - lr * b_saga
            table[batch] = residual
            share = len(batch) / n
            w_average = (1 - share) * w_average + share * w_saga
            b_average = (1 - share) * b_average + share * b_saga
            w = np.sign(w) * np.maximum(np.abs(w) - lr * lam, 0)
        done = ((before - w) ** 2 * std**2).max() < settings.tolerance
        if t % settings.check_every == settings.check_every - 1 and done:
            lambdas_done += 1
            ended = lambdas_done == num_penalties + 1
            if len(val_y):
                error = ((val_x @ w + b - val_y) ** 2).mean()
                ended |= error > last and lambdas_done >= settings.min_penalties and (w != 0).sum() > 1
                if error <= best:
                    best, best_lam = error, lam
                last = error
            if ended:
                return w, b, best_lam, lambdas_done, True
            lam = start if lambdas_done == 1 else lam * decay
        t += 1
    return w, b, best_lam, lambdas_done, False


def published(masks, outputs, settings):
    """The whole procedure for every target: influence, intercept, penalty, penalties tried, status."""
    x = masks.astype(float)
    train = len(x) - max(1, round(settings.hold_out * len(x)))
    results = []
    for y in outputs.T:
        start = np.abs(x[:train].T @ (y[:train] - y[:train].mean())).max() / train
        w, b, lam, tried, path_ended = published_stage(
            x[:train], y[:train], x[train:], y[train:], np.zeros(x.shape[1]), 0.0, start, settings,
            num_penalties=settings.num_penalties, phase=0,
        )  # fmt: skip
        w, b, _, _, refit_ended = published_stage(
            x, y, x[:0], y[:0], w, b, lam, settings, num_penalties=1, phase=1
        )  # fmt: skip
        std = np.sqrt(x.mean(axis=0) - x.mean(axis=0) ** 2)
        influence = w / np.where(std > 0, std, 1)
        status = (not path_ended) + 2 * (not refit_ended)
        results.append((influence, b - x.mean(axis=0) @ influence, lam, tried, status))
    return [np.stack(part, axis=-1) for part in zip(*results, strict=True)]


@pytest.mark.parametrize(
    ("settings", "models"),
    [
        (SagaParity(batch_size=30, learning_rate=0.05, num_penalties=12, min_ratio=1e-3), 150),
        (SagaParity(batch_size=15, tolerance=1e-7, check_every=3, num_penalties=20, seed=4), 150),
        (SagaParity(batch_size=40, learning_rate=0.05, min_penalties=3, hold_out=0.25), 131),  # Batches do not divide.
        (SagaParity(batch_size=30, tolerance=1e-12, max_epochs=41, check_every=1), 150),  # Cut off.
    ],
)
def test_it_takes_the_published_steps(settings, models):
    masks, outputs, _ = sparse_world(models)
    with jax.enable_x64(True):
        found = settings.fit(masks, outputs)
        influence, intercept, penalty, tried, status = published(masks, outputs, settings)
    np.testing.assert_array_equal(found.info["status"], status)
    np.testing.assert_array_equal(found.info["penalties_tried"], tried)
    np.testing.assert_allclose(found.info["penalty"], penalty, rtol=1e-12)
    np.testing.assert_allclose(found.influence, influence, atol=1e-10)
    np.testing.assert_allclose(found.intercept, intercept, atol=1e-10)


@pytest.mark.parametrize("kind", ["bernoulli", "antithetic"])
def test_with_a_strict_tolerance_it_ends_at_the_lasso_of_its_penalty(kind):
    masks, outputs, _ = sparse_world(kind=kind)  # Of the shape of above: no other program is compiled.
    settings = SagaParity(
        batch_size=30, learning_rate=0.05, num_penalties=12, min_ratio=1e-2, tolerance=1e-16, min_penalties=3
    )
    with jax.enable_x64(True):
        found = settings.fit(masks, outputs, paired=kind == "antithetic")
    assert (found.info["status"] == 0).all()
    x = (masks - masks.mean(axis=0)) / masks.std(axis=0)
    kept = found.info["penalty"] > 0
    assert kept.any()
    for target in np.flatnonzero(kept):
        lasso = Lasso(alpha=found.info["penalty"][target], tol=1e-12, max_iter=100_000).fit(x, outputs[:, target])
        np.testing.assert_allclose(found.influence[:, target], lasso.coef_ / masks.std(axis=0), atol=1e-5)
        level = lasso.intercept_ - (masks.mean(axis=0) / masks.std(axis=0)) @ lasso.coef_
        assert found.intercept[target] == pytest.approx(level, abs=1e-5)


def test_planted_effects_are_found_and_noise_is_not():
    masks, outputs, beta = sparse_world(noise=0.1)  # Of the shape of below: no other program is compiled.
    found = FAST.fit(masks, outputs.astype(np.float32))
    assert found.influence.dtype == np.float32
    assert found.standard_error is found.z is found.degrees_of_freedom is None
    np.testing.assert_allclose(found.influence, beta, atol=0.1)
    noise = FAST.fit(masks, np.random.default_rng(1).normal(size=(150, 6)).astype(np.float32))
    assert np.abs(noise.influence).max() < 0.57  # 3.5 standard errors of a difference of means, 2 / sqrt(150).
    np.testing.assert_allclose(found.predict(masks), outputs, atol=1.0)


def test_finished_targets_leave_without_a_trace(monkeypatch):
    masks, outputs, _ = sparse_world(noise=1.0)
    settings = dataclasses.replace(FAST, min_penalties=2, num_penalties=30, min_ratio=1e-2)
    with jax.enable_x64(True):
        together = settings.fit(masks, outputs)
        monkeypatch.setattr(saga_path, "SMALLEST_WIDTH", 2)
        dropping = settings.fit(masks, outputs)
    assert len(set(together.info["penalties_tried"].tolist())) > 3
    for field in ("influence", "intercept"):
        np.testing.assert_allclose(getattr(dropping, field), getattr(together, field), atol=1e-10)
    np.testing.assert_array_equal(dropping.info["penalties_tried"], together.info["penalties_tried"])


def test_constant_duplicate_and_zero_columns_give_finite_answers():
    masks, outputs, _ = sparse_world()
    masks[:, 9], masks[:, 10], masks[:, 11] = True, False, masks[:, 0]
    outputs[:, 0] = 0.0
    outputs[:, 1] = 3.0
    found = FAST.fit(masks, outputs.astype(np.float32))
    assert np.isfinite(found.influence).all()
    assert not found.influence[9:11].any()
    assert not found.influence[:, 0].any()
    np.testing.assert_allclose(found.predict(masks)[:, 1], 3.0, atol=0.1)
    assert set(found.info["status"].tolist()) <= STATUS.keys()


def test_batches_hold_every_row_once_and_differ_by_one_row_at_most():
    rules = Rules(0.1, 0.5, 1, 1, 1.0, 1, 0, 0)
    batches = np.asarray(batches_of(rules, 3, 23, 5))
    assert sorted(batches[batches < 23].tolist()) == list(range(23))
    sizes = (batches < 23).sum(axis=1)
    assert sizes.max() - sizes.min() <= 1
    assert (batches != np.asarray(batches_of(rules, 4, 23, 5))).any()


def test_a_second_call_compiles_nothing():
    masks, outputs, _ = sparse_world()
    FAST.fit(masks, outputs.astype(np.float32))
    compiled = saga_path._advance._cache_size()
    FAST.fit(masks, 2 * outputs.astype(np.float32))
    assert saga_path._advance._cache_size() == compiled


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            dataclasses.replace(FAST, learning_rate=5.0),
            "learning_rate is 5.0, and with it SAGA's weights became infinite: pass about 0",
        ),
        (SagaParity(learning_rate=0.0), r"learning_rate is 0\.0, but it must be a positive number"),
        (SagaParity(hold_out=0.999), r"hold_out is 0\.999 of 150 models, which leaves 0 to fit"),
        (SagaParity(hold_out=1.0), "hold_out is 1.0, but it must lie strictly between"),
        (SagaParity(batch_size=0), "batch_size is 0, but it must be at least 1"),
        (SagaParity(max_epochs=0), "max_epochs is 0"),
    ],
)
def test_bad_settings_say_what_to_do(settings, message):
    masks, outputs, _ = sparse_world()
    with pytest.raises(UserError, match=message):
        settings.fit(masks, outputs.astype(np.float32))


def test_it_stays_out_of_the_table():
    assert SagaParity.name == "saga-parity"
    assert SagaParity.name not in {estimator.name for estimator in TABLE}
