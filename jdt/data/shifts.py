"""Fixed rendering shifts: the same images drawn otherwise, for tests outside the domain that a head was trained on.

Every shift maps uint8 images to uint8 images of their shape, the same way for each, on the device. Blurs and blocks are
products with small matrices and edges are sums of shifted images, never convolutions.
"""

import dataclasses
import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jdt import config
from jdt.checks import UserError, require_known
from jdt.data.base import Dataset
from jdt.data.images import StreamedImages
from jdt.data.stamps import as_shown
from jdt.types import Array, Float, Int, UInt8

ShiftKind = Literal["edges", "inversion", "colour-swap", "blur", "pixelation", "contrast"]

_PIXELS_AT_ONCE = 1 << 22  # Keeps what a batch needs on the device to some tens of MB.


@dataclasses.dataclass(frozen=True)
class Shift:
    """A rendering shift and how strong it is.

    x is a pixel of one channel, 0 to 255; results are rounded and clipped to 0..255. Beyond the border the pixels there
    are repeated.

    Attributes:
      kind: `edges`: `strength |Sobel| / 4` of the luma (ITU-R 601, rounded as Pillow does) in all channels, so that an
        upright edge from black to white is white at strength 1; `inversion`: `255 - x`; `colour-swap`: channels move up
        by `strength` places, red becoming green at 1; `blur`: Gaussian with a standard deviation of `strength` pixels,
        cut off at 4 of them (as `scipy.ndimage.gaussian_filter` does, mode "nearest"); `pixelation`: means of blocks
        of `strength` x `strength` pixels from the top left, smaller at the other ends; `contrast`:
        `mean + strength (x - mean)`, with the mean of each image and channel.
      strength: See there; 1 for `inversion`, which has none.

    >>> Shift("blur", 1.5).name
    'blur:1.5'
    """

    kind: ShiftKind
    strength: float = 1.0

    def __post_init__(self) -> None:
        require_known("shift", self.kind, get_args(ShiftKind))
        wanted, is_right = _STRENGTHS[self.kind]
        if not (math.isfinite(self.strength) and is_right(self.strength)):
            raise UserError(
                f"the strength of the shift {self.kind} is {self.strength:g}, but must be {wanted}: write for example "
                f"{_example(self.kind)}."
            )

    @property
    def name(self) -> str:
        """The kind, and the strength where it is not the default; `parse_shift` reads it."""
        return self.kind if self == SHIFTS[self.kind] else f"{self.kind}:{self.strength:.12g}"


_STRENGTHS = {
    "edges": ("a positive factor", lambda strength: strength > 0),
    "inversion": ("left out", lambda strength: strength == 1),
    "colour-swap": ("1 or 2 places", lambda strength: strength in (1, 2)),
    "blur": ("a positive standard deviation in pixels, up to 100", lambda strength: 0 < strength <= 100),
    "pixelation": ("a whole number of pixels from 2 to 128", lambda strength: strength in range(2, 129)),
    "contrast": ("a factor from 0, and not 1", lambda strength: strength >= 0 and strength != 1),
}

SHIFTS: dict[str, Shift] = {
    "edges": Shift("edges", 1.0),
    "inversion": Shift("inversion"),
    "colour-swap": Shift("colour-swap", 1),
    "blur": Shift("blur", 1.0),
    "pixelation": Shift("pixelation", 2),
    "contrast": Shift("contrast", 0.3),
}
"""Name of a shift -> the shift at its default strength."""


def _example(kind: str) -> str:
    """How a shift and its strength are written; not from `SHIFTS`, whose making checks strengths."""
    return {"inversion": "inversion", "pixelation": "pixelation:2", "colour-swap": "colour-swap:1"}.get(
        kind, f"{kind}:0.5"
    )


