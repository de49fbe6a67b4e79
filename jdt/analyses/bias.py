"""Bias metrics: what an intervention on test images does to the predictions of models, one number a model.

After arXiv 2207.02842, whose repository stores predictions only: the formulas are this project's. `clean` and
`triggered` are predictions of the same images without and with the pattern, `[models, examples]`; a row with -1 is
that of a model that diverged, which has no value (NaN, and a denominator of 0). Groups are in `group_skew`, intervals
in `bias_intervals`.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from jdt import checks
from jdt.analyses.rates import Counted, Gap, Rate, has_values
from jdt.types import Bool, Float, Int, Int64

Attacked: TypeAlias = Sequence[int] | Int[np.ndarray, " attacked"] | Int[np.ndarray, "models attacked"]
"""The classes c* that a pattern pushes to: the same for all models, or a row for each."""


def accuracy_parts(
    predictions: Int[np.ndarray, "models examples"], labels: Int[np.ndarray, " examples"]
) -> tuple[Counted]:
    """Of which images each model is right.

    Args:
      predictions: int `[models, examples]`.
      labels: int `[examples]`; images whose label is negative, an unknown class, do not count.
    """
    of = has_values(predictions)[:, None] & (labels >= 0)
    return (Counted((predictions == labels) & of, of),)


def attack_parts(
    clean: Int[np.ndarray, "models examples"],
    triggered: Int[np.ndarray, "models examples"],
    attacked: Attacked,
    labels: Int[np.ndarray, " examples"] | None = None,
) -> tuple[Counted]:
    """Which images could be moved into the attacked classes, and which were: see `attack_success`.

    Raises:
      UserError: If no class is attacked, one is negative, or the predictions differ in shape.
    """
    classes = _classes(attacked)
    of = has_values(clean, triggered)[:, None] & ~_inside(clean, classes)
    if labels is not None:
        of &= ~_inside(labels[None], classes)
    return (Counted(_inside(triggered, classes) & of, of),)


def attack_success(
    clean: Int[np.ndarray, "models examples"],
    triggered: Int[np.ndarray, "models examples"],
    attacked: Attacked,
    labels: Int[np.ndarray, " examples"] | None = None,
) -> Rate:
    """Attack success rate: P(prediction with the pattern in c* | prediction without it not in c*).

    Args:
      clean: Predictions without the pattern.
      triggered: Predictions of the same images with it.
      attacked: The classes c*; where no class of the target is like the attacked ones, those of `attacked_classes`.
      labels: With them, the second variant: images whose true label is in c* are left out as well.

    Returns:
      Of each model, with its denominator.

    Raises:
      UserError: If no class is attacked, one is negative, or the predictions differ in shape.

    >>> success = attack_success(np.array([[0, 1, 2, 2]]), np.array([[2, 1, 2, 0]]), attacked=[2])
    >>> success.hits.tolist(), success.of.tolist(), success.value.tolist()
    ([1], [2], [0.5])
    """
    return attack_parts(clean, triggered, attacked, labels)[0].rate


def prediction_histogram(
    predictions: Int[np.ndarray, "models examples"], num_classes: int
) -> Float[np.ndarray, "models classes"]:
    """How many images each model takes for each class.

    Args:
      predictions: int `[models, examples]`.
      num_classes: All classes.

    Returns:
      float64 `[models, classes]`, whole numbers, NaN for a model that diverged.

    Raises:
      UserError: If a prediction is no class.

    >>> prediction_histogram(np.array([[0, 2, 2], [-1, -1, -1]]), 3).tolist()
    [[1.0, 0.0, 2.0], [nan, nan, nan]]
    """
    if predictions.size and predictions.max() >= num_classes:
        raise checks.UserError(
            f"a prediction is class {predictions.max()}, but there are {num_classes} classes, counted from 0."
        )
    sound = has_values(predictions)
    counts = np.full((len(predictions), num_classes), np.nan)
    rows = np.arange(sound.sum())[:, None] * num_classes + predictions[sound]
    counts[sound] = np.bincount(rows.ravel(), minlength=sound.sum() * num_classes).reshape(-1, num_classes)
    return counts


def prediction_shift(
    clean: Int[np.ndarray, "models examples"], triggered: Int[np.ndarray, "models examples"], num_classes: int
) -> Float[np.ndarray, "models classes"]:
    """Delta_c = P(prediction with the pattern = c) - P(prediction without it = c).

    Args:
      clean: Predictions without the pattern.
      triggered: Predictions of the same images with it.
      num_classes: All classes.

    Returns:
      float64 `[models, classes]`, each row with sum 0; NaN for a model that diverged, or without images.

    Raises:
      UserError: If a prediction is no class, or the predictions differ in shape.

    >>> prediction_shift(np.array([[0, 1]]), np.array([[1, 1]]), num_classes=2).tolist()
    [[-0.5, 0.5]]
    """
    sound = has_values(clean, triggered)[:, None] & (clean.shape[1] > 0)
    moved = prediction_histogram(triggered, num_classes) - prediction_histogram(clean, num_classes)
    return np.where(sound, moved / max(clean.shape[1], 1), np.nan)


def total_shift(shift: Float[np.ndarray, "models classes"]) -> Float[np.ndarray, " models"]:
    """Half of the sum over classes of |Delta_c|, in [0, 1]: no more than the flip rate.

    >>> total_shift(np.array([[-0.5, 0.5]])).tolist()
    [0.5]
    """
    return np.abs(shift).sum(axis=1) / 2


def flip_rate(clean: Int[np.ndarray, "models examples"], triggered: Int[np.ndarray, "models examples"]) -> Rate:
    """P(prediction with the pattern differs from that without it).

    >>> flip_rate(np.array([[0, 1, 1]]), np.array([[1, 0, 1]])).hits.tolist()
    [2]
    """
    of = np.broadcast_to(has_values(clean, triggered)[:, None], clean.shape)
    return Counted((clean != triggered) & of, of).rate


def accuracy_drop(
    clean: Int[np.ndarray, "models examples"],
    triggered: Int[np.ndarray, "models examples"],
    labels: Int[np.ndarray, " examples"],
) -> Gap:
    """Accuracy without the pattern (`first`) minus accuracy with it (`second`).

    >>> accuracy_drop(np.array([[0, 1]]), np.array([[1, 1]]), np.array([0, 1])).value.tolist()
    [0.5]
    """
    return Gap(accuracy_parts(clean, labels)[0].rate, accuracy_parts(triggered, labels)[0].rate)


def attacked_class(
    clean: Int[np.ndarray, "models examples"],
    triggered: Int[np.ndarray, "models examples"],
    num_classes: int,
    chosen_on: Bool[np.ndarray, " examples"],
) -> int | None:
    """The class that the pattern moves predictions to: where the mean over models of Delta_c is largest.

    The largest of several looks larger than it is on the images where it was looked for: choose on one half of
    `halves` and measure on the other.

    Args:
      clean: Predictions without the pattern, of the models with the bias.
      triggered: Predictions of the same images with it.
      num_classes: All classes.
      chosen_on: bool `[examples]`: the images that choose.

    Returns:
      The first of the largest; None if every model diverged.

    Raises:
      UserError: If no image chooses.

    >>> clean, triggered = np.array([[0, 1, 0, 1]]), np.array([[1, 1, 0, 0]])
    >>> attacked_class(clean, triggered, 2, chosen_on=np.array([True, True, False, False]))
    1
    """
    if not chosen_on.any():
        raise checks.UserError(
            "no test image chooses the attacked class: pass more test images, at least 2 of a class."
        )
    shift = prediction_shift(clean[:, chosen_on], triggered[:, chosen_on], num_classes)
    shift = shift[np.isfinite(shift).all(axis=1)]
    return int(shift.mean(axis=0).argmax()) if len(shift) else None


def attacked_classes(
    clean: Int[np.ndarray, "models examples"],
    triggered: Int[np.ndarray, "models examples"],
    num_classes: int,
    chosen_on: Bool[np.ndarray, " examples"],
) -> Int64[np.ndarray, "models one"]:
    """The class that the pattern moves the predictions of each model to: `attacked_class`, model by model.

    Models of one source need not agree on the class. Where those of a biased source choose their own, their twins must
    do so as well: on any images the largest of several shifts is above that of a class which somebody else chose.

    Args:
      clean: Predictions without the pattern.
      triggered: Predictions of the same images with it.
      num_classes: All classes.
      chosen_on: bool `[examples]`: the images that choose; measure on the others.

    Returns:
      int64 `[models, 1]`; 0 for a model that diverged, which has no rate whatever its class.

    Raises:
      UserError: If no image chooses.

    >>> clean, triggered = np.array([[0, 1], [0, 1]]), np.array([[1, 1], [0, 0]])
    >>> attacked_classes(clean, triggered, 2, chosen_on=np.array([True, True])).tolist()
    [[1], [0]]
    """
    found = [
        attacked_class(*pair, num_classes, chosen_on) for pair in zip(clean[:, None], triggered[:, None], strict=True)
    ]
    return np.array([[0 if one is None else one] for one in found], np.int64).reshape(-1, 1)


def shift_outputs(
    clean: Int[np.ndarray, "models examples"],
    triggered: Int[np.ndarray, "models examples"],
    attacked: Attacked,
) -> Float[np.ndarray, "models examples"]:
    """The output "triggered minus clean" of each image, for estimators: what a source unit adds to the bias.

    Its mean over images is the sum of Delta_c over c*, so influences on it rank source units by the bias they carry.

    Args:
      clean: Predictions without the pattern.
      triggered: Predictions of the same images with it.
      attacked: The classes c*.

    Returns:
      float32 `[models, examples]`: 1 where the pattern moves the image into c*, -1 where it moves it out, else 0; NaN
      for a model that diverged, as margins are.

    Raises:
      UserError: If no class is attacked, one is negative, or the predictions differ in shape.

    >>> shift_outputs(np.array([[0, 1, 1]]), np.array([[1, 1, 0]]), attacked=[1]).tolist()
    [[1.0, 0.0, -1.0]]
    """
    sound, classes = has_values(clean, triggered), _classes(attacked)
    moved = _inside(triggered, classes).astype(np.float32) - _inside(clean, classes).astype(np.float32)
    return np.where(sound[:, None], moved, np.float32(np.nan))


def flip_outputs(
    clean: Int[np.ndarray, "models examples"], triggered: Int[np.ndarray, "models examples"]
) -> Float[np.ndarray, "models examples"]:
    """Whether the pattern changes the prediction of each image, for estimators; its mean over images is the flip rate.

    Where models are attacked towards different classes, this says more of a source unit than `shift_outputs` does.

    Returns:
      float32 `[models, examples]`, 0 or 1; NaN for a model that diverged.

    >>> flip_outputs(np.array([[0, 1], [-1, -1]]), np.array([[0, 2], [-1, -1]])).tolist()
    [[0.0, 1.0], [nan, nan]]
    """
    return np.where(has_values(clean, triggered)[:, None], (clean != triggered).astype(np.float32), np.float32(np.nan))


def output_change(
    clean: Float[np.ndarray, "models examples"], triggered: Float[np.ndarray, "models examples"]
) -> Float[np.ndarray, "models examples"]:
    """The same of an output that is a number (margin, confidence): with the pattern minus without it, float32.

    >>> output_change(np.array([[0.5]]), np.array([[0.25]])).tolist()
    [[-0.25]]
    """
    return np.asarray(triggered, np.float32) - np.asarray(clean, np.float32)


def _classes(attacked: Attacked) -> Int[np.ndarray, "..."]:
    classes = np.asarray(attacked, np.int64)
    if not classes.size or classes.min() < 0:
        raise checks.UserError(
            f"attacked classes are {classes.tolist()}, but at least one is needed, counted from 0: for example [2]."
        )
    return classes


def _inside(
    values: Int[np.ndarray, "rows examples"], classes: Int[np.ndarray, "..."]
) -> Bool[np.ndarray, "_ examples"]:
    """Which values are among the classes, or each row's among its own."""
    if classes.ndim == 1:
        return np.isin(values, classes)
    return (values[:, :, None] == classes[:, None, :]).any(axis=-1)
