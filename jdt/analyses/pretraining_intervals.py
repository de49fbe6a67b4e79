"""Intervals of everything that is made of accuracies: other seeds with their few-shot draws, other test images.

What is measured is correct predictions `[*cells, seeds, draws, examples]`, where cells are sources, sizes or shots that
share seeds, draws and test images. One resample serves all cells, so that what they have in common cancels in a
difference; cells with other numbers of draws (all target examples: one) still share its seeds and images.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import numpy as np
from scipy import stats

from jdt import checks
from jdt.analyses.bias_intervals import resample_counts
from jdt.keys import key_for
from jdt.types import Bool, Float

_AT_ONCE = 1 << 22  # Drawn images of the resamples that are in memory together.


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A figure with its interval; `low` and `high` are NaN where there is none."""

    value: float
    low: float
    high: float

    def clear_of(self, value: float) -> bool:
        """Whether the interval is there and lies on one side of `value`."""
        return self.low > value or self.high < value


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """Accuracies as measured and as they might have come out.

    Attributes:
      value: float64 `[*cells]`: mean over seeds, draws and examples.
      draws: float64 `[resamples, *cells]`; no rows where nothing could be resampled.
      level: Coverage that the resamples were stretched for.
      covers: What came out otherwise in them: "seeds" (with their draws) or "draws" (of the one seed), "examples".
    """

    value: Float[np.ndarray, "..."]
    draws: Float[np.ndarray, "resamples ..."]
    level: float
    covers: tuple[str, ...]

    def __getitem__(self, cell: int | slice | tuple[int | slice, ...]) -> "Resampled":
        """Some of the cells, indexed as `value` is."""
        index = cell if isinstance(cell, tuple) else (cell,)
        return Resampled(np.asarray(self.value[index]), self.draws[(slice(None), *index)], self.level, self.covers)


def exactly(accuracy: Float[np.ndarray, "*cells"] | float, level: float = 0.95) -> Resampled:
    """Accuracies that come without predictions or repetitions: no figure made of them has an interval.

    >>> exactly(np.array([0.5, 0.25])).covers
    ()
    """
    value = np.asarray(accuracy, np.float64)
    return Resampled(value, np.empty((0, *value.shape)), level, ())


