"""The one form in which jdt holds a dataset: uint8 images, labels, names and a fingerprint."""

import dataclasses
from typing import NamedTuple

import numpy as np

from jdt import config
from jdt.data.images import ImageArray, StreamedImages
from jdt.types import AnyArray, Int, Int32, UInt8

NO_STAMP = -1
"""In `Stamps.of_example`: an example that carries none."""


class Stamps(NamedTuple):
    """Changes of pixels that some examples carry: see `jdt.data.stamps`.

    Attributes:
      gain: uint8 `[stamps, height, width, channels]`.
      shift: int32 `[stamps, height, width, channels]`.
      of_example: int32 `[examples]`: the stamp that each example carries, or `NO_STAMP`.
    """

    gain: UInt8[AnyArray, "stamps height width channels"]
    shift: Int32[AnyArray, "stamps height width channels"]
    of_example: Int32[AnyArray, " examples"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A split of a labelled image dataset, all images of one size.

    Attributes:
      name: How messages and the report call it, e.g. `"cifar10_32[train]"`.
      images: uint8 `[examples, height, width, channels]`, 0 to 255: an array, a read-only memory map,
        or `StreamedImages`, which decodes what is asked for and nothing else.
      labels: int32 `[examples]`, indices into `class_names`.
      class_names: One name a class, in label order.
      fingerprint: Hash of images, labels and names: two datasets with equal fingerprints hold the same data. A
        streamed dataset's hashes encoded images instead of pixels, so it differs from the decoded one's.
      stamps: Changes of pixels that some examples carry, made after augmentation; `images` are without them.
      version_of: int32 `[examples]`, where some examples are versions of one another (another label, another stamp):
        position of the first version of each. Versions of an example have its place in the order of batches.
      tokens: int32 `[examples, length]`: the caption of each example, as `jdt.data.tokenize` has it; None without.
    """

    name: str
    images: ImageArray
    labels: Int32[np.ndarray, " examples"]
    class_names: tuple[str, ...]
    fingerprint: str
    stamps: Stamps | None = None
    version_of: Int32[np.ndarray, " examples"] | None = None
    tokens: Int32[np.ndarray, "examples length"] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels

    def part(self, rows: Int[np.ndarray, " chosen"], name: str = "") -> "Dataset":
        """Some of the examples, in the order of `rows`, under another name where one is given.

        Streamed images stay so. Which examples are versions of one another is not kept.
        """
        images = self.images.chosen(rows) if isinstance(self.images, StreamedImages) else np.asarray(self.images[rows])
        stamps = self.stamps
        return Dataset(
            name=name or self.name,
            images=images,
            labels=np.asarray(self.labels)[rows],
            class_names=self.class_names,
            fingerprint=config.fingerprint([self.fingerprint, rows.tolist()]),
            stamps=stamps and stamps._replace(of_example=np.asarray(stamps.of_example)[rows]),
            tokens=None if self.tokens is None else np.asarray(self.tokens)[rows],
        )
