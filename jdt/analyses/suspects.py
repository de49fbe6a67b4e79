"""Suspects: source images that leak into target images, or mislead models about them.

Units are source examples here. Ten thousands of units times thousands of target images need not fit the memory: each
function takes the columns of some target images, and `join` puts what it found together.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from jdt import checks
from jdt.analyses.effects import Effects, known, p_of_extremes, pick
from jdt.estimators import Influences
from jdt.evaluate import q_values
from jdt.types import Bool, Float, Int

Verdict = Literal["both", "influence only", "similarity only"]
VERDICTS: tuple[Verdict, ...] = ("both", "influence only", "similarity only")
"""What influence and perceptual similarity say together, the most telling first."""


@dataclasses.dataclass(frozen=True, eq=False)
class Paired:
    """One source example beside each of some target examples.

    Attributes:
      effects: Influence of the source example (row) on the target example (column).
      rank: int `[pairs]`: its place among all source examples, 1 for the most helpful (or harmful).
      lead: float `[pairs]`: how far its influence is beyond that of the next in that order; negative influences count
        as positive where harm is ranked. Behind the first, how far it is behind the one before: never positive.
      p: float `[pairs]`: of its influence, having looked at all source examples (Bonferroni); None where the
        estimator gives no standard errors.
      p_alone: float `[pairs]`: of its influence by itself, for source examples that were chosen for another reason.
    """

    effects: Effects
    rank: Int[np.ndarray, " pairs"]
    lead: Float[np.ndarray, " pairs"]
    p: Float[np.ndarray, " pairs"] | None
    p_alone: Float[np.ndarray, " pairs"] | None


def strongest(influences: Influences, *, harmful: bool = False) -> Paired:
    """The most helpful (or most harmful) source example of each target example.

    Args:
      influences: `[units, examples]`, with at least two units; target examples may be a part of them all.
      harmful: The lowest influences first, instead of the highest.
    """
    signed = _signed(influences, harmful)
    return paired_with(influences, signed.argmax(axis=0), harmful=harmful)


def paired_with(influences: Influences, units: Int[np.ndarray, " targets"], *, harmful: bool = False) -> Paired:
    """A given source example of each target example, e.g. the one that looks most like it.

    Raises:
      UserError: If there is not one unit for each target example, or there are fewer than two units.
    """
    signed, units = _signed(influences, harmful), np.asarray(units, np.int64)
    if units.shape != signed.shape[1:]:
        raise checks.UserError(
            f"units have shape {units.shape}, but there are {signed.shape[1]} target examples: pass one for each."
        )
    columns = np.arange(signed.shape[1])
    own = signed[units, columns]
    ahead = signed > own
    # Of those that are not ahead, the next; of those ahead, the last.
    others = signed.copy()
    others[units, columns] = -np.inf
    next_behind = np.where(ahead, -np.inf, others).max(axis=0)
    last_ahead = np.where(ahead, signed, np.inf).min(axis=0)
    rank = 1 + ahead.sum(axis=0)
    return Paired(
        effects=pick(influences, units, columns),
        rank=rank,
        lead=np.where(rank == 1, own - next_behind, own - last_ahead),
        p=p_of_extremes(influences, units, columns),
        p_alone=p_of_extremes(influences, units, columns, looked_at=1),
    )


def join(parts: Sequence[Paired]) -> Paired:
    """Put together what was found for the columns of one part of the target examples after the other.

    Raises:
      UserError: If there is no part.
    """
    if not parts:
        raise checks.UserError("there are no target examples to join.")
    starts = np.cumsum([0, *(len(part.rank) for part in parts[:-1])])
    moved = (
        dataclasses.replace(part.effects, targets=part.effects.targets + start)
        for part, start in zip(parts, starts, strict=True)
    )
    p, alone = ([v for part in parts if (v := getattr(part, name)) is not None] for name in ("p", "p_alone"))
    return Paired(
        effects=_stacked(*moved),
        rank=np.concatenate([part.rank for part in parts]),
        lead=np.concatenate([part.lead for part in parts]),
        p=np.concatenate(p) if len(p) == len(parts) else None,
        p_alone=np.concatenate(alone) if len(alone) == len(parts) else None,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Suspicions:
    """Pairs of a source and a target example that influence, similarity or both suspect, the most suspect first.

    Attributes:
      effects: Influence of the source example on the target example; `q` of the influence as `leakage` describes it.
      rank: int `[pairs]`: see `Paired`.
      lead: float `[pairs]`: see `Paired`.
      similarity: float `[pairs]`: perceptual similarity, from 0 to 1.
      verdicts: What the two say together: `both`, `influence only` or `similarity only`.
    """

    effects: Effects
    rank: Int[np.ndarray, " pairs"]
    lead: Float[np.ndarray, " pairs"]
    similarity: Float[np.ndarray, " pairs"]
    verdicts: tuple[Verdict, ...]

    def __len__(self) -> int:
        return len(self.rank)

    def count(self, verdict: Verdict) -> int:
        """How many pairs have a verdict."""
        return self.verdicts.count(verdict)


def leakage(
    influential: Paired,
    similar: Paired,
    similarity: tuple[Float[np.ndarray, " targets"], Float[np.ndarray, " targets"]],
    *,
    level: float = 0.05,
    least_similarity: float = 0.9,
) -> Suspicions:
    """Source images that are copies of target test images: do influence and similarity agree?

    Influence suspects the most helpful source image of a target image if that influence is beyond noise: its p-value,
    times the number of source images, is below `level` after Benjamini and Hochberg over the target images. Of an
    estimator without standard errors: if it helps at all (a LASSO selects), and more than twice as much as the next.
    Similarity suspects the most similar source image if it is `least_similarity` or more. Its influence was no
    reason to choose it and is asked alone: beyond noise among the pairs that look alike. Both are shown where
    they disagree: an influence without similarity is a helpful image, or noise; similarity without influence is a copy
    that models do not need, or one that the models at hand are too few to notice.

    Args:
      influential: The most helpful source example of each target example (`strongest`).
      similar: The most similar source example of each (`paired_with`).
      similarity: Of the two to the target example.
      level: False discovery rate.
      least_similarity: From which on two images count as the same.

    Raises:
      UserError: If sizes do not fit, or a bar does not lie between 0 and 1.
    """
    return _judged(influential, similar, similarity, level, least_similarity, harmful=False)


def misleading(
    influential: Paired,
    similar: Paired,
    similarity: tuple[Float[np.ndarray, " targets"], Float[np.ndarray, " targets"]],
    *,
    level: float = 0.05,
    least_similarity: float = 0.9,
) -> Suspicions:
    """Source images that mislead: the most harmful one of each target image, like `leakage` with harm in place of help.

    Both parts are of `harmful=True`. A similar image that does not harm is no suspect: a copy under a right label is
    what `leakage` looks for.

    Raises:
      UserError: If sizes do not fit, or a bar does not lie between 0 and 1.
    """
    return _judged(influential, similar, similarity, level, least_similarity, harmful=True)


def _judged(
    influential: Paired,
    similar: Paired,
    similarity: tuple[Float[np.ndarray, " targets"], Float[np.ndarray, " targets"]],
    level: float,
    least_similarity: float,
    *,
    harmful: bool,
) -> Suspicions:
    checks.require_fraction("level", level)
    checks.require_fraction("least_similarity", least_similarity)
    if len({len(influential.rank), len(similar.rank), *map(len, similarity)}) != 1:
        raise checks.UserError(
            f"there are {len(influential.rank)} influential and {len(similar.rank)} similar source examples with "
            f"similarities of {len(similarity[0])} and {len(similarity[1])}: pass one of each for each target example."
        )
    q = None if influential.p is None else q_values(influential.p)
    # The most similar source example is a candidate of its own where it is another one than the most influential.
    other = np.flatnonzero(influential.effects.units != similar.effects.units)
    same = influential.effects.units == similar.effects.units
    # Two families of tests share the level: the most influential images, and those that look alike.
    q = None if q is None else np.minimum(2 * q, 1.0)
    first = _by_influence(influential, q, level, harmful)
    second, q_alike = np.zeros(len(same), bool), None
    if q is not None and similar.p_alone is not None:
        alone = np.where(similarity[1] >= least_similarity, similar.p_alone, np.nan)
        q_alike = np.minimum(2 * q_values(alone), 1.0)
        second = (q_alike < level) & ((similar.effects.influence < 0) == harmful)
        q = np.where(same, np.fmin(q, q_alike), q)
    effects = _stacked(
        dataclasses.replace(influential.effects, q=q),
        dataclasses.replace(similar.effects, q=q_alike).take(other),
    )
    alike = np.concatenate([similarity[0], similarity[1][other]])
    by_influence = np.concatenate([first | (second & same), second[other]])
    by_similarity = (alike >= least_similarity) & ((effects.influence < 0) if harmful else True)
    verdict = np.where(by_influence & by_similarity, 0, np.where(by_influence, 1, 2))
    strength = np.where(by_influence, np.abs(effects.influence), alike)
    order = np.lexsort((-strength, verdict))
    order = order[(by_influence | by_similarity)[order]]
    rank, lead = (
        np.concatenate([getattr(influential, name), getattr(similar, name)[other]])[order] for name in ("rank", "lead")
    )
    return Suspicions(effects.take(order), rank, lead, alike[order], tuple(VERDICTS[i] for i in verdict[order]))


def _stacked(*parts: Effects) -> Effects:
    """Effects one after the other; what one of them lacks is lacking."""
    columns = {field.name: [getattr(part, field.name) for part in parts] for field in dataclasses.fields(Effects)}
    stacked: dict[str, Any] = {
        name: None if any(part is None for part in column) else np.concatenate(column)
        for name, column in columns.items()
    }
    return Effects(**stacked)


def _by_influence(
    pairs: Paired, q: Float[np.ndarray, " targets"] | None, level: float, harmful: bool
) -> Bool[np.ndarray, " targets"]:
    value = -pairs.effects.influence if harmful else pairs.effects.influence
    if q is not None:
        return (value > 0) & (q < level)
    return (value > 0) & (pairs.lead > value / 2)


def _signed(influences: Influences, harmful: bool) -> Float[np.ndarray, "units targets"]:
    values = known(influences)
    checks.require_at_least("number of source examples", len(values), 2)
    return -values if harmful else values
