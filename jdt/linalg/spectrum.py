"""Thin spectrum of a tall or wide matrix from its smaller Gram matrix: factor once, solve for any ridge penalty."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdt.types import Array, Float

# Full precision everywhere: by default a TPU rounds matmul inputs to bfloat16, which drowns the small eigenvalues.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Spectrum(NamedTuple):
    """X = left diag(sqrt(values)) right^T with orthonormal columns; null directions have value 0 and zero vectors.

    Attributes:
      values: `[rank]` squared singular values, where rank is the smaller side of X.
      left: `[rows, rank]`.
      right: `[columns, rank]`.
    """

    values: Float[Array, " rank"]
    left: Float[Array, "rows rank"]
    right: Float[Array, "columns rank"]


@jax.jit
def thin_spectrum(x: Float[Array, "rows columns"]) -> Spectrum:
    """Factor a matrix through the eigenvectors of its smaller Gram matrix.

    Directions whose value is below rounding (the larger side times machine epsilon times the largest value) count as
    null: subsets of fixed size always have one, since their centred rows sum to zero.
    """
    rows, columns = x.shape
    wide = columns > rows
    values, vectors = jnp.linalg.eigh(matmul(x, x.T) if wide else matmul(x.T, x))
    threshold = values[-1] * max(rows, columns) * jnp.finfo(x.dtype).eps
    alive = values > threshold
    values = jnp.where(alive, values, 0.0)
    vectors = jnp.where(alive, vectors, 0.0)
    scale = jnp.where(alive, 1.0 / jnp.sqrt(jnp.where(alive, values, 1.0)), 0.0)
    other = matmul(x.T if wide else x, vectors) * scale
    return Spectrum(values, vectors, other) if wide else Spectrum(values, other, vectors)
