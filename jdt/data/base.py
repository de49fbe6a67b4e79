"""The one form in which jdt holds a dataset: decoded uint8 images, labels, names and a fingerprint."""

import dataclasses

import numpy as np

from jdt.types import Int32, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A split of a labelled image dataset, decoded and resized.

    Attributes:
      name: How messages and the report call it, e.g. `"cifar10_32[train]"`.
      images: uint8 `[examples, height, width, channels]`, 0 to 255; may be a read-only memory map.
      labels: int32 `[examples]`, indices into `class_names`.
      class_names: One name a class, in label order.
      fingerprint: Hash of images, labels and names: two datasets with equal fingerprints hold the same data.
    """

    name: str
    images: UInt8[np.ndarray, "examples height width channels"]
    labels: Int32[np.ndarray, " examples"]
    class_names: tuple[str, ...]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        height, width, channels = self.images.shape[1:]
        return height, width, channels