def parse_shift(text: str) -> Shift:
    """Read `KIND` or `KIND:STRENGTH`, such as `edges` or `blur:1.5`.

    Raises:
      UserError: If there is no such shift, or its strength cannot be.

    >>> parse_shift("blur:1.5"), parse_shift("contrast") == SHIFTS["contrast"]
    (Shift(kind='blur', strength=1.5), True)
    """
    kind, colon, strength = text.partition(":")
    require_known("shift", kind, SHIFTS)
    if not colon:
        return SHIFTS[kind]
    try:
        value = float(strength)
    except ValueError:
        raise UserError(f"cannot read the shift {text!r}, {strength!r} is no number: write {_example(kind)}.") from None
    return Shift(kind, value)  # pyright: ignore[reportArgumentType]  # Known above.


def shifted(data: Dataset, shift: Shift) -> Dataset:
    """A dataset whose images are drawn otherwise, under the same labels.

    Args:
      data: Decoded; stamps that it carries are in the pixels before they are shifted.
      shift: Which one.

    Returns:
      `NAME+SHIFT`, with a fingerprint of its own, made of the data's and of the shift, whatever the device.

    Raises:
      UserError: If the data is streamed, or the shift would do nothing to its images.
    """
    if isinstance(data.images, StreamedImages):
        raise UserError(f"{data.name} is streamed, and {shift.name} needs its pixels: load it decoded.")
    if shift.kind == "colour-swap" and data.image_shape[-1] == 1:
        raise UserError(
            f"the images of {data.name} are grey, which colour-swap does nothing to: leave it out, or take another of "
            f"{', '.join(SHIFTS)}."
        )
    shown = as_shown(data)
    images = np.empty(shown.images.shape, np.uint8)
    size = max(1, min(len(data), _PIXELS_AT_ONCE // math.prod(data.image_shape)))
    for start in range(0, len(data), size):
        part = np.asarray(shown.images[start : start + size])
        padded = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))  # One shape, so one program.
        images[start : start + size] = np.asarray(shift_images(jnp.asarray(padded), shift))[: len(part)]
    fingerprint = config.fingerprint([data.fingerprint, "shift", shift.kind, float(shift.strength)])
    return dataclasses.replace(shown, name=f"{data.name}+{shift.name}", images=images, fingerprint=fingerprint)


