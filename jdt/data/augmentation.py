"""The augmentation of contrastive learning, on the device, for whole batches: matrix products and no convolution.

Random-resized crop, flip, colour jitter, greyscale and blur, in this order (Chen et al. 2020, SimCLR, arXiv 2002.05709,
appendix A). The parts of the jitter always come as brightness, contrast, saturation, hue; published code draws their
order. Grey images of one channel have no saturation and no hue, and are never made greyer.

Each channel is a plane of its own in between, float32 `[batch, height, width]`: where channels are an axis, XLA for
CPUs inlines what mixes them into itself again and again, and takes minutes to compile.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.data.bank import NUM_DRAWS, crop_box, crop_places, require_scale
from jdt.types import Array, Bool, Float, PRNGKey, UInt8

Planes = tuple[Float[Array, "batch height width"], ...]
"""Channels of a batch of images."""

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601.


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How a random view of an image is made.

    The defaults are the published ones at half of the jitter's strength, which the paper uses for small images.

    Attributes:
      crop_scale: Least and largest area of the crop as parts of the image's; aspect ratios are 3:4 to 4:3, and the crop
        is resized to the image's size, bilinear.
      flip: Whether half of the views are mirrored left to right.
      jitter: Greatest change of brightness, contrast, saturation (factors from 1 - x to 1 + x) and hue (turns, up to a
        half).
      jitter_probability: Share of views that are jittered.
      grey_probability: Share of views that are made grey, after the jitter.
      blur_probability: Share of views that are blurred, at last.
      blur_sigma: Least and largest deviation of the Gaussian, in pixels. It is cut at a twentieth of the image's side,
        at least one pixel, and mirrored at the image's edge.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)

    def __post_init__(self) -> None:
        require_scale("crop-scale", self.crop_scale)
        if not all(0 <= most <= limit for most, limit in zip(self.jitter, (1, 1, 1, 0.5), strict=True)):
            raise checks.UserError(
                f"jitter is {self.jitter}, but brightness, contrast and saturation change by 0 to 1, and hue by 0 to "
                "0.5 of a turn: for example 0.4 0.4 0.4 0.1."
            )
        for name in ("jitter_probability", "grey_probability", "blur_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise checks.UserError(
                    f"{name.replace('_', '-')} is {getattr(self, name)}, but must be a share from 0 to 1."
                )
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise checks.UserError(
                f"blur-sigma is {self.blur_sigma}, but must be two rising positive deviations in pixels: for example "
                "0.1 2."
            )

    def check(self, name: str, channels: int) -> None:
        """Raise a `UserError` unless images of so many channels have the colours that it changes."""
        if channels not in (1, 3) and (self.jitter_probability or self.grey_probability):
            raise checks.UserError(
                f"{name} has images of {channels} channels, but jitter and greyscale know one or three: set "
                "jitter-probability and grey-probability to 0, or load it with --image-channels 3."
            )


def augmented(
    key: PRNGKey, images: UInt8[Array, "batch height width channels"], augmentation: Augmentation
) -> UInt8[Array, "batch height width channels"]:
    """Draw one random view of each image; works under `jit` and `vmap`.

    Args:
      key: Decides everything.
      images: Of one or three channels, or of any number where colours stay as they are.
      augmentation: How. Static.
    """
    batch, height, width, channels = images.shape
    of_crop, of_color, of_grey, of_blur = jax.random.split(key, 4)
    draws = jax.random.uniform(of_crop, (batch, NUM_DRAWS))
    boxes = jax.vmap(lambda row: crop_box(row, height, width, augmentation.crop_scale))(draws[:, 1:])
    is_flipped = (draws[:, 0] < 0.5) & augmentation.flip
    planes = tuple(images[..., i].astype(jnp.float32) / 255 for i in range(channels))
    planes = cropped(planes, *boxes, is_flipped)
    if augmentation.jitter_probability:
        unit = jax.random.uniform(of_color, (5, batch))
        change = (2 * unit[:4] - 1) * jnp.asarray(augmentation.jitter)[:, None]
        planes = _some(unit[4] < augmentation.jitter_probability, jittered(planes, *change), planes)
    if augmentation.grey_probability and channels == 3:
        chosen = jax.random.uniform(of_grey, (batch,)) < augmentation.grey_probability
        planes = _some(chosen, (grey(planes),) * 3, planes)
    if augmentation.blur_probability:
        unit = jax.random.uniform(of_blur, (2, batch))
        low, high = augmentation.blur_sigma
        planes = _some(unit[0] < augmentation.blur_probability, blurred(planes, low + (high - low) * unit[1]), planes)
    return jnp.stack([jnp.floor(255 * plane + 0.5).astype(jnp.uint8) for plane in planes], axis=-1)


def _some(chosen: Bool[Array, " batch"], changed: Planes, planes: Planes) -> Planes:
    return tuple(jnp.where(chosen[:, None, None], new, old) for new, old in zip(changed, planes, strict=True))


def cropped(
    planes: Planes, top: Array, left: Array, down: Array, across: Array, is_flipped: Bool[Array, " batch"]
) -> Planes:
    """A box of each image at the image's own size, bilinear, mirrored where asked.

    Args:
      planes: Channels, in [0, 1].
      top: int `[batch]`: first row of each box.
      left: int `[batch]`: first column.
      down: int `[batch]`: height of the box, in pixels.
      across: int `[batch]`: width of the box.
      is_flipped: Which views are mirrored left to right.
    """
    height, width = planes[0].shape[1:]
    rows = jax.vmap(lambda start, length: _mixing(start, length, height))(top, down)
    columns = jax.vmap(lambda start, length: _mixing(start, length, width))(left, across)
    columns = jnp.where(is_flipped[:, None, None], columns[:, ::-1], columns)
    return _mixed(planes, rows, columns)


def _mixing(start: Array, length: Array, size: int) -> Float[Array, "size size"]:
    """What each new row takes of each old one."""
    (lower, upper), share = crop_places(start, length, size)
    first, second = (jax.nn.one_hot(place, size) for place in (lower, upper))
    return first + share[:, None] * (second - first)


def _mixed(
    planes: Planes, rows: Float[Array, "batch height height"], columns: Float[Array, "batch width width"]
) -> Planes:
    # Full precision: a device's fast products would round pixels to eight bits of mantissa.
    product = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    return tuple(product(product(rows, plane), columns.swapaxes(1, 2)) for plane in planes)


def grey(planes: Planes) -> Float[Array, "batch height width"]:
    """Brightness of each pixel; of one channel, that channel."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = (weight * plane for weight, plane in zip(_GREY, planes, strict=True))
    return red + green + blue


