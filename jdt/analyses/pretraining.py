"""How much the choice of pre-training data matters: spread between sources, its fade, ranks, gains, honest selection.

Metrics of arXiv 2302.13602, in the words of jdt: accuracy(source, target, shots) is a share in [0, 1], of a setting
that was chosen on validation images; sources are of equal size. All are plain functions of arrays whose last axes carry
the sources or shots, so that resamples of `pretraining_intervals.resample` go through them in one call. A missing cell
is NaN and is left out.
"""

import dataclasses
import functools
import warnings

import numpy as np
from scipy import stats

from jdt import checks
from jdt.types import Float, Int


def spread(accuracy: Float[np.ndarray, "*rest sources"]) -> Float[np.ndarray, "*rest"]:
    """Best minus worst source: max_u A - min_u A; NaN with fewer than 2 sources there.

    Args:
      accuracy: float `[*rest, sources]`, NaN where a source is missing.

    >>> spread(np.array([0.5, 0.75, np.nan, 0.625])).item()
    0.25
    """
    return np.asarray(_ends(accuracy, -np.inf).max(axis=-1) - _ends(accuracy, np.inf).min(axis=-1))


def relative_spread(accuracy: Float[np.ndarray, "*rest sources"]) -> Float[np.ndarray, "*rest"]:
    """The spread over the best accuracy; NaN where the best is 0.

    >>> relative_spread(np.array([0.5, 0.75, 1.0])).item()
    0.5
    """
    best = np.asarray(_ends(accuracy, -np.inf).max(axis=-1))
    return np.divide(spread(accuracy), best, out=np.full(best.shape, np.nan), where=best != 0)


def pairwise_difference(accuracy: Float[np.ndarray, "*rest sources"]) -> Float[np.ndarray, "*rest"]:
    """Mean of |A(u) - A(v)| over the pairs of sources that are there; NaN without a pair.

    >>> pairwise_difference(np.array([0.0, 0.25, 1.0])).item()
    0.6666666666666666
    """
    first, second = np.triu_indices(accuracy.shape[-1], 1)
    return _nan_mean(np.abs(accuracy[..., first] - accuracy[..., second]))


def fade(few: Float[np.ndarray, "*rest shots"], full: Float[np.ndarray, "*rest"] | float) -> Float[np.ndarray, "*rest"]:
    """What is left of the spread with all target examples: spread(full) / max over few shots of spread(k).

    Args:
      few: Spreads at few shots (up to 20 in the paper), `[*rest, shots]`.
      full: Spreads with all examples, `[*rest]`.

    Returns:
      float `[*rest]`: below 1 where differences between sources fade; NaN where sources never differ.

    >>> fade(np.array([0.0625, 0.125]), 0.03125).item()
    0.25
    """
    most = np.asarray(_ends(few, -np.inf, least=1).max(axis=-1))
    return np.divide(full, most, out=np.full(most.shape, np.nan), where=most != 0)


def fade_gap(
    few: Float[np.ndarray, "*rest shots"], full: Float[np.ndarray, "*rest"] | float
) -> Float[np.ndarray, "*rest"]:
    """The same as a difference, in points of accuracy: max over few shots of spread(k), minus spread(full).

    >>> fade_gap(np.array([0.0625, 0.125]), 0.03125).item()
    0.09375
    """
    return np.asarray(_ends(few, -np.inf, least=1).max(axis=-1) - full)


