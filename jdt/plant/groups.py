"""Labels that go together with a group: subsets with a wanted correlation, and an attribute that is planted.

Groups are 0 or 1, one number an example: an attribute such as `jdt.data.attribute` reads, or one that
`planted_attribute` makes. Subsets take the first of a fixed random order of every cell of label and group, so that one
that needs fewer of a cell has a part of what another has (arXiv 2207.02842, section 3.3 of its specification).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jdt.checks import UserError
from jdt.data import NO_STAMP, Dataset, Stamps, with_stamps
from jdt.plant.base import draws
from jdt.plant.triggers import Stamp
from jdt.plant.versions import pictures_of, require_fit, require_plain
from jdt.types import Bool, Float, Int, Shaped

Labels = Int[np.ndarray, " examples"]
Groups = Shaped[np.ndarray, " _"]
"""0 and 1, or booleans; as many as there are labels, or the user is told."""


def phi(labels: Groups, groups: Groups) -> float:
    """The correlation of two columns of 0 and 1: `(n11 n00 - n10 n01) / sqrt(n1. n0. n.1 n.0)`.

    Raises:
      UserError: If one of them has other values, or one alone, or they differ in length.

    >>> phi(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.577...
    """
    _require_one_each(labels, groups)
    y, g = _binary("label", labels), _binary("group", groups)
    n11, n00, n10, n01 = (int((one & other).sum()) for one, other in [(y, g), (~y, ~g), (y, ~g), (~y, g)])
    margins = (n11 + n10) * (n00 + n01) * (n11 + n01) * (n00 + n10)
    return float((n11 * n00 - n10 * n01) / np.sqrt(float(margins)))


def correlated_subsets(
    labels: Labels, groups: Groups, phis: Sequence[float], *, size: int | None = None, seed: int
) -> Bool[np.ndarray, "phis examples"]:
    """Choose subsets in which label and group have wanted correlations, all of one size, half of each label.

    Of each label's examples, (1 + phi) / 2 are of the group with its number, rounded: phi is reached within 2 / size.

    Args:
      labels: 0 or 1.
      groups: 0 or 1.
      phis: Wanted phi coefficients, -1 to 1.
      size: Of each subset, even; the largest that all of them can have when None.
      seed: Root seed of the study.

    Returns:
      One row a phi.

    Raises:
      UserError: If label or group is constant, a phi is none, a cell of label and group that is needed is empty, or
        the subsets cannot be so large.

    >>> y, g = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([0, 0, 1, 1, 0, 0, 1, 1])
    >>> rows = correlated_subsets(y, g, [0.0, 1.0], seed=0)
    >>> [(int(row.sum()), phi(y[row], g[row])) for row in rows]
    [(4, 0.0), (4, 1.0)]
    """
    y = _binary("label", labels)
    for wanted in phis:
        if not -1 <= wanted <= 1:
            raise UserError(f"a phi of {wanted} is asked for, but correlations are -1 to 1.")
    shares = np.array([[(1 - wanted) / 2, (1 + wanted) / 2] for wanted in phis]).reshape(-1, 2)
    return _subsets(y.astype(int), groups, shares, size, seed)


def composition(
    labels: Labels, groups: Groups, shares: Sequence[float], *, size: int | None = None, seed: int
) -> Bool[np.ndarray, "shares examples"]:
    """Choose subsets in which a share of every label's examples is of group 1, all of one size, labels in equal parts.

    Args:
      labels: Of any number of classes.
      groups: 0 or 1.
      shares: Of group 1, 0 to 1: 1 has group 1 only, 0.5 both in equal parts; rounded to whole examples.
      size: Of each subset, a multiple of the number of classes; the largest that all of them can have when None.
      seed: Root seed of the study.

    Returns:
      One row a share.

    Raises:
      UserError: If the group is constant, a share is none, a cell of label and group that is needed is empty, or the
        subsets cannot be so large.
    """
    for share in shares:
        if not 0 <= share <= 1:
            raise UserError(f"a share of {share} of group 1 is asked for, but shares are 0 to 1.")
    num_classes = len(np.unique(labels))
    return _subsets(labels, groups, np.repeat(np.array(shares, float)[:, None], num_classes, axis=1), size, seed)


def balanced_cells(labels: Labels, groups: Groups, seed: int) -> Bool[np.ndarray, " examples"]:
    """Choose a test set with as many examples of every cell of label and group as the smallest has.

    Raises:
      UserError: If the group is constant, or a cell is empty.
    """
    cells = _cells(labels, groups, seed)
    smallest = min(len(cell) for pair in cells for cell in pair)
    _require_full(labels, cells, np.full((1, len(cells)), 0.5))
    chosen = np.zeros(len(labels), bool)
    for pair in cells:
        for cell in pair:
            chosen[cell[:smallest]] = True
    return chosen


def planted_attribute(data: Dataset, stamp: Stamp, *, seed: int) -> tuple[Dataset, Int[np.ndarray, " examples"]]:
    """Put a stamp on half of every class's examples, drawn at random: an attribute that is known exactly.

    Args:
      data: Without stamps, decoded or streamed.
      stamp: For images of its shape.
      seed: Root seed of the study.

    Returns:
      The dataset `NAME+half STAMP`, and int8 `[examples]`, 1 for those that carry the stamp; of a class with an odd
      number of examples, one less than half carry it.

    Raises:
      UserError: If the data has stamps or versions already, or the stamp does not fit.
    """
    require_plain(data)
    require_fit(data, stamp)
    labels, groups = np.asarray(data.labels), np.zeros(len(data), np.int8)
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        groups[draws(seed, "attribute", label).permutation(members)[: len(members) // 2]] = 1
    which = np.where(groups == 1, pictures_of(stamp, len(data), seed), NO_STAMP).astype(np.int32)
    named = dataclasses.replace(data, name=f"{data.name}+half {stamp.name}")
    return with_stamps(named, Stamps(stamp.gain, stamp.shift, which)), groups


def _binary(what: str, values: Groups) -> Bool[np.ndarray, " examples"]:
    present = np.unique(values).tolist()
    if not set(present) <= {0, 1}:
        raise UserError(f"a {what} has values {present[:5]}, but must be 0 or 1: make two of them.")
    if len(present) < 2:
        raise UserError(
            f"the {what} is {present[0] if present else 'of no example'} throughout, which correlates with nothing: "
            "choose another attribute or split."
        )
    return np.asarray(values) == 1


def _require_one_each(labels: Groups, groups: Groups) -> None:
    if len(labels) != len(groups):
        raise UserError(f"there are {len(labels)} labels and {len(groups)} groups: give one of each an example.")


def _cells(labels: Labels, groups: Groups, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each class, examples of groups 0 and 1, each in an order of its own that depends on the seed and the cell."""
    _require_one_each(labels, groups)
    in_group = _binary("group", groups)
    return [
        (
            draws(seed, "cell", label, 0).permutation(np.flatnonzero((labels == label) & ~in_group)),
            draws(seed, "cell", label, 1).permutation(np.flatnonzero((labels == label) & in_group)),
        )
        for label in np.unique(labels).tolist()
    ]


def _in_group(per_label: int, shares: Float[np.ndarray, "rows classes"]) -> Int[np.ndarray, "rows classes"]:
    # Rounds to ten places first: 0.15 of 10 is 1.5 whatever its binary digits are.
    return np.floor(np.round(per_label * shares, 10) + 0.5).astype(np.int64)


def _require_full(
    labels: Labels, cells: list[tuple[np.ndarray, np.ndarray]], shares: Float[np.ndarray, "rows classes"]
) -> None:
    for label, pair, share in zip(np.unique(labels).tolist(), cells, shares.T, strict=True):
        for group, needed in enumerate((bool((share < 1).any()), bool((share > 0).any()))):
            if needed and not len(pair[group]):
                raise UserError(
                    f"no example has label {label} and group {group}: ask for no correlation or share that needs "
                    "them, or choose another attribute or split."
                )


def _subsets(
    labels: Labels, groups: Groups, shares: Float[np.ndarray, "rows classes"], size: int | None, seed: int
) -> Bool[np.ndarray, "rows examples"]:
    """Rows of one size, labels in equal parts, of each label a share of group 1."""
    cells = _cells(labels, groups, seed)
    _require_full(labels, cells, shares)
    room = np.array([[len(cell) for cell in pair] for pair in cells])  # [classes 2]

    def fits(per_label: int) -> bool:
        ones = _in_group(per_label, shares)
        return bool((ones <= room[:, 1]).all() and (per_label - ones <= room[:, 0]).all())

    # Counts of each cell never fall as subsets grow, so what fits ends somewhere.
    low, high = 0, int(room.sum(axis=1).min())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    largest, wanted = low * len(cells), low * len(cells) if size is None else size
    if not (0 < wanted <= largest and wanted % len(cells) == 0):
        raise UserError(
            f"subsets of {wanted} examples are asked for, but a size is a multiple of {len(cells)} (labels in equal "
            f"parts) up to {largest}, the largest that all of these subsets can have."
        )
    per_label = wanted // len(cells)
    rows = np.zeros((len(shares), len(labels)), bool)
    for row, ones in zip(rows, _in_group(per_label, shares).tolist(), strict=True):
        for (without, within), count in zip(cells, ones, strict=True):
            row[within[:count]] = True
            row[without[: per_label - count]] = True
    return rows