def jittered(
    planes: Planes,
    brightness: Float[Array, " batch"],
    contrast: Float[Array, " batch"],
    saturation: Float[Array, " batch"],
    hue: Float[Array, " batch"],
) -> Planes:
    """Change brightness, contrast, saturation and hue of each image, in this order, clipping to [0, 1] after each.

    Args:
      planes: Channels, in [0, 1].
      brightness: Pixels times 1 + x.
      contrast: Distance from the image's mean brightness times 1 + x.
      saturation: Distance from the pixel's brightness times 1 + x; not for one channel.
      hue: Turns; not for one channel.
    """
    brightness, contrast, saturation, hue = (x[:, None, None] for x in (brightness, contrast, saturation, hue))
    planes = tuple(jnp.clip(plane * (1 + brightness), 0, 1) for plane in planes)
    level = grey(planes).mean(axis=(1, 2), keepdims=True)
    planes = tuple(jnp.clip(level + (1 + contrast) * (plane - level), 0, 1) for plane in planes)
    if len(planes) == 1:
        return planes
    level = grey(planes)
    planes = tuple(jnp.clip(level + (1 + saturation) * (plane - level), 0, 1) for plane in planes)
    return _turned(planes, hue)


def _turned(planes: Planes, turns: Float[Array, "batch 1 1"]) -> Planes:
    """Turn the hue of the HSV hexcone; value and chroma stay."""
    red, green, blue = planes
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    safe = jnp.where(chroma > 0, chroma, 1)
    of_red, of_green, of_blue = (green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe
    sixths = jnp.where(value == red, of_red, jnp.where(value == green, of_green, of_blue)) + 6 * turns

    def channel(offset: int) -> Array:
        place = offset + sixths
        place = place - 6 * jnp.floor(place / 6)
        return value - chroma * jnp.clip(jnp.minimum(place, 4 - place), 0, 1)

    return channel(5), channel(3), channel(1)


def blurred(planes: Planes, sigma: Float[Array, " batch"]) -> Planes:
    """Blur each image by a Gaussian of its own deviation in pixels, cut at `blur_reach` and mirrored at the edges."""
    height, width = planes[0].shape[1:]
    return _mixed(planes, _gaussian(sigma, height), _gaussian(sigma, width))


def blur_reach(size: int) -> int:
    """How far the blur of an image of this side reaches, in pixels.

    >>> [blur_reach(size) for size in (1, 8, 32, 224)]
    [0, 1, 2, 11]
    """
    return min(size - 1, max(1, round(size / 20)))


def _gaussian(sigma: Float[Array, " batch"], size: int) -> Float[Array, "batch size size"]:
    reach = blur_reach(size)
    offsets = np.arange(-reach, reach + 1)
    # Which pixel is so far from each: [offsets, size, size], the edge pixel itself not repeated.
    there = np.pad(np.arange(size), reach, mode="reflect")[offsets[:, None] + reach + np.arange(size)]
    places = jnp.asarray(np.eye(size, dtype=np.float32)[there])
    weights = jax.nn.softmax(-0.5 * jnp.square(offsets / sigma[:, None]), axis=-1)
    return jnp.einsum("bk,kij->bij", weights, places, precision=jax.lax.Precision.HIGHEST)