def resample(
    correct: Bool[np.ndarray, "*cells seeds draws examples"],
    usable: Bool[np.ndarray, "*cells seeds draws"] | None = None,
    *,
    over: Literal["both", "models", "examples"] = "both",
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Resampled:
    """Bootstrap over seeds, each with the draws within it, and over test examples.

    A seed is drawn whole. Its mean already differs from those of other seeds by the noise of its draws, so the
    variance of the mean, (S + D / draws) / seeds, is met by drawing seeds; drawing draws again within them would count
    D twice. With one seed its draws are drawn. Few seeds vary too little among themselves when drawn, by (seeds - 1) /
    seeds, and a normal quantile is too small for them: deviations by seeds are stretched by sqrt(seeds / (seeds - 1))
    t(seeds - 1) / z, so that the interval of a mean is as wide as its t interval; two seeds therefore give very wide
    ones. Examples are many and are not stretched. The two deviations are added (a resample of both at once would count
    noise that belongs to a model and an example together three times); that noise is in each and errs on the wide side.

    Args:
      correct: bool `[*cells, seeds, draws, examples]`: whether each model is right, paired by seed, draw and example.
      usable: bool `[*cells, seeds, draws]`: models that did not diverge; all of them when None. A cell without one is
        NaN.
      over: What varies: both, models alone (seeds or draws; the test images stay), or examples alone (models stay).
      resamples: How many.
      level: Coverage of the intervals to be.
      seed: Of the randomness: equal seeds give equal resamples for equal numbers of seeds and of examples.

    Raises:
      UserError: If there is no seed, draw or example, `resamples` is below 1 or `level` is no fraction.

    >>> found = resample(np.ones((2, 3, 1, 8), bool), resamples=10)
    >>> found.value.tolist(), found.draws.shape, found.covers
    ([1.0, 1.0], (10, 2), ('seeds', 'examples'))
    """
    checks.require_fraction("level", level)
    checks.require_at_least("resamples", resamples, 1)
    *cells, seeds, draws, examples = correct.shape
    if not (seeds and draws and examples):
        raise checks.UserError(
            f"correct predictions are of {seeds} seeds, {draws} draws and {examples} examples, but at least one of "
            "each is needed: pass [..., seeds, draws, examples]."
        )
    groups, name = (seeds, "seeds") if seeds > 1 else (draws, "draws")
    alive = np.ones((*cells, seeds, draws), bool) if usable is None else usable
    rates = np.where(alive, correct.mean(axis=-1), np.nan).reshape(-1, seeds, draws)
    # Each group counts alike, and each of its models that is there.
    each = alive.reshape(rates.shape).astype(np.float64)
    if seeds > 1:
        each = each / np.maximum(each.sum(axis=2, keepdims=True), 1)
    of_group = np.nansum(rates * each, axis=2) if seeds > 1 else np.nan_to_num(rates[:, 0])  # [cells, groups]
    there = np.asarray(each.any(axis=2) if seeds > 1 else each[:, 0] > 0)
    value = _mean_of(of_group, there, np.ones((1, groups)))[0]
    deviation = np.zeros((resamples, len(value)))
    varied = []
    if over != "examples" and groups > 1:
        picks = resample_counts(_generator(seed, "bootstrap groups"), resamples, groups).astype(np.float64)
        deviation += _stretch(groups, level) * (_mean_of(of_group, there, picks) - value)
        varied.append(name)
    if over != "models":
        models = each.reshape(len(value), -1) / np.maximum(there.sum(axis=1, keepdims=True), 1)
        right = correct.reshape(len(value), -1, examples)
        by_example = np.stack([weights @ rows for weights, rows in zip(models, right, strict=True)])
        for rows, counts in _example_counts(seed, resamples, examples):
            deviation[rows] += counts @ (by_example.T / examples) - value
        varied.append("examples")
    drawn = (value + deviation).reshape(resamples, *cells)
    return Resampled(value.reshape(cells), drawn if varied else drawn[:0], level, tuple(varied))


def estimate(
    statistic: Callable[..., np.ndarray], *accuracies: Resampled, least: float = -np.inf, most: float = np.inf
) -> Estimate:
    """A figure made of accuracies, with its interval.

    The interval mirrors the resamples at the value (the "basic" bootstrap): what looks too large in resamples of these
    data, as a best minus a worst does, looks as much too large in these data.

    Args:
      statistic: Takes `[*cells]` arrays, one for each of `accuracies`, and the same with resamples as a first axis.
      accuracies: Made by `resample` with one `seed` and number of resamples, or by `exactly`.
      least: The interval ends there at the latest: 0 for a spread.
      most: The same above.

    Returns:
      The figure of the accuracies as measured. No interval where something came by `exactly`, or where a resample
      has no value in more than half of the cases.

    >>> same = resample(np.ones((2, 3, 1, 8), bool), resamples=10)
    >>> estimate(lambda accuracy: accuracy[..., 0] - accuracy[..., 1], same)
    Estimate(value=0.0, low=0.0, high=0.0)
    """
    value = float(statistic(*(part.value for part in accuracies)))
    drawn = draws_of(statistic, *accuracies)
    there = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or 2 * len(there) <= len(drawn) or not len(drawn):
        return Estimate(value, float("nan"), float("nan"))
    level = accuracies[0].level
    above, below = np.quantile(there, [0.5 + level / 2, 0.5 - level / 2])
    low, high = np.clip([2 * value - above, 2 * value - below], least, most)
    return Estimate(value, float(low), float(high))


def draws_of(statistic: Callable[..., np.ndarray], *accuracies: Resampled) -> Float[np.ndarray, " resamples"]:
    """The statistic in every resample; empty where one of the accuracies has none.

    Raises:
      UserError: If there are none, or they were resampled unlike one another.
    """
    if not accuracies:
        raise checks.UserError("a figure needs accuracies to be made of: pass at least one.")
    numbers = {len(part.draws) for part in accuracies}
    if 0 in numbers:
        return np.empty(0)
    if len(numbers) > 1 or len({part.level for part in accuracies}) > 1:
        raise checks.UserError(
            f"accuracies have {', '.join(map(str, sorted(numbers)))} resamples, but a figure needs them drawn "
            "together: resample all with the same number, level and seed."
        )
    return np.asarray(statistic(*(part.draws for part in accuracies)), np.float64)


def _mean_of(
    rates: Float[np.ndarray, "cells groups"],
    there: Bool[np.ndarray, "cells groups"],
    picked: Float[np.ndarray, "n groups"],
) -> Float[np.ndarray, "n cells"]:
    """Mean over groups as often as they were picked; NaN where only ones without a model were."""
    number = picked @ there.T.astype(np.float64)
    return np.divide(
        picked @ np.where(there, rates, 0.0).T, number, out=np.full(number.shape, np.nan), where=number > 0
    )


def _stretch(groups: int, level: float) -> float:
    quantile = 0.5 + level / 2
    return float(np.sqrt(groups / (groups - 1)) * stats.t.ppf(quantile, groups - 1) / stats.norm.ppf(quantile))


def _generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    return np.random.default_rng(np.asarray(jax.random.key_data(key_for(seed, purpose, *ids))))


def _example_counts(
    seed: int, resamples: int, examples: int
) -> Iterator[tuple[slice, Float[np.ndarray, "some examples"]]]:
    """How often each test image is in each resample, some resamples at a time."""
    rng = _generator(seed, "bootstrap test examples")
    at_once = max(1, _AT_ONCE // examples)
    for start in range(0, resamples, at_once):
        rows = slice(start, min(resamples, start + at_once))
        yield rows, resample_counts(rng, rows.stop - rows.start, examples)
