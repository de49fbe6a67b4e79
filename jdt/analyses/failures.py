"""Failures: target images that most models get wrong, the source unit to blame, and what becomes of them without it."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jdt import checks
from jdt.analyses.counterfactual import mean_interval
from jdt.analyses.effects import Effects, known, p_of_extremes, pick
from jdt.estimators import Influences
from jdt.evaluate import q_values
from jdt.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Failures:
    """Target images that most models get wrong, the one with the most harmful unit first.

    Attributes:
      blamed: The most harmful unit of each image and its influence, with the image's column. `q` pays for having looked
        at every unit (its p-value times their number) and at every failure (Benjamini-Hochberg).
      labels: int `[failures]`: true class.
      taken_for: int `[failures]`: the wrong class that most models name.
      wrong: float `[failures]`: share of the models that are wrong.
      taken: float `[failures]`: share of the models that name `taken_for`.
      expected: float `[failures]`: what the linear datamodel predicts of a model of the whole source.
      without: float `[failures]`: of the whole source without the unit to blame.
    """

    blamed: Effects
    labels: Int[np.ndarray, " failures"]
    taken_for: Int[np.ndarray, " failures"]
    wrong: Float[np.ndarray, " failures"]
    taken: Float[np.ndarray, " failures"]
    expected: Float[np.ndarray, " failures"]
    without: Float[np.ndarray, " failures"]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: Int[np.ndarray, " some"]) -> "Failures":
        """Those at some places, in their order."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "blamed"]
        return Failures(self.blamed.take(places), **{name: getattr(self, name)[places] for name in names})


class Mistakes(NamedTuple):
    """What models make of each target image.

    Attributes:
      wrong: float `[examples]`: share of the models that are wrong; NaN where the true class is not known.
      taken_for: int `[examples]`: the wrong class that most models name; the first one where none is wrong.
      taken: float `[examples]`: share of the models that name it.
    """

    wrong: Float[np.ndarray, " examples"]
    taken_for: Int[np.ndarray, " examples"]
    taken: Float[np.ndarray, " examples"]


def mistakes(
    predictions: Int[np.ndarray, "models examples"], labels: Int[np.ndarray, " examples"], num_classes: int
) -> Mistakes:
    """Count which class models take each image for.

    Args:
      predictions: Class that each model names; models that diverged (-1) do not count.
      labels: True class; -1 where it is not known.
      num_classes: Classes that there are.

    Raises:
      UserError: If a model names a class that is none, or all diverged.

    >>> found = mistakes(np.array([[0, 1], [2, 1], [2, 1]]), np.array([0, 1]), 3)
    >>> found.wrong.round(2).tolist(), found.taken_for.tolist()
    ([0.67, 0.0], [2, 0])
    """
    predictions, labels = np.asarray(predictions, np.int64), np.asarray(labels)
    there = predictions[(predictions >= 0).all(axis=1)]
    if not len(there):
        raise checks.UserError("no model has a prediction: train some that do not diverge.")
    if there.size and there.max() >= num_classes:
        raise checks.UserError(f"a model names class {there.max()}, but there are {num_classes}, numbered from 0.")
    places = np.arange(len(labels)) * num_classes + there
    counts = np.bincount(places.ravel(), minlength=len(labels) * num_classes).reshape(len(labels), num_classes)
    known_labels = np.flatnonzero(labels >= 0)
    counts[known_labels, labels[known_labels]] = 0
    taken_for = counts.argmax(axis=1)
    wrong = np.where(labels >= 0, counts.sum(axis=1) / len(there), np.nan)
    return Mistakes(wrong, taken_for, counts.max(axis=1) / len(there))


def failures(
    found: Mistakes, labels: Int[np.ndarray, " examples"], influences: Influences, *, share: float = 0.5
) -> Failures:
    """Find failures, the unit to blame for each, and what the datamodel expects without it (section 3.8 of its paper).

    The unit to blame is the one of the least influence, if that is negative. Predictions "of the whole source" follow
    the straight line from random subsets to all units, which no model that was trained confirms; that is what
    `verify_failures` is for. Where influences are relative, the level is that of subsets of the models' own size.

    Args:
      found: What models make of each image.
      labels: True class of each image.
      influences: On the same images, `[units, examples]`.
      share: Images count that more than this share of the models get wrong.

    Raises:
      UserError: If sizes do not fit.
    """
    labels = np.asarray(labels)
    if influences.influence.shape[1] != len(labels) or len(found.wrong) != len(labels):
        raise checks.UserError(
            f"influences have shape {influences.influence.shape}, but there are {len(labels)} labels and what models "
            f"make of {len(found.wrong)} images: pass those of the same images."
        )
    chosen = np.flatnonzero(found.wrong > share)
    values = known(influences)[:, chosen]
    harmed = values.min(axis=0, initial=0.0) < 0
    chosen, values = chosen[harmed], values[:, harmed]
    units = values.argmin(axis=0) if len(chosen) else np.empty(0, np.int64)
    p = p_of_extremes(influences, units, chosen)
    blamed = dataclasses.replace(pick(influences, units, chosen), q=None if p is None else q_values(p))
    whole = influences.intercept[chosen] + influences.influence[:, chosen].sum(axis=0)
    return Failures(
        blamed=blamed,
        labels=labels[chosen],
        taken_for=found.taken_for[chosen],
        wrong=found.wrong[chosen],
        taken=found.taken[chosen],
        expected=whole,
        without=whole - blamed.influence,
    ).take(np.argsort(blamed.influence, kind="stable"))


