"""What the singular values of features say of them: how flat the spectrum is, and how far one direction dominates.

Label noise in pre-training changes this spectrum more than it changes accuracy (arXiv 2309.17002, section 3). With
p_i = sigma_i / sum(sigma) of the singular values of the features of one test set:

* SVE, the singular value entropy -sum(p_i ln p_i), in [0, ln rank]. **Higher is flatter**: more directions are used.
* LSVR, the largest singular value ratio **-ln(sigma_1 / sum(sigma))**, at least 0. **Higher is less dominated by one
  direction**. The minus sign is easily overlooked: it is not the share of the largest value, which falls as LSVR rises.

Both are 0 for rank one, ln D for D orthogonal columns of one length, and neither changes with the scale of features.

Rows are examples, columns are features. The example rows are scaled to length 1 and then centred: by *column*, each
feature by its mean over the examples (the covariance's spectrum, what jdt shows), by *row*, each example by its own
mean over its features (what the code that was published with the paper does), or not at all. Which of them it is
changes the values, and has to be said beside them.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from scipy import special

from jdt import checks
from jdt.devices import one_thread_of_blas
from jdt.types import AnyArray, Float, Int

Center = Literal["column", "row", "none"]
"""`column`: every feature minus its mean over examples; `row`: every example minus its mean over features."""

_NAMED = 5  # Rows that a message names.


def singular_values(
    features: Float[AnyArray, "..."],
    center: Center = "column",
    *,
    normalise: bool = True,
    zero_rows: Literal["refuse", "keep"] = "refuse",
) -> Float[np.ndarray, "*models features"]:
    """Singular values of features, in float64 by LAPACK on the host: exact, whatever the device computed in.

    A matrix of fewer examples than features has as many values as examples at most (one less when centred by column);
    the others are exactly 0, as are those below rounding: the larger side times machine epsilon times the size of the
    matrix before it is centred, so that features which are the same for every example give zeros, not noise.

    A model costs one float64 copy of its features at a time: 5,000 x 64 take 20 ms of one core, 10,000 x 384 half a
    second.

    Args:
      features: Float, e.g. float32, `[..., examples, features]`; leading axes, e.g. models, are computed one by one.
      center: What is subtracted after the rows are scaled; see the module.
      normalise: Whether rows are scaled to length 1 first.
      zero_rows: What scaling does to rows that are all 0, e.g. after a ReLU: refuse them, or keep them as they are.

    Returns:
      float64 `[..., features]`, descending.

    Raises:
      UserError: If there are no examples or no features, rows are not finite, or rows to scale are all 0 (named).

    >>> singular_values(np.array([[3.0, 0.0], [0.0, -0.5]]), "none").tolist()
    [1.0, 1.0]
    """
    checks.require_known("center", center, get_args(Center))
    checks.require_known("zero_rows", zero_rows, ("refuse", "keep"))
    features = np.asarray(features)
    if features.ndim < 2:
        raise checks.UserError(f"features have shape {features.shape}, but need one row an example: [examples, D].")
    *models, num_examples, num_features = features.shape
    if not (num_examples and num_features):
        raise checks.UserError(f"features have shape {features.shape}, but need at least one example and one feature.")
    values = np.zeros((*models, num_features))
    with one_thread_of_blas():
        for model in np.ndindex(*models):
            rows = _prepared(features[model], model, normalise, zero_rows)
            smallest = np.linalg.norm(rows) * max(rows.shape) * np.finfo(np.float64).eps
            if center != "none":
                rows -= rows.mean(axis=0 if center == "column" else 1, keepdims=True)
            found = np.linalg.svd(rows, compute_uv=False)
            values[model][: len(found)] = np.where(found > smallest, found, 0.0)
    return values


def sve(sigma: Float[np.ndarray, "*models features"]) -> Float[np.ndarray, "*models"]:
    """Singular value entropy in nats, in [0, ln rank]: higher is flatter (arXiv 2309.17002, definition 3.1).

    Args:
      sigma: Singular values, float `[..., features]`; those that are 0 add nothing.

    Raises:
      UserError: If values are negative or not finite, or all of one model are 0.

    >>> float(sve(np.array([2.0, 0.0, 0.0]))), bool(np.isclose(sve(np.array([2.0, 2.0, 0.0])), np.log(2)))
    (0.0, True)
    """
    # Adding 0 makes a negative zero a zero.
    return np.asarray(special.entr(_shares(sigma)).sum(axis=-1) + 0.0)


def lsvr(sigma: Float[np.ndarray, "*models features"]) -> Float[np.ndarray, "*models"]:
    """Largest singular value ratio, -ln(sigma_1 / sum(sigma)): higher is less dominated by one direction.

    Note the sign (arXiv 2309.17002, definition 3.2): it is 0 where one direction is all there is, and at most ln rank.

    Args:
      sigma: Singular values, float `[..., features]`.

    Raises:
      UserError: If values are negative or not finite, or all of one model are 0.

    >>> float(lsvr(np.array([2.0, 0.0, 0.0]))), bool(np.isclose(lsvr(np.array([3.0, 1.0])), -np.log(0.75)))
    (0.0, True)
    """
    return np.asarray(-np.log(_shares(sigma).max(axis=-1)) + 0.0)


def effective_rank(sigma: Float[np.ndarray, "*models features"]) -> Float[np.ndarray, "*models"]:
    """exp(SVE): how many equal singular values would have this entropy, from 1 to the rank.

    Args:
      sigma: Singular values, float `[..., features]`.

    Raises:
      UserError: As `sve`.

    >>> round(float(effective_rank(np.array([5.0, 5.0, 5.0, 0.0]))), 9)
    3.0
    """
    return np.asarray(np.exp(sve(sigma)))


def _shares(sigma: Float[np.ndarray, "*models features"]) -> Float[np.ndarray, "*models features"]:
    """Singular values over their sum."""
    sigma = np.asarray(sigma, np.float64)
    wrong = ~(np.isfinite(sigma) & (sigma >= 0))
    if wrong.any():
        raise checks.UserError(
            f"singular values are at least 0 and finite, but {int(wrong.sum())} of {sigma.size} are not, e.g. "
            f"{sigma[wrong][0]}: pass what singular_values returns."
        )
    largest = sigma.max(axis=-1, initial=0.0, keepdims=True)
    if not largest.all():
        where = f" of model {_place(np.argwhere(largest[..., 0] == 0)[0])}" if sigma.ndim > 1 else ""
        raise checks.UserError(
            f"all singular values{where} are 0, so that they have no spectrum: its features are the same for every "
            "example."
        )
    # Over the largest first, so that no sum overflows and none underflows.
    shares = sigma / largest
    return shares / shares.sum(axis=-1, keepdims=True)


def _prepared(
    features: Float[np.ndarray, "examples features"], model: tuple[int, ...], normalise: bool, zero_rows: str
) -> Float[np.ndarray, "examples features"]:
    """One model's features as a float64 matrix of its own, rows scaled to length 1 on request."""
    rows = np.array(features, np.float64)
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(broken):
        raise checks.UserError(
            f"features{_of(model)} are not finite in {_rows(broken)}: leave out models that diverged."
        )
    if not normalise:
        return rows
    # Over the largest entry first: squares of tiny and of huge numbers leave the range of float64.
    largest = np.abs(rows).max(axis=1, keepdims=True)
    empty = np.flatnonzero(largest[:, 0] == 0)
    if len(empty) and zero_rows == "refuse":
        raise checks.UserError(
            f"features{_of(model)} are all 0 in {_rows(empty)}, which cannot be scaled to length 1: leave those "
            'examples out, or pass zero_rows="keep".'
        )
    rows /= np.where(largest == 0, 1.0, largest)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length == 0, 1.0, length)


def _of(model: Sequence[int]) -> str:
    return f" of model {_place(model)}" if len(model) else ""


def _place(index: Sequence[int] | np.ndarray) -> str:
    return ", ".join(str(int(i)) for i in index)


def _rows(rows: Int[np.ndarray, " rows"]) -> str:
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"row{'' if len(rows) == 1 else 's'} {_place(rows[:_NAMED])}{more}"
