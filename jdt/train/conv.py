"""Convolutions as matrix products, in batch-last layout: inputs `[channels, *space, batch]`.

In that layout every shifted slice of an image is a run of contiguous rows, so that a convolution is one matrix
product over concatenated slices, or, with 3x3 kernels, a set of smaller products after Winograd's transform.
`convolve` picks the way by the layer's shape; `jdt.train.layout` brings it to any model.
"""

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt.types import Array, Float

Way = Literal["matmul", "winograd"]
"""How a convolution may be computed; `winograd` falls back to `matmul` where its transform does not pay."""

Precision = jax.lax.PrecisionLike
Matrix = tuple[tuple[float, ...], ...]

_WINOGRAD_OVERHEAD = 1.6
"""Time of a multiplication in the transformed domain, transforms included, against one in a direct product.

From product rates of layers with 32 to 128 channels on a CPU: see benchmarks/NOTES.md.
"""
_WINOGRAD_CHANNELS = 16
"""Fewer channels than these make the transformed products too thin."""


class Window(NamedTuple):
    """How a kernel moves over its input, one entry a spatial axis.

    Attributes:
      strides: Step of the output.
      padding: Zeros (low, high) around the input; negative entries crop.
      input_dilation: Distance between neighbouring inputs: above 1 for transposed convolutions.
      kernel_dilation: Distance between neighbouring taps.
    """

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]


def convolve(
    x: Float[Array, "channels *space batch"],
    kernel: Float[Array, "*window channels_a_group out"],
    window: Window,
    *,
    groups: int = 1,
    way: Way = "matmul",
    precision: Precision = None,
) -> Float[Array, "out *out_space batch"]:
    """Convolve batch-last images (cross-correlate, as every deep-learning library does).

    Args:
      x: Images, of any number of spatial axes.
      kernel: Taps first, then input channels of one group, then output channels of all groups.
      window: How the kernel moves.
      groups: Groups of channels that do not mix; as many as channels makes a depthwise convolution.
      way: What to compute it with. Winograd's transform is for float32 and wider, and has a gradient but no
        forward-mode derivative.
      precision: Of the matrix products.

    Returns:
      The convolved images, up to rounding what `lax.conv_general_dilated` gives.
    """
    strides, steps, padding = window.strides, window.kernel_dilation, window.padding
    # Sums that nearly cancel cost the transform about four bits, one decimal digit: half of what bfloat16 has.
    exact = jnp.finfo(x.dtype).bits >= 32
    winograd = way == "winograd" and exact and groups == 1 and x.ndim == 4 and set(steps) == {1}
    folds = winograd and strides == (2, 2) and min(kernel.shape[:2]) >= 3 and x.shape[0] >= _WINOGRAD_CHANNELS
    if folds or set(window.input_dilation) != {1}:
        x, padding = _padded(x, padding, window.input_dilation), ((0, 0),) * len(padding)
    if folds:
        # A stride of 2 becomes one of 1 on the phases of the input: no strided slices, and a backward pass that is a
        # plain convolution again.
        x, kernel = _fold_strides(x, kernel)
        strides = (1, 1)
    if winograd and (tile := _tile_for(x.shape, kernel.shape, strides, padding)):
        inner = tuple((min(max(low, 0), 2), min(max(high, 0), 2)) for low, high in padding)
        outer = [(low - i, high - j) for (low, high), (i, j) in zip(padding, inner, strict=True)]
        return _winograd(_padded(x, outer), kernel, tile, inner, precision)
    x = _padded(x, padding)
    if groups > 1:
        return _grouped(x, kernel, strides, steps, groups, precision)
    taps = int(np.prod(kernel.shape[:-2]))
    patches = _patches(x, kernel.shape[:-2], strides, steps)
    rows = kernel.reshape(taps * x.shape[0], -1).T
    product = jnp.matmul(rows, patches.reshape(taps * x.shape[0], -1), precision=precision)
    return product.reshape(-1, *patches.shape[2:])


