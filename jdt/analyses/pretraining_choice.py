"""Which source to choose, how sure that is, and what being surer would cost.

Uncertainty of a difference between two sources has parts that more work reduces (other seeds of pre-training, other
few-shot draws) and one that only more test images reduce. Both are estimated from the runs that are there.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from jdt import checks
from jdt.analyses.pretraining import NullBand, null_band
from jdt.analyses.pretraining_intervals import Estimate, Resampled, estimate, resample
from jdt.types import Bool, Float, Int

_MOST = 10_000  # Seeds or draws: nobody has more.
_NO_BAND = NullBand(float("nan"), float("nan"), float("nan"), 0, 0, "")


def method_gap(
    first: Resampled, second: Resampled, *, first_transfer: str, second_transfer: str
) -> tuple[Estimate, ...]:
    """Accuracy of one pre-training method minus that of another, on the same sources, under one transfer rule.

    Args:
      first: Accuracies `[sources]`.
      second: Accuracies `[sources]` of the other method, from the same images, seeds and draws.
      first_transfer: How the first was transferred.
      second_transfer: How the second was.

    Returns:
      One difference for each source, then their mean.

    Raises:
      UserError: If the two transfer rules or numbers of sources differ.
    """
    if first_transfer != second_transfer:
        raise checks.UserError(
            f"one method was transferred by {first_transfer} and the other by {second_transfer}, but a gap between "
            "methods needs one rule for both: compare LP with LP or FT with FT."
        )
    if first.value.shape != second.value.shape or first.value.ndim != 1:
        raise checks.UserError(
            f"methods have accuracies of shapes {first.value.shape} and {second.value.shape}, but a gap needs "
            "[sources] of the same sources."
        )
    each = [estimate(np.subtract, first[source], second[source]) for source in range(len(first.value))]
    return (*each, estimate(lambda a, b: (a - b).mean(axis=-1), first, second))


@dataclasses.dataclass(frozen=True)
class Components:
    """Variance of one observation of a difference, by where it comes from; NaN where it cannot be told.

    Attributes:
      seed: Between seeds; with one draw each it holds that of draws as well.
      draw: Between draws of a seed; 0 with one draw each.
      example: Between test examples.
      rest: What remains of a single model on a single example.
      seeds: Seeds that it was estimated from.
      draws: Draws of each.
      examples: Test examples.
    """

    seed: float
    draw: float
    example: float
    rest: float
    seeds: int
    draws: int
    examples: int

    def model_variance(self, seeds: int, draws: int) -> float:
        """Variance of the mean that more seeds or draws reduce."""
        seed = self.seed / seeds
        draw = self.draw / (seeds * draws)
        return seed + draw + self.rest / (seeds * draws * self.examples)

    @property
    def example_variance(self) -> float:
        """Variance of the mean that they do not: that of these test examples."""
        return self.example / self.examples

    def margin(self, seeds: int, draws: int, level: float = 0.95) -> float:
        """Half the width of the interval of the mean, were there so many seeds and draws; NaN where it is unknown."""
        quantile = 0.5 + level / 2
        groups = seeds if seeds > 1 else draws
        t = float(stats.t.ppf(quantile, groups - 1)) if groups > 1 else float("inf")
        models = self.model_variance(seeds, draws)
        z = float(stats.norm.ppf(quantile))
        return float(np.sqrt((t**2 * models if models else 0.0) + z**2 * self.example_variance))  # t may be infinite.


def variance_components(
    difference: Float[np.ndarray, "seeds draws examples"] | Int[np.ndarray, "seeds draws examples"],
) -> Components:
    """Parts of the variance by the method of moments: draws nested in seeds, both crossed with examples.

    Model: x(s, d, e) = mean + S(s) + D(s, d) + E(e) + rest. Mean squares of the balanced layout are set equal to their
    expectations: E[MS rest] = r, E[MS draws] = r + n D, E[MS seeds] = r + n D + draws n S, E[MS examples] = r + seeds
    draws E, with n examples. Negative solutions are 0.

    Args:
      difference: `[seeds, draws, examples]`: 1, 0 or -1 where it is of correct predictions.

    Returns:
      The components. `seed` is NaN with one seed: nothing is then known of others. With one model alone `draw` is NaN
      too, and `example` holds what remains, which cannot be told from it.

    Raises:
      UserError: With fewer than 2 examples.
    """
    seeds, draws, examples = difference.shape
    if examples < 2 or not seeds or not draws:
        raise checks.UserError(
            f"differences are of {seeds} seeds, {draws} draws and {examples} examples, but at least 1, 1 and 2 are "
            "needed: pass [seeds, draws, examples]."
        )
    x = np.asarray(difference, np.float64)
    mean, models, by_example = x.mean(), x.mean(axis=2), x.mean(axis=(0, 1))
    number = seeds * draws
    example_square = number * ((by_example - mean) ** 2).sum() / (examples - 1)
    if number == 1:
        return Components(float("nan"), float("nan"), float(example_square), 0.0, seeds, draws, examples)
    left = x - models[..., None] - by_example + mean
    rest = (left**2).sum() / ((number - 1) * (examples - 1))
    by_seed = models.mean(axis=1)
    inner, draw = rest, 0.0
    if draws > 1:
        inner = examples * ((models - by_seed[:, None]) ** 2).sum() / (seeds * (draws - 1))
        draw = max(0.0, (inner - rest) / examples)
    seed = float("nan")
    if seeds > 1:
        outer = draws * examples * ((by_seed - mean) ** 2).sum() / (seeds - 1)
        seed = max(0.0, float(outer - inner) / (draws * examples))
    example = max(0.0, float(example_square - rest) / number)
    return Components(float(seed), float(draw), example, float(rest), seeds, draws, examples)


@dataclasses.dataclass(frozen=True)
class Surer:
    """What would make a difference clear, if it is as large as it looks now.

    Attributes:
      difference: The difference.
      margin: Half the width of its interval now.
      components: Where its variance comes from.
      seeds: Seeds, in all, that make it clear with as many draws as now; None: no number does, or it is unknown.
      draws: Draws of each seed, in all, that make it clear with as many seeds as now; None likewise.
      floor: Half the width that stays however many seeds there are: that of these test examples.
      examples: Test examples that would be needed with any number of seeds; None where those that are there suffice, or
        nothing differs.
    """

    difference: float
    margin: float
    components: Components
    seeds: int | None
    draws: int | None
    floor: float
    examples: int | None

    @property
    def is_clear(self) -> bool:
        """Whether the difference is clear already."""
        return abs(self.difference) > self.margin


def surer(
    difference: Float[np.ndarray, "seeds draws examples"] | Int[np.ndarray, "seeds draws examples"],
    level: float = 0.95,
) -> Surer:
    """How many more seeds or draws make a difference clear of 0, and what no number of them can reduce.

    Args:
      difference: `[seeds, draws, examples]`, of correct predictions of two sources.
      level: Of the interval that has to stay clear of 0.

    Raises:
      UserError: With fewer than 2 examples.

    >>> steady = np.ones((3, 2, 4), int)
    >>> surer(steady).is_clear, surer(steady).seeds
    (True, 3)
    """
    checks.require_fraction("level", level)
    parts = variance_components(difference)
    found = float(np.mean(difference))
    z = float(stats.norm.ppf(0.5 + level / 2))
    floor = z * float(np.sqrt(parts.example_variance))

    known = dataclasses.replace(parts, seed=np.nan_to_num(parts.seed).item(), draw=np.nan_to_num(parts.draw).item())
    seeds = _least(lambda n: abs(found) > parts.margin(n, parts.draws, level), parts.seeds)
    can_draw = parts.draws > 1
    draws = _least(lambda n: abs(found) > known.margin(parts.seeds, n, level), parts.draws) if can_draw else None
    margin = known.margin(parts.seeds, parts.draws, level)
    examples = None
    if abs(found) <= floor and found:
        examples = int(np.floor(z**2 * parts.example / found**2)) + 1
    return Surer(found, margin, parts, seeds, draws, floor, examples)


def seeds_beyond_noise(noise: NullBand, sources: int, seeds: int, level: float = 0.95) -> int | None:
    """How many seeds, in all, bring the band of equal sources below the spread, if that is as large as it looks now.

    Args:
      noise: Spread and band of so many seeds, from `null_band`.
      sources: Number of sources.
      seeds: Number of seeds.
      level: Of the band.

    Returns:
      The least number from `seeds` on; None where there is no spread, no number is enough, or nothing is known of
      other seeds.

    >>> noise = null_band(np.array([[[0.5], [0.75], [0.5]], [[0.5], [0.5], [0.25]]]))
    >>> noise.is_beyond_noise, seeds_beyond_noise(noise, 2, 3)
    (False, 6)
    """
    if noise.blocks != "seeds" or not noise.spread > 0:
        return None
    if noise.is_beyond_noise:
        return seeds

    freedom = sources - 1
    error = noise.band / float(stats.studentized_range.ppf(level, sources, freedom * (seeds - 1)))

    def is_beyond(number: int) -> bool:  # By the tail: a quantile takes twenty times as long.
        ratio = noise.spread / error * (number / seeds) ** 0.5
        return float(stats.studentized_range.sf(ratio, sources, freedom * (number - 1))) < 1 - level

    return _least(is_beyond, seeds)


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """Candidate sources for a target, the best first.

    Attributes:
      names: Sources, the best first; those without a value last.
      order: int `[sources]`: their places in the order that was passed.
      accuracy: Of each, with its interval.
      behind: Accuracy of each minus that of the best, with its interval: 0 for the best. The best was picked on the
        same images, so that its lead looks a little larger than it is.
      best: float `[sources]`: share of the resamples in which each is the best, equals sharing it.
      noise: Whether the sources differ by more than equal ones would.
      surer: What would make the lead over the second clear; None with fewer than two sources with a value.
      covers: What the intervals cover: "seeds", "draws", "examples".
    """

    names: tuple[str, ...]
    order: Int[np.ndarray, " sources"]
    accuracy: tuple[Estimate, ...]
    behind: tuple[Estimate, ...]
    best: Float[np.ndarray, " sources"]
    noise: NullBand
    surer: Surer | None
    covers: tuple[str, ...]


def rank_sources(
    names: Sequence[str],
    correct: Bool[np.ndarray, "sources seeds draws examples"],
    usable: Bool[np.ndarray, "sources seeds draws"] | None = None,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Ranking:
    """Rank candidate sources by accuracy on a target, with how sure that is.

    Args:
      names: Of the sources.
      correct: bool `[sources, seeds, draws, examples]`, paired by seed, draw and example.
      usable: bool `[sources, seeds, draws]`: models that did not diverge; all of them when None.
      resamples: Of the bootstrap.
      level: Coverage of all intervals.
      seed: Of the bootstrap.

    Raises:
      UserError: With fewer than 2 sources, or if names are not as many or not all different.

    >>> right = np.array([[[[True, False, False, False]]], [[[True, True, True, True]]]])
    >>> found = rank_sources(["far", "near"], right)
    >>> found.names, found.order.tolist(), found.behind[1].value
    (('near', 'far'), [1, 0], -0.75)
    """
    if len(correct) < 2 or len(names) != len(correct) or len(set(names)) < len(names):
        raise checks.UserError(
            f"there are {len(names)} names for {len(correct)} sources, but a ranking needs at least 2 sources, each "
            "with a name of its own."
        )
    usable = np.ones(correct.shape[:3], bool) if usable is None else usable
    found = resample(correct, usable, resamples=resamples, level=level, seed=seed)
    order = np.argsort(-found.value, kind="stable")  # NaN last.
    top = found[int(order[0])]
    drawn = np.where(np.isfinite(found.draws), found.draws, -np.inf)
    # Ends of resamples differ by rounding alone where models are equal: 1e-9 is far below one example of a million.
    tops = (drawn >= drawn.max(axis=1, keepdims=True) - 1e-9) & np.isfinite(drawn)
    shares = tops / np.maximum(tops.sum(axis=1, keepdims=True), 1)
    known = int(np.isfinite(found.value).sum())
    first, second = order[:2]
    seeds = (usable[first] & usable[second]).all(axis=1)
    gap = correct[first][seeds].astype(np.int8) - correct[second][seeds]
    rates = np.where(usable, correct.mean(axis=3), np.nan)
    return Ranking(
        tuple(names[int(i)] for i in order),
        order,
        tuple(estimate(_itself, found[int(i)], least=0.0, most=1.0) for i in order),
        tuple(estimate(np.subtract, found[int(i)], top) for i in order),
        shares.mean(axis=0)[order],
        null_band(rates[np.isfinite(found.value)], level) if known > 1 else _NO_BAND,
        surer(gap, level) if known > 1 and seeds.any() and gap.shape[2] > 1 else None,
        found.covers,
    )


def _itself(accuracy: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    return accuracy


def _least(is_enough: Callable[[int], bool], start: int) -> int | None:
    """Smallest number from `start` on that is enough, given that more is never less; None up to a great many."""
    if is_enough(start):
        return start
    if not is_enough(_MOST):
        return None
    low, high = start, _MOST
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
