"""From the bytes of one image file to a uint8 array, with Pillow."""

import contextlib
import io
import math
import struct
from collections.abc import Iterator
from typing import Literal

import numpy as np

from jdt.checks import UserError
from jdt.data.views import WHOLE, View
from jdt.types import Float, UInt8

Mode = Literal["L", "RGB"]

# What Pillow raises for files that are cut short, scrambled or not images at all.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)
_DRAFT_GAP = 2.0  # A JPEG's crop is decoded at no less than so many times the size it is shown at: see NOTES.md.


def decode_image(
    raw: bytes, where: str, *, mode: Mode, size: int | None, view: View = WHOLE
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode one image and bring it to `size` x `size`.

    By default a non-square image is first resized so that its shorter side is `size`, then its centre is cropped; for
    other views see `View`. Resizing is bilinear with antialiasing. An image of the right size passes unchanged, and
    `size=None` never resizes. Palettes become RGB; an alpha channel is dropped, not blended. EXIF orientation is
    ignored, as in TFDS.

    Args:
      raw: The file's bytes (PNG, JPEG, BMP, WebP or GIF; of an animation, the first frame).
      where: How an error message calls the image.
      mode: `"L"` for one channel, `"RGB"` for three.
      size: Side in pixels, or `None` for the stored size.
      view: A still one.

    Returns:
      uint8 `[height, width, channels]`.

    Raises:
      UserError: If the bytes are no readable image, or hold more than 8 bits a channel; in the view `native`, if
        `size` is no multiple of the image's.
    """
    with _opened(raw, where) as image:
        image = _in_mode(image, mode)
    if view.kind == "native" and size is not None:
        return _enlarged(_pixels(image), where, size)
    if view.keep < 1:
        image = image.crop(view.box(*image.size))
        side = min(image.size) if size is None else size
        return _pixels(image.resize((side, side), _bilinear()) if image.size != (side, side) else image)
    if size is not None and image.size != (size, size):
        image = _resize_and_crop(image, size)
    return _pixels(image)


def decode_crop(
    raw: bytes, where: str, *, mode: Mode, size: int, view: View, draws: Float[np.ndarray, " draws"], draft: bool = True
) -> UInt8[np.ndarray, "size size channels"]:
    """Decode a random crop of one image at `size` x `size`.

    Args:
      raw: The file's bytes.
      where: How an error message calls the image.
      mode: `"L"` for one channel, `"RGB"` for three.
      size: Side in pixels.
      view: A random one.
      draws: What `crop_draws` gave for this example.
      draft: Let a JPEG whose crop is at least four times `size` be decoded at a half, a quarter or an eighth of its
        size (libjpeg scales in the frequency domain), at two times `size` or more. Without it the result is that of
        Pillow's `crop` and then `resize`.

    Raises:
      UserError: If the bytes are no readable image, or hold more than 8 bits a channel.
    """
    with _opened(raw, where) as image:
        width, height = image.size
        left, top, right, bottom = view.box(width, height, draws)
        spare = min(right - left, bottom - top) / (_DRAFT_GAP * size)
        if draft and image.format == "JPEG" and spare >= 2:
            image.draft(None, (math.ceil(width / spare), math.ceil(height / spare)))
        image = _in_mode(image, mode)
    if image.size == (width, height):
        return _pixels(image.crop((left, top, right, bottom)).resize((size, size), _bilinear()))
    across, down = image.size[0] / width, image.size[1] / height
    box = (left * across, top * down, min(right * across, image.size[0]), min(bottom * down, image.size[1]))
    return _pixels(image.resize((size, size), _bilinear(), box=box))


def decode_rgba(raw: bytes, where: str) -> UInt8[np.ndarray, "height width 4"]:
    """Decode a picture with its opacity, in the stored size; where it has none, 255.

    Args:
      raw: The file's bytes.
      where: How an error message calls the picture.

    Raises:
      UserError: If the bytes are no readable image, or hold more than 8 bits a channel.
    """
    with _opened(raw, where) as image:
        image.load()
        return np.array(image.convert("RGBA"))


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
        "pass image_size (--image-size) to bring them to one size."
    )


@contextlib.contextmanager
def _opened(raw: bytes, where: str) -> Iterator:
    """An image of at most 8 bits a channel; what goes wrong with it inside of the block is the user's to mend."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(raw)) as image:
            _require_8_bits(image.mode, where)
            yield image
    except UserError:
        raise
    except (*_BROKEN, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is not a readable image ({error}): replace or remove it.") from error


def _require_8_bits(mode: str, where: str) -> None:
    # Pillow would clip these to 255 on conversion and leave a white image.
    if mode.startswith(("I", "F")):
        raise UserError(f"{where} has more than 8 bits a channel (Pillow mode {mode}): convert it to 8 bits first.")


def _in_mode(image, mode: Mode):
    """The image, decoded, with these channels; `convert` would copy one that has them already."""
    image.load()
    return image if image.mode == mode else image.convert(mode)


def _bilinear():
    from PIL import Image

    return Image.Resampling.BILINEAR


def _pixels(image) -> UInt8[np.ndarray, "height width channels"]:
    pixels = np.asarray(image)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _enlarged(
    pixels: UInt8[np.ndarray, "height width channels"], where: str, size: int
) -> UInt8[np.ndarray, "size size channels"]:
    height, width = pixels.shape[:2]
    if height != width or size % width:
        raise UserError(
            f"{where} is {width}x{height}, which cannot be enlarged to {size}x{size} by repeating pixels: pass a "
            "multiple of its side as image_size (--image-size)."
        )
    return pixels.repeat(size // height, axis=0).repeat(size // width, axis=1)


def _resize_and_crop(image, size: int):
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), _bilinear())
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))