def _padded(x: Array, padding: Sequence[tuple[int, int]], dilation: Sequence[int] | None = None) -> Array:
    """Pad (or crop, where negative) the spatial axes, with `dilation - 1` zeros between neighbours."""
    inside = [1] * len(padding) if dilation is None else dilation
    edges = [(low, high, step - 1) for (low, high), step in zip(padding, inside, strict=True)]
    if not any(any(edge) for edge in edges):
        return x
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])


def _shifted(x: Array, start: Sequence[int], sizes: Sequence[int], strides: Sequence[int]) -> Array:
    """Slice the spatial axes of x: `sizes` entries from `start`, `strides` apart."""
    cut = tuple(
        slice(at, at + (size - 1) * stride + 1, stride) for at, size, stride in zip(start, sizes, strides, strict=True)
    )
    return x[(slice(None), *cut)]


def _out_sizes(
    space: Sequence[int], window: Sequence[int], strides: Sequence[int], steps: Sequence[int]
) -> tuple[int, ...]:
    return tuple(
        (size - (taps - 1) * step - 1) // stride + 1
        for size, taps, stride, step in zip(space, window, strides, steps, strict=True)
    )


def _patches(x: Array, window: Sequence[int], strides: Sequence[int], steps: Sequence[int]) -> Array:
    """Stack the shifted slices under every tap: `[taps, channels, *out_space, batch]`."""
    sizes = _out_sizes(x.shape[1:-1], window, strides, steps)
    starts = [tuple(t * s for t, s in zip(tap, steps, strict=True)) for tap in np.ndindex(*window)]
    return jnp.stack([_shifted(x, start, sizes, strides) for start in starts])


def _grouped(
    x: Array, kernel: Array, strides: Sequence[int], steps: Sequence[int], groups: int, precision: Precision
) -> Array:
    taps, inside = int(np.prod(kernel.shape[:-2])), kernel.shape[-2]
    patches = _patches(x, kernel.shape[:-2], strides, steps)
    weights = kernel.reshape(taps, inside, groups, -1)
    if inside == 1:  # Depthwise: a product of one row has nothing to gain, so add up the scaled slices.
        # In float32 at least, as matrix products do inside: the kernel's gradient is a sum over the whole batch.
        wide = jnp.promote_types(x.dtype, jnp.float32)
        weights = weights.astype(wide)
        out = sum(
            weights[t, 0, :, :, *[None] * (patches.ndim - 2)] * patches[t][:, None].astype(wide) for t in range(taps)
        )  # [groups, out, *space, batch]
        return jnp.reshape(jnp.asarray(out, x.dtype), (-1, *patches.shape[2:]))
    grouped = jnp.moveaxis(patches.reshape(taps, groups, inside, -1), 1, 0).reshape(groups, taps * inside, -1)
    rows = weights.transpose(2, 3, 0, 1).reshape(groups, -1, taps * inside)
    return jnp.matmul(rows, grouped, precision=precision).reshape(-1, *patches.shape[2:])


def _fold_strides(x: Array, kernel: Array) -> tuple[Array, Array]:
    """Turn a convolution of stride 2 into one of stride 1 on the four phases of its input (space to depth)."""
    rows, columns, inside, out = kernel.shape
    size = [
        (length - taps) // 2 + math.ceil(taps / 2) for length, taps in zip(x.shape[1:3], (rows, columns), strict=True)
    ]
    wanted = [2 * s for s in size]
    edges = [(0, 0, 0), *((0, w - length, 0) for w, length in zip(wanted, x.shape[1:3], strict=True)), (0, 0, 0)]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
    phases = x.reshape(-1, size[0], 2, size[1], 2, x.shape[-1]).transpose(2, 4, 0, 1, 3, 5)
    kernel = jnp.pad(kernel, ((0, rows % 2), (0, columns % 2), (0, 0), (0, 0)))
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    folded = kernel.reshape(rows, 2, columns, 2, inside, out).transpose(0, 2, 1, 3, 4, 5)
    return phases.reshape(4 * inside, *size, -1), folded.reshape(rows, columns, 4 * inside, out)


