"""Small pictures: a few images of every group, and images side by side as one PNG."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jdt import checks
from jdt.data import ImageArray
from jdt.report.blocks import Image as Embedded
from jdt.types import Int, UInt8

LARGEST_SIDE = 96
"""Pixels of the longer side of a picture on the page."""
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_PLAIN_PIXELS = 48 * 48  # Larger pictures are compressed with loss: pages must stay small.


def sample_images(
    images: ImageArray,
    groups_of: Int[np.ndarray, " entries"],
    names: Sequence[str],
    *,
    count: int = 6,
    seed: int = 0,
) -> dict[str, UInt8[np.ndarray, "count height width channels"]]:
    """Draw a few images of every group, spread evenly over it.

    The group is cut into `count` equal stretches and one image is drawn from each, so a data set that is sorted by
    anything within a group is still shown in all its parts. Only the chosen images are read, which matters where
    `images` is memory-mapped.

    Args:
      images: All images, possibly memory-mapped.
      groups_of: Group of every image, an index into `names`; -1 for images of no group.
      names: Name of every group.
      count: At most how many images a group; smaller groups give all they have.
      seed: The same seed gives the same images.

    Returns:
      Name of the group -> its images; groups without images are absent.

    Raises:
      UserError: If the arguments do not fit each other.
    """
    groups_of = np.asarray(groups_of)
    checks.require_at_least("count", count, 1)
    if groups_of.shape != (len(images),):
        raise checks.UserError(f"groups_of has shape {groups_of.shape}, but there are {len(images)} images.")
    if len(groups_of) and groups_of.max() >= len(names):
        raise checks.UserError(f"groups_of names group {groups_of.max()}, but there are {len(names)} names.")
    order = np.argsort(groups_of, kind="stable")
    starts = np.searchsorted(groups_of[order], np.arange(len(names) + 1))
    chosen = {}
    for group, name in enumerate(names):
        members = order[starts[group] : starts[group + 1]]
        if len(members):
            picks = members[_stratified(len(members), min(count, len(members)), np.random.default_rng([seed, group]))]
            chosen[name] = np.stack([np.asarray(images[int(i)]) for i in picks])
    return chosen


def _stratified(size: int, count: int, rng: np.random.Generator) -> Int[np.ndarray, " count"]:
    edges = np.arange(count + 1) * size // count
    return rng.integers(edges[:-1], edges[1:])


def strip_png(
    images: UInt8[np.ndarray, "count height width channels"], *, at_least: int = 48, at_most: int = 96, gap: int = 2
) -> bytes:
    """Images side by side as one PNG, on a transparent ground.

    Small images are enlarged by a whole factor without smoothing, so that every pixel stays what it is; large ones are
    shrunk to keep pages light.

    Args:
      images: Grey, RGB or RGBA.
      at_least: Pixels of the shorter side of an image, after enlarging.
      at_most: Pixels of the longer side of an image that had to be shrunk.
      gap: Pixels between images.

    Raises:
      UserError: If there are no images, or they have another number of channels.
    """
    buffer = io.BytesIO()
    _strip(images, at_least, at_most, gap).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def embedded(images: UInt8[np.ndarray, "count height width channels"], alt: str) -> Embedded:
    """Images side by side for the page: small ones pixel by pixel (the page enlarges them), large ones shrunk.

    Args:
      images: Grey, RGB or RGBA.
      alt: What they show.

    Raises:
      UserError: As `strip_png`.
    """
    strip = _strip(np.asarray(images), 1, LARGEST_SIDE, 1)
    plain, buffer = strip.height * strip.height <= _PLAIN_PIXELS, io.BytesIO()
    if plain:
        strip.save(buffer, "PNG")
    else:
        strip.save(buffer, "WEBP", quality=70, method=2)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Embedded(alt, "png" if plain else "webp", data, strip.width, strip.height)


def _strip(
    images: UInt8[np.ndarray, "count height width channels"], at_least: int, at_most: int, gap: int
) -> Image.Image:
    if images.ndim != 4 or not images.size or images.shape[-1] not in _MODES:
        raise checks.UserError(f"images have shape {images.shape}, but [count, height, width, 1, 3 or 4] is needed.")
    tiles = [_resized(image, at_least, at_most) for image in images]
    width, height = tiles[0].size
    strip = Image.new("RGBA", (len(tiles) * (width + gap) - gap, height), (0, 0, 0, 0))
    for i, tile in enumerate(tiles):
        strip.paste(tile, (i * (width + gap), 0))
    return strip


def _resized(image: UInt8[np.ndarray, "height width channels"], at_least: int, at_most: int) -> Image.Image:
    channels = image.shape[-1]
    tile = Image.fromarray(image[..., 0] if channels == 1 else image, _MODES[channels])
    short, long = min(tile.size), max(tile.size)
    if short < at_least:
        factor = -(-at_least // short)
        return tile.resize((tile.width * factor, tile.height * factor), Image.Resampling.NEAREST)
    if long > at_most and short > at_least:
        shrink = max(at_most / long, at_least / short)
        return tile.resize((round(tile.width * shrink), round(tile.height * shrink)), Image.Resampling.LANCZOS)
    return tile
