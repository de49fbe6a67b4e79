"""Some influences out of many, in an order: what moves a target most, and what a unit moves most."""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from jdt import checks
from jdt.estimators import Influences
from jdt.evaluate import p_values, significance
from jdt.types import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Effects:
    """Influences that were picked out, in an order.

    Attributes:
      units: int `[picked]`: row of each.
      targets: int `[picked]`: column of each.
      influence: float `[picked]`: change of the output when the unit is included, in the output's own unit.
      low, high: float `[picked]`: ends of its t interval; None where the estimator gives no standard errors.
      z: float `[picked]`: influence over its sampling deviation; None likewise.
      q: float `[picked]`: Benjamini-Hochberg q-value among all that were asked together; None where nobody asked, or
        likewise.
    """

    units: Int[np.ndarray, " picked"]
    targets: Int[np.ndarray, " picked"]
    influence: Float[np.ndarray, " picked"]
    low: Float[np.ndarray, " picked"] | None
    high: Float[np.ndarray, " picked"] | None
    z: Float[np.ndarray, " picked"] | None
    q: Float[np.ndarray, " picked"] | None

    def __len__(self) -> int:
        return len(self.influence)

    def take(self, places: Int[np.ndarray, " some"]) -> "Effects":
        """Those at some places, in their order."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        taken: dict[str, Any] = {name: None if value is None else value[places] for name, value in values.items()}
        return Effects(**taken)


def pick(
    influences: Influences,
    units: Int[np.ndarray, " picked"],
    targets: Int[np.ndarray, " picked"],
    *,
    q: Float[np.ndarray, "units targets"] | None = None,
    level: float = 0.95,
) -> Effects:
    """Take single influences, each with its interval, z and q-value.

    Intervals are those of `Influences.interval`, computed for what is picked alone.

    Args:
      influences: Of any level.
      units: Rows.
      targets: Columns, one for each row.
      q: q-values, as `q_values_of` gives them.
      level: Of the intervals.

    Raises:
      UserError: If `level` is not between 0 and 1.
    """
    checks.require_fraction("level", level)
    units, targets = np.asarray(units, np.int64), np.asarray(targets, np.int64)
    low = high = z = None
    error, degrees = influences.standard_error, influences.degrees_of_freedom
    if error is not None and degrees is not None:
        freedom = np.broadcast_to(degrees, error.shape)[units, targets]
        reach = stats.t.ppf(0.5 + level / 2, freedom) * error[units, targets]
        low, high = (influences.influence[units, targets] + way * reach for way in (-1, 1))
    if influences.z is not None:
        z = influences.z[units, targets]
    return Effects(
        units, targets, influences.influence[units, targets], low, high, z, None if q is None else q[units, targets]
    )


def q_values_of(influences: Influences) -> Float[np.ndarray, "units targets"] | None:
    """q-values of all influences, asked together; None where the estimator gives no standard errors."""
    return None if influences.z is None else significance(influences).q


def p_of_extremes(
    influences: Influences,
    units: Int[np.ndarray, " picked"],
    targets: Int[np.ndarray, " picked"],
    looked_at: int | None = None,
) -> Float[np.ndarray, " picked"] | None:
    """p-values of units that were picked as the most extreme of all: each times the number of units (Bonferroni).

    `looked_at` is that number where it is not all of them: 1 for units that were picked for another reason. At most 1,
    and 1 where the models cannot tell; None where the estimator gives no standard errors.
    """
    z, error, degrees = influences.z, influences.standard_error, influences.degrees_of_freedom
    if z is None or error is None or degrees is None:
        return None
    each = p_values(z[units, targets][None], np.broadcast_to(degrees, error.shape)[units, targets][None])[0]
    return np.minimum(np.where(np.isfinite(error[units, targets]), each * (looked_at or len(z)), 1.0), 1.0)


def known(influences: Influences) -> Float[np.ndarray, "units targets"]:
    """Influences, with 0 where the models cannot tell: those are never strongest."""
    if influences.standard_error is None:
        return influences.influence
    return np.where(np.isfinite(influences.standard_error), influences.influence, 0)


def movers(
    influences: Influences, target: int, count: int, *, q: Float[np.ndarray, "units targets"] | None = None
) -> tuple[Effects, Effects]:
    """The units that move a target most: up, and down, strongest first.

    Args:
      influences: Of any level.
      target: Column.
      count: How many each way at most; only those that help are in the first, only those that harm in the second.
      q: q-values, as `q_values_of` gives them.

    Raises:
      UserError: If there is no such target, or `count` is below 1.
    """
    _require_place("target", target, len(influences.target_names), count)
    up, down = _both_ways(known(influences)[:, target], count)
    helps = pick(influences, up, np.full(len(up), target), q=q)
    return helps, pick(influences, down, np.full(len(down), target), q=q)


def moved(
    influences: Influences, unit: int, count: int, *, q: Float[np.ndarray, "units targets"] | None = None
) -> tuple[Effects, Effects]:
    """The targets that a unit moves most: up, and down, strongest first; otherwise like `movers`.

    Raises:
      UserError: If there is no such unit, or `count` is below 1.
    """
    _require_place("unit", unit, len(influences.unit_names), count)
    up, down = _both_ways(known(influences)[unit], count)
    helps = pick(influences, np.full(len(up), unit), up, q=q)
    return helps, pick(influences, np.full(len(down), unit), down, q=q)


def _both_ways(values: Float[np.ndarray, " entries"], count: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-values, kind="stable")
    helps = order[:count][values[order[:count]] > 0]
    order = np.argsort(values, kind="stable")
    return helps, order[:count][values[order[:count]] < 0]


def _require_place(name: str, place: int, size: int, count: int) -> None:
    checks.require_at_least("count", count, 1)
    if not 0 <= place < size:
        raise checks.UserError(f"{name} is {place}, but there are {size}, numbered from 0 to {size - 1}.")
