"""Linear worlds with known effects, and the estimators once more in plain float64 NumPy, row by row."""

import numpy as np

from jdt.masks import Design, sample


def outputs_of(masks, beta, rng, *, noise=1.0, shared=0.0):
    """Outputs of f = masks @ beta + level + noise; antithetic pairs can share a random term."""
    models, targets = len(masks), beta.shape[1]
    outputs = masks @ beta + rng.normal(size=targets) + noise * rng.normal(size=(models, targets))
    return outputs + shared * np.repeat(rng.normal(size=(models // 2, targets)), 2, axis=0) if shared else outputs


def worlds(kind, strength, *, count, models=240, units=20, targets=50, seed=0):
    """`count` independent (masks, outputs, beta); models of an antithetic pair share as much noise as they have."""
    rng = np.random.default_rng(seed)
    rows = sample(Design(kind, seed=seed), np.arange(count * models), units)
    for masks in rows.reshape(count, models, units):
        beta = strength * rng.normal(size=(units, targets))
        yield masks, outputs_of(masks, beta, rng, shared=1.0 if kind == "antithetic" else 0.0), beta


def identified(kind, estimator, beta):
    """What an estimator converges to: designs of one subset size identify effects relative to the average unit."""
    if kind == "bernoulli":
        return beta
    units = len(beta)
    return (beta - beta.mean(axis=0)) * (units / (units - 1) if estimator.name == "difference" else 1.0)


def design_rows(kind, models, units, seed):
    """Mask rows drawn in NumPy, for laws that hold for any rows."""
    rng = np.random.default_rng(seed)
    if kind == "bernoulli":
        return rng.random((models, units)) < 0.5
    halves = np.stack([rng.permutation(units) < units // 2 for _ in range(models)])
    if kind == "antithetic":
        halves[1::2] = ~halves[0::2]
    return halves


def brute_difference(masks, outputs):
    """Difference of means and Welch standard error, one unit and target at a time."""
    shape = (masks.shape[1], outputs.shape[1])
    influence, error = np.zeros(shape), np.full(shape, np.inf)
    for u in range(shape[0]):
        for t in range(shape[1]):
            kept = [float(outputs[m, t]) for m in range(len(masks)) if masks[m, u]]
            left = [float(outputs[m, t]) for m in range(len(masks)) if not masks[m, u]]
            if kept and left:
                influence[u, t] = sum(kept) / len(kept) - sum(left) / len(left)
            if len(kept) > 1 and len(left) > 1:
                error[u, t] = np.sqrt(np.var(kept, ddof=1) / len(kept) + np.var(left, ddof=1) / len(left))
    return influence, error


def brute_paired(masks, outputs):
    """Mean over pairs of (output with the unit - output without), and its standard error."""
    shape = (masks.shape[1], outputs.shape[1])
    influence, error = np.zeros(shape), np.zeros(shape)
    for u in range(shape[0]):
        for t in range(shape[1]):
            effects = []
            for i in range(0, len(masks), 2):
                with_unit, without = (i, i + 1) if masks[i, u] else (i + 1, i)
                effects.append(float(outputs[with_unit, t] - outputs[without, t]))
            influence[u, t] = np.mean(effects)
            error[u, t] = np.std(effects, ddof=1) / np.sqrt(len(effects))
    return influence, error


def regression(masks, outputs, *, paired):
    """Design matrix (with a column of ones, or of within-pair differences), values, and which columns are shrunk."""
    x = masks.astype(float)
    if paired:
        return x[0::2] - x[1::2], outputs[0::2] - outputs[1::2], np.ones(masks.shape[1])
    return np.column_stack([np.ones(len(x)), x]), outputs, np.array([0.0] + [1.0] * masks.shape[1])


def normal_equations(x, y, shrunk, penalty):
    """Coefficients that minimise |y - x c|^2 + penalty |shrunk c|^2."""
    return np.linalg.solve(x.T @ x + penalty * np.diag(shrunk), x.T @ y)


def refitted_residuals(x, y, shrunk, penalty):
    """Residual of every row under the fit to all the others."""
    found = np.zeros_like(y)
    for i in range(len(x)):
        others = np.arange(len(x)) != i
        found[i] = y[i] - x[i] @ normal_equations(x[others], y[others], shrunk, penalty)
    return found


def penalty_unit(masks, *, paired):
    """Mean nonzero eigenvalue of the (centred, or within-pair) Gram matrix."""
    x = masks.astype(float)
    rows = x[0::2] - x[1::2] if paired else x - x.mean(axis=0)
    values = np.linalg.eigvalsh(rows.T @ rows)
    return values[values > 1e-9 * values.max()].mean()


def brute_ridge_errors(masks, outputs, penalty, noise, effect, *, paired, relative):
    """Root of the expected squared error of ridge weights, and their sampling deviation by the residual variance.

    Weights are W y = W (X beta + e): off by (W X - I) beta and W e, with beta and e of variances `effect` and `noise`.
    """
    x = masks.astype(float)
    rows = x[0::2] - x[1::2] if paired else x - x.mean(axis=0)
    values = outputs[0::2] - outputs[1::2] if paired else outputs - outputs.mean(axis=0)
    units = masks.shape[1]
    inverse = np.linalg.inv(rows.T @ rows + penalty * np.eye(units))
    hat = rows @ inverse @ rows.T
    centring = np.eye(len(rows)) - (0 if paired else 1 / len(rows))
    unfitted = (centring - hat) @ (centring - hat)  # The residual sum is noise^T unfitted noise.
    variance = ((values - hat @ values) ** 2).sum(axis=0) / np.trace(unfitted)
    weights = inverse @ rows.T
    lost = weights @ rows - np.eye(units)
    if relative:  # To the mean of the units that vary: a unit in all models or in none is no part of it.
        varied = (masks.any(axis=0) & ~masks.all(axis=0)).astype(float)
        lost = lost @ (np.eye(units) - np.outer(varied, varied) / varied.sum())
    reach, bias = ((x**2).sum(axis=1)[:, None] for x in (weights, lost))
    return np.sqrt(noise * reach + effect * bias), np.sqrt(variance * reach)
