"""Shares with what they were counted from, so that an empty denominator is seen and examples can be drawn anew."""

import dataclasses

import numpy as np

from jdt import checks
from jdt.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Rate:
    """A share, with what it was counted from.

    Attributes:
      hits: int64, mostly `[models]`.
      of: int64 of the same shape: 0 where there was nothing to count.

    >>> Rate(np.array([1, 0]), np.array([4, 0])).value.tolist()
    [0.25, nan]
    """

    hits: Int[np.ndarray, "*shape"]
    of: Int[np.ndarray, "*shape"]

    @property
    def value(self) -> Float[np.ndarray, "*shape"]:
        """float64: `hits / of`, NaN where `of` is 0: an empty denominator is missing, never 0."""
        return np.divide(self.hits, self.of, out=np.full(self.of.shape, np.nan), where=self.of > 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Gap:
    """A difference of two shares.

    Attributes:
      first: Of group 1, or of clean images.
      second: Of group 0, or of triggered images.
    """

    first: Rate
    second: Rate

    @property
    def value(self) -> Float[np.ndarray, "*shape"]:
        """float64: the first share minus the second, NaN where one is missing."""
        return self.first.value - self.second.value


@dataclasses.dataclass(frozen=True, eq=False)
class Counted:
    """A share before its sum over examples, so that examples can be resampled.

    Attributes:
      hits: What each example adds to the numerator, 0 where `of` is.
      of: Whether it is in the denominator; nowhere for a model that diverged.
    """

    hits: Bool[np.ndarray, "models examples"] | Int[np.ndarray, "models examples"]
    of: Bool[np.ndarray, "models examples"]

    @property
    def rate(self) -> Rate:
        """The share over all examples, `[models]`."""
        return Rate(self.hits.sum(axis=1, dtype=np.int64), self.of.sum(axis=1, dtype=np.int64))


def has_values(*predictions: Int[np.ndarray, "_ _"]) -> Bool[np.ndarray, " models"]:
    """Which models have predictions: a row with -1 is that of a model that diverged.

    Raises:
      UserError: If the predictions differ in shape.
    """
    shapes = {found.shape for found in predictions}
    if len(shapes) > 1:
        raise checks.UserError(
            f"predictions have shapes {', '.join(map(str, sorted(shapes)))}, but must be of the same models and "
            "test images: pass equal [models, examples]."
        )
    return np.logical_and.reduce([(found >= 0).all(axis=1) for found in predictions])