# Winograd's minimal filtering F(m x m, 3 x 3) (Lavin and Gray 2016, arXiv 1509.09308, section 4): an m x m tile of
# the output costs (m + 2)^2 multiplications instead of 9 m^2.


class _Transform(NamedTuple):
    """Matrices of the data, kernel and output transforms along one axis."""

    data: Matrix
    kernel: Matrix
    output: Matrix


def _cook_toom(tile: int, points: Sequence[float]) -> _Transform:
    """Derive the transforms of F(tile, 3) from interpolation points; infinity is the last one."""
    others = [[q for q in points if q != p] for p in points]
    scale = [math.prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)]
    kernel = [[p**j / s for j in range(3)] for p, s in zip(points, scale, strict=True)] + [[0, 0, 1]]
    data = [[*np.poly(rest)[::-1], 0] for rest in others] + [list(np.poly(points)[::-1])]
    output = [[*(p**i for p in points), float(i == tile - 1)] for i in range(tile)]
    return _Transform(*(tuple(tuple(map(float, row)) for row in matrix) for matrix in (data, kernel, output)))


_TRANSFORMS = {
    2: _cook_toom(2, (0.0, 1.0, -1.0)),
    # The usual points, 1, -1, 2 and -2, lose twice as many bits. These are fractions of two: exact, and so are sums.
    4: _cook_toom(4, (0.0, 0.75, -0.75, 1.5, -1.5)),
}


def _tile_for(
    x_shape: Sequence[int],
    kernel_shape: Sequence[int],
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
) -> int | None:
    """Side of the output tile that costs least, or None where the direct product does."""
    if kernel_shape[:2] != (3, 3) or set(strides) != {1} or min(kernel_shape[2:]) < _WINOGRAD_CHANNELS:
        return None
    height, width = (size + low + high - 2 for size, (low, high) in zip(x_shape[1:3], padding, strict=True))
    costs: dict[int | None, float] = {None: 9.0 * height * width}
    for tile in _TRANSFORMS:
        tiles = math.ceil(height / tile) * math.ceil(width / tile)
        costs[tile] = _WINOGRAD_OVERHEAD * (tile + 2) ** 2 * tiles
    return min(costs, key=costs.__getitem__)


Padding = tuple[tuple[int, int], ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _winograd(x: Array, kernel: Array, tile: int, padding: Padding, precision: Precision) -> Array:
    """Convolve with a 3x3 kernel, stride 1 and padding of 0 to 2; incomplete last tiles are filled up with zeros."""
    x, space = _fill_tiles(x, padding, tile)
    products = jnp.einsum("kio,kin->kon", _kernel_points(kernel, tile), _data_points(x, tile), precision=precision)
    tall, wide = x.shape[1] - 2, x.shape[2] - 2
    return _output_tiles(products, (tall, wide), tile)[:, : space[0], : space[1]]


def _winograd_forward(
    x: Array, kernel: Array, tile: int, padding: Padding, precision: Precision
) -> tuple[Array, tuple[Array, Array]]:
    return _winograd(x, kernel, tile, padding, precision), (x, kernel)


def _winograd_backward(
    tile: int, padding: Padding, precision: Precision, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    # The transpose of the input transform adds overlapping tiles, which compiles to a loop many times slower than
    # this: the gradient of the input is itself a convolution, of the gradient with the turned kernel.
    x, kernel = saved
    turned = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    around = Window((1, 1), tuple((2 - low, 2 - high) for low, high in padding), (1, 1), (1, 1))
    of_x = convolve(gradient, turned, around, way="winograd", precision=precision)
    x, _ = _fill_tiles(x, padding, tile)
    outputs = _output_points(_padded(gradient, [(0, -size % tile) for size in gradient.shape[1:3]]), tile)
    points = jnp.einsum("kin,kon->kio", _data_points(x, tile), outputs, precision=precision)
    return of_x, _kernel_points_transposed(points, tile)


_winograd.defvjp(_winograd_forward, _winograd_backward)


def _fill_tiles(x: Array, padding: Padding, tile: int) -> tuple[Array, list[int]]:
    """Pad x for a 3x3 kernel, with further zeros that complete the last tiles; and the output's size without them."""
    space = [size + low + high - 2 for size, (low, high) in zip(x.shape[1:3], padding, strict=True)]
    more = [-size % tile for size in space]
    return _padded(x, [(low, high + m) for (low, high), m in zip(padding, more, strict=True)]), space


def _combine(matrix: Sequence[Sequence[float]], terms: Sequence[Array]) -> list[Array]:
    """Multiply a small constant matrix by a list of arrays, leaving out zeros: additions, not a thin product."""
    rows = []
    for row in matrix:
        total: Array | None = None
        for factor, term in zip(row, terms, strict=True):
            if factor == 0:
                continue
            scaled = term if abs(factor) == 1 else term * np.asarray(abs(factor), term.dtype)
            if total is None:
                total = scaled if factor > 0 else -scaled
            else:
                total = total + scaled if factor > 0 else total - scaled
        assert total is not None  # No row of a transform is zero.
        rows.append(total)
    return rows


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))