class Outcomes(NamedTuple):
    """What models that were trained anew say about every target image.

    Attributes:
      confidence: Probability of the true class, `[models, examples]`.
      prediction: Class that is named.
    """

    confidence: Float[np.ndarray, "models examples"]
    prediction: Int[np.ndarray, "models examples"]


Retrain = Callable[[Bool[np.ndarray, "models units"], Int[np.ndarray, " models"]], Outcomes]
"""Trains a model for every mask row, with the randomness of the seed of that row: equal seeds, equal randomness."""


class Change(NamedTuple):
    """Mean change over seeds, paired, with the ends of its 95 % t interval (NaN below two seeds)."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, eq=False)
class Mending:
    """What retraining without the unit to blame changed.

    Attributes:
      example: Column of the failure.
      unit: Row of the unit.
      seeds: How many pairs of models were compared.
      confidence: Of the image's true class: change of its probability.
      accuracy: On all target images of its class: change.
      right: Share of the seeds that get the image right with the whole source, and without the unit.
    """

    example: int
    unit: int
    seeds: int
    confidence: Change
    accuracy: Change
    right: tuple[float, float]


def verify_failures(
    found: Failures, labels: Int[np.ndarray, " examples"], num_units: int, retrain: Retrain, *, seeds: int = 5
) -> tuple[Mending, ...]:
    """Train models of the whole source, and of the source without each unit to blame, and compare seed by seed.

    Units that are to blame for several failures are left out once. All models are trained in one call.

    Args:
      found: Failures, few of them: every unit to blame costs `seeds` models.
      labels: True class of every target image.
      num_units: Units that there are.
      retrain: Trains the models.
      seeds: Models of each kind.

    Raises:
      UserError: If `seeds` is below 2, which has no interval.
    """
    checks.require_at_least("seeds", seeds, 2)
    blamed = [int(unit) for unit in dict.fromkeys(found.blamed.units.tolist())]
    if not blamed:
        return ()
    masks = np.ones((1 + len(blamed), seeds, num_units), bool)
    for arm, unit in enumerate(blamed, start=1):
        masks[arm, :, unit] = False
    outcomes = retrain(masks.reshape(-1, num_units), np.tile(np.arange(seeds), 1 + len(blamed)))
    arms = [
        Outcomes(*(np.asarray(values)[arm * seeds : (arm + 1) * seeds] for values in outcomes))
        for arm in range(1 + len(blamed))
    ]
    return tuple(
        mended(int(example), unit, arms[0], arms[1 + blamed.index(unit)], labels)
        for example, unit in zip(found.blamed.targets, found.blamed.units.tolist(), strict=True)
    )


def mended(
    example: int, unit: int, whole: Outcomes, without: Outcomes, labels: Int[np.ndarray, " examples"]
) -> Mending:
    """Compare models of the whole source with models without a unit, the same seeds in the same rows.

    A seed of which a model diverged (predictions of -1) is left out.
    """
    sound = (whole.prediction >= 0).all(axis=1) & (without.prediction >= 0).all(axis=1)
    whole, without = (Outcomes(one.confidence[sound], one.prediction[sound]) for one in (whole, without))
    label = labels[example]
    members = np.asarray(labels) == label
    accuracy = [(one.prediction[:, members] == label).mean(axis=1) for one in (whole, without)]
    right = [mean_interval((one.prediction[:, example] == label).astype(float))[0] for one in (whole, without)]
    return Mending(
        example=example,
        unit=unit,
        seeds=len(whole.confidence),
        confidence=Change(*mean_interval(without.confidence[:, example] - whole.confidence[:, example])),
        accuracy=Change(*mean_interval(accuracy[1] - accuracy[0])),
        right=(right[0], right[1]),
    )
