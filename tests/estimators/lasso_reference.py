"""Sparse worlds, and what the LASSO has to do on them in plain float64 NumPy and by scikit-learn, row by row."""

import contextlib
import functools
import warnings

import jax
import numpy as np
import sklearn.linear_model
from linear_worlds import design_rows, outputs_of
from sklearn.exceptions import ConvergenceWarning

KINDS = ("bernoulli", "fixed-size", "antithetic")
EXACT = {"num_penalties": 12, "gap": 1e-9}


@functools.cache
def sparse_world(kind="bernoulli", models=120, units=20, targets=6, noise=1.0, seed=0):
    """Three in ten units matter, in either direction; the last target is noise."""
    rng = np.random.default_rng(seed)
    masks = design_rows(kind, models, units, seed)
    beta = rng.choice([-1.0, 1.0], (units, targets)) * (rng.random((units, targets)) < 0.3)
    beta[:, -1] = 0.0
    return masks, outputs_of(masks, beta, rng, noise=noise), beta


def standardised(masks, outputs):
    """Rows and targets of mean 0 and variance 1 in float64, and the scales; what never varies has scale 1."""
    x, y = masks - masks.mean(axis=0), outputs - outputs.mean(axis=0, dtype=np.float64)
    scales = [np.where(v.std(axis=0) > 1e-9, v.std(axis=0), 1.0) for v in (x, y)]
    return x / scales[0], y / scales[1], *scales


def objective(x, y, w, penalty, l1_ratio=1.0):
    shrinking = l1_ratio * np.abs(w).sum(axis=0) + (1 - l1_ratio) / 2 * (w**2).sum(axis=0)
    return ((y - x @ w) ** 2).mean(axis=0) / 2 + penalty * shrinking


def reference(x, y, penalties, l1_ratio=1.0):
    """scikit-learn's weights `[penalties, units, targets]`."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        found = [
            sklearn.linear_model.enet_path(
                x, y[:, t], l1_ratio=l1_ratio, alphas=penalties[:, t], tol=1e-10, max_iter=1_000_000
            )[1].T
            for t in range(y.shape[1])
        ]
    return np.stack(found, axis=-1)


def in_scale(path, masks, outputs):
    """Rows, targets, weights and penalties of the standardised problem, all in float64."""
    x, y, unit_scale, target_scale = standardised(masks, outputs)
    return x, y, path.weights * unit_scale[:, None] / target_scale, path.penalties / target_scale.astype(float)


def null_gap(x, y, w, penalty, l1_ratio=1.0):
    """Duality gap over the objective of zero weights, row by row in float64: the l2 term as rows of its own."""
    models, units = x.shape
    l1, l2 = penalty * l1_ratio, penalty * (1 - l1_ratio)
    gaps = []
    for t in range(y.shape[1]):
        rows = np.concatenate([x, np.sqrt(models * l2[t]) * np.eye(units)])
        values = np.concatenate([y[:, t], np.zeros(units)])
        residual = values - rows @ w[:, t]
        highest = np.abs(rows.T @ residual).max() / models
        dual = residual * np.clip(residual @ values / (residual @ residual), -l1[t] / highest, l1[t] / highest)
        primal = residual @ residual / 2 / models + l1[t] * np.abs(w[:, t]).sum()
        gaps.append((primal - (dual @ values - dual @ dual / 2) / models) / 0.5)
    return np.array(gaps)


def stationarity(x, y, w, penalty, l1_ratio=1.0):
    """Largest violation of the conditions of Karush, Kuhn and Tucker."""
    gradient = x.T @ (y - x @ w) / len(x) - penalty * (1 - l1_ratio) * w
    kept = np.abs(gradient - penalty * l1_ratio * np.sign(w))
    return np.where(w != 0, kept, np.maximum(np.abs(gradient) - penalty * l1_ratio, 0.0)).max(axis=0)


@contextlib.contextmanager
def compilations():
    """A list that grows by one entry for every program that is compiled meanwhile."""
    found = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
