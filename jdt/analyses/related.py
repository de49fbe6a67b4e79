"""Semantics: do the units that mean the same as a target class move it more than the others?

The check of arXiv 2207.05739 that needs no planted truth: which units are related is written down beforehand.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from jdt import checks
from jdt.metrics import binary_auroc
from jdt.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Relatedness:
    """How the related units of each target class stand among all units.

    Attributes:
      classes: Target classes that have related units.
      best_rank: For each, the rank of its most helpful related unit among all units, 1 for the top.
      auroc: For each, the chance that a related unit is above another one (ties count half).
      pooled_auroc: Their mean.
      p: Permutation p-value of `pooled_auroc`: names of units are exchanged, for all classes alike.
      expected: Mean of `pooled_auroc` over the permutations, which is 0.5 where nothing is wrong.
    """

    classes: tuple[str, ...]
    best_rank: tuple[int, ...]
    auroc: tuple[float, ...]
    pooled_auroc: float
    p: float
    expected: float


def related_masks(
    related: Mapping[str, Sequence[str]], class_names: Sequence[str], unit_names: Sequence[str]
) -> Bool[np.ndarray, "classes units"]:
    """Which units are related to which target classes; a class without an entry has none.

    Raises:
      UserError: If a class or a unit is unknown (with the nearest names), or every unit is related to a class.
    """
    masks = np.zeros((len(class_names), len(unit_names)), bool)
    for name, units in related.items():
        if name not in class_names:
            raise checks.UserError(
                f"related units are given for target class {name!r}, which is unknown; nearest: "
                f"{checks.nearest(name, class_names)}."
            )
        for unit in units:
            if unit not in unit_names:
                raise checks.UserError(
                    f"unit {unit!r}, said to be related to {name!r}, is unknown; nearest: "
                    f"{checks.nearest(unit, unit_names)}."
                )
            masks[list(class_names).index(name), list(unit_names).index(unit)] = True
    if full := np.flatnonzero(masks.all(axis=1)).tolist():
        raise checks.UserError(
            f"every unit is related to {class_names[full[0]]!r}, so there are no others: name fewer."
        )
    return masks


def relatedness(
    influence: Float[np.ndarray, "units classes"],
    related: Bool[np.ndarray, "classes units"],
    class_names: Sequence[str],
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> Relatedness:
    """Compare the related units of each class with the others.

    Args:
      influence: On the mean output of each target class, without NaN.
      related: As `related_masks` gives it.
      class_names: One a column.
      permutations: Of the units, for p; the smallest p is 1 / (1 + permutations).
      seed: Of the permutations.

    Raises:
      UserError: If no class has related units, or an influence is NaN.
    """
    asked = np.flatnonzero(related.any(axis=1))
    if not len(asked):
        raise checks.UserError("no target class has related units: name some.")
    if np.isnan(influence[:, asked]).any():
        raise checks.UserError("an influence is unknown (NaN), so its unit has no rank: leave the unit out.")
    ranks = np.stack([stats.rankdata(influence[:, c]) for c in asked])  # Ascending, ties at their mean.
    positive = related[asked]
    count, num_units = positive.sum(axis=1), influence.shape[0]

    def pooled(orders: Int[np.ndarray, "draws units"]) -> Float[np.ndarray, " draws"]:
        sums = np.stack([row[orders[:, mine]].sum(axis=1) for row, mine in zip(ranks, positive, strict=True)], axis=1)
        return np.mean((sums - count * (count + 1) / 2) / (count * (num_units - count)), axis=1)

    auroc = tuple(float(binary_auroc(influence[:, c][None], related[c])[0]) for c in asked)
    unchanged = np.arange(num_units)[None]
    value = float(pooled(unchanged)[0])
    null = pooled(np.random.default_rng(seed).permuted(np.repeat(unchanged, permutations, axis=0), axis=1))
    descending = np.stack([stats.rankdata(-influence[:, c], method="min") for c in asked])
    return Relatedness(
        classes=tuple(class_names[int(c)] for c in asked),
        best_rank=tuple(int(row[mine].min()) for row, mine in zip(descending, positive, strict=True)),
        auroc=auroc,
        pooled_auroc=value,
        p=float((1 + np.sum(null >= value - 1e-12)) / (1 + permutations)),
        expected=float(null.mean()),
    )
