"""Stamps: small changes of pixels that some examples carry, made after augmentation, which would move them.

A stamp is a map of every pixel, `x -> (gain * x + shift) / 255`, rounded and clipped to 0..255, in whole numbers: a
square has gain 0 where it covers, a pattern that is added has gain 255, a picture that is blended in has what its
opacity leaves. The same arithmetic in integers on the host and on any device gives the same pixels.
"""

import dataclasses
import hashlib
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jdt import config
from jdt.checks import UserError
from jdt.data.base import NO_STAMP, Dataset, Stamps
from jdt.data.images import StreamedImages
from jdt.types import Array, Int, UInt8

_Pixels = TypeVar("_Pixels", np.ndarray, jax.Array)


def stamped_pixels(images: _Pixels, gain: _Pixels, shift: _Pixels) -> _Pixels:
    """Stamp images: `round((gain * x + shift) / 255)`, clipped to 0..255.

    Args:
      images: uint8 `[..., height, width, channels]`.
      gain: uint8, broadcast to `images`.
      shift: int32, likewise; `255 * v` adds v grey levels.

    Returns:
      uint8, of the shape of `images`.

    >>> stamped_pixels(np.array([10, 250], np.uint8), np.full(2, 255, np.uint8), np.full(2, 255 * 9)).tolist()
    [19, 255]
    """
    mixed = gain.astype(np.int32) * images.astype(np.int32) + shift
    return ((mixed.clip(min=0) + 127) // 255).clip(max=255).astype(np.uint8)


def stamp_batch(
    images: UInt8[Array, "batch height width channels"], stamps: Stamps, batch: Int[Array, " batch"]
) -> UInt8[Array, "batch height width channels"]:
    """Stamp a batch on the device, each image with the stamp of its example; works under `jit` and `vmap`.

    Args:
      images: After augmentation.
      stamps: Of the dataset.
      batch: `[batch]` positions of the examples.
    """
    which = jnp.asarray(stamps.of_example)[batch]
    carried = jnp.clip(which, 0)
    changed = stamped_pixels(images, jnp.asarray(stamps.gain)[carried], jnp.asarray(stamps.shift)[carried])
    return jnp.where((which != NO_STAMP)[:, None, None, None], changed, images)


def with_stamps(data: Dataset, stamps: Stamps) -> Dataset:
    """A dataset whose examples carry stamps, in the place of those that they carried before.

    Raises:
      UserError: If the stamps are of another size than the images, or not one number an example.
    """
    if stamps.gain.shape[1:] != data.image_shape or stamps.shift.shape != stamps.gain.shape:
        raise UserError(
            f"stamps of {stamps.gain.shape[1:]} do not fit {data.name}, whose images are {data.image_shape}: make them "
            "for that shape."
        )
    lowest, highest = (int(of(stamps.of_example, initial=NO_STAMP)) for of in (np.min, np.max))
    if stamps.of_example.shape != (len(data),) or lowest < NO_STAMP or highest >= len(stamps.gain):
        raise UserError(
            f"{data.name} has {len(data)} examples and there are {len(stamps.gain)} stamps, which the numbers of "
            f"stamps do not fit: shape {stamps.of_example.shape}, from {lowest} to {highest}."
        )
    digest = hashlib.sha256()
    for array in stamps:
        digest.update(np.ascontiguousarray(array).tobytes())
    fingerprint = config.fingerprint([data.fingerprint, digest.hexdigest()])
    return dataclasses.replace(data, stamps=stamps, fingerprint=fingerprint)


def as_shown(data: Dataset) -> Dataset:
    """The dataset with its stamps in the pixels, as images look that are not augmented.

    Raises:
      UserError: If it is streamed and carries stamps.
    """
    if data.stamps is None:
        return data
    if isinstance(data.images, StreamedImages):
        raise UserError(f"{data.name} is streamed, and carries stamps that need its pixels: decode it beforehand.")
    images, which = np.array(data.images), data.stamps.of_example
    rows = np.flatnonzero(which != NO_STAMP)
    for part in np.array_split(rows, max(1, len(rows) // 1024)):
        of = which[part]
        images[part] = stamped_pixels(images[part], np.asarray(data.stamps.gain)[of], np.asarray(data.stamps.shift)[of])
    return dataclasses.replace(data, images=images, stamps=None)
