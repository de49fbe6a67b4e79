"""How well a planted truth is found: ranks of what was planted, and shares of it with exact intervals.

Ties count against detection: an estimator that gives every unit the same influence finds nothing.
"""

import dataclasses

import numpy as np
from scipy import special

from jdt import checks
from jdt.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Share:
    """How many of some cases, and the share with its Clopper-Pearson interval.

    Attributes:
      count: Cases that are.
      of: Cases in all, at least 1.
      low, high: Interval of the share; its coverage is at least `level`, whatever the true share is.
    """

    count: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.of


@dataclasses.dataclass(frozen=True, eq=False)
class PairDetection:
    """How planted source units rank for the target image that each is a copy of.

    Attributes:
      ranks: int `[pairs]`: 1 if no other unit has a larger influence on the pair's target (a smaller one, where harm is
        sought), and so on.
      num_units: Units that were ranked.
      first: Pairs of rank 1.
      extreme: Pairs within the extreme share of all units.
      extreme_share: That share, e.g. 0.01.
    """

    ranks: Int[np.ndarray, " pairs"]
    num_units: int
    first: Share
    extreme: Share
    extreme_share: float


@dataclasses.dataclass(frozen=True)
class UnitDetection:
    """How a planted unit ranks among all units.

    Attributes:
      rank: 1 for the most harmful unit.
      num_units: Units that were ranked.
      is_extreme: Whether it is within the extreme share of all units.
      extreme_share: That share, e.g. 0.05.
    """

    rank: int
    num_units: int
    is_extreme: bool
    extreme_share: float


def share_of(is_case: Bool[np.ndarray, " cases"], *, level: float = 0.95) -> Share:
    """Share of cases with its exact (Clopper and Pearson 1934) interval.

    >>> found = share_of(np.array([True] * 16 + [False] * 4))
    >>> found.value, round(found.low, 3), round(found.high, 3)
    (0.8, 0.563, 0.943)
    """
    count, of = int(np.sum(is_case)), len(is_case)
    if not of:
        raise checks.UserError("there is no case to take a share of: plant at least one.")
    tail = (1.0 - level) / 2
    low = float(special.betaincinv(count, of - count + 1, tail)) if count else 0.0
    high = float(special.betaincinv(count + 1, of - count, 1.0 - tail)) if count < of else 1.0
    return Share(count, of, low, high)


def detect_pairs(
    influence: Float[np.ndarray, "units examples"],
    units: Int[np.ndarray, " pairs"],
    examples: Int[np.ndarray, " pairs"],
    *,
    seek_harm: bool,
    extreme_share: float = 0.01,
) -> PairDetection:
    """Rank planted units for the target examples that they are copies of.

    (arXiv 2207.05739; A6 and A7 in section 6 of its specification.)

    Args:
      influence: float `[units, examples]`.
      units: int `[pairs]`: the unit of each planted source image.
      examples: int `[pairs]`: the target example that it is a copy of.
      seek_harm: Whether ranks count from the most negative influence (misleading copies) or from the most positive
        one (leaks).
      extreme_share: Of the units; at least one unit counts as extreme.

    Raises:
      UserError: If there is no pair, or the share does not lie strictly between 0 and 1.

    >>> influence = np.array([[3.0, 1.0], [2.0, 5.0], [1.0, 0.0]])
    >>> detect_pairs(influence, np.array([0, 0]), np.array([0, 1]), seek_harm=False).ranks.tolist()
    [1, 2]
    """
    checks.require_fraction("extreme-share", extreme_share)
    towards = -influence[:, examples] if seek_harm else influence[:, examples]  # [units, pairs]
    own = towards[units, np.arange(len(units))]
    # The unit itself is one of those that are at least as strong; what is not a number beats nothing and is beaten.
    ranks = np.where(np.isnan(own), len(influence), (towards >= own).sum(axis=0))
    limit = extreme_count(len(influence), extreme_share)
    return PairDetection(ranks, len(influence), share_of(ranks == 1), share_of(ranks <= limit), extreme_share)


def detect_harmful_unit(
    influence: Float[np.ndarray, " units"], unit: int, *, extreme_share: float = 0.05
) -> UnitDetection:
    """Rank a planted harmful unit by its influence on the whole task (A5 of section 6 of the specification).

    Args:
      influence: float `[units]`.
      unit: Which one was planted.
      extreme_share: Of the units; at least one unit counts as extreme.

    Raises:
      UserError: If the share does not lie strictly between 0 and 1.

    >>> detect_harmful_unit(np.array([0.3, -0.2, 0.1]), 1)
    UnitDetection(rank=1, num_units=3, is_extreme=True, extreme_share=0.05)
    """
    checks.require_fraction("extreme-share", extreme_share)
    own = influence[unit]
    rank = len(influence) if np.isnan(own) else int((influence <= own).sum())
    return UnitDetection(rank, len(influence), rank <= extreme_count(len(influence), extreme_share), extreme_share)


def extreme_count(num_units: int, share: float) -> int:
    """Units in the extreme share: rounded down, at least one.

    >>> extreme_count(22, 0.05), extreme_count(1500, 0.01)
    (1, 15)
    """
    return max(1, int(num_units * share))
