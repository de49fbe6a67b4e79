"""Images that two splits share: a test image that was trained on says nothing about a model."""

import hashlib
from collections.abc import Iterator

import numpy as np

from jdt.data.images import ImageArray, StreamedImages
from jdt.types import Int, UInt8

_READ_AT_ONCE = 1024  # Images: keeps the copy small when they are a memory map, or decoded on demand.


def overlap(
    train_images: UInt8[np.ndarray, "train ..."] | StreamedImages,
    test_images: UInt8[np.ndarray, "test ..."] | StreamedImages,
) -> Int[np.ndarray, "shared 2"]:
    """Find the test images that are training images too, byte by byte.

    Each image is read once and hashed, in pieces: memory maps and `StreamedImages` do not have to fit the memory.

    Args:
      train_images: uint8 `[examples, height, width, channels]`.
      test_images: The same of the other split.

    Returns:
      int64 `[shared, 2]`: positions of the first equal training image and of the test image, in the order of the test
      images; each of these is there once. Images of different shapes are never equal.

    >>> train = np.zeros((3, 2, 2, 1), np.uint8)
    >>> train[2] = 7
    >>> overlap(train, train[1:]).tolist()
    [[0, 0], [2, 1]]
    """
    if train_images.shape[1:] != test_images.shape[1:]:
        return np.empty((0, 2), np.int64)
    first: dict[bytes, int] = {}
    for position, digest in enumerate(_digests(train_images)):
        first.setdefault(digest, position)
    shared = [(first[d], position) for position, d in enumerate(_digests(test_images)) if d in first]
    return np.array(shared, np.int64).reshape(-1, 2)


def _digests(images: ImageArray) -> Iterator[bytes]:
    """A digest of the bytes of each image; 128 bits, so that no two of any number of images agree by chance."""
    for start in range(0, len(images), _READ_AT_ONCE):
        for image in np.ascontiguousarray(images[start : start + _READ_AT_ONCE]):
            yield hashlib.blake2b(image.data, digest_size=16).digest()
