"""Sums over models from which regressions on masks are solved: one pass over the rows, added over devices and hosts.

Masks travel to the device as bits and are counted exactly, in integers. Outputs are summed as deviations from a rough
centre, in blocks, each block's sum added with the rounding error of the addition kept (Knuth's TwoSum), so that a
million rows lose no more than one block does.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdt import exchange
from jdt.hosts import Hosts
from jdt.linalg.spectrum import matmul
from jdt.sharding import MODELS, SHARED, each_device
from jdt.types import Array, Bool, Float, Int, UInt8

ROWS_A_BLOCK = 1024
"""Rows summed in plain floating point before a compensated addition; also keeps counts exact in float32."""


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """Sums over models of masks, outputs and their products, in float64 and exact integers, on the host.

    Attributes:
      count: Models summed.
      kept: int64 `[units]`: models that keep a unit.
      pairs: int64 `[units, units]`: models that keep both units; None where they were not asked for.
      cross: float64 `[units, targets]`: sum of the outputs of the models that keep a unit.
      total: float64 `[targets]`: sum of outputs.
      square: float64 `[targets]`: sum of squared outputs.
    """

    count: int
    kept: Int[np.ndarray, " units"]
    pairs: Int[np.ndarray, "units units"] | None
    cross: Float[np.ndarray, "units targets"]
    total: Float[np.ndarray, " targets"]
    square: Float[np.ndarray, " targets"]

    def __add__(self, other: "Moments") -> "Moments":
        return self._with(other, np.add)

    def __sub__(self, other: "Moments") -> "Moments":
        return self._with(other, np.subtract)

    def _with(self, other: "Moments", combine: Any) -> "Moments":
        pairs = None if self.pairs is None or other.pairs is None else combine(self.pairs, other.pairs)
        rest = (combine(getattr(self, name), getattr(other, name)) for name in ("kept", "cross", "total", "square"))
        kept, *sums = rest
        return Moments(int(combine(self.count, other.count)), kept, pairs, *sums)


def pack(masks: Bool[np.ndarray, "models units"]) -> UInt8[np.ndarray, "models bytes"]:
    """Eight units a byte, the first in the highest bit."""
    return np.packbits(masks, axis=1)


def unpack(bits: UInt8[Array, "models bytes"], num_units: int, dtype: Any) -> Float[Array, "models units"]:
    """Ones and zeros of `pack`, on the device.

    >>> unpack(jnp.asarray(pack(np.array([[True, False, True]]))), 3, jnp.float32).tolist()
    [[1.0, 0.0, 1.0]]
    """
    shifts = jnp.arange(7, -1, -1, dtype=jnp.uint8)
    return ((bits[:, :, None] >> shifts) & 1).reshape(len(bits), -1)[:, :num_units].astype(dtype)


def sum_moments(
    masks: Bool[np.ndarray, "models units"],
    outputs: Float[np.ndarray, "models targets"],
    *,
    num_devices: int = 1,
    with_pairs: bool = True,
) -> Moments:
    """Sum masks and outputs over models, on the device.

    Args:
      masks: bool `[models, units]`; there may be no model.
      outputs: `[models, targets]`, finite; summed in their own precision per block of rows, float32 or float64.
      num_devices: Devices that share the rows.
      with_pairs: Whether to count `pairs`; `[units, units]` integers are too many for very many units.

    Returns:
      The sums. Those of parts of the models can be added and subtracted.

    >>> found = sum_moments(np.array([[True, False], [True, True]]), np.array([[1.0], [2.0]], np.float32))
    >>> found.pairs.tolist(), found.cross[:, 0].tolist()
    ([[2, 1], [1, 1]], [3.0, 2.0])
    """
    count, num_units = masks.shape
    sample = outputs[:: max(1, count // ROWS_A_BLOCK)]
    centre = (sample.sum(axis=0, dtype=np.float64) / max(1, len(sample))).astype(outputs.dtype)
    num_devices = min(num_devices, max(1, count // ROWS_A_BLOCK))
    blocks = max(1, -(-count // (ROWS_A_BLOCK * num_devices)))
    # Rows of a block: as even as can be; few in multiples, so that most numbers of models share a program.
    step = 128 if count <= ROWS_A_BLOCK else 8
    rows = min(ROWS_A_BLOCK, step * max(1, -(-count // (step * blocks * num_devices))))
    padding = blocks * num_devices * rows - count
    bits = np.pad(pack(masks), ((0, padding), (0, 0))).reshape(num_devices * blocks, rows, -1)
    # Rows that fill the last block up keep no unit and deviate from the centre by nothing: they add zero.
    values = np.concatenate([outputs, np.broadcast_to(centre, (padding, len(centre)))]) if padding else outputs
    sums = _sum_blocks(num_units, num_devices, with_pairs)(bits, values.reshape(num_devices * blocks, rows, -1), centre)
    counts, *rest = (np.asarray(x) for x in sums)
    counts = counts.sum(axis=0, dtype=np.int64)
    kept, pairs = (np.diagonal(counts), counts) if with_pairs else (counts, None)
    cross, total, square = (x.astype(np.float64).sum(axis=(0, 1)) for x in rest)
    middle = centre.astype(np.float64)  # Back from deviations to outputs
    return Moments(
        count,
        kept,
        pairs,
        cross + kept[:, None] * middle,
        total + count * middle,
        square + 2 * middle * total + count * middle**2,
    )


def sum_blocks(blocks: Iterable[tuple[np.ndarray, np.ndarray]], *, num_devices: int = 1) -> Moments:
    """Sum the moments of blocks of models, `(masks, outputs)` one after another: only one block is in memory."""
    return functools.reduce(Moments.__add__, (sum_moments(*block, num_devices=num_devices) for block in blocks))


def sum_over_hosts(moments: Moments) -> Moments:
    """Add the moments of every process of a `jax.distributed` job, in their own precision; each gets the sum.

    They travel a piece at a time: memory holds no more than a few pieces besides the sum.
    """
    hosts = Hosts(jax.process_index(), jax.process_count())
    if hosts.count == 1:
        return moments

    def summed(values: np.ndarray) -> np.ndarray:
        flat = values.reshape(-1)
        step = exchange.PIECE // flat.itemsize
        pieces = ({"piece": flat[first : first + step]} for first in range(0, max(1, len(flat)), step))
        sums = [functools.reduce(np.add, (part["piece"] for part in exchange.gather(own, hosts))) for own in pieces]
        return np.concatenate(sums).reshape(values.shape)

    found: dict[str, Any] = {
        name: None if value is None else summed(np.asarray(value)) for name, value in vars(moments).items()
    }
    return Moments(**{**found, "count": int(found["count"])})


@functools.lru_cache
def _sum_blocks(num_units: int, num_devices: int, with_pairs: bool) -> Any:
    def on_device(bits: Array, outputs: Array, centre: Array) -> tuple[Array, ...]:
        def add(carry: tuple[Array, ...], block: tuple[Array, Array]) -> tuple[tuple[Array, ...], None]:
            counts, *sums = carry
            x, y = unpack(block[0], num_units, centre.dtype), block[1] - centre
            found = (matmul(x.T, y), y.sum(axis=0), (y**2).sum(axis=0))
            counted = jnp.round(matmul(x.T, x) if with_pairs else x.sum(axis=0)).astype(jnp.int32)
            return (counts + counted, *(_add_exactly(s, f) for s, f in zip(sums, found, strict=True))), None

        targets = centre.shape
        start = (
            jnp.zeros((num_units, num_units) if with_pairs else num_units, jnp.int32),
            *(jnp.zeros((2, *shape), centre.dtype) for shape in ((num_units, *targets), targets, targets)),
        )
        return tuple(x[None] for x in lax.scan(add, start, (bits, outputs))[0])

    return jax.jit(each_device(on_device, num_devices, (MODELS, MODELS, SHARED), MODELS))


def _add_exactly(sum_and_error: Float[Array, "two ..."], addend: Float[Array, "..."]) -> Float[Array, "two ..."]:
    """Add to a sum and carry what rounding lost (Knuth, TAOCP 2, 4.2.2, theorem B)."""
    total, error = sum_and_error
    found = total + addend
    part = found - total
    lost = (total - (found - part)) + (addend - part)
    return jnp.stack([found, error + lost])
