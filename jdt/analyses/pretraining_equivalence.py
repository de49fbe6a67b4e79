"""How much of one source equals another: sizes read off a monotone curve, never beyond what was measured.

Data equivalence of arXiv 2302.13602: accuracy of nested sizes of source X, made monotone, is interpolated piecewise
linearly in ln(size); the equivalent size of a reference is the smallest one that reaches its accuracy. A reference that
the largest size does not reach has no equivalent size: that is the answer "> n_max", and an end of an interval may be
so too. The same below the smallest size.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from jdt import checks
from jdt.analyses.pretraining_intervals import Resampled, draws_of
from jdt.types import Float

NOT_REACHED = float("inf")
"""Stands for "> n_max": the largest size is not enough."""
AT_ONCE_REACHED = 0.0
"""Stands for "<= n_min": the smallest size is enough."""


@dataclasses.dataclass(frozen=True)
class Size:
    """A size that was read off a curve, or on which side of the measured sizes it lies.

    Attributes:
      value: Examples; infinite beyond `largest`, 0 for at or below `smallest`, NaN where it is unknown.
      smallest: Smallest size that was measured.
      largest: Largest one.

    >>> [Size(value, 1000, 15000).text for value in (2500.0, NOT_REACHED, AT_ONCE_REACHED)]
    ['2,500', '> 15,000', '<= 1,000']
    >>> Size(NOT_REACHED, 1000, 15000).over(500).text
    '> 30'
    """

    value: float
    smallest: float
    largest: float

    @property
    def is_measured(self) -> bool:
        """Whether it lies within the measured sizes."""
        return bool(np.isfinite(self.value)) and self.value > 0

    @property
    def text(self) -> str:
        """In words: `"2,500"`, `"> 15,000"`, `"<= 1,000"`, `"unknown"`."""
        if np.isnan(self.value):
            return "unknown"
        if self.value == NOT_REACHED:
            return f"> {_number(self.largest)}"
        if self.value == AT_ONCE_REACHED:
            return f"<= {_number(self.smallest)}"
        return _number(self.value)

    def over(self, reference: float) -> "Size":
        """As a multiple of the size of the reference; which side it lies on is kept."""
        return Size(self.value / reference, self.smallest / reference, self.largest / reference)


@dataclasses.dataclass(frozen=True, eq=False)
class Equivalence:
    """How many examples of a source equal a reference.

    Attributes:
      size: Equivalent size.
      size_low: Lower end of its interval; unknown where there is none.
      size_high: Upper end.
      reference_size: Examples of the reference.
      not_reached: Share of the resamples in which the largest size is not enough; NaN without resamples.
      reached_at_once: Share in which the smallest one is.
      sizes: float64 `[sizes]`, ascending.
      monotone: float64 `[sizes]`: the curve that was read.
    """

    size: Size
    size_low: Size
    size_high: Size
    reference_size: float
    not_reached: float
    reached_at_once: float
    sizes: Float[np.ndarray, " sizes"]
    monotone: Float[np.ndarray, " sizes"]

    @property
    def ratio(self) -> Size:
        """Examples of the source for one of the reference."""
        return self.size.over(self.reference_size)

    @property
    def ratio_low(self) -> Size:
        """Lower end of its interval."""
        return self.size_low.over(self.reference_size)

    @property
    def ratio_high(self) -> Size:
        """Upper end."""
        return self.size_high.over(self.reference_size)


def monotone(accuracy: Float[np.ndarray, "*rest sizes"]) -> Float[np.ndarray, "*rest sizes"]:
    """The nearest curve, in least squares, that never falls with size (pool adjacent violators); NaN with a gap.

    >>> monotone(np.array([0.25, 0.75, 0.5, 1.0])).tolist()
    [0.25, 0.625, 0.625, 1.0]
    """
    found = np.array(accuracy, np.float64)
    falls = (np.diff(found, axis=-1) < 0).any(axis=-1)
    for index in np.argwhere(falls):
        row = tuple(index.tolist())
        if np.isfinite(found[row]).all():
            found[row] = isotonic_regression(found[row]).x
    return np.where(np.isfinite(found).all(axis=-1, keepdims=True), found, np.nan)


def equivalent_size(
    sizes: Sequence[float] | np.ndarray,
    accuracy: Float[np.ndarray, "*rest sizes"],
    reference: Float[np.ndarray, "*rest"] | float,
) -> Float[np.ndarray, "*rest"]:
    """Smallest size at which a source reaches an accuracy, by monotone interpolation, linear in ln(size).

    Args:
      sizes: Examples, ascending, above 0.
      accuracy: float `[*rest, sizes]`, made monotone here.
      reference: float `[*rest]`: accuracies to be reached.

    Returns:
      float64 `[*rest]`; `NOT_REACHED` (infinite) where the largest size stays below, `AT_ONCE_REACHED` (0) where the
      smallest is already there, NaN where an accuracy is missing.

    Raises:
      UserError: If sizes are fewer than 2, do not ascend from above 0, or are not as many as accuracies.

    >>> equivalent_size([100, 10_000], np.array([0.25, 0.75]), 0.5).round(6).item()
    1000.0
    """
    size = np.asarray(sizes, np.float64)
    if size.ndim != 1 or len(size) < 2 or not (size[0] > 0 and (np.diff(size) > 0).all() and np.isfinite(size[-1])):
        listed = ", ".join(map(str, np.asarray(sizes).ravel().tolist()))
        raise checks.UserError(f"sizes are {listed or 'none'}, but a curve needs at least two, ascending from above 0.")
    if accuracy.shape[-1] != len(size):
        raise checks.UserError(
            f"there are {len(size)} sizes and {accuracy.shape[-1]} accuracies, but a curve needs one for each."
        )
    curve = monotone(accuracy)
    wanted = np.asarray(reference, np.float64)
    reached = curve >= wanted[..., None]
    after = np.asarray(np.clip(reached.argmax(axis=-1), 1, None))  # First size that is enough, and the one before it.
    high, low = (np.take_along_axis(curve, i[..., None], axis=-1)[..., 0] for i in (after, after - 1))
    step = np.divide(wanted - low, high - low, out=np.zeros(np.shape(wanted)), where=high > low)
    step = np.clip(step, 0.0, 1.0)  # Outside of the curve it is not used, and may be beyond all numbers.
    log = np.log(size)
    inside = np.exp(log[after - 1] + step * (log[after] - log[after - 1]))
    found = np.where(reached[..., 0], AT_ONCE_REACHED, np.where(reached[..., -1], inside, NOT_REACHED))
    return np.asarray(np.where(np.isfinite(wanted) & np.isfinite(curve[..., 0]), found, np.nan))


def data_equivalence(
    sizes: Sequence[float] | np.ndarray, source: Resampled, reference: Resampled, reference_size: float
) -> Equivalence:
    """How many examples of a source equal a reference, with an interval.

    Args:
      sizes: Examples of the source, ascending.
      source: Accuracies `[sizes]`, of nested subsets.
      reference: Accuracy `[]`, at the same target, shots and transfer rule, resampled with the same seed.
      reference_size: Examples that the reference was trained on.

    Returns:
      The size, and the quantiles of the resamples on the scale that runs from "<= n_min" over the sizes to "> n_max":
      each end is one of the resamples, so that nothing is averaged across an edge.

    Raises:
      UserError: As `equivalent_size`; if `reference_size` is not above 0, or resamples do not fit together.

    >>> from jdt.analyses.pretraining_intervals import exactly
    >>> found = data_equivalence([1e6, 15e6], exactly(np.array([0.8, 0.84])), exactly(0.85), 1.28e6)
    >>> found.size.text, found.ratio.text, found.size_low.text
    ('> 15,000,000', '> 11.7', 'unknown')
    """
    if not (reference_size > 0 and np.isfinite(reference_size)):
        raise checks.UserError(f"the reference has {reference_size} examples, but a ratio needs a number above 0.")
    ends = float(sizes[0]), float(sizes[-1])
    value = equivalent_size(sizes, source.value, reference.value)
    drawn = draws_of(lambda curve, wanted: equivalent_size(sizes, curve, wanted), source, reference)
    drawn = np.sort(drawn[~np.isnan(drawn)])
    low = high = past = before = float("nan")
    if len(drawn):
        tail = 0.5 - source.level / 2
        low = drawn[int(np.floor(tail * (len(drawn) - 1)))]
        high = drawn[int(np.ceil((1 - tail) * (len(drawn) - 1)))]
        past, before = float((drawn == NOT_REACHED).mean()), float((drawn == AT_ONCE_REACHED).mean())
    return Equivalence(
        size=Size(float(value), *ends),
        size_low=Size(float(low), *ends),
        size_high=Size(float(high), *ends),
        reference_size=float(reference_size),
        not_reached=past,
        reached_at_once=before,
        sizes=np.asarray(sizes, np.float64),
        monotone=monotone(source.value),
    )


def label_worth(
    clean: Resampled, clean_size: float, noisy: Resampled, noisy_sizes: Sequence[float] | np.ndarray
) -> Equivalence:
    """How many noisily labelled examples equal a clean one: `ratio` of the equivalence, at one number of shots.

    Args:
      clean: Accuracy `[]` after training on clean labels.
      clean_size: Examples N that it was trained on.
      noisy: Accuracies `[sizes]` after training on noisy labels of the same and more images.
      noisy_sizes: m N, ascending.

    Raises:
      UserError: As `data_equivalence`.
    """
    return data_equivalence(noisy_sizes, noisy, clean, clean_size)


def _number(value: float) -> str:
    """Whole numbers from a hundred on, three digits below."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"
