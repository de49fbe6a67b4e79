"""Formulas of studies of pre-training data, written a second time: nothing here comes from jdt or from experiments.

The isotonic curve is the max-min formula and not pool adjacent violators, and the bootstrap draws by another generator.
"""

import functools
import math
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from stored_figures import Near

STORED = 2e-7
"""What float32 leaves of an accuracy: a few units of its last place."""
CLAIMED, OWN, LEVEL, CHANCE = 1000, 4000, 0.95, 1e-6
"""Resamples of the study and here, coverage, and the chance that an end is blamed for the luck of its draws."""
DRAWN = 2e-6
"""What float32 may leave of a resampled accuracy."""
Statistic = Callable[..., np.ndarray]


class Source(NamedTuple):
    """A source as it is written: what it starts from, changes but for its size, and its size in equal sizes."""

    root: str
    changes: tuple[tuple[Any, ...], ...]
    factor: Fraction

    @property
    def is_noisy(self) -> bool:
        """Whether labels are wrong."""
        return any(change[0] == "noise" for change in self.changes)


def read_sources(texts: Sequence[str]) -> dict[str, Source]:
    """Sources by name.

    >>> read_sources(["a=all", "half=a|noise:0.40|size:0.5"])["half"]
    Source(root='all', changes=(('noise', Fraction(2, 5)),), factor=Fraction(1, 2))
    """
    orders = {name.strip(): order.split("|") for name, order in (text.split("=", 1) for text in texts)}

    @functools.cache
    def read(name: str) -> Source:
        base, *changes = (part.strip() for part in orders[name])
        before = read(base) if base in orders and base != name else Source(base, (), Fraction(1))
        own, factor = [], before.factor
        for change in changes:
            kind, *rest = (number(part) for part in change.split(":"))
            if kind in ("size", "times"):
                factor *= rest[0]
            else:
                own.append((kind, *rest))
        return Source(before.root, (*before.changes, *own), factor)

    return {name: read(name) for name in orders}


def number(text: str) -> Any:
    """A number as it is written, or the text."""
    try:
        return Fraction(text).limit_denominator(1_000_000)
    except ValueError:
        return text


def spread(accuracy: np.ndarray) -> np.ndarray:
    """Best minus worst of the last axis."""
    return accuracy.max(axis=-1) - accuracy.min(axis=-1)


def relative(accuracy: np.ndarray) -> np.ndarray:
    """The same over the best."""
    best = accuracy.max(axis=-1)
    return np.where(best > 0, spread(accuracy) / np.where(best > 0, best, 1), np.nan)


def pairwise(accuracy: np.ndarray) -> np.ndarray:
    """Mean |A(u) - A(v)| over pairs: with the i-th of n in order counted 2 i - n + 1 times."""
    n = accuracy.shape[-1]
    return np.sort(accuracy, axis=-1) @ (2.0 * np.arange(n) - n + 1) / (n * (n - 1) / 2)


def left(*accuracies: np.ndarray) -> np.ndarray:
    """Spread of the last over the largest of the others."""
    *few, full = (spread(one) for one in accuracies)
    most = np.max(few, axis=0)
    return np.where(most > 0, full / np.where(most > 0, most, 1), np.nan)


def fallen(*accuracies: np.ndarray) -> np.ndarray:
    """Largest spread of all but the last, minus that of the last."""
    *few, full = (spread(one) for one in accuracies)
    return np.max(few, axis=0) - full