def rank_stability(
    accuracy: Float[np.ndarray, "*rest conditions sources"],
) -> Float[np.ndarray, "*rest conditions conditions"]:
    """Do sources rank alike? Spearman correlation of the rankings of each two conditions: shots, or targets.

    Args:
      accuracy: float `[*rest, conditions, sources]`; a source that is missing in one of the two is left out of the
        pair.

    Returns:
      float `[*rest, conditions, conditions]` in [-1, 1], with average ranks for ties; NaN with fewer than 3 sources
      or where all are equal.

    >>> rank_stability(np.array([[0.1, 0.2, 0.3], [0.6, 0.5, 0.4]])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    number = accuracy.shape[-2]
    found = np.full((*accuracy.shape[:-1], number), np.nan)
    for first in range(number):
        for second in range(first, number):
            found[..., first, second] = found[..., second, first] = _spearman(
                accuracy[..., first, :], accuracy[..., second, :]
            )
    return found


def gain_over_scratch(
    accuracy: Float[np.ndarray, "*rest sources"], scratch: Float[np.ndarray, "*rest"] | float
) -> Float[np.ndarray, "*rest sources"]:
    """A(source) - A(scratch): what pre-training adds to training on the target alone.

    >>> gain_over_scratch(np.array([0.75, 0.5]), 0.5).tolist()
    [0.25, 0.0]
    """
    return accuracy - np.asarray(scratch)[..., None]


def error_reduction(
    accuracy: Float[np.ndarray, "*rest sources"], scratch: Float[np.ndarray, "*rest"] | float
) -> Float[np.ndarray, "*rest sources"]:
    """1 - (1 - A) / (1 - A(scratch)): share of the errors of training from scratch that go; NaN where it has none.

    >>> error_reduction(np.array([0.75, 0.5]), 0.5).tolist()
    [0.5, 0.0]
    """
    errors = np.broadcast_to(1.0 - np.asarray(scratch)[..., None], accuracy.shape)
    return 1.0 - np.divide(1.0 - accuracy, errors, out=np.full(accuracy.shape, np.nan), where=errors > 0)


@dataclasses.dataclass(frozen=True)
class NullBand:
    """Is a spread more than what equal sources would show?

    Attributes:
      spread: Of the mean accuracies.
      band: Equal sources stay below it with the chosen probability; NaN where it cannot be told.
      error: Standard error of a source's mean, what all have in common apart; NaN likewise.
      sources: How many there are.
      freedom: Degrees of freedom of the error.
      blocks: What was repeated: `"seeds"`, `"draws"` (of one seed: says nothing of other models), or `""`: nothing.
    """

    spread: float
    band: float
    error: float
    sources: int
    freedom: int
    blocks: str

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the spread is above the band; False where there is no band."""
        return self.spread > self.band

    @property
    def middle(self) -> float:
        """Median spread of equal sources; NaN where it cannot be told."""
        return _range_quantile(0.5, self.sources, self.freedom) * self.error if self.freedom else self.error

    @property
    def p_value(self) -> float:
        """Chance of equal sources to show such a spread or more; NaN where it cannot be told."""
        if not self.error > 0:
            return float("nan") if np.isnan(self.error) else float(self.spread == 0)
        return float(stats.studentized_range.sf(self.spread / self.error, self.sources, self.freedom))


def null_band(accuracy: Float[np.ndarray, "sources seeds draws"], level: float = 0.95) -> NullBand:
    """The band that the spread of equal sources stays in: Tukey's studentised range over seeds.

    Were all sources equal, accuracy(u, s) = seed effect + noise of equal variance, and (max - min) / sqrt(MS / seeds)
    is a studentised range of so many sources with (sources - 1)(seeds - 1) degrees of freedom, MS the mean square of
    what remains after the means of sources and seeds. It needs no source trained anew with other seeds, keeps the
    pairing by seed, can be beyond with two sources and five seeds (there it is the paired t test; permuting sources
    within seeds has no p-value below 1/16 there), and true differences do not widen it. A seed is one observation, with
    its draws averaged: draws share the seed's models, so that they are no repetitions of the sources.

    Args:
      accuracy: float `[sources, seeds, draws]`; a seed in which a value is missing is left out for all sources.
      level: Share of studies of equal sources that stay below.

    Returns:
      The spread and its band. With one seed and several draws these are the blocks. With neither, or with a spread
      that does not vary at all, the band is NaN, or 0.

    Raises:
      UserError: With fewer than 2 sources.

    >>> near, far = [[0.75], [0.8125], [0.75]], [[0.5], [0.5], [0.5625]]
    >>> found = null_band(np.array([near, far]))
    >>> found.spread, found.is_beyond_noise, found.blocks
    (0.25, True, 'seeds')
    """
    checks.require_fraction("level", level)
    if len(accuracy) < 2:
        raise checks.UserError(f"a spread is between sources, but there are {len(accuracy)}: pass at least 2.")
    name = "seeds" if accuracy.shape[1] > 1 else "draws"
    blocks = accuracy.mean(axis=2) if name == "seeds" else accuracy[:, 0]  # [sources, blocks]
    blocks = blocks[:, np.isfinite(blocks).all(axis=0)]
    sources, number = blocks.shape
    unknown = float("nan")
    if not number:
        return NullBand(unknown, unknown, unknown, sources, 0, "")
    means = blocks.mean(axis=1)
    found = float(np.ptp(means))
    if number < 2:
        return NullBand(found, unknown, unknown, sources, 0, "")
    rest = blocks - means[:, None] - blocks.mean(axis=0) + blocks.mean()
    freedom = (sources - 1) * (number - 1)
    error = float(np.sqrt((rest**2).sum() / freedom / number))
    if error <= np.finfo(np.float64).eps:  # Rounding of means that do not vary.
        error = 0.0
    return NullBand(found, _range_quantile(level, sources, freedom) * error, error, sources, freedom, name)


