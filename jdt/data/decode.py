"""From the bytes of one image file to a uint8 array, with Pillow."""

import io
import struct
from typing import Literal

import numpy as np

from jdt.checks import UserError
from jdt.types import UInt8

Mode = Literal["L", "RGB"]

# What Pillow raises for files that are cut short, scrambled or not images at all.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def decode_image(raw: bytes, where: str, *, mode: Mode, size: int | None) -> UInt8[np.ndarray, "height width channels"]:
    """Decode one image and bring it to `size` x `size`.

    A non-square image is first resized so that its shorter side is `size`, then its centre is cropped. Resizing is
    bilinear with antialiasing. An image of the right size passes unchanged, and `size=None` never resizes.
    Palettes become RGB; an alpha channel is dropped, not blended. EXIF orientation is ignored, as in TFDS.

    Args:
      raw: The file's bytes (PNG, JPEG, BMP, WebP or GIF; of an animation, the first frame).
      where: How an error message calls the image.
      mode: `"L"` for one channel, `"RGB"` for three.
      size: Side in pixels, or `None` for the stored size.

    Returns:
      uint8 `[height, width, channels]`.

    Raises:
      UserError: If the bytes are no readable image, or hold more than 8 bits a channel.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            _require_8_bits(image.mode, where)
            image = image.convert(mode)
    except UserError:
        raise
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is not a readable image ({error}): replace or remove it.") from error
    if size is not None and image.size != (size, size):
        image = _resize_and_crop(image, size)
    pixels = np.asarray(image)
    return pixels[:, :, None] if mode == "L" else pixels


def is_grey(raw: bytes, where: str) -> bool:
    """Say from its header alone whether an image has a single channel of brightness.

    Raises:
      UserError: If the bytes are no readable image.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            return image.mode in ("L", "1")
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is not a readable image ({error}): replace or remove it.") from error


def describe_mixed_sizes(
    name: str, first: str, shape: tuple[int, ...], other: str, other_shape: tuple[int, ...]
) -> str:
    """Say that two images of a dataset have different sizes, and what to do."""
    height, width, other_height, other_width = *shape[:2], *other_shape[:2]
    return (
        f"the images of {name} differ in size: {first} is {width}x{height}, {other} is {other_width}x{other_height}: "
        "pass image_size to bring them to one size."
    )


def _require_8_bits(mode: str, where: str) -> None:
    # Pillow would clip these to 255 on conversion and leave a white image.
    if mode.startswith(("I", "F")):
        raise UserError(f"{where} has more than 8 bits a channel (Pillow mode {mode}): convert it to 8 bits first.")


def _resize_and_crop(image, size: int):
    from PIL import Image

    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