def apart(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """First minus second, of one source each."""
    return first[..., 0] - second[..., 0]


def fewer_errors(accuracy: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """Share of the errors of models that saw nothing which are gone."""
    wrong = 1 - scratch[..., 0]
    return np.where(wrong > 0, (accuracy[..., 0] - scratch[..., 0]) / np.where(wrong > 0, wrong, 1), np.nan)


def ranked_alike(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis."""
    x, y = (stats.rankdata(one, axis=-1) for one in (first, second))
    x, y = (one - one.mean(axis=-1, keepdims=True) for one in (x, y))
    below = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    return np.where(below > 0, (x * y).sum(axis=-1) / np.where(below > 0, below, 1), np.nan)


@functools.cache
def _range_quantile(level: float, sources: int, freedom: int) -> float:
    """Of the studentised range."""
    return float(stats.studentized_range.ppf(level, sources, freedom))


def band(accuracy: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Spread of the means and the band of equal sources, of `[sources, seeds, draws]`; NaN where there is none."""
    blocks = accuracy.mean(axis=2) if accuracy.shape[1] > 1 else accuracy[:, 0]
    blocks = blocks[:, np.isfinite(blocks).all(axis=0)]
    sources, number_of = blocks.shape
    if number_of < 2:
        return (float(np.ptp(blocks.mean(axis=1))) if number_of else math.nan), math.nan
    # Sum of squares about both means, by the shortcut: all minus those of sources minus those of seeds.
    centred = blocks - blocks.mean()
    rest = (centred**2).sum() - number_of * (centred.mean(axis=1) ** 2).sum() - sources * (
        centred.mean(axis=0) ** 2
    ).sum()  # fmt: skip
    freedom = (sources - 1) * (number_of - 1)
    error = math.sqrt(max(rest, 0.0) / freedom / number_of)
    return float(np.ptp(blocks.mean(axis=1))), _range_quantile(level, sources, freedom) * error


def rising(curve: np.ndarray) -> np.ndarray:
    """The nearest curve that never falls along the last axis: at i the max over j <= i of the min over k >= i of means.

    >>> rising(np.array([0.25, 0.75, 0.5, 1.0])).tolist()
    [0.25, 0.625, 0.625, 1.0]
    """
    n = curve.shape[-1]
    means = {(j, k): curve[..., j : k + 1].mean(axis=-1) for j in range(n) for k in range(j, n)}
    return np.stack(
        [np.max([np.min([means[j, k] for k in range(i, n)], axis=0) for j in range(i + 1)], axis=0) for i in range(n)],
        axis=-1,
    )


def needed(sizes: Sequence[float], curve: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Smallest size at which the rising curve reaches what is wanted, ln(size) between sizes; 0 and inf outside them.

    >>> needed([100, 10_000], np.array([[0.25, 0.75]]), np.array([0.5])).round(6).tolist()
    [1000.0]
    """
    found = np.full(wanted.shape, np.inf)
    up, logs = rising(curve), np.log(np.asarray(sizes, np.float64))
    for i in reversed(range(1, len(sizes))):
        low, high = up[..., i - 1], up[..., i]
        share = np.clip((wanted - low) / np.where(high > low, high - low, 1), 0, 1)
        found = np.where(high >= wanted, np.exp(logs[i - 1] + share * (logs[i] - logs[i - 1])), found)
    return np.where(up[..., 0] >= wanted, 0.0, found)


class Resampled(NamedTuple):
    """Accuracies `[cells]` as they are and `[OWN, cells]` as they might have come out."""

    value: np.ndarray
    drawn: np.ndarray

    def some(self, cells: Sequence[int]) -> "Resampled":
        """Of some cells."""
        return Resampled(self.value[list(cells)], self.drawn[:, list(cells)])


@functools.cache
def _picks(what: str, of: int) -> np.ndarray:
    """float64 `[OWN, of]`: how often each one is in each resample."""
    rng = np.random.default_rng(zlib.crc32(f"{what} {of}".encode()))
    rows = rng.integers(of, size=(OWN, of))
    return np.stack([np.bincount(row, minlength=of) for row in rows]).astype(np.float64)


def resampled(right: np.ndarray) -> Resampled:
    """Bootstrap over seeds (of one seed: its draws) and one over test images, of `[cells, seeds, draws, examples]`.

    Deviations of the two are added; those by seeds are widened as t intervals of so few are.
    """
    groups = right.mean(axis=2, dtype=np.float64) if right.shape[1] > 1 else right[:, 0].astype(np.float64)
    number_of, examples = groups.shape[1:]
    value = groups.mean(axis=(1, 2))
    drawn = _picks("images", examples) @ groups.mean(axis=1).T / examples
    if number_of > 1:
        quantile = 0.5 + LEVEL / 2
        wider = math.sqrt(number_of / (number_of - 1)) * stats.t.ppf(quantile, number_of - 1) / stats.norm.ppf(quantile)
        drawn += wider * (_picks("groups", number_of) @ groups.mean(axis=2).T / number_of - value)
    return Resampled(value, drawn)


def ends(drawn: np.ndarray, share: float) -> tuple[float, float]:
    """Between which values the quantile of as many resamples as the study drew lies, by order statistics."""
    effective = 1 / (1 / CLAIMED + 1 / OWN)
    between = stats.beta.ppf([CHANCE, 1 - CHANCE], share * effective, (1 - share) * effective)
    return (
        float(np.quantile(drawn, between[0], method="lower")),
        float(np.quantile(drawn, between[1], method="higher")),
    )


def interval(
    statistic: Statistic, *parts: Resampled, least: float = -math.inf, most: float = math.inf
) -> tuple[float, Near | None, Near | None]:
    """A figure and where the ends of its mirrored interval are; None where it has none."""
    value, drawn = float(statistic(*(one.value for one in parts))), statistic(*(one.drawn for one in parts))
    there = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or 2 * len(there) <= len(drawn):
        return value, None, None
    found = []
    for share in (0.5 + LEVEL / 2, 0.5 - LEVEL / 2):
        low, high = sorted(min(max(2 * value - end, least), most) for end in ends(there, share))
        found.append(Near((low + high) / 2, (high - low) / 2 + DRAWN))
    return value, found[0], found[1]


def is_above(end: Near | None, bar: float = 0.0) -> bool | None:
    """Whether an end is above a bar; None where its draws decide, or the bar is met."""
    if end is None:
        return False
    return None if abs(end.value - bar) <= end.tolerance else end.value > bar


def is_below(end: Near | None, bar: float = 0.0) -> bool | None:
    """Whether an end is below a bar; None where its draws decide, or the bar is met."""
    if end is None:
        return False
    return None if abs(end.value - bar) <= end.tolerance else end.value < bar


def decided(claimed: Any, conditions: Iterable[bool | None]) -> Any:
    """Whether all hold; what is claimed, where that rests on what cannot be told.

    >>> decided(True, [True, None]), decided(True, [False, None]), decided(False, [True, True])
    (True, False, True)
    """
    told = list(conditions)
    if False in told:
        return False
    return claimed if None in told and isinstance(claimed, bool) else True


def size_of(claim: Any, smallest: float, largest: float) -> float:
    """A claimed size as a number: 0 and inf beyond the ends, NaN where it is none of them."""
    if isinstance(claim, str):
        return {beyond(largest, ">"): math.inf, beyond(smallest, "<="): 0.0}.get(claim, math.nan)
    return math.nan if claim is None else float(claim)


def beyond(end: float, sign: str) -> str:
    """As a size beyond the smallest or largest is written."""
    return f"{sign} {end:,.0f}" if end >= 99.95 else f"{sign} {end:.3g}"


def size_between(claim: Any, low: float, high: float, smallest: float, largest: float) -> Any:
    """What is claimed, if it lies between two sizes; else these, in words."""
    told, slack = size_of(claim, smallest, largest), 1e-6
    if low * (1 - slack) <= told <= high * (1 + slack):
        return claim
    words = [beyond(smallest, "<=") if not one else beyond(largest, ">") if one == math.inf else one
             for one in (low, high)]  # fmt: skip
    return words[0] if low == high else {"between": words}


def confusion(labels: np.ndarray, told: np.ndarray) -> np.ndarray:
    """Predictions `[models, images]` by class of the label, `[present classes, present classes]` and one for others.

    Models that diverged, which predict -1, are left out.
    """
    present, own = np.unique(labels, return_inverse=True)
    there = told[(told >= 0).all(axis=1)]
    column = np.where(np.isin(there, present), np.searchsorted(present, there), len(present))
    table = np.zeros((len(present), len(present) + 1))
    np.add.at(table, (np.broadcast_to(own, there.shape), column), 1)
    return table


def above_chance(table: np.ndarray) -> float:
    """How many standard errors over classes their mean accuracy is from what equally many predictions give by chance.

    >>> above_chance(np.array([[4.0, 0, 0], [4.0, 0, 0]]))  # Always the first of two equal classes.
    0.0
    """
    rows, columns = table.sum(axis=1), table.sum(axis=0)[:-1]
    right = np.diagonal(table) / rows
    error = right.std(ddof=1) / math.sqrt(len(rows))
    return float((right.mean() - rows @ columns / rows.sum() ** 2) / error) if error else 0.0


def told_in(words: str, pattern: str) -> list[int]:
    """Whole numbers that a pattern finds in words, commas between thousands."""
    found = re.search(pattern, words)
    return [int(one.replace(",", "")) for one in found.groups()] if found else []
