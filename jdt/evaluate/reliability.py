"""How much of an influence would come out again: split-half reliability, pair correlation, and a control at chance."""

from collections.abc import Callable

import numpy as np
from scipy import stats

from jdt.estimators import Estimator
from jdt.types import Bool, Float, Masks, Outputs


def split_half(
    estimator: Estimator, masks: Masks, outputs: Outputs, *, paired: bool, repeats: int = 20, seed: int = 0
) -> tuple[float, float, float]:
    """Reliability over units of influences from this many models, by the Spearman-Brown formula.

    The models (pairs stay together) are split in random halves, influences of both halves are correlated over units
    (Pearson, for each target, then averaged), and r becomes 2r / (1 + r), the reliability at twice the size.

    Args:
      estimator: What is examined.
      masks: bool `[models, units]`.
      outputs: float `[models, targets]`.
      paired: Whether rows 2i and 2i+1 are an antithetic pair.
      repeats: Random splits.
      seed: Of the splits.

    Returns:
      Mean, 2.5 % and 97.5 % quantile over the splits: NaN when a half would have fewer than 2 models (or pairs).
    """
    masks, outputs = np.asarray(masks), np.asarray(outputs)
    size = 2 if paired else 1
    groups = len(masks) // size
    if groups < 4:
        return (np.nan, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(repeats):
        order = rng.permutation(groups)
        halves = [_rows(np.sort(half), size) for half in (order[: groups // 2], order[groups // 2 :])]
        first, second = (estimator.fit(masks[half], outputs[half], paired=paired).influence for half in halves)
        r = float(np.mean(column_correlation(first, second)))
        # The formula is meant for r >= 0 and has a pole at -1: few units reach it by chance.
        found.append(max(2 * r / (1 + r), -1.0) if r > -1 else -1.0)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(np.mean(found)), float(low), float(high)


def pair_correlation(outputs: Outputs) -> float:
    """Correlation, over antithetic pairs, of the two models' outputs: the mean over targets.

    Close to 1, initialisation and order decide the outputs and pairing removes their noise; close to 0, it buys
    nothing; below 0, a unit's presence in one model at the expense of the other dominates.
    """
    outputs = np.asarray(outputs)
    return float(np.mean(column_correlation(outputs[0::2], outputs[1::2])))


def permuted_masks(masks: Bool[np.ndarray, "models units"], rng: np.random.Generator, *, paired: bool) -> np.ndarray:
    """Shuffle mask rows over models, the negative control: influences estimated from them are pure noise.

    Pairs stay pairs, and each is turned round with probability one half.
    """
    if not paired:
        return masks[rng.permutation(len(masks))]
    pairs = masks.reshape(-1, 2, masks.shape[1])[rng.permutation(len(masks) // 2)]
    turned = np.where(rng.random(len(pairs))[:, None, None] < 0.5, pairs[:, ::-1], pairs)
    return turned.reshape(masks.shape)


def permutation_control(
    estimator: Estimator,
    masks: Bool[np.ndarray, "models units"],
    outputs: Outputs,
    statistic: Callable[[Float[np.ndarray, "units targets"]], float],
    *,
    paired: bool,
    repeats: int = 100,
    seed: int = 0,
) -> Float[np.ndarray, " repeats"]:
    """The statistic of influences whose mask rows were shuffled, for each of `repeats` shuffles.

    A single shuffle scatters as widely as the statistic of pure noise does; the mean over many tells whether the
    pipeline itself favours anything.
    """
    rng = np.random.default_rng(seed)
    return np.array(
        [
            statistic(estimator.fit(permuted_masks(masks, rng, paired=paired), outputs, paired=paired).influence)
            for _ in range(repeats)
        ]
    )


def auroc(scores: Float[np.ndarray, " units"], is_positive: Bool[np.ndarray, " units"]) -> float:
    """Area under the ROC curve: the chance that a positive unit scores above a negative one (ties count half).

    >>> auroc(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]))
    1.0
    """
    ranks = stats.rankdata(scores)
    positives = int(is_positive.sum())
    negatives = len(scores) - positives
    return float((ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def column_correlation(
    first: Float[np.ndarray, "rows columns"], second: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, " columns"]:
    """Pearson correlation of equal columns of two matrices; 0 where a column is constant."""
    a, b = first - first.mean(axis=0), second - second.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    # A constant column's mean may be one rounding away from its value: asked of the range, not of the deviations.
    varies = (np.ptp(first, axis=0) > 0) & (np.ptp(second, axis=0) > 0) & (norm > 0)
    return np.divide((a * b).sum(axis=0), norm, out=np.zeros_like(norm), where=varies)


def _rows(groups: np.ndarray, size: int) -> np.ndarray:
    return (groups[:, None] * size + np.arange(size)).ravel()
