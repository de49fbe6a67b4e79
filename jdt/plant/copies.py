"""Copies of target test images in the source: leaks under a label that fits, misleading ones under a wrong label."""

from collections.abc import Mapping, Sequence

import numpy as np

from jdt.checks import UserError, require_known
from jdt.data import Dataset
from jdt.plant.base import Kind, Planted, draws, free_places, replaced, require_arrays, require_names
from jdt.plant.changes import CHANGES, Change, changed
from jdt.types import Bool, Int


def leaked_copies(
    source: Dataset,
    target: Dataset,
    count: int,
    *,
    fits: Mapping[str, Sequence[str]],
    seed: int,
    changes: Sequence[Change] = CHANGES,
    is_control: bool = False,
    allowed: Bool[np.ndarray, " examples"] | None = None,
    beside: Sequence[Planted] = (),
) -> tuple[Dataset, Planted]:
    """Put copies of target test images over source images whose label fits them.

    They replace images, so that sizes, labels and masks stay as they are. (arXiv 2207.05739, leakage.)

    Args:
      source: Source training split, decoded.
      target: Target test split, decoded, of the same image shape.
      count: Copies.
      fits: Target class -> source classes that mean the same or nearly so; other target classes are not copied.
      seed: Root seed of the study; which examples depends on it and the kind alone.
      changes: What is done to copies, in turn: see `changed`.
      is_control: Leave the images that are there: the same change is made to them instead of to the copies.
      allowed: bool `[examples]`: source positions that may be used, e.g. those in some unit; by default all.
      beside: What was planted before: neither its source positions nor its target images are used again.

    Returns:
      The source with the copies, and where they are.

    Raises:
      UserError: If a class or change is unknown, shapes differ, or so many copies cannot be placed.
    """
    return _copies("leak", source, target, count, fits, seed, changes, is_control, allowed, beside)


def misleading_copies(
    source: Dataset,
    target: Dataset,
    count: int,
    *,
    fits: Mapping[str, Sequence[str]],
    seed: int,
    changes: Sequence[Change] = CHANGES,
    is_control: bool = False,
    allowed: Bool[np.ndarray, " examples"] | None = None,
    beside: Sequence[Planted] = (),
) -> tuple[Dataset, Planted]:
    """Put copies of target test images over source images whose label fits another target class, and not theirs.

    Arguments, result and errors are those of `leaked_copies`.
    """
    return _copies("misleading", source, target, count, fits, seed, changes, is_control, allowed, beside)


def _copies(
    kind: Kind,
    source: Dataset,
    target: Dataset,
    count: int,
    fits: Mapping[str, Sequence[str]],
    seed: int,
    changes: Sequence[Change],
    is_control: bool,
    allowed: Bool[np.ndarray, " examples"] | None,
    beside: Sequence[Planted],
) -> tuple[Dataset, Planted]:
    require_arrays(source, target)
    if count < 1:
        raise UserError(f"{kind} asks for {count} copies, but must ask for at least 1.")
    if not changes:
        raise UserError(f"no change is named, but copies need one: name some of {', '.join(CHANGES)}.")
    for change in changes:
        require_known("change of copies", change, CHANGES)
    labels_for = _labels_for(kind, source, target, fits)
    used = {i for planted in beside if planted.target_name == target.name for i in planted.target}
    rng = draws(seed, kind)
    candidates = [int(i) for i in rng.permutation(len(target)) if int(i) not in used]
    free = free_places(len(source), allowed, beside)
    places = [int(i) for i in rng.permutation(len(source)) if free[i]]
    pairs = _paired(candidates, np.asarray(target.labels), places, np.asarray(source.labels), labels_for, count)
    if len(pairs) < count:
        raise UserError(
            f"{kind} asks for {count} copies, but only {len(pairs)} test images of {target.name} and images of "
            f"{source.name} can be paired by class: ask for fewer, or name more classes that fit."
        )
    where, of = [place for place, _ in pairs], [example for _, example in pairs]
    made: tuple[Change, ...] = tuple(changes[i % len(changes)] for i in range(count))
    images = [
        changed(
            np.asarray(source.images[place] if is_control else target.images[example]), change, draws(seed, kind, i)
        )
        for i, (place, example, change) in enumerate(zip(where, of, made, strict=True))
    ]
    planted = Planted(
        kind=kind,
        is_control=is_control,
        source=tuple(where),
        labels=tuple(int(source.labels[place]) for place in where),
        target_name=target.name,
        target=tuple(of),
        changes=made,
    )
    return replaced(source, np.array(where), images=np.stack(images)), planted


def _labels_for(
    kind: Kind, source: Dataset, target: Dataset, fits: Mapping[str, Sequence[str]]
) -> dict[int, frozenset[int]]:
    """Source labels that copies of each target class may be put under."""
    require_names("class", fits, target.class_names, target.name)
    for names in fits.values():
        require_names("class", names, source.class_names, source.name)
    numbers = {name: i for i, name in enumerate(source.class_names)}
    fitting = {
        target.class_names.index(name): frozenset(numbers[other] for other in others) for name, others in fits.items()
    }
    if kind == "leak":
        return fitting
    everything = frozenset().union(*fitting.values())
    return {label: everything - own for label, own in fitting.items()}


def _paired(
    candidates: Sequence[int],
    target_labels: Int[np.ndarray, " targets"],
    places: Sequence[int],
    source_labels: Int[np.ndarray, " examples"],
    labels_for: Mapping[int, frozenset[int]],
    count: int,
) -> list[tuple[int, int]]:
    """(source position, target position) pairs: each candidate in turn takes the first place left whose label suits."""
    left, pairs = list(places), []
    for example in candidates:
        if len(pairs) == count or not left:
            break
        suitable = labels_for.get(int(target_labels[example]), frozenset())
        place = next((place for place in left if int(source_labels[place]) in suitable), None)
        if place is not None:
            left.remove(place)
            pairs.append((place, example))
    return pairs
