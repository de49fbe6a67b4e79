"""How sure is a bias: intervals over seeds and over test images, and whether it falls along a sweep.

Bias transfer is a metric of the models from a biased source minus that of their clean twins: the same target, mode and
seed. Two things could have come out otherwise, and each has an interval of its own:

* `paired`: *other models*. The t interval of the mean difference over seeds: initialisation, order and augmentation are
  drawn anew, while source, target and test images stay. It is the one that a claim about a source needs.
* `bootstrap_examples`: *other test images*. Images are drawn anew while the models stay: how well these images measure
  these models. With many images it is much the narrower one, and says nothing of other seeds.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from scipy import stats

from jdt import checks
from jdt.analyses.counterfactual import mean_interval
from jdt.analyses.rates import Counted
from jdt.keys import key_for
from jdt.types import Float, Int

_AT_ONCE = 1 << 22  # Drawn images of the resamples that are in memory together.


@dataclasses.dataclass(frozen=True)
class Difference:
    """A mean difference of pairs of models, with an interval.

    Attributes:
      mean: Over pairs; NaN without any.
      low: Lower end; NaN where there is no interval.
      high: Upper end.
      pairs: Pairs that it is the mean of.
      left_out: Pairs in which a value is missing: a model diverged, or a denominator is 0.
    """

    mean: float
    low: float
    high: float
    pairs: int
    left_out: int


def paired(biased: Float[np.ndarray, " seeds"], twin: Float[np.ndarray, " others"], level: float = 0.95) -> Difference:
    """Mean over seeds of a metric of biased models minus that of their twins, with its t interval over seeds.

    Args:
      biased: float `[seeds]`; NaN where it is missing.
      twin: float `[seeds]`, of the same seeds.
      level: Coverage over other seeds; no interval with fewer than 2 pairs.

    Raises:
      UserError: If there are not as many of both.

    >>> found = paired(np.array([0.5, 0.75, np.nan]), np.array([0.25, 0.0, 0.0]))
    >>> found.mean, found.pairs, found.left_out
    (0.5, 2, 1)
    """
    if biased.shape != twin.shape:
        raise checks.UserError(
            f"there are {len(biased)} biased models and {len(twin)} twins, but pairs need one twin for each."
        )
    difference = np.asarray(biased, np.float64) - np.asarray(twin, np.float64)
    pairs = int(np.isfinite(difference).sum())
    return Difference(*mean_interval(difference, level), pairs, len(difference) - pairs)


def bootstrap_examples(
    biased: Sequence[Counted],
    twin: Sequence[Counted] = (),
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Mean difference of pairs of models with its percentile bootstrap interval over test images.

    A metric is given by its parts, counted example by example: one (the share: `attack_parts`, `accuracy_parts`), or
    two (the first share minus the second: `skew_parts`; accuracies of clean and of triggered images). One draw of
    images serves all parts of all models, since all were measured on the same images. A share of a resample is the sum
    of its hits over the sum of its denominators. Models stay as they are: the interval does not cover other seeds.

    Args:
      biased: Parts of the metric of the biased models, `[models, examples]` each.
      twin: Those of the twins, in the order of the models; empty for the metric of the models alone.
      resamples: Draws of as many images as there are.
      level: Share of the resamples that the interval holds.
      seed: Of the draws: equal seeds and numbers of images draw equal images.

    Returns:
      The mean over the pairs that have a value. A pair whose denominator is 0 in a resample is left out there. No
      interval where no resample has a value; one of no width where all images agree, as where no attack ever succeeds.

    Raises:
      UserError: If parts differ in shape, are none or more than two, there is no image, or `level` is no fraction.

    >>> of = np.ones((1, 4), bool)
    >>> right, other = Counted(np.array([[True, True, True, False]]), of), Counted(~of, of)
    >>> found = bootstrap_examples([right], [other], seed=1)
    >>> found.mean, found.low, found.high
    (0.75, 0.25, 1.0)
    """
    checks.require_fraction("level", level)
    checks.require_at_least("resamples", resamples, 1)
    parts = [*biased, *twin]
    shapes = sorted({part.of.shape for part in parts})
    if not 1 <= len(biased) <= 2 or len(twin) not in (0, len(biased)) or len(shapes) != 1 or not shapes[0][1]:
        raise checks.UserError(
            f"a metric has {len(biased)} parts and its twin {len(twin)}, of shapes {', '.join(map(str, shapes))}, but "
            "both need the same one or two parts, of equal [models, examples] with at least one example."
        )
    signs = np.array([1.0, -1.0][: len(biased)] + [-1.0, 1.0][: len(twin)])
    num_models, num_examples = shapes[0]
    # Whole numbers far below 2**24: sums are exact in float32.
    hits, of = (
        np.concatenate([getattr(part, name) for part in parts]).astype(np.float32).T for name in ("hits", "of")
    )  # [examples, parts * models]

    def pairs(counts: Float[np.ndarray, "draws examples"]) -> Float[np.ndarray, "draws models"]:
        below = counts @ of
        shares = np.divide(counts @ hits, below, out=np.full(below.shape, np.nan), where=below > 0, dtype=np.float64)
        return np.einsum("p,dpm->dm", signs, shares.reshape(-1, len(parts), num_models))

    value = pairs(np.ones((1, num_examples), np.float32))[0]
    there = np.isfinite(value)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key_for(seed, "bootstrap test images"))))
    means = []
    at_once = max(1, _AT_ONCE // num_examples)
    for start in range(0, resamples, at_once):
        drawn = pairs(resample_counts(rng, min(at_once, resamples - start), num_examples))
        number = np.isfinite(drawn).sum(axis=1)
        means.append(np.nansum(drawn, axis=1)[number > 0] / number[number > 0])
    draws = np.concatenate(means)
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2]) if len(draws) else (np.nan, np.nan)
    mean = float(value[there].mean()) if there.any() else float("nan")
    return Difference(mean, float(low), float(high), int(there.sum()), int((~there).sum()))


def sweep_correlation(
    amounts: Float[np.ndarray, " points"] | Int[np.ndarray, " points"], values: Float[np.ndarray, "points seeds"]
) -> Float[np.ndarray, " seeds"]:
    """Spearman correlation, along a sweep, of what is swept (weight decay, target size) and a metric, for each seed.

    Args:
      amounts: `[points]`.
      values: float `[points, seeds]`; NaN where it is missing: that point is left out for that seed.

    Returns:
      float64 `[seeds]` in [-1, 1], with average ranks for ties; NaN where fewer than 3 points are there or nothing
      changes along them.

    >>> sweep_correlation(np.array([0.0, 0.1, 0.2]), np.array([[0.9, 0.5], [0.5, 0.5], [0.1, 0.5]])).tolist()
    [-1.0, nan]
    """
    found = np.full(values.shape[1], np.nan)
    for seed, column in enumerate(values.T):
        there = np.isfinite(column)
        ranks = [stats.rankdata(x[there]) for x in (amounts, column)]
        if there.sum() >= 3 and min(np.ptp(rank) for rank in ranks) > 0:
            found[seed] = np.clip(np.corrcoef(*ranks)[0, 1], -1.0, 1.0)
    return found


def resample_counts(rng: np.random.Generator, draws: int, num_examples: int) -> Float[np.ndarray, "draws examples"]:
    """How often each of `num_examples` things is in each of `draws` resamples of as many, with replacement; float32."""
    drawn = rng.integers(0, num_examples, (draws, num_examples))
    places = drawn + np.arange(draws)[:, None] * num_examples
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float32)
