"""Why a bias of the source survives: the exact answer for linear models (arXiv 2207.02842; derived, not quoted).

Least squares on inputs X `[examples, features]` by gradient descent from w_s. Every gradient is X^T (something), in
the row space of X, so the part of w_s orthogonal to it stays what it was: a direction in which the target does not
vary, as that of a pattern that the target never shows, keeps its source weight. Only decay reaches it, step by step,
whatever the loss. With as many (independent) examples as features there is no such direction, and nothing is kept. All
this holds for the first dense layer of any network, whose gradients are X^T (something) as well.
"""

from collections.abc import Iterable

import numpy as np

from jdt.types import Float


def least_change(
    start: Float[np.ndarray, "features ..."],
    inputs: Float[np.ndarray, "examples features"],
    targets: Float[np.ndarray, "examples ..."],
) -> Float[np.ndarray, "features ..."]:
    """Where gradient descent on least squares without decay converges: w_s + X^+ (y - X w_s), in float64.

    Of all solutions the nearest to the start.

    Args:
      start: w_s, `[features]`, or `[features, outputs]`.
      inputs: X.
      targets: y.

    >>> least_change(np.array([3.0, 5.0]), np.array([[1.0, 0.0]]), np.array([2.0])).tolist()
    [2.0, 5.0]
    """
    start, inputs, targets = (np.asarray(x, np.float64) for x in (start, inputs, targets))
    return start + np.linalg.lstsq(inputs, targets - inputs @ start, rcond=None)[0]


def kept_part(
    weights: Float[np.ndarray, "features ..."],
    inputs: Float[np.ndarray, "examples features"],
    tolerance: float | None = None,
) -> Float[np.ndarray, "features ..."]:
    """The part of weights that training on these inputs cannot change: orthogonal to the row space of X, in float64.

    Args:
      weights: `[features]`, or `[features, outputs]`.
      inputs: X.
      tolerance: Singular values of X above this share of the largest span the row space; when None, float64's epsilon
        times the larger side of X (as `numpy.linalg.matrix_rank`).

    Returns:
      Zeros where X has full column rank.

    >>> kept_part(np.array([3.0, 5.0]), np.array([[2.0, 0.0]])).tolist()
    [0.0, 5.0]
    """
    weights, inputs = np.asarray(weights, np.float64), np.asarray(inputs, np.float64)
    _, values, rows = np.linalg.svd(inputs, full_matrices=False)
    least = np.finfo(np.float64).eps * max(inputs.shape) if tolerance is None else tolerance
    rows = rows[values > least * values.max(initial=0.0)]
    if len(rows) == inputs.shape[1]:
        return np.zeros_like(weights)
    return weights - rows.T @ (rows @ weights)


def kept_after(steps: Iterable[tuple[float, float]]) -> float:
    """What is left of the kept part after steps of (learning rate, weight decay): the product of 1 - rate * decay.

    It holds for decay that is decoupled from the gradient (w <- (1 - rate decay) w - rate gradient), and for decay that
    joins the gradient of plain SGD, which is the same step. Momentum would carry the decay of a step on to later ones.

    >>> kept_after([(0.5, 0.5), (0.5, 0.0)])
    0.75
    """
    left = 1.0
    for rate, decay in steps:
        left *= 1.0 - float(rate) * float(decay)
    return left
