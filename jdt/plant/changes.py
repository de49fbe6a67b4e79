"""What a copy may be changed by: a mirror, a cut, other colours."""

from typing import Literal, get_args

import numpy as np
from PIL import Image

from jdt.types import UInt8

Change = Literal["identity", "flip", "crop", "recolour"]
CHANGES: tuple[Change, ...] = get_args(Change)

_LEAST_SIDE, _LARGEST_SIDE = 0.8, 0.95  # Of a crop, as parts of the image's.
_LEAST_GAIN, _LARGEST_GAIN = 0.7, 1.3  # Of a channel, around the middle grey.
_LARGEST_SHIFT = 25.0  # Of a channel's 0..255, up or down.


def changed(
    image: UInt8[np.ndarray, "height width channels"], change: Change, rng: np.random.Generator
) -> UInt8[np.ndarray, "height width channels"]:
    """Change one image as somebody who copies it might.

    `identity` leaves it; `flip` mirrors it left to right; `crop` cuts a random 0.8 to 0.95 of both sides somewhere and
    enlarges it to the old size; `recolour` gives every channel a random gain (0.7 to 1.3, around 128) and shift
    (up to 25).
    """
    if change == "flip":
        return image[:, ::-1]
    if change == "crop":
        return _cut(image, rng.uniform(_LEAST_SIDE, _LARGEST_SIDE), rng.uniform(size=2))
    if change == "recolour":
        channels = image.shape[-1]
        gain = rng.uniform(_LEAST_GAIN, _LARGEST_GAIN, channels)
        shift = rng.uniform(-_LARGEST_SHIFT, _LARGEST_SHIFT, channels)
        return np.clip(np.rint((image - 128.0) * gain + 128.0 + shift), 0, 255).astype(np.uint8)
    return image


def _cut(image: np.ndarray, side: float, place: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    top, left = (1.0 - side) * place * (height, width)
    box = (left, top, left + side * width, top + side * height)
    planes = [
        np.asarray(Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BILINEAR, box=box))
        for c in range(channels)
    ]
    return np.stack(planes, axis=-1)