@functools.lru_cache
def _range_quantile(level: float, sources: int, freedom: int) -> float:
    return float(stats.studentized_range.ppf(level, sources, freedom))  # A tenth of a second each.


@dataclasses.dataclass(frozen=True, eq=False)
class Selection:
    """A setting chosen on validation images, and what choosing on the test set would have claimed.

    Attributes:
      chosen: int `[*cells]`: index of the setting that is best on validation, the first of equals; -1 without one.
      accuracy: float `[*cells]`: test accuracy of the chosen setting: the one to report.
      best_on_test: float `[*cells]`: the best test accuracy of any setting.
      optimism: float `[*cells]`, at least 0: what the best on test claims too much.
    """

    chosen: Int[np.ndarray, "*cells"]
    accuracy: Float[np.ndarray, "*cells"]
    best_on_test: Float[np.ndarray, "*cells"]
    optimism: Float[np.ndarray, "*cells"]


def select(validation: Float[np.ndarray, "*cells settings"], test: Float[np.ndarray, "*cells settings"]) -> Selection:
    """Choose a setting of a grid on validation images alone.

    Args:
      validation: float `[*cells, settings]`, means over seeds and draws; NaN: the setting cannot be chosen.
      test: float `[*cells, settings]`, of the same; NaN where validation is.

    Raises:
      UserError: If the two differ in where they have values: a grid must be measured on both.

    >>> found = select(np.array([[0.5, 0.75, 0.625]]), np.array([[0.75, 0.5, 0.625]]))
    >>> found.chosen.tolist(), found.accuracy.tolist(), found.optimism.tolist()
    ([1], [0.5], [0.25])
    """
    there = np.isfinite(validation)
    if not np.array_equal(there, np.isfinite(test)):
        raise checks.UserError(
            f"{int((there != np.isfinite(test)).sum())} settings have an accuracy on only one of validation and test "
            "images, but a setting is chosen on the one and reported on the other: measure both, or leave it out."
        )
    some = there.any(axis=-1)
    chosen = np.where(there, validation, -np.inf).argmax(axis=-1)
    accuracy = np.where(some, np.take_along_axis(test, chosen[..., None], axis=-1)[..., 0], np.nan)
    best = np.where(some, np.where(there, test, -np.inf).max(axis=-1), np.nan)
    return Selection(np.where(some, chosen, -1), accuracy, best, best - accuracy)


def _ends(values: Float[np.ndarray, "*rest _"], fill: float, least: int = 2) -> Float[np.ndarray, "*rest _"]:
    """Values with missing ones replaced by `fill`; all NaN where fewer than `least` are there."""
    there = np.isfinite(values)
    enough = there.sum(axis=-1, keepdims=True) >= least
    return np.where(enough, np.where(there, values, fill), np.nan)


def _nan_mean(values: Float[np.ndarray, "*rest _"]) -> Float[np.ndarray, "*rest"]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)  # NaN is the answer there.
        return np.asarray(np.nanmean(values, axis=-1))


def _spearman(
    first: Float[np.ndarray, "*rest sources"], second: Float[np.ndarray, "*rest sources"]
) -> Float[np.ndarray, "*rest"]:
    there = np.isfinite(first) & np.isfinite(second)
    if not there.all() and not (there == there.reshape(-1, there.shape[-1])[0]).all():
        flat = [x.reshape(-1, x.shape[-1]) for x in (first, second)]
        return np.array([_spearman(*pair) for pair in zip(*flat, strict=True)]).reshape(first.shape[:-1])
    columns = there.reshape(-1, there.shape[-1]).all(axis=0)
    if columns.sum() < 3:
        return np.full(first.shape[:-1], np.nan)
    x, y = (stats.rankdata(values[..., columns], axis=-1) for values in (first, second))
    x, y = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (x, y))
    below = np.asarray(np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))
    found = np.divide((x * y).sum(axis=-1), below, out=np.full(below.shape, np.nan), where=below > 0)
    return np.asarray(np.clip(found, -1.0, 1.0))
