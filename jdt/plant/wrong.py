"""Units that are wrong as a whole: labels that do not belong to their images, or images that teach nothing."""

from collections.abc import Sequence

import numpy as np

from jdt.checks import UserError
from jdt.data import Dataset
from jdt.masks import Units
from jdt.plant.base import Planted, draws, free_places, replaced, require_arrays, require_names
from jdt.types import Int


def mislabelled_unit(
    source: Dataset,
    units: Units,
    unit: str,
    share: float = 1.0,
    *,
    seed: int,
    is_control: bool = False,
    beside: Sequence[Planted] = (),
) -> tuple[Dataset, Planted]:
    """Give a share of a unit's examples labels of other classes, drawn evenly from those that are not the unit's own.

    Args:
      source: Source training split.
      units: Made of the labels as they were, so that masks stay as they are.
      unit: Name of the unit.
      share: Of its examples, above 0 and at most 1; at least one example.
      seed: Root seed of the study.
      is_control: Leave the labels that are there.
      beside: What was planted before: its positions stay as they are.

    Returns:
      The source with the wrong labels, and where they are.

    Raises:
      UserError: If there is no such unit, the share is none, or no class is left to draw labels from.
    """
    require_arrays(source)
    members = _members(units, unit, free_places(len(source), None, beside))
    if not 0.0 < share <= 1.0:
        raise UserError(f"the share of mislabelled examples is {share}, but must be above 0 and at most 1.")
    labels = np.asarray(source.labels)
    others = np.setdiff1d(np.unique(labels), labels[units.of_example == units.names.index(unit)])
    if not len(others):
        raise UserError(f"unit {unit!r} has examples of every class, so that no label is wrong in it: name another.")
    rng = draws(seed, "mislabelled", units.names.index(unit))
    where = np.sort(rng.permutation(members)[: max(1, round(share * len(members)))])
    wrong = labels[where] if is_control else others[rng.integers(len(others), size=len(where))]
    planted = Planted(
        kind="mislabelled",
        is_control=is_control,
        source=tuple(where.tolist()),
        labels=tuple(wrong.tolist()),
        unit=unit,
    )
    return replaced(source, where, labels=wrong), planted


def harmful_unit(
    source: Dataset,
    target: Dataset,
    units: Units,
    unit: str,
    *,
    seed: int,
    is_control: bool = False,
    beside: Sequence[Planted] = (),
) -> tuple[Dataset, Planted]:
    """Fill a unit with target training images of all classes, drawn evenly, under the labels that the unit has.

    Whoever trains on it learns that images which the target tells apart are of one kind (of a class), or tells them
    apart by chance (of a group of classes): a wrong grouping (arXiv 2207.05739; section 6 of its specification, A5).

    Args:
      source: Source training split, decoded.
      target: Target training split, decoded, of the same image shape: no test image enters the source.
      units: Of the source.
      unit: Name of the unit.
      seed: Root seed of the study.
      is_control: Leave the images that are there.
      beside: What was planted before: its positions stay as they are.

    Returns:
      The source with the unit filled, and where from.

    Raises:
      UserError: If there is no such unit, shapes differ, or the target has too few images.
    """
    require_arrays(source, target)
    where = _members(units, unit, free_places(len(source), None, beside))
    if len(where) > len(target):
        raise UserError(
            f"unit {unit!r} has {len(where)} images, but {target.name} only {len(target)} to fill it with: name a "
            "smaller unit, or pass --equalize."
        )
    rng = draws(seed, "harmful", units.names.index(unit))
    of = rng.permutation(len(target))[: len(where)]
    planted = Planted(
        kind="harmful",
        is_control=is_control,
        source=tuple(where.tolist()),
        labels=tuple(np.asarray(source.labels)[where].tolist()),
        target_name=target.name,
        target=tuple(of.tolist()),
        changes=("identity",) * len(where),
        unit=unit,
    )
    images = np.asarray(source.images[where] if is_control else target.images[of])
    return replaced(source, where, images=images), planted


def _members(units: Units, unit: str, free: np.ndarray) -> Int[np.ndarray, " members"]:
    require_names("unit", [unit], units.names, "the source")
    members = np.flatnonzero((units.of_example == units.names.index(unit)) & free)
    if not len(members):
        raise UserError(f"all examples of unit {unit!r} hold something else that was planted: name another unit.")
    return members
