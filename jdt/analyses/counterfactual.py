"""Counterfactuals: what does target accuracy become when source units are left out and models trained anew?

Method: arXiv 2207.05739, section 3.7 (remove the bottom or the top units by influence, along a grid), with random and
hand-picked removals beside them. One thing differs on purpose: the test images that rank the units and those that
report accuracies are disjoint, since a ranking looks good on the images that made it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from scipy import stats

from jdt import checks
from jdt.keys import key_for
from jdt.types import Bool, Float, Int

RANDOM = "random"
FIRST_RETRAINED_ID = 1 << 24
"""Randomness of retrained models is not that of the models whose outputs ranked the units."""


@dataclasses.dataclass(frozen=True, eq=False)
class Halves:
    """Two disjoint halves of the test images of a target.

    Attributes:
      score: bool `[examples]`: images that rank the units.
      report: bool `[examples]`: images that accuracies are reported on.
    """

    score: Bool[np.ndarray, " examples"]
    report: Bool[np.ndarray, " examples"]


@dataclasses.dataclass(frozen=True, eq=False)
class Removals:
    """Which units each retrained model does without.

    Models come seed by seed (all that one seed needs first), so that more seeds are more models at the end.

    Attributes:
      arms: Names of the arms, without the models that keep every unit.
      removed: int `[points]`: units removed, ascending, from 0 on.
      arm: int `[models]`: index into `arms`, -1 for models that keep every unit.
      count: int `[models]`: units removed.
      seed_index: int `[models]`: which repetition.
      masks: bool `[models, units]`.
      randomness_ids: int `[models]`: the same for all models of a repetition, which are compared in pairs.
    """

    arms: tuple[str, ...]
    removed: Int[np.ndarray, " points"]
    arm: Int[np.ndarray, " models"]
    count: Int[np.ndarray, " models"]
    seed_index: Int[np.ndarray, " models"]
    masks: Bool[np.ndarray, "models units"]
    randomness_ids: Int[np.ndarray, " models"]


def halves(labels: Int[np.ndarray, " examples"], seed: int) -> Halves:
    """Divide test images at random, each class by itself; of an odd number one more reports.

    Args:
      labels: int `[examples]`; -1, an unknown class, is divided like a class.
      seed: Root seed; each class's division depends on it and the label alone.

    >>> parts = halves(np.array([0, 0, 1, 1, 1]), seed=0)
    >>> int(parts.score.sum()), bool((parts.score ^ parts.report).all())
    (2, True)
    """
    score = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        order = np.asarray(jax.random.permutation(key_for(seed, "score half", int(label) + 1), len(members)))
        score[members[order[: len(members) // 2]]] = True
    return Halves(score, ~score)


def counts_of(amounts: Sequence[float], num_units: int) -> Int[np.ndarray, " points"]:
    """Numbers of units from shares (below 1) or numbers (1 and above), ascending, with 0 before them.

    Raises:
      UserError: If an amount is no number of units that leaves one, or there is none.

    >>> counts_of((0.2, 0.4, 3), 22).tolist()
    [0, 3, 4, 9]
    """
    if not amounts:
        raise checks.UserError("removed names no amount: pass shares of the units like 0.2 0.4, or numbers like 1 5.")
    counts = {0}
    for amount in amounts:
        if not np.isfinite(amount):
            raise checks.UserError(f"removed is {amount}, but it must be a share or a number of units.")
        count = round(amount * num_units) if 0 < amount < 1 else int(amount)
        if amount <= 0 or (amount >= 1 and count != amount) or not 0 < count < num_units:
            raise checks.UserError(
                f"removed is {amount:g}, but of {num_units} units a share between 0 and 1 that is a unit or more, or a "
                f"number from 1 to {num_units - 1}, can be removed."
            )
        counts.add(count)
    return np.array(sorted(counts))


def removal_orders(influence: Float[np.ndarray, " units"]) -> dict[str, Int[np.ndarray, " units"]]:
    """In which order units go: `bottom`, the most harmful first, and `top`, the most helpful first.

    Units whose influence is unknown (NaN) go last in both.

    >>> {arm: order.tolist() for arm, order in removal_orders(np.array([0.1, -0.3, 0.2])).items()}
    {'bottom': [1, 0, 2], 'top': [2, 0, 1]}
    """
    return {
        "bottom": np.argsort(influence, kind="stable"),  # NaN last.
        "top": np.argsort(-influence, kind="stable"),
    }


def removals(
    orders: Mapping[str, Int[np.ndarray, " some"]],
    removed: Int[np.ndarray, " points"],
    num_units: int,
    *,
    num_seeds: int,
    seed: int,
    random: bool = True,
) -> Removals:
    """Make the subsets of all points of all curves, so that they are one ensemble.

    Args:
      orders: Arm -> indices of units in the order in which they are removed; an arm has points up to its length.
      removed: int `[points]`: how many, ascending from 0, each below `num_units`.
      num_units: Units that there are.
      num_seeds: Repetitions of everything, each with randomness of its own.
      seed: Root seed, of the random arm.
      random: Whether units are removed at random as well, in each repetition others (more of them at each point).

    Raises:
      UserError: If `num_seeds` is below 1.
    """
    checks.require_at_least("seeds", num_seeds, 1)
    arms = (*orders, RANDOM) if random else tuple(orders)
    rows: list[tuple[int, int, int]] = []
    masks: list[np.ndarray] = []
    for repetition in range(num_seeds):
        own: dict[str, np.ndarray] = {arm: np.asarray(order) for arm, order in orders.items()}
        if random:
            own[RANDOM] = np.asarray(jax.random.permutation(key_for(seed, "random removal", repetition), num_units))
        rows.append((-1, 0, repetition))
        masks.append(np.ones(num_units, bool))
        for index, arm in enumerate(arms):
            for count in removed[removed > 0].tolist():
                if count <= len(own[arm]):
                    rows.append((index, count, repetition))
                    masks.append(np.ones(num_units, bool))
                    masks[-1][own[arm][:count]] = False
    arm_index, counts, repetitions = np.array(rows).T
    return Removals(arms, removed, arm_index, counts, repetitions, np.stack(masks), FIRST_RETRAINED_ID + repetitions)


def accuracy_curves(
    plan: Removals, correct: Bool[np.ndarray, "models examples"], images: Bool[np.ndarray, " examples"],
    usable: Bool[np.ndarray, " models"] | None = None,
) -> dict[str, Float[np.ndarray, "points seeds"]]:  # fmt: skip
    """Accuracy of every retrained model, by arm.

    Args:
      plan: What the models do without.
      correct: bool `[models, examples]`: whether each model is right.
      images: bool `[examples]`: on which images.
      usable: bool `[models]`: models whose training did not diverge; all of them when None.

    Returns:
      Arm -> float64 `[points, seeds]` in [0, 1]; the first point of every arm is that of the models that keep
      everything. NaN where an arm has no such point, or its model cannot be used.

    Raises:
      UserError: If no image is asked for.
    """
    if not images.any():
        raise checks.UserError("there is no test image to measure accuracy on.")
    accuracy = correct[:, images].mean(axis=1, dtype=np.float64)
    if usable is not None:
        accuracy = np.where(usable, accuracy, np.nan)
    num_seeds = int(plan.seed_index.max()) + 1
    point = np.searchsorted(plan.removed, plan.count)
    curves = {}
    for index, arm in enumerate(plan.arms):
        curve = np.full((len(plan.removed), num_seeds), np.nan)
        mine = (plan.arm == index) | (plan.arm == -1)
        curve[point[mine], plan.seed_index[mine]] = accuracy[mine]
        curves[arm] = curve
    return curves


def best_points(curve: Float[np.ndarray, "points seeds"]) -> Int[np.ndarray, " seeds"] | None:
    """For each seed, the point where the models of the other seeds are best.

    A point that is chosen and judged on the same models looks better than it is, on other images as well: what a model
    has from its training is seen on all of them.

    Args:
      curve: Accuracy on the images that rank; NaN where there is no model.

    Returns:
      Index of a point for each seed; None with fewer than 2 seeds, or where some seed has no others to ask.

    >>> best_points(np.array([[0.5, 0.9], [0.6, 0.1]])).tolist()
    [0, 1]
    """
    if curve.shape[1] < 2:
        return None
    means = np.array([[mean_interval(np.delete(point, seed))[0] for point in curve] for seed in range(curve.shape[1])])
    if not np.isfinite(means).any(axis=1).all():
        return None
    return np.nanargmax(means, axis=1)


def mean_interval(values: Float[np.ndarray, " seeds"], level: float = 0.95) -> tuple[float, float, float]:
    """Mean of the finite values and its t interval over them; NaN where fewer than one (two) are there.

    Of differences within repetitions this is the paired t interval.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan"), float("nan")
    mean = float(values.mean())
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    reach = float(stats.t.ppf(0.5 + level / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - reach, mean + reach