# Each transform runs over rows, then over columns. Rows are written out in between: fused into one pass they compile
# for three times as long and run no faster. Points are ordered (column, row).


def _data_points(x: Array, tile: int) -> Array:
    """`[channels, height + 2, width + 2, batch]` to `[points, channels, tiles * batch]`."""
    size, matrix = tile + 2, _TRANSFORMS[tile].data
    high, wide = x.shape[1] - 2, x.shape[2] - 2
    rows = jnp.stack(_combine(matrix, [x[:, i : i + high - tile + 1 : tile] for i in range(size)]))
    columns = [rows[:, :, :, j : j + wide - tile + 1 : tile] for j in range(size)]
    return jnp.stack(_combine(matrix, columns)).reshape(size * size, x.shape[0], -1)


def _kernel_points(kernel: Array, tile: int) -> Array:
    """`[3, 3, in, out]` to `[points, in, out]`."""
    matrix = _TRANSFORMS[tile].kernel
    rows = jnp.stack(_combine(matrix, [kernel[i] for i in range(3)]))
    return jnp.stack(_combine(matrix, [rows[:, j] for j in range(3)])).reshape(-1, *kernel.shape[2:])


def _kernel_points_transposed(points: Array, tile: int) -> Array:
    size, matrix = tile + 2, _transposed(_TRANSFORMS[tile].kernel)
    points = points.reshape(size, size, *points.shape[1:])
    rows = jnp.stack(_combine(matrix, [points[:, i] for i in range(size)]))  # [3, columns, in, out]
    return jnp.stack(_combine(matrix, [rows[:, j] for j in range(size)]), axis=1)


def _output_tiles(points: Array, space: tuple[int, int], tile: int) -> Array:
    """`[points, out, tiles * batch]` to `[out, height, width, batch]`."""
    size, matrix = tile + 2, _TRANSFORMS[tile].output
    points = points.reshape(size, size, points.shape[1], space[0] // tile, space[1] // tile, -1)
    columns = jnp.stack(_combine(matrix, [points[j] for j in range(size)]), axis=4)
    both = jnp.stack(_combine(matrix, [columns[i] for i in range(size)]), axis=2)
    return both.reshape(both.shape[0], *space, -1)


def _output_points(gradient: Array, tile: int) -> Array:
    """Transpose of `_output_tiles`: `[out, height, width, batch]` to `[points, out, tiles * batch]`."""
    size, matrix = tile + 2, _transposed(_TRANSFORMS[tile].output)
    channels, height, width, batch = gradient.shape
    tiles = gradient.reshape(channels, height // tile, tile, width // tile, tile, batch)
    rows = jnp.stack(_combine(matrix, [tiles[:, :, i] for i in range(tile)]))
    columns = _combine(matrix, [rows[:, :, :, :, j] for j in range(tile)])
    return jnp.stack(columns).reshape(size * size, channels, -1)
