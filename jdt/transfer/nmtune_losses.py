r"""The regularisers of NMTune (arXiv 2309.17002): consistency, covariance, dominance of the first singular values.

A step tunes a residual network on two views of a batch of B examples. F float `[2B, D]` are the frozen features, first
view above second, and Z `[2B, D]` what the network makes of them, which the head reads. The loss is

    CE(head(Z), labels twice) + a L_MSE + b L_COV + c L_SVD.

L_COV is the same in both forms: with C the covariance of the 2B rows of Z (centred over the rows, divided by 2B - 1),
`L_COV = (1/D) sum_{i != j} C_ij^2`. The forms differ in all else:

- weights a, b, c. `paper`: one for all, 0.01. `code`: 1.0, 0.04, 0.001.
- L_MSE. `paper`: mean over the 2B rows of `|f/|f| - z/|z||^2 = 2 - 2 cos(f, z)`, each row with its own features.
  `code`: z of the second view with f of the *first*, mean over the B rows *and the D dimensions*: `(2 - 2 cos) / D`.
- L_SVD, of Z that is not centred. `paper`: `-sigma_1 / sum_j sigma_j`. `code`: minus the mean of the *five* largest
  `sigma_i / sum_j sigma_j`.

`paper` follows the paper as it is remembered and noted by others, `code` what its authors published. Both are offered,
and no claim is made that they agree: at D = 384 the paper's consistency weighs 0.01 where the code's weighs 1/384.

L_COV and L_SVD need one Gram matrix only, of the smaller side: 2B x 2B where 2B < D, else D x D.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from jdt.types import Array, Float

Form = Literal["paper", "code"]

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Weights(NamedTuple):
    """What each term of the loss weighs beside the cross-entropy.

    Attributes:
      consistency: Of L_MSE.
      covariance: Of L_COV.
      dominance: Of L_SVD.
    """

    consistency: float
    covariance: float
    dominance: float


@dataclasses.dataclass(frozen=True)
class FormDefaults:
    """What a form fixes where nothing else is asked for: its weights and how many singular values are to dominate."""

    weights: Weights
    num_dominant: int


FORMS = {
    "paper": FormDefaults(Weights(0.01, 0.01, 0.01), num_dominant=1),
    "code": FormDefaults(Weights(1.0, 0.04, 0.001), num_dominant=5),
}


def consistency(
    features: Float[Array, "rows features"], tuned: Float[Array, "rows features"], form: Form
) -> Float[Array, ""]:
    """L_MSE: how far tuned features point away from the frozen ones.

    Args:
      features: F, the first view's rows above the second's. No gradient flows into them.
      tuned: Z, in the same order.
      form: Which of the two definitions.
    """
    features = jax.lax.stop_gradient(features)
    if form == "paper":
        return jnp.square(_unit_rows(tuned) - _unit_rows(features)).sum(axis=1).mean()
    half = len(features) // 2
    return jnp.square(_unit_rows(tuned[half:]) - _unit_rows(features[:half])).mean()


def covariance_and_dominance(
    tuned: Float[Array, "rows features"], num_dominant: int, needed: tuple[bool, bool] = (True, True)
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """L_COV and L_SVD of one batch, from one Gram matrix.

    Args:
      tuned: Z, at least two rows.
      num_dominant: How many of the largest singular values L_SVD averages; all of them where there are fewer.
      needed: Which of the two to compute; the other is 0.
    """
    rows, width = tuned.shape
    mean, zero = tuned.mean(axis=0), jnp.zeros((), tuned.dtype)
    centred = tuned - mean
    is_wide = rows < width
    gram = matmul(centred, centred.T) if is_wide else matmul(centred.T, centred)
    covariance = dominance = zero
    if needed[0]:
        # C and the Gram matrix of the rows have the same squared norm, that of their common eigenvalues.
        diagonal = jnp.square(centred).sum(axis=0)
        covariance = (jnp.square(gram).sum() - jnp.square(diagonal).sum()) / ((rows - 1) ** 2 * width)
    if needed[1]:
        # Of Z that is not centred: the mean comes back into the Gram matrix, which loses no digits by adding.
        if is_wide:
            along = matmul(centred, mean)
            whole = gram + along[:, None] + along[None, :] + jnp.square(mean).sum()
        else:
            whole = gram + rows * jnp.outer(mean, mean)
        sigma = singular_values_of_gram(whole)
        dominance = -sigma[:num_dominant].mean() / jnp.maximum(sigma.sum(), jnp.finfo(sigma.dtype).tiny)
    return covariance, dominance


def singular_values(matrix: Float[Array, "rows columns"]) -> Float[Array, " smaller"]:
    """Singular values in falling order, by the Gram matrix of the smaller side; differentiable everywhere.

    Values below the square root of the dtype's precision, relative to the largest, are lost in rounding. The gradient
    is that of an exact decomposition, `u_i v_i^T`; values that are zero up to rounding get none, and those of a
    repeated value share its space in some orthogonal way, so that symmetric functions have their exact gradient.

    >>> singular_values(jnp.diag(jnp.array([3.0, 4.0]))).tolist()
    [4.0, 3.0]
    """
    rows, columns = matrix.shape
    return singular_values_of_gram(matmul(matrix, matrix.T) if rows < columns else matmul(matrix.T, matrix))


@jax.custom_vjp
def singular_values_of_gram(gram: Float[Array, "side side"]) -> Float[Array, " side"]:
    """Square roots of a Gram matrix's eigenvalues, in falling order; see `singular_values`."""
    return _roots(jnp.linalg.eigvalsh(gram))


def _roots(eigenvalues: Float[Array, " side"]) -> Float[Array, " side"]:
    return jnp.sqrt(jnp.maximum(eigenvalues, 0.0))[::-1]


def _forward(gram: Float[Array, "side side"]) -> tuple[Array, tuple[Array, Array]]:
    eigenvalues, vectors = jnp.linalg.eigh(gram)
    sigma = _roots(eigenvalues)
    return sigma, (sigma, vectors[:, ::-1])


def _backward(saved: tuple[Array, Array], cotangent: Float[Array, " side"]) -> tuple[Float[Array, "side side"]]:
    # d sigma_i / d G = u_i u_i^T / (2 sigma_i). No difference of eigenvalues appears, so repeated ones are harmless.
    sigma, vectors = saved
    floor = sigma[0] * jnp.sqrt(jnp.finfo(sigma.dtype).eps * len(sigma))
    slope = jnp.where(sigma > floor, cotangent / (2 * jnp.where(sigma > floor, sigma, 1.0)), 0.0)
    return (matmul(vectors * slope, vectors.T),)


singular_values_of_gram.defvjp(_forward, _backward)


def _unit_rows(matrix: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Rows divided by their norms; a row of zeros stays one, as under PyTorch's `normalize`."""
    squares = jnp.square(matrix).sum(axis=1, keepdims=True)
    tiny = jnp.asarray(1e-24, matrix.dtype)
    return matrix / jnp.sqrt(jnp.maximum(squares, tiny))
