"""How much of an influence would come out again, how that grows with the number of models, and pair correlation."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jdt import checks
from jdt.estimators import Estimator
from jdt.types import Float, Int, Masks, Outputs

LEAST_GROUPS = 4
"""Models (or pairs) below which nothing can be halved: each half needs 2."""


@dataclasses.dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Split-half reliability against the number of models.

    Attributes:
      sizes: int `[sizes]`: models, ascending.
      mean: float64 `[sizes]`: mean over random subsets and splits; NaN where there are fewer than 4 models (or pairs).
      low: 2.5 % quantile.
      high: 97.5 % quantile.
    """

    sizes: Int[np.ndarray, " sizes"]
    mean: Float[np.ndarray, " sizes"]
    low: Float[np.ndarray, " sizes"]
    high: Float[np.ndarray, " sizes"]


def split_half(
    estimator: Estimator, masks: Masks, outputs: Outputs, *, paired: bool, repeats: int = 20, seed: int = 0
) -> tuple[float, float, float]:
    """Reliability over units of influences from this many models: the last point of `reliability_curve`.

    Returns:
      Mean, 2.5 % and 97.5 % quantile over the splits: NaN when a half would have fewer than 2 models (or pairs).
    """
    curve = reliability_curve(estimator, masks, outputs, paired=paired, sizes=(len(masks),), repeats=repeats, seed=seed)
    return float(curve.mean[0]), float(curve.low[0]), float(curve.high[0])


def reliability_curve(
    estimator: Estimator,
    masks: Masks,
    outputs: Outputs,
    *,
    paired: bool,
    sizes: Sequence[int] | None = None,
    repeats: int = 20,
    seed: int = 0,
) -> ReliabilityCurve:
    """Reliability over units of influences from so many models, by the Spearman-Brown formula.

    For each size a random subset of the models (pairs stay together) is split in two equal halves, influences of both
    are correlated over units (Pearson, for each target, then averaged), and r becomes what it would be for the whole
    subset (Spearman 1910, Brown 1910; `spearman_brown`). The quantiles show the spread of subsets and splits. At full
    size there is one subset only, and the spread of new models is wider.

    Args:
      estimator: What is examined; fitted twice a repeat.
      masks: bool `[models, units]`.
      outputs: float `[models, targets]`.
      paired: Whether rows 2i and 2i+1 are an antithetic pair.
      sizes: Numbers of models; by default all of them, half, a quarter and so on, down to 4 models (or pairs).
      repeats: Random subsets and splits for each size.
      seed: Of the splits; a size's value does not depend on the other sizes.

    Raises:
      UserError: If a size is larger than the number of models.
    """
    masks, outputs = np.asarray(masks), np.asarray(outputs)
    size = 2 if paired else 1
    sizes = halved_sizes(len(masks), paired=paired) if sizes is None else sorted(sizes)
    if sizes and sizes[-1] > len(masks):
        raise checks.UserError(f"size {sizes[-1]} is asked for, but there are {len(masks)} models: ask for fewer.")
    points = np.full((len(sizes), 3), np.nan)
    for point, models in zip(points, sizes, strict=True):
        if models // size >= LEAST_GROUPS:
            rng = np.random.default_rng([seed, models // size])
            found = [
                _split_once(estimator, masks, outputs, rng, groups=models // size, size=size) for _ in range(repeats)
            ]
            point[:] = np.mean(found), *np.quantile(found, [0.025, 0.975])
    return ReliabilityCurve(np.array(sizes, np.int64), *points.T)


def halved_sizes(num_models: int, *, paired: bool) -> list[int]:
    """All models, half of them, a quarter and so on, ascending: whole pairs, no fewer than 4 models (or pairs).

    >>> halved_sizes(200, paired=True)
    [12, 24, 50, 100, 200]
    """
    size = 2 if paired else 1
    groups, sizes = num_models // size, []
    while groups >= LEAST_GROUPS:
        sizes.append(groups * size)
        groups //= 2
    return sizes[::-1] or [num_models]


def spearman_brown(reliability: float, factor: float) -> float:
    """Reliability of `factor` times as many models: f r / (1 + (f - 1) r), never below -1.

    The formula is meant for r >= 0. It has a pole at -1 / (f - 1), and few units can correlate below it by chance.

    >>> round(spearman_brown(0.5, 2.0), 3)
    0.667
    """
    below = 1 + (factor - 1) * reliability
    return max(factor * reliability / below, -1.0) if below > 0 else -1.0


def models_needed(reliability: float, num_models: int, target: float, *, paired: bool = False) -> float:
    """How many models would have reliability `target`, if `num_models` have `reliability`.

    The Spearman-Brown formula turned round: m target (1 - r) / (r (1 - target)), rounded up to whole models (or pairs;
    it counts either alike, being a ratio).

    Args:
      reliability: r, of `num_models`.
      num_models: m, a positive number.
      target: The reliability wanted, strictly between 0 and 1.
      paired: Whether models come in pairs.

    Returns:
      A whole number, at least one model (or pair); infinite for r <= 0, NaN for NaN.

    Raises:
      UserError: If `target` is no fraction.

    >>> models_needed(0.5, 100, 0.9), models_needed(0.0, 100, 0.9)
    (900.0, inf)
    """
    checks.require_fraction("target", target)
    if math.isnan(reliability):
        return math.nan
    if reliability <= 0:
        return math.inf
    size = 2 if paired else 1
    groups = num_models / size * target * (1 - min(reliability, 1.0)) / (reliability * (1 - target))
    # Less a rounding: 900 models must not become 901.
    return float(size * max(1, math.ceil(groups * (1 - 1e-9))))


def pair_correlation(outputs: Outputs) -> float:
    """Correlation, over antithetic pairs, of the two models' outputs: the mean over targets.

    Close to 1, initialisation and order decide the outputs and pairing removes their noise; close to 0, it buys
    nothing; below 0, a unit's presence in one model at the expense of the other dominates.
    """
    outputs = np.asarray(outputs)
    return float(np.mean(column_correlation(outputs[0::2], outputs[1::2])))


def column_correlation(
    first: Float[np.ndarray, "rows columns"], second: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, " columns"]:
    """Pearson correlation of equal columns of two matrices; 0 where a column is constant."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    # A constant column's mean may be one rounding away from its value: asked of the range, not of the deviations.
    varies = (np.ptp(first, axis=0) > 0) & (np.ptp(second, axis=0) > 0) & (norm > 0)
    return np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=varies)


def _split_once(
    estimator: Estimator, masks: Masks, outputs: Outputs, rng: np.random.Generator, *, groups: int, size: int
) -> float:
    # Equal halves: one shape for the compiler. Of an odd number one model (or pair) is left out of the split.
    order, half = rng.permutation(len(masks) // size)[:groups], groups // 2
    first, second = (
        estimator.fit(masks[rows], outputs[rows], paired=size == 2).influence
        for rows in (_rows(order[:half], size), _rows(order[half : 2 * half], size))
    )
    return spearman_brown(float(np.mean(column_correlation(first, second))), groups / half)


def _rows(groups: np.ndarray, size: int) -> np.ndarray:
    return (groups[:, None] * size + np.arange(size)).ravel()
