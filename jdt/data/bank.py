"""A bank of augmented views: several random-resized crops of every image of a dataset, made once, on the device.

Training that looks at frozen features only needs no fresh augmentation each epoch: the features of a bank of views are
computed once, and each step draws its views from it.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks, config
from jdt.data.base import Dataset
from jdt.devices import BYTES_A_GIB, host_memory
from jdt.keys import key_for
from jdt.types import Array, Bool, Float, Int, PRNGKey, UInt8

_TRIES = 10  # As torchvision: after so many crops that do not fit, the centre is taken.
NUM_DRAWS = 2 * _TRIES + 3
_RATIO = (3 / 4, 4 / 3)
_PIXELS_AT_ONCE = 1 << 22  # Keeps what a batch needs on the device to some hundreds of MB.


def augmented_views(
    data: Dataset, num_views: int, *, seed: int, flip: bool = True, scale: tuple[float, float] = (0.8, 1.0)
) -> Dataset:
    """Make several augmented copies of every image: random-resized crops (arXiv 1409.4842), half of them mirrored.

    Crops are drawn as torchvision's `RandomResizedCrop` draws them (area within `scale`, aspect ratio from 3/4 to 4/3)
    and brought to the image's size by bilinear interpolation. View v of the image at position i depends on
    (seed, v, i) and that image alone, so that one bank serves all models of a study. Stamps are kept as such: they are
    made after augmentation.

    Args:
      data: Streamed images are read once; the bank itself is held in memory.
      num_views: Copies of each image.
      seed: Root seed of the study.
      flip: Whether views are mirrored with probability one half; digits and text should not be.
      scale: Least and largest area of a crop, as parts of the image's.

    Returns:
      A dataset of `num_views * len(data)` images: all images in their first view, in the order of `data`, then all in
      their second view, and so on; labels likewise.

    Raises:
      UserError: If there is no view to make, the scale is no part of the area, or the host has too little memory.
    """
    checks.require_at_least("num_views", num_views, 1)
    require_scale("scale", scale)
    shape = (num_views, len(data), *data.image_shape)
    _require_memory(data, num_views)
    images, positions = np.empty(shape, np.uint8), np.arange(len(data))
    keys = [key_for(seed, "view", view) for view in range(num_views)]
    size = max(1, min(len(data), _PIXELS_AT_ONCE // math.prod(data.image_shape)))
    for start in range(0, len(data), size):
        chosen = positions[start : start + size]
        # The last images come with others that fill their call, so that one program serves all.
        filled = np.pad(chosen, (0, size - len(chosen)))
        part, places = jnp.asarray(data.images[filled]), jnp.asarray(filled)
        for view, key in enumerate(keys):
            cut = np.asarray(_cut_views(key, part, places, flip, scale))
            images[view, start : start + len(chosen)] = cut[: len(chosen)]
    stamps = data.stamps and data.stamps._replace(of_example=np.tile(np.asarray(data.stamps.of_example), num_views))
    return Dataset(
        name=f"{data.name} in {num_views} views",
        images=images.reshape(-1, *data.image_shape),
        labels=np.tile(np.asarray(data.labels), num_views),
        class_names=data.class_names,
        fingerprint=config.fingerprint(["views", data.fingerprint, num_views, seed, flip, list(scale)]),
        stamps=stamps,
    )


def _require_memory(data: Dataset, num_views: int) -> None:
    needed, there = num_views * len(data) * math.prod(data.image_shape), host_memory()
    if there is not None and needed > there:
        height, width, channels = data.image_shape
        raise checks.UserError(
            f"{num_views} views of the {len(data):,} images of {data.name}, {height}x{width}x{channels} each, take "
            f"{needed / BYTES_A_GIB:,.1f} GiB, but this machine has {there / BYTES_A_GIB:,.1f}: ask for fewer views "
            "(--tuning.num-views), fewer or smaller images."
        )


def require_scale(name: str, scale: tuple[float, float]) -> None:
    """Raise unless `scale` holds two rising parts of an area."""
    if len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1:
        raise checks.UserError(
            f"{name} is {scale}, but must be two rising parts of the area in (0, 1]: pass for example 0.8 1.0."
        )


@functools.partial(jax.jit, static_argnames=("flip", "scale"))
def _cut_views(
    key: PRNGKey,
    images: UInt8[Array, "batch height width channels"],
    positions: Int[Array, " batch"],
    flip: bool,
    scale: tuple[float, float],
) -> UInt8[Array, "batch height width channels"]:
    height, width = images.shape[1:3]

    def one(image: UInt8[Array, "height width channels"], position: Array) -> UInt8[Array, "height width channels"]:
        draws = jax.random.uniform(jax.random.fold_in(key, position), (NUM_DRAWS,))
        top, left, down, across = crop_box(draws[1:], height, width, scale)
        is_flipped = (draws[0] < 0.5) & flip
        return _resampled(image, top, left, down, across, is_flipped)

    return jax.vmap(one)(images, positions)


def crop_box(
    draws: Float[Array, " draws"], height: int, width: int, scale: tuple[float, float]
) -> tuple[Int[Array, ""], Int[Array, ""], Int[Array, ""], Int[Array, ""]]:
    """Top, left, height and width of a crop, whole pixels: the first of ten draws that fits, else the centre."""
    areas, ratios = draws[:_TRIES], draws[_TRIES : 2 * _TRIES]
    area = height * width * (scale[0] + areas * (scale[1] - scale[0]))
    low, high = (math.log(ratio) for ratio in _RATIO)
    ratio = jnp.exp(low + ratios * (high - low))
    across = jnp.round(jnp.sqrt(area * ratio)).astype(int)
    down = jnp.round(jnp.sqrt(area / ratio)).astype(int)
    fits = (across > 0) & (across <= width) & (down > 0) & (down <= height)
    first = fits.argmax()
    # Where none fits: the largest centred crop with an allowed aspect ratio.
    central = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    down = jnp.where(fits.any(), down[first], central[0])
    across = jnp.where(fits.any(), across[first], central[1])
    top = jnp.floor(draws[-2] * (height - down + 1)).astype(int)
    left = jnp.floor(draws[-1] * (width - across + 1)).astype(int)
    top = jnp.where(fits.any(), top, (height - down) // 2)
    left = jnp.where(fits.any(), left, (width - across) // 2)
    return top, left, down, across


def _resampled(
    image: UInt8[Array, "height width channels"],
    top: Int[Array, ""],
    left: Int[Array, ""],
    down: Int[Array, ""],
    across: Int[Array, ""],
    is_flipped: Bool[Array, ""],
) -> UInt8[Array, "height width channels"]:
    """A box of an image at the image's own size, bilinear; a box is never larger, so nothing needs smoothing."""
    height, width, _ = image.shape
    rows, of_row = crop_places(top, down, height)
    columns, of_column = crop_places(left, across, width)
    columns = jnp.where(is_flipped, columns[:, ::-1], columns)
    of_column = jnp.where(is_flipped, of_column[::-1], of_column)[:, None]
    pixels = image.astype(jnp.float32)
    upper, lower = pixels[rows[0]], pixels[rows[1]]
    mixed = upper + of_row[:, None, None] * (lower - upper)
    before, after = mixed[:, columns[0]], mixed[:, columns[1]]
    return jnp.floor(before + of_column * (after - before) + 0.5).astype(jnp.uint8)


def crop_places(start: Array, length: Array, size: int) -> tuple[Int[Array, "2 size"], Array]:
    """Which two pixels each new pixel lies between, and how near it is to the second; centres at half pixels."""
    place = jnp.clip((jnp.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    lower = jnp.floor(place).astype(int)
    return start + jnp.stack([lower, jnp.minimum(lower + 1, length - 1)]), place - lower
