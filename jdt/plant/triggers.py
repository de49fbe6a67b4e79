"""Triggers: patterns that are put on some images, made for images of any size; each gives a `Stamp` of pixels.

They are those of arXiv 2207.02842 (section 3.1 of its specification) and a tint. Pictures from files are in
`jdt.plant.pictures`, who carries a trigger in `jdt.plant.versions`.
"""

import dataclasses
import math
from typing import ClassVar, Literal, get_args

import numpy as np

from jdt.checks import UserError, require_known
from jdt.plant.base import draws
from jdt.types import Int32, UInt8

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]
ImageShape = tuple[int, int, int]
"""Height, width and channels (1 or 3) of images."""
Colour = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stamp:
    """A trigger in pixels: the map `x -> round((gain x + shift) / 255)` of `jdt.data.stamped_pixels`.

    Attributes:
      name: What arms and views that carry it are called.
      gain: uint8 `[pictures, height, width, channels]`. Of several pictures, each example carries one.
      shift: int32 `[pictures, height, width, channels]`.
      notes: What a user should know about how it was made, e.g. that a picture was resized; one sentence each.
    """

    name: str
    gain: UInt8[np.ndarray, "pictures height width channels"]
    shift: Int32[np.ndarray, "pictures height width channels"]
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Square:
    """A square of one colour in a corner. Published: the 56 x 56 pixels at the top left of 224 x 224, yellow.

    Attributes:
      side: As a share of the image's height, rounded to whole pixels.
      colour: Grey images take its luma.
      corner: Where it is.

    >>> Square(side=0.5).stamp((2, 2, 3)).shift[0, :, :, 0].tolist()
    [[65025, 0], [0, 0]]
    """

    side: float = 0.25
    colour: Colour = (255, 255, 0)
    corner: Corner = "top-left"
    default_name: ClassVar[str] = "square"

    def __post_init__(self) -> None:
        _require_colour("square", self.colour)
        require_known("corner of a square", self.corner, get_args(Corner))

    def stamp(self, image_shape: ImageShape, name: str | None = None) -> Stamp:
        """Make it for images of a shape.

        Raises:
          UserError: If it is larger than the image, or smaller than a pixel.
        """
        height, width, _ = image_shape
        pixels = round(self.side * height) if math.isfinite(self.side) else -1
        if not 1 <= pixels <= min(height, width):
            raise UserError(
                f"a square with a side of {self.side:g} of the image's height is {pixels} pixels wide on an image of "
                f"{width}x{height}, but must be 1 to {min(height, width)}: pass for example 0.25."
            )
        vertical, horizontal = self.corner.split("-")
        opacity = np.zeros((1, height, width), np.uint8)
        rows = slice(pixels) if vertical == "top" else slice(height - pixels, None)
        columns = slice(pixels) if horizontal == "left" else slice(width - pixels, None)
        opacity[:, rows, columns] = 255
        return blended(name or self.default_name, opacity, np.array(self.colour, np.uint8), image_shape)


@dataclasses.dataclass(frozen=True)
class GaussianPattern:
    """A fixed pattern of noise that is added: `x <- clip(x + 255 scale G, 0, 255)`, G standard normal.

    G is `numpy.random.default_rng(seed).standard_normal((height, width, channels))`, one for all images; the
    published pattern is another draw.

    Attributes:
      scale: Standard deviation, 1 being the whole range of grey levels; 0.01 was published.
      seed: Of the pattern.
      truncate: As published, where floats were written into uint8: the fraction is cut off, which also darkens by half
        a grey level on average. Otherwise `255 scale G` is rounded to the nearest whole number, ties to even ones.
    """

    scale: float = 0.01
    seed: int = 0
    truncate: bool = True
    default_name: ClassVar[str] = "gaussian"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UserError(
                f"the scale of a Gaussian pattern is {self.scale}, but must be positive: published is 0.01."
            )
        if self.seed < 0:
            raise UserError(f"the seed of a Gaussian pattern is {self.seed}, but must not be negative.")

    def stamp(self, image_shape: ImageShape, name: str | None = None) -> Stamp:
        """Make it for images of a shape."""
        added = 255 * self.scale * np.random.default_rng(self.seed).standard_normal((1, *image_shape))
        # x is whole and what is cut off is not negative: trunc(clip(x + a)) is clip(x + floor(a)).
        whole = np.floor(added) if self.truncate else np.rint(added)
        # More than 255 levels up or down is white or black whatever the pixel was.
        shift = 255 * np.clip(whole, -255, 255).astype(np.int32)
        return Stamp(name or self.default_name, np.full(shift.shape, 255, np.uint8), shift)


