"""Group skew: do predictions of a binary label depend on a group that they should not depend on?

After the faces of arXiv 2207.02842. Meant for test images balanced over label and group. Images whose group is neither
1 nor 0 do not count; what is missing has a denominator of 0 and the value NaN.
"""

import dataclasses

import numpy as np

from jdt.analyses.rates import Counted, Gap, Rate, has_values
from jdt.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class WorstGroup:
    """Accuracy in each cell of label and group, and where it is least.

    Attributes:
      cells: (label, group) of each cell: (0, 0), (0, 1), (1, 0), (1, 1).
      accuracy: `[models, cells]`; a cell without images has a denominator of 0.
    """

    cells: tuple[tuple[int, int], ...]
    accuracy: Rate

    @property
    def missing(self) -> tuple[tuple[int, int], ...]:
        """Cells that no model can be judged in: the least accuracy says nothing of them."""
        return tuple(cell for cell, of in zip(self.cells, self.accuracy.of.T, strict=True) if not of.any())

    @property
    def cell(self) -> Int[np.ndarray, " models"]:
        """Index into `cells` of the cell with the least accuracy, the first of equal ones; -1 where there is none."""
        value = self.accuracy.value
        return np.where(np.isfinite(value).any(axis=1), np.where(np.isnan(value), np.inf, value).argmin(axis=1), -1)

    @property
    def value(self) -> Float[np.ndarray, " models"]:
        """float64: the least accuracy of the cells that have images, NaN for a model that diverged."""
        return np.where(self.cell >= 0, self.accuracy.value[np.arange(len(self.cell)), self.cell], np.nan)


def skew_parts(
    predictions: Int[np.ndarray, "models examples"],
    groups: Int[np.ndarray, " examples"],
    positive: int = 1,
    among: Bool[np.ndarray, " examples"] | None = None,
) -> tuple[Counted, Counted]:
    """Images of group 1 and of group 0, and which of them are taken for positive.

    Args:
      predictions: int `[models, examples]`.
      groups: int `[examples]`.
      positive: The class whose share is compared.
      among: Images that count; all when None.
    """
    sound, taken = has_values(predictions)[:, None], predictions == positive
    members = [(groups == group) if among is None else (groups == group) & among for group in (1, 0)]
    first, second = (Counted(taken & sound & member, sound & member) for member in members)
    return first, second


def group_skew(
    predictions: Int[np.ndarray, "models examples"], groups: Int[np.ndarray, " examples"], positive: int = 1
) -> Gap:
    """P(prediction = positive | group 1) - P(prediction = positive | group 0).

    >>> group_skew(np.array([[1, 1, 1, 0]]), np.array([1, 1, 0, 0])).value.tolist()
    [0.5]
    """
    first, second = skew_parts(predictions, groups, positive)
    return Gap(first.rate, second.rate)


def opportunity_gaps(
    predictions: Int[np.ndarray, "models examples"],
    labels: Int[np.ndarray, " examples"],
    groups: Int[np.ndarray, " examples"],
    positive: int = 1,
) -> tuple[Gap, Gap]:
    """Equal-opportunity gaps: the skew among images with label 0, and among those with label 1.

    >>> gaps = opportunity_gaps(np.array([[1, 1, 1, 0]]), np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0]))
    >>> [gap.value.tolist() for gap in gaps]
    [[1.0], [0.0]]
    """
    of_0, of_1 = (skew_parts(predictions, groups, positive, labels == label) for label in (0, 1))
    return Gap(of_0[0].rate, of_0[1].rate), Gap(of_1[0].rate, of_1[1].rate)


def worst_group(
    predictions: Int[np.ndarray, "models examples"],
    labels: Int[np.ndarray, " examples"],
    groups: Int[np.ndarray, " examples"],
) -> WorstGroup:
    """Accuracy in the four cells of a binary label and a binary group, and the least of them.

    >>> worst = worst_group(np.array([[1, 0, 0]]), np.array([1, 1, 0]), np.array([1, 0, 0]))
    >>> worst.value.tolist(), worst.cells[int(worst.cell[0])], worst.missing
    ([0.0], (1, 0), ((0, 1),))
    """
    cells = ((0, 0), (0, 1), (1, 0), (1, 1))
    inside = np.array([(labels == label) & (groups == group) for label, group in cells])
    sound = has_values(predictions)
    right = (predictions == labels) & sound[:, None]
    return WorstGroup(cells, Rate(right.astype(np.int64) @ inside.T, sound[:, None] * inside.sum(axis=1)))
