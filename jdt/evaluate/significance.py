"""Which influences are more than noise: p-values, Benjamini-Hochberg q-values, counts at a false discovery rate."""

import dataclasses

import numpy as np
from scipy import special

from jdt import checks
from jdt.estimators import Influences
from jdt.types import Float


@dataclasses.dataclass(frozen=True, eq=False)
class Significance:
    """Which influences differ from 0, many asked at once.

    Attributes:
      p: float64 `[units, targets]`: two-sided p-value of each influence alone; NaN where the models cannot tell.
      q: float64 `[units, targets]`: among all influences with a q no larger, the expected share of mere noise.
      level: The false discovery rate at which influences count as significant.
    """

    p: Float[np.ndarray, "units targets"]
    q: Float[np.ndarray, "units targets"]
    level: float

    @property
    def count(self) -> int:
        """How many influences are significant."""
        return int((self.q < self.level).sum())

    @property
    def tested(self) -> int:
        """How many influences the models could tell at all."""
        return int(np.isfinite(self.p).sum())


def significance(influences: Influences, level: float = 0.05, axis: int | None = None) -> Significance:
    """Test every influence against 0 (in relative designs: against the average unit's).

    Args:
      influences: With `z` and degrees of freedom.
      level: False discovery rate.
      axis: 0 controls it within each target, 1 within each unit, None over all influences together.

    Raises:
      UserError: If the estimator gives no z, or `level` is not between 0 and 1.
    """
    checks.require_fraction("level", level)
    z, error, degrees = influences.z, influences.standard_error, influences.degrees_of_freedom
    if z is None or error is None or degrees is None:
        raise checks.UserError(
            f"the estimator {influences.estimator!r} gives no standard errors, but a test needs them: use "
            'estimator="ridge" or "difference".'
        )
    p = np.where(np.isfinite(error), p_values(z, degrees), np.nan)
    return Significance(p, q_values(p, axis), level)


def p_values(
    z: Float[np.ndarray, "units targets"], degrees_of_freedom: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "units targets"]:
    """Two-sided p-values of z under a t distribution, in float64.

    Args:
      z: float `[units, targets]`.
      degrees_of_freedom: Of any shape that broadcasts to `[units, targets]`.

    >>> p_values(np.array([[0.0, 1.96]]), np.array([np.inf])).round(3).tolist()
    [[1.0, 0.05]]
    """
    # `scipy.stats` has it by name, but takes half a second to import, which every start of a program would wait for.
    return 2 * special.stdtr(np.asarray(degrees_of_freedom, np.float64), -np.abs(np.asarray(z, np.float64)))


def q_values(p: Float[np.ndarray, "*shape"], axis: int | None = None) -> Float[np.ndarray, "*shape"]:
    """Benjamini-Hochberg q-values: the false discovery rates at which each test would just be significant.

    With n p-values in ascending order, q_i = min over j >= i of p_j n / j (Benjamini and Hochberg 1995). Calling all
    with q below a level significant keeps the expected share of false ones among them below it, for independent tests
    and those with positive dependence.

    Args:
      p: p-values in [0, 1] of any shape; NaN where there was no test (q is NaN there, and n does not count it).
      axis: The axis along which tests belong together; None for all of them.

    Raises:
      UserError: If a p-value lies outside [0, 1].

    >>> q_values(np.array([0.01, 0.02, 0.9])).round(3).tolist()
    [0.03, 0.03, 0.9]
    """
    p = np.asarray(p, np.float64)
    if ((p < 0) | (p > 1)).any():
        raise checks.UserError("p holds values outside [0, 1], but q-values are made from probabilities.")
    tests = p.reshape(1, -1) if axis is None else np.moveaxis(p, axis, -1)
    order = np.argsort(tests, axis=-1)  # NaN last.
    number = np.isfinite(tests).sum(axis=-1, keepdims=True)
    scaled = np.take_along_axis(tests, order, axis=-1) * number / np.arange(1, tests.shape[-1] + 1)
    # fmin passes over NaN, and puts numbers in the place of NaN: these go back below.
    least = np.fmin.accumulate(scaled[..., ::-1], axis=-1)[..., ::-1]
    found = np.empty_like(tests)
    np.put_along_axis(found, order, np.minimum(least, 1.0), axis=-1)
    found = np.where(np.isnan(tests), np.nan, found)
    return found.reshape(p.shape) if axis is None else np.moveaxis(found, -1, axis)
