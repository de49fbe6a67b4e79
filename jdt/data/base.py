"""The one form in which jdt holds a dataset: uint8 images, labels, names and a fingerprint."""

import dataclasses

import numpy as np

from jdt.data.images import ImageArray
from jdt.types import Int32


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
    """

    name: str
    images: ImageArray
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
