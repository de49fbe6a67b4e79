"""Gram matrices that are never formed: for more units than a square matrix of them has room for."""

from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from jdt.linalg.moments import ROWS_A_BLOCK, pack, unpack
from jdt.linalg.spectrum import matmul
from jdt.types import Array, Bool, Float


class Factored(NamedTuple):
    """X^T X / m of standardised masks, kept as the masks: an eighth of a byte an entry of X.

    A product costs 4 m units targets operations instead of 2 units^2 targets: less as soon as there are more than twice
    as many units as models.

    Attributes:
      bits: uint8 `[blocks, rows, bytes]`, see `pack`.
      present: float `[blocks, rows]`: 1, and 0 for rows that fill the last block up.
      mean: float `[units]`.
      scale: float `[units]`.
    """

    bits: Any
    present: Any
    mean: Any
    scale: Any


Gram: TypeAlias = Float[Array, "units units"] | Factored


def factor(
    masks: Bool[np.ndarray, "models units"], mean: Float[np.ndarray, " units"], scale: Float[np.ndarray, " units"]
) -> Factored:
    """The Gram matrix of (masks - mean) / scale, on the host."""
    count = len(masks)
    rows = min(ROWS_A_BLOCK // 4, count)  # Masks are unpacked a block at a time.
    blocks = -(-count // rows)
    bits = np.pad(pack(masks), ((0, blocks * rows - count), (0, 0))).reshape(blocks, rows, -1)
    present = (np.arange(blocks * rows) < count).astype(np.float64).reshape(blocks, rows)
    return Factored(bits, present, mean, scale)


def times(gram: Gram, vectors: Float[Array, "units columns"]) -> Float[Array, "units columns"]:
    """Product of a Gram matrix with some columns."""
    if not isinstance(gram, Factored):
        return matmul(gram, vectors)
    scaled = vectors / gram.scale[:, None]
    offset = matmul(gram.mean, scaled)

    def add(total: tuple[Array, Array], block: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        x = unpack(block[0], len(scaled), scaled.dtype)
        fitted = (matmul(x, scaled) - offset) * block[1][:, None]
        return (total[0] + matmul(x.T, fitted), total[1] + fitted.sum(axis=0)), None

    start = (jnp.zeros_like(scaled), jnp.zeros_like(offset))
    (product, total), _ = lax.scan(add, start, (gram.bits, gram.present))
    return (product - gram.mean[:, None] * total) / gram.scale[:, None] / gram.present.sum()


def largest_eigenvalue(gram: Factored, steps: int = 30) -> float:
    """Largest eigenvalue, from below within a few per cent, by power iteration."""
    rng = np.random.default_rng(0)
    device = Factored(*(jnp.asarray(part) for part in gram))

    def step(_: Any, vector: Array) -> Array:
        found = times(device, vector)
        return found / jnp.linalg.norm(found)

    start = jnp.asarray(rng.normal(size=(len(gram.mean), 1)), device.mean.dtype)
    vector = lax.fori_loop(0, steps, step, start / jnp.linalg.norm(start))
    return float((vector * times(device, vector)).sum())