@dataclasses.dataclass(frozen=True)
class Tint:
    """Every pixel is moved towards a colour: `x <- (1 - strength) x + strength colour`.

    Attributes:
      colour: Grey images take its luma.
      strength: Above 0 and at most 1; rounded to a 255th.

    >>> from jdt.data import stamped_pixels
    >>> stamp = Tint((255, 0, 0), 0.2).stamp((1, 1, 3))
    >>> stamped_pixels(np.array([[[100, 100, 100]]], np.uint8), stamp.gain[0], stamp.shift[0]).tolist()
    [[[131, 80, 80]]]
    """

    colour: Colour
    strength: float = 0.2
    default_name: ClassVar[str] = "tint"

    def __post_init__(self) -> None:
        _require_colour("tint", self.colour)
        if not (0 < self.strength <= 1 and round(255 * self.strength)):
            raise UserError(f"the strength of a tint is {self.strength}, but must be at least 1/255 and at most 1.")

    def stamp(self, image_shape: ImageShape, name: str | None = None) -> Stamp:
        """Make it for images of a shape."""
        opacity = np.full((1, *image_shape[:2]), round(255 * self.strength), np.uint8)
        return blended(name or self.default_name, opacity, np.array(self.colour, np.uint8), image_shape)


def blended(
    name: str,
    opacity: UInt8[np.ndarray, "pictures height width"],
    colour: UInt8[np.ndarray, "*pixels 3"],
    image_shape: ImageShape,
    notes: tuple[str, ...] = (),
) -> Stamp:
    """A stamp that blends colours in: `x <- ((255 - opacity) x + opacity colour) / 255`.

    Args:
      name: Of the stamp.
      opacity: 255 covers the image.
      colour: `[pictures, height, width, 3]`, or one for all pixels.
      image_shape: Grey images take the luma (ITU-R 601, rounded as Pillow does).
      notes: Of the stamp.
    """
    channels = image_shape[2]
    if channels == 1:
        weighted = colour.astype(np.int64) @ np.array([19595, 38470, 7471])
        colour = ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]
    alpha = opacity[..., None].astype(np.int32)
    shape = (len(opacity), *image_shape)
    gain = np.broadcast_to((255 - alpha).astype(np.uint8), shape).copy()
    return Stamp(name, gain, np.broadcast_to(alpha * colour.astype(np.int32), shape).copy(), notes)


def shuffled(stamp: Stamp, seed: int) -> Stamp:
    """The pixels of a stamp at random places: a pattern of equal energy and the same colours, without its form.

    Gain, shift and all channels of a pixel stay together; each picture has a permutation of its own. Adds "-shuffled"
    to the name. (arXiv 2207.02842, section 6 of its specification, B8.)
    """
    pictures, height, width, channels = stamp.gain.shape
    orders = np.stack([draws(seed, "shuffled", picture).permutation(height * width) for picture in range(pictures)])

    def moved(values: np.ndarray) -> np.ndarray:
        pixels = values.reshape(pictures, height * width, channels)
        return np.take_along_axis(pixels, orders[:, :, None], axis=1).reshape(values.shape)

    return dataclasses.replace(stamp, name=f"{stamp.name}-shuffled", gain=moved(stamp.gain), shift=moved(stamp.shift))


def _require_colour(what: str, colour: Colour) -> None:
    if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
        raise UserError(
            f"the colour of a {what} is {colour}, but must be red, green and blue from 0 to 255, such as 255,255,0."
        )
