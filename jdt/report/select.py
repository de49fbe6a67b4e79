"""Which units and classes a report shows: rankings that leave out what the models cannot tell."""

from typing import Any, NamedTuple

import numpy as np

from jdt.estimators import Influences
from jdt.report.content import TargetFindings
from jdt.types import Bool, Float, Int


class Effect(NamedTuple):
    """Influence of one unit on one class or task; numbers are NaN where the models cannot tell.

    An estimator without standard errors gives none (None) and no z either; its interval is NaN.
    """

    unit: str
    influence: float
    standard_error: float | None
    low: float
    high: float
    z: float | None


def is_known(influences: Influences, column: int) -> Bool[np.ndarray, " units"]:
    """Whether the models can tell a unit's influence: an infinite standard error says that they cannot."""
    return np.isfinite(known_influence(influences)[:, column])


def known_influence(influences: Influences) -> Float[np.ndarray, "units targets"]:
    """Influences with NaN where the models cannot tell."""
    if influences.standard_error is None:
        return influences.influence
    return np.where(np.isinf(influences.standard_error), np.nan, influences.influence)


def typical_sizes(influences: Influences) -> Float[np.ndarray, "units targets"]:
    """What the digits of a report are chosen by: standard errors, or the influences themselves where there are none."""
    return np.abs(influences.influence) if influences.standard_error is None else influences.standard_error


def effects(influences: Influences, column: int) -> list[Effect]:
    """Every unit's effect on one column, in unit order."""
    known = is_known(influences, column)
    nothing = np.full_like(influences.influence, np.nan)
    low, high = (nothing, nothing) if influences.standard_error is None else influences.interval()

    def one_a_unit(values: Float[np.ndarray, "units targets"] | None) -> list[Any]:
        return [None] * len(known) if values is None else np.where(known, values[:, column], np.nan).tolist()

    numbers = (influences.influence, influences.standard_error, low, high, influences.z)
    columns = [one_a_unit(values) for values in numbers]
    return [Effect(*row) for row in zip(influences.unit_names, *columns, strict=True)]


def by_influence(influences: Influences, column: int = 0) -> Int[np.ndarray, " units"]:
    """Units from the most helpful to the most harmful, those that the models cannot tell last."""
    return np.argsort(-known_influence(influences)[:, column], kind="stable")


def extremes(influences: Influences, column: int, count: int) -> tuple[list[int], list[int]]:
    """The most helpful and the most harmful units, most extreme first; never one unit in both.

    With few units each side has at most half of them, so that no unit is called both helpful and harmful.
    """
    known = is_known(influences, column)
    order = [int(u) for u in by_influence(influences, column) if known[u]]
    helpful = order[: min(count, (len(order) + 1) // 2)]
    # Ascending again rather than reversed: ties then come in unit order, as in `Influences.top`.
    values = influences.influence[:, column]
    harmful = sorted(order[len(order) - min(count, len(order) // 2) :], key=lambda u: (values[u], u))
    return helpful, harmful


def shown_units(influences: Influences, limit: int) -> tuple[list[int], int]:
    """Units for a figure with at most `limit` rows, from the most helpful to the most harmful.

    Returns:
      The units, and how many of them come before a gap: `limit // 2` where units in the middle are left out (those
      that the models cannot tell are then left out too), all of them where nothing is.
    """
    order = by_influence(influences)
    if len(order) <= limit:
        return order.tolist(), len(order)
    half = limit // 2
    known = order[: int(is_known(influences, 0).sum())].tolist()
    if len(known) <= limit:
        return known, len(known)
    return known[:half] + known[-half:], half


def shown_classes(influences: Influences, limit: int) -> list[int]:
    """At most `limit` classes, in their own order: those on which units differ most."""
    values = known_influence(influences)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, values, 0.0)
    spread = (filled**2).sum(axis=0) / count - (filled.sum(axis=0) / count) ** 2
    return sorted(int(c) for c in np.argsort(-spread, kind="stable")[:limit])


def first_estimator(findings: TargetFindings) -> str:
    """Name of the estimator that is shown first."""
    return next(iter(findings.estimators))


def finite(values: Float[np.ndarray, " models"]) -> Float[np.ndarray, " some"]:
    """The finite values, in double precision so that means print alike everywhere."""
    values = np.asarray(values, np.float64)
    return values[np.isfinite(values)]