def greyed(data: Dataset) -> Dataset:
    """A dataset without its colours: the luma (ITU-R 601, rounded as Pillow does) in all three channels.

    Args:
      data: Decoded; stamps that it carries are in the pixels before they are made grey.

    Returns:
      `NAME+grey`, with a fingerprint of its own.

    Raises:
      UserError: If the data is streamed, or its images are of one channel.

    >>> from jdt.data.arrays import from_arrays
    >>> images = np.full((2, 1, 1, 3), (255, 0, 0), np.uint8)
    >>> greyed(from_arrays("red", images, [0, 1], ["a", "b"])).images[0].ravel().tolist()
    [76, 76, 76]
    """
    if isinstance(data.images, StreamedImages):
        raise UserError(f"{data.name} is streamed, and grey images need its pixels: load it decoded.")
    if data.image_shape[-1] == 1:
        raise UserError(f"the images of {data.name} are grey already: leave grey out, or blur them.")
    shown = as_shown(data)
    images = np.empty(shown.images.shape, np.uint8)
    size = max(1, _PIXELS_AT_ONCE // math.prod(data.image_shape))
    for start in range(0, len(data), size):
        images[start : start + size] = np.asarray(_luma(jnp.asarray(shown.images[start : start + size])))
    return dataclasses.replace(
        shown, name=f"{data.name}+grey", images=images, fingerprint=config.fingerprint([data.fingerprint, "grey"])
    )


@functools.partial(jax.jit, static_argnames="shift")
def shift_images(
    images: UInt8[Array, "batch height width channels"], shift: Shift
) -> UInt8[Array, "batch height width channels"]:
    """Shift a batch of images on the device."""
    match shift.kind:
        case "edges":
            return _edges(images, shift.strength)
        case "inversion":
            return 255 - images
        case "colour-swap":
            return jnp.roll(images, int(shift.strength), axis=-1)
        case "blur":
            height, width = images.shape[1:3]
            return _to_pixels(_both_ways(images, _blur(height, shift.strength), _blur(width, shift.strength)))
        case "pixelation":
            return _pixelated(images, int(shift.strength))
        case "contrast":
            mean = images.astype(jnp.float32).mean(axis=(1, 2), keepdims=True)
            return _to_pixels(mean + shift.strength * (images - mean))


def _to_pixels(values: Float[Array, "..."]) -> UInt8[Array, "..."]:
    return jnp.clip(jnp.rint(values), 0, 255).astype(jnp.uint8)


def _both_ways(
    images: UInt8[Array, "batch height width channels"],
    down: Float[np.ndarray, "rows height"],
    across: Float[np.ndarray, "columns width"],
) -> Float[Array, "batch rows columns channels"]:
    """Multiply columns, then rows, in full float32, which TPUs and GPUs would shorten by default."""
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    halfway = product("rh,bhwc->brwc", jnp.asarray(down, jnp.float32), images.astype(jnp.float32))
    return product("sw,brwc->brsc", jnp.asarray(across, jnp.float32), halfway)


def _blur(size: int, deviation: float) -> Float[np.ndarray, "size size"]:
    """Row i holds what pixel i takes of each pixel: Gaussian weights, those beyond the border at the border."""
    radius = int(4 * deviation + 0.5)
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    matrix = np.zeros((size, size))
    taken = np.clip(np.arange(size)[:, None] + steps, 0, size - 1)
    np.add.at(matrix, (np.arange(size)[:, None], taken), weights / weights.sum())
    return matrix


def _luma(images: UInt8[Array, "batch height width 3"]) -> Int[Array, "batch height width 1"]:
    """Brightness by ITU-R 601, rounded as Pillow does."""
    weighted = (images.astype(jnp.int32) * jnp.array([19595, 38470, 7471])).sum(axis=-1, keepdims=True)
    return (weighted + 0x8000) >> 16


def _edges(
    images: UInt8[Array, "batch height width channels"], strength: float
) -> UInt8[Array, "batch height width channels"]:
    whole = _luma(images) if images.shape[-1] == 3 else images.astype(jnp.int32)
    height, width = images.shape[1:3]
    padded = jnp.pad(whole, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")

    def at(down: int, across: int) -> Int[Array, "batch height width 1"]:
        return padded[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width]

    def right_of(down: int) -> Int[Array, "batch height width 1"]:
        return at(down, 1) - at(down, -1)

    def below(across: int) -> Int[Array, "batch height width 1"]:
        return at(1, across) - at(-1, across)

    horizontal = right_of(-1) + 2 * right_of(0) + right_of(1)
    vertical = below(-1) + 2 * below(0) + below(1)
    squares = (horizontal**2 + vertical**2).astype(jnp.float32)  # At most 2 (4 * 255)^2: exact.
    return jnp.broadcast_to(_to_pixels(strength / 4 * jnp.sqrt(squares)), images.shape)


def _pixelated(
    images: UInt8[Array, "batch height width channels"], side: int
) -> UInt8[Array, "batch height width channels"]:
    block_of = [np.arange(size) // side for size in images.shape[1:3]]
    down, across = ((np.arange(of[-1] + 1)[:, None] == of).astype(np.float32) for of in block_of)
    sums = _both_ways(images, down, across).astype(jnp.int32)  # At most 255 * 128^2: exact.
    count = jnp.asarray(down.sum(axis=1)[:, None] * across.sum(axis=1), jnp.int32)[..., None]
    means = ((2 * sums + count) // (2 * count)).astype(jnp.uint8)
    return means[:, block_of[0]][:, :, block_of[1]]
