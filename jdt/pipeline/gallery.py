"""The images that a run was made of, for whoever shows them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt.data import StreamedImages
from jdt.masks import Units
from jdt.pipeline.task import Task
from jdt.types import Int, UInt8

NO_IMAGES = np.empty((0, 1, 1, 3), np.uint8)
"""Images of a case where the run's data are not at hand."""


@dataclasses.dataclass(frozen=True, eq=False)
class Gallery:
    """The images that a run was made of.

    Attributes:
      source: Source images.
      source_labels: Their classes.
      source_classes: Names of these.
      units: Which unit each source image belongs to.
      targets: Test images by target.
    """

    source: UInt8[np.ndarray, "sources _ _ _"] | StreamedImages
    source_labels: Int[np.ndarray, " sources"]
    source_classes: tuple[str, ...]
    units: Units
    targets: Mapping[str, UInt8[np.ndarray, "_ _ _ _"] | StreamedImages]

    def of_unit(self, unit: int, count: int) -> UInt8[np.ndarray, "count height width channels"]:
        """A few images of a source unit, spread over it."""
        members = np.flatnonzero(self.units.of_example == unit)
        chosen = members[np.unique(np.linspace(0, len(members) - 1, min(count, len(members))).astype(int))]
        return np.stack([np.asarray(self.source[int(i)]) for i in chosen]) if len(chosen) else NO_IMAGES


def gallery_of(task: Task) -> Gallery:
    """The images of a task."""
    return Gallery(
        task.source.images,
        np.asarray(task.source.labels),
        tuple(task.source.class_names),
        task.units,
        {target.name: target.test.images for target in task.targets},
    )
