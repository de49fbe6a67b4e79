"""Augmentation on the device, for whole batches: gathers with computed rows and columns, no convolution, no loop."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdt import checks
from jdt.types import AnyArray, Array, Bool, Float, Int, PRNGKey, Shaped, UInt8


class Windows(NamedTuple):
    """Where each image of a batch is cut.

    Attributes:
      top: First row of the window in the padded image, 0 to 2 pad.
      left: First column of the window, 0 to 2 pad.
      is_flipped: Whether the window is then mirrored left to right.
    """

    top: Int[Array, " batch"]
    left: Int[Array, " batch"]
    is_flipped: Bool[Array, " batch"]


def draw_windows(key: PRNGKey, batch: int, *, pad: int, flip: bool) -> Windows:
    """Draw one window per image, uniformly; mirrored with probability one half if `flip`."""
    of_row, of_column, of_flip = jax.random.split(key, 3)
    return Windows(
        top=jax.random.randint(of_row, (batch,), 0, 2 * pad + 1),
        left=jax.random.randint(of_column, (batch,), 0, 2 * pad + 1),
        is_flipped=jax.random.bernoulli(of_flip, 0.5, (batch,)) if flip else jnp.zeros(batch, bool),
    )


def random_crop_flip(
    key: PRNGKey, images: Shaped[Array, "batch height width channels"], *, pad: int, flip: bool
) -> Shaped[Array, "batch height width channels"]:
    """Shift every image by up to `pad` pixels each way, filling with zeros, and mirror half of them.

    The same as padding with `pad` zeros on every side, cutting a random window of the original size out of each
    image, and mirroring it. Works under `jit` and `vmap`; the output has the input's dtype.

    Args:
      key: Decides windows and mirrors; see `draw_windows`.
      images: Any dtype; zero is the fill, so for normalised images augment first (as uint8) and normalise after.
      pad: Greatest shift in pixels; 0 for none. Static.
      flip: Whether to mirror. Static. With `pad=0` and `flip=False` the images pass unchanged.

    Raises:
      UserError: If `pad` is negative.
    """
    checks.require_at_least("pad", pad, 0)
    if pad == 0 and not flip:
        return images
    batch, height, width, _ = images.shape
    windows = draw_windows(key, batch, pad=pad, flip=flip)
    rows = windows.top[:, None] - pad + jnp.arange(height)  # [batch height]
    columns = windows.left[:, None] - pad + jnp.arange(width)  # [batch width]
    columns = jnp.where(windows.is_flipped[:, None], columns[:, ::-1], columns)
    # Out-of-range indices would wrap or clamp, so they are clamped here and the pixels blanked.
    rows_inside, columns_inside = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    rows, columns = jnp.clip(rows, 0, height - 1), jnp.clip(columns, 0, width - 1)
    cut = images[jnp.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
    inside = rows_inside[:, :, None] & columns_inside[:, None, :]  # [batch height width]
    return jnp.where(inside[..., None], cut, jnp.zeros((), images.dtype))


def normalise(
    images: UInt8[Array, "*batch height width channels"],
    mean: Sequence[float] | Float[AnyArray, " channels"] | float,
    std: Sequence[float] | Float[AnyArray, " channels"] | float,
) -> Float[Array, "*batch height width channels"]:
    """Compute `(images / 255 - mean) / std` in float32; `mean` and `std` per channel or one for all.

    >>> normalise(jnp.full((1, 1, 1, 1), 255, jnp.uint8), 0.5, 0.25).item()
    2.0
    """
    scaled = images.astype(jnp.float32) / 255
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)
