"""Recipes of training on each target: those of the paper, or a file of the user's own."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jdt
from experiments.paper_recipes import TABLES, paper_recipe


def recipes_of(choice: str | None, targets: Sequence[str], base: jdt.train.Recipe) -> dict[str, jdt.train.Recipe]:
    """Recipe of every target that has one of its own.

    Args:
      choice: `paper` or `paper-bias`, the path of a JSON file of target -> fields that differ from `base`, or None.
      targets: Names of the targets.
      base: The recipe of all others.

    Raises:
      UserError: If the file cannot be read, or names a target or field that does not exist, or a value of another kind.
    """
    if choice is None:
        return {}
    if choice in TABLES:
        return {target: paper_recipe(target, choice) for target in targets}
    table = _read(choice)
    for target in table:
        if target not in targets:
            raise jdt.UserError(
                f"{choice} has a recipe for {target!r}, which is no target of this run (those are "
                f"{', '.join(targets)}): correct its name, or add it to --target."
            )
    return {target: _changed(base, changes, f"{choice}, {target}") for target, changes in table.items()}


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(pathlib.Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise jdt.UserError(f"cannot read the target recipes {path} ({reason}): pass paper or a JSON file.") from error
    if not (isinstance(found, dict) and all(isinstance(fields, dict) for fields in found.values())):
        raise jdt.UserError(f'{path} is not a JSON object of target -> recipe, like {{"cifar10": {{"epochs": 15}}}}.')
    return found


def _changed(base: jdt.train.Recipe, changes: Mapping[str, Any], where: str) -> jdt.train.Recipe:
    known = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    values = {}
    for name, value in changes.items():
        if name not in known:
            raise jdt.UserError(
                f"{where}: a recipe has no field {name!r}; like it are {jdt.checks.nearest(name, known)}: correct it."
            )
        if name == "resolution":
            values[name] = _as_pairs(value, f"{where}: {name}")
        else:
            values[name] = _as_kind(value, known[name], f"{where}: {name}")
    try:
        return dataclasses.replace(base, **values)
    except jdt.UserError as error:
        raise jdt.UserError(f"{where}: {error}") from error


def _as_pairs(value: Any, where: str) -> tuple[tuple[float, int], ...]:
    pairs = (
        value if isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value) else None
    )
    if pairs is None or not all(type(epoch) in (int, float) and type(side) is int for epoch, side in pairs):
        raise jdt.UserError(f"{where} is {value!r}, but it must be a list of [first epoch, side in pixels].")
    return tuple((float(epoch), side) for epoch, side in pairs)


def _as_kind(value: Any, like: Any, where: str) -> Any:
    """The JSON value as the kind that the field has: a number for a number, a list of numbers for a tuple."""

    def is_number(item: Any) -> bool:
        return isinstance(item, (int, float)) and not isinstance(item, bool) and math.isfinite(item)

    if isinstance(like, tuple):
        if isinstance(value, list) and all(map(is_number, value)):
            return tuple(float(item) for item in value)
    elif isinstance(like, float) and is_number(value):
        return float(value)
    elif type(value) is type(like) and not isinstance(like, float):
        return value
    kinds = {tuple: "a list of numbers", float: "a number", int: "a whole number", bool: "true or false", str: "text"}
    raise jdt.UserError(f"{where} is {value!r}, but it must be {kinds[type(like)]}.")
