"""Datasets from arrays in memory: the checks every dataset passes, and the fingerprint every dataset carries."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jdt.checks import UserError
from jdt.data.base import Dataset
from jdt.types import AnyArray

_HASHED_AT_ONCE = 1024  # Examples: keeps the copy small when the images are a memory map larger than memory.


def from_arrays(name: str, images: AnyArray, labels: AnyArray | Sequence[int], class_names: Sequence[str]) -> Dataset:
    """Make a dataset of arrays, checked and fingerprinted.

    Args:
      name: How messages and the report call it.
      images: uint8 `[examples, height, width, channels]` with 1 or 3 channels.
      labels: Integers `[examples]`, indices into `class_names`.
      class_names: One name a class, in label order.

    Raises:
      UserError: If dtype or shapes disagree, labels point outside the class names, or only one class is present.

    >>> images = np.zeros((2, 4, 4, 1), np.uint8)
    >>> len(from_arrays("tiny", images, [0, 1], ["cat", "dog"]))
    2
    """
    images, raw_labels = np.asarray(images), np.asarray(labels)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise UserError(
            f"the images of {name} are {images.dtype} with {images.ndim} axes, but must be uint8 "
            "[examples, height, width, channels]: convert them first."
        )
    if images.shape[-1] not in (1, 3):
        raise UserError(
            f"the images of {name} have {images.shape[-1]} channels, but must have 1 (grey) or 3 (red, green, blue), "
            "as decoded images do: drop an alpha channel with images[..., :3]."
        )
    if raw_labels.shape != images.shape[:1]:
        raise UserError(f"{name} has {len(images)} images and labels of shape {raw_labels.shape}: give one label each.")
    check_labels(name, raw_labels, class_names)
    checked = raw_labels.astype(np.int32)
    return Dataset(name, images, checked, tuple(class_names), fingerprint_arrays(images, checked, class_names))


def check_labels(name: str, labels: AnyArray, class_names: Sequence[str]) -> None:
    """Raise unless every label names a class, and at least two classes occur.

    Raises:
      UserError: Saying how many labels are wrong, or which class is the only one.
    """
    num_classes, labels = len(class_names), np.asarray(labels)
    num_bad = int(((labels < 0) | (labels >= num_classes)).sum())
    if num_bad:
        raise UserError(
            f"{num_bad} of {len(labels)} labels of {name} lie outside 0..{num_classes - 1} "
            f"(first: {labels[(labels < 0) | (labels >= num_classes)][0]}): choose a split whose labels are public."
        )
    present = np.unique(labels)
    if len(present) < 2:
        only = f"one class, {class_names[present[0]]!r}" if len(present) else "no example"
        raise UserError(
            f"{name} holds only {only}, but at least two classes are needed: choose another split or folder."
        )


def fingerprint_arrays(images: AnyArray, labels: AnyArray, class_names: Sequence[str]) -> str:
    """Hash images, labels, names and shape, in order: 16 hex digits of SHA-256.

    The same examples in another order are another dataset, because stored influences name examples by position.
    """
    digest = start_fingerprint(images.shape, class_names)
    for start in range(0, len(images), _HASHED_AT_ONCE):
        digest.update(np.ascontiguousarray(images[start : start + _HASHED_AT_ONCE], np.uint8))
    return finish_fingerprint(digest, labels)


def start_fingerprint(shape: Sequence[int], class_names: Sequence[str]) -> Any:
    """Begin a fingerprint; the caller feeds it the images' bytes in order."""
    header = json.dumps({"shape": [int(n) for n in shape], "class_names": list(class_names)})
    return hashlib.sha256(header.encode())


def finish_fingerprint(digest: Any, labels: AnyArray) -> str:
    """End a fingerprint begun by `start_fingerprint`, once all images were fed to it."""
    digest.update(np.ascontiguousarray(labels, "<i4"))
    return digest.hexdigest()[:16]
