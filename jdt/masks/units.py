"""Units: what one column of a mask switches (a class, a group of classes, or an example)."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jdt import checks
from jdt.keys import key_for
from jdt.types import Bool, Int

OUTSIDE = -1
"""Unit of an example that no mask switches: it belongs to no group and is never trained on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """The units of a source dataset.

    Attributes:
      names: One name a unit.
      of_example: int32 `[examples]`: the unit each source example belongs to, or `OUTSIDE`.
    """

    names: tuple[str, ...]
    of_example: Int[np.ndarray, " examples"]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> Int[np.ndarray, " units"]:
        """Examples in each unit."""
        return np.bincount(self.of_example[self.of_example != OUTSIDE], minlength=len(self.names))

    def members(self, masks: Bool[np.ndarray, "models units"]) -> Bool[np.ndarray, "models examples"]:
        """Say which examples each mask row keeps; examples outside every unit are never kept."""
        padded = np.concatenate([masks, np.zeros((len(masks), 1), bool)], axis=1)
        return padded[:, self.of_example]


def by_class(labels: Int[np.ndarray, " examples"], class_names: Sequence[str]) -> Units:
    """Every class is a unit.

    Raises:
      UserError: If a class has no example, since its influence could not be estimated.
    """
    return _checked(Units(tuple(class_names), np.asarray(labels, np.int32)), "class")


def by_example(labels: Int[np.ndarray, " examples"]) -> Units:
    """Every example is a unit, named by its index."""
    count = len(labels)
    return Units(tuple(str(i) for i in range(count)), np.arange(count, dtype=np.int32))


def by_group(
    labels: Int[np.ndarray, " examples"], class_names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> Units:
    """Every named group of classes is a unit; classes in no group are left out of the study.

    Raises:
      UserError: If a group names an unknown class, a class is in two groups, a group is empty, or there is none.
    """
    if not groups:
        raise checks.UserError("there is no group: name at least two, each with its classes.")
    unit_of_class = np.full(len(class_names), OUTSIDE, np.int32)
    index = {name: i for i, name in enumerate(class_names)}
    owner: dict[str, str] = {}
    for unit, (group, members) in enumerate(groups.items()):
        if not members:
            raise checks.UserError(f"group {group!r} names no class: remove it or give it classes.")
        for name in members:
            if name not in index:
                raise checks.UserError(
                    f"group {group!r} names class {name!r}, which the source does not have; "
                    f"nearest: {checks.nearest(name, class_names)}."
                )
            if name in owner:
                raise checks.UserError(f"class {name!r} is in groups {owner[name]!r} and {group!r}: keep it in one.")
            owner[name] = group
            unit_of_class[index[name]] = unit
    return _checked(Units(tuple(groups), unit_of_class[np.asarray(labels)]), "group")


def read_groups(path: str | pathlib.Path) -> dict[str, list[str]]:
    """Read a JSON file of group name -> list of class names.

    Raises:
      UserError: If the file is missing, is not JSON, or does not have that form.
    """
    path = pathlib.Path(path).expanduser()
    try:
        groups = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise checks.UserError(f"cannot read the groups file {str(path)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise checks.UserError(f"the groups file {str(path)!r} is not JSON: {error}.") from error
    if not isinstance(groups, dict) or not all(
        isinstance(members, list) and all(isinstance(name, str) for name in members) for members in groups.values()
    ):
        raise checks.UserError(
            f'the groups file {str(path)!r} must map each group to a list of class names, like {{"dogs": ["beagle"]}}.'
        )
    return groups


def parse(spec: str, labels: Int[np.ndarray, " examples"], class_names: Sequence[str]) -> Units:
    """Make the units that `--units` asks for: `classes`, `groups:FILE` or `examples`.

    Raises:
      UserError: If `spec` is none of these, or its groups do not fit the classes.
    """
    kind, _, path = spec.partition(":")
    if kind == "classes" and not path:
        return by_class(labels, class_names)
    if kind == "examples" and not path:
        return by_example(labels)
    if kind == "groups" and path:
        return by_group(labels, class_names, read_groups(path))
    raise checks.UserError(
        f"units is {spec!r}, but must be classes, groups:FILE (JSON of group -> classes) or examples."
    )


def equalized(units: Units, seed: int) -> Units:
    """Subsample every unit to the size of the smallest one; the examples left out belong to no unit.

    Which examples stay depends on (seed, unit) alone. Without this, a unit's influence mixes what its images show
    with how many they are.
    """
    import jax

    size = int(units.sizes.min())
    of_example = np.full_like(units.of_example, OUTSIDE)
    for unit in range(len(units)):
        members = np.flatnonzero(units.of_example == unit)
        order = np.asarray(jax.random.permutation(key_for(seed, "equalize", unit), len(members)))
        of_example[np.sort(members[order[:size]])] = unit
    return dataclasses.replace(units, of_example=of_example)


def divided(units: Units, labels: Int[np.ndarray, " examples"], parts: int, seed: int) -> Units:
    """Divide every unit at random into parts, so that models know a unit's classes without having seen a part of it.

    Args:
      units: Of at least `parts` examples each.
      labels: Of the examples: each class of a unit is divided evenly.
      parts: Of each unit.
      seed: Root seed; a unit's division depends on it, the unit and the labels alone.

    Returns:
      Unit u's parts are units `parts * u` to `parts * u + parts - 1`, named `NAME (1)` and so on.

    Raises:
      UserError: If a unit has fewer examples than parts.

    >>> halves = divided(Units(("a", "b"), np.array([0, 0, 1, 1, OUTSIDE])), np.array([0, 0, 1, 1, 1]), 2, seed=0)
    >>> halves.names, sorted(halves.of_example.tolist())
    (('a (1)', 'a (2)', 'b (1)', 'b (2)'), [-1, 0, 1, 2, 3])
    """
    import jax

    if (smallest := int(units.sizes.min())) < parts:
        raise checks.UserError(
            f"unit {units.names[int(units.sizes.argmin())]!r} has {smallest} examples and is to be divided into "
            f"{parts} parts: take larger units."
        )
    of_example = np.full_like(units.of_example, OUTSIDE)
    for unit in range(len(units)):
        members = np.flatnonzero(units.of_example == unit)
        drawn = members[np.asarray(jax.random.permutation(key_for(seed, "unit parts", unit), len(members)))]
        drawn = drawn[np.argsort(np.asarray(labels)[drawn], kind="stable")]
        of_example[drawn] = parts * unit + np.arange(len(drawn)) % parts
    return Units(tuple(f"{name} ({part + 1})" for name in units.names for part in range(parts)), of_example)


def _checked(units: Units, what: str) -> Units:
    empty = [name for name, size in zip(units.names, units.sizes, strict=True) if size == 0]
    if empty:
        raise checks.UserError(
            f"{what} {empty[0]!r} has no source example ({len(empty)} such): choose a split that has all of them, "
            "or name only the others in a groups file."
        )
    if len(units) < 2:
        raise checks.UserError(
            f"there is only one {what} ({units.names[0]!r}): influence needs at least two to compare."
        )
    return units
