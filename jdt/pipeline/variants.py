"""Variants of a target in one run: with fewer training images, or another weight decay, and the same test images."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from jdt import checks
from jdt.data import StreamedImages
from jdt.pipeline.task import TargetData
from jdt.transfer import Draw, FixedFeature, FullNetwork, few_shot, target_fraction
from jdt.types import Int


def variants(
    target: TargetData,
    *,
    shots: Sequence[int] = (),
    fractions: Sequence[float] = (),
    weight_decays: Sequence[float] = (),
    head: FixedFeature,
    full: FullNetwork,
    modes: Collection[str],
    seed: int,
) -> tuple[TargetData, ...]:
    """Make what is asked for out of one target; the target itself where nothing is.

    Sizes and weight decays multiply: every size gets every decay. All variants have the test split of the target, and
    none is chosen by what comes out on it. The training images of a smaller one are among those of a larger one.

    Args:
      target: The whole target.
      shots: Training images of each class: `NAME@5shot` (arXiv 2302.13602, section 3.2 of its specification).
      fractions: Shares of the training images of each class: `NAME@25%`; 1 is the target itself.
      weight_decays: L2 coefficients: `NAME@wd0.001` (arXiv 2207.02842, section 4 of its specification). A convex head
        has the coefficient on its weights for standardised features, without the bias: `1 / (examples * C)`.
      head: How heads are fitted, unless the target says.
      full: How whole networks are fine-tuned, unless the target says.
      modes: The modes that will be used.
      seed: Root seed of the study.

    Raises:
      UserError: If a class has too few images, or a size or decay is none.
    """
    labels, seeds = np.asarray(target.train.labels), {"seed": seed}
    classes = target.train.class_names
    sized: list[TargetData] = [] if shots or fractions else [target]
    for k in shots:
        try:
            rows = few_shot(labels, len(classes), k, class_names=classes, **seeds)
        except checks.UserError as error:
            raise checks.UserError(f"target {target.name!r}: {error}") from error
        sized.append(_smaller(target, rows, f"{k}shot"))
    for fraction in fractions:
        rows = target_fraction(labels, fraction, **seeds)
        sized.append(target if fraction == 1 else _smaller(target, rows, f"{100 * fraction:g}%"))
    if not weight_decays:
        return tuple(sized)
    return tuple(_decayed(one, decay, head, full, modes) for one in sized for decay in weight_decays)


def drawn(target: TargetData, shots: Sequence[int], draws: int = 1) -> tuple[TargetData, ...]:
    """Make variants of a target in which every model is given a few training images of its own.

    `NAME@5shot.0` is the first draw of five images of each class. Test split and views are the target's, whole, however
    few the shots are: the published code thinned some test splits with the training splits (arXiv 2302.13602, section
    5 of its specification). Which images a model is given follows from its randomness id, so that models of different
    sources that share one are given the same.

    Args:
      target: The whole target.
      shots: Training images of each class.
      draws: Draws of each.

    Raises:
      UserError: If a class has too few images, or there are no shots or draws.
    """
    checks.require_at_least("draws", draws, 1)
    every = [Draw(k, number) for k in shots for number in range(draws)]
    return tuple(
        dataclasses.replace(target, name=f"{target.name}{draw.suffix}", whole=target, draw=draw) for draw in every
    )


def _smaller(target: TargetData, rows: Int[np.ndarray, " chosen"], suffix: str) -> TargetData:
    training = target.train.part(rows, f"{target.train.name}@{suffix}")
    streamed = None
    if target.streamed is not None and isinstance(target.streamed.images, StreamedImages):
        streamed = dataclasses.replace(training, images=target.streamed.images.chosen(rows))
    return dataclasses.replace(target, name=f"{target.name}@{suffix}", train=training, whole=target, streamed=streamed)


def _decayed(
    target: TargetData, decay: float, head: FixedFeature, full: FullNetwork, modes: Collection[str]
) -> TargetData:
    head, full = target.head or head, target.full or full
    convex = "fixed" in modes and head.solver == "convex"
    if not (decay > 0 or (decay == 0 and not convex)):
        raise checks.UserError(
            f"a weight decay is {decay}, but it must be positive"
            + (": without one a convex head may have no optimum." if decay == 0 else ".")
        )
    penalty = 1 / (target.num_examples * decay) if convex else head.inverse_penalty
    return dataclasses.replace(
        target,
        name=f"{target.name}@wd{decay:g}",
        head=dataclasses.replace(
            head, inverse_penalty=penalty, recipe=dataclasses.replace(head.recipe, weight_decay=decay)
        ),
        full=dataclasses.replace(full, recipe=dataclasses.replace(full.recipe, weight_decay=decay)),
        whole=target,
    )
