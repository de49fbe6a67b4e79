"""Influences on disk: `influences/TARGET/MODE/OUTPUT/ESTIMATOR.zarr`, written by the pipeline and read by people."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from jdt import checks
from jdt.estimators.influences import GRIDS, Influences
from jdt.store import Group, Place, is_group, open_run, read_group, run_path, safe_name, saved_groups, write_group
from jdt.types import Int

Level = Literal["example", "class", "task"]
_PREFIX: dict[Level, str] = {"example": "", "class": "class_", "task": "task_"}
_TARGET_AXIS: dict[Level, str] = {"example": "example", "class": "class", "task": "task"}


def influence_path(run: str | os.PathLike[str], target: str, mode: str, output: str, estimator: str) -> Place:
    """Where a run keeps the influences of one target, mode, output and estimator."""
    parts = map(safe_name, (target, mode, output, f"{estimator}.zarr"))  # What a run says of itself may be anything.
    return run_path(run).joinpath("influences", *parts)


def save_influences(
    path: str | os.PathLike[str],
    levels: Mapping[Level, Influences],
    *,
    class_names: Sequence[str],
    attributes: Mapping[str, Any],
) -> None:
    """Write one estimator's influences of one target at every level, as one Zarr group, atomically.

    Arrays: `influence`, `standard_error`, `z` `[unit, example]`, `degrees_of_freedom` `[unit or 1, example or 1]` (an
    axis of length 1 is called `each_unit` or `each_example`: the same for each), `intercept` `[example]`, and what the
    method reports per example; the same with `class_` for target classes (the mean output of a class) and `task_` for
    the whole target. What the estimator does not give is not there.
    """
    arrays: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {}
    for level, found in levels.items():
        prefix, axis = _PREFIX[level], _TARGET_AXIS[level]
        sizes = found.influence.shape
        for name, values in found.grids().items():
            named = zip(("unit", axis), values.shape, sizes, strict=True)
            axes = tuple(one if length == size else f"each_{one}" for one, length, size in named)
            arrays[prefix + name] = (np.asarray(values, np.float32), axes)
        arrays[f"{prefix}intercept"] = (np.asarray(found.intercept, np.float32), (axis,))
        for name, value in found.info.items():
            if isinstance(value, np.ndarray):
                arrays[prefix + name] = (np.asarray(value, np.float32), (axis,))
    first = levels["example"]
    write_group(
        path,
        arrays,
        strings={"unit_name": (first.unit_names, "unit"), "class_name": (tuple(class_names), "class")},
        attributes={
            "estimator": first.estimator,
            "output": first.output,
            "num_models": first.num_models,
            **{key: value for key, value in first.info.items() if not isinstance(value, np.ndarray)},
            **attributes,
        },
    )


def load_influences(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    mode: str = "fixed",
    output: str | None = None,
    estimator: str = "ridge",
    level: Level = "example",
    units: Int[np.ndarray, " some_units"] | None = None,
    examples: Int[np.ndarray, " some_examples"] | None = None,
) -> Influences:
    """Read saved influences, with unit and class names; of the other levels nothing is read.

    Args:
      path: A run directory, or one `ESTIMATOR.zarr` inside it.
      target: Which target of the run, also one that was added later; may be left out when the run began with one.
      mode: `fixed` or `full`.
      output: `confidence` or `margin`; by default the one that the run's report shows.
      estimator: Name of the estimator, e.g. `ridge` or `difference`.
      level: `example` (one column a target test image), `class` (mean output of each target class) or `task`.
      units: Rows to read; all of them when None.
      examples: Columns to read at the level `example`; all of them when None. The array itself stays on the disk.

    Returns:
      The influences: `.influence`, `.standard_error`, `.z`, `.top()`, `.interval()`, `.to_xarray()`, `.to_npz()`.

    Raises:
      UserError: If the run has no such influences (what exists is listed), no such unit or example, or they are
        damaged.
    """
    checks.require_known("level", level, get_args(Level))
    place = run_path(path)
    if place.suffix != ".zarr":
        place = _find(place, target, mode, output, estimator)
    prefix = _PREFIX[level]
    others_start = tuple(start for start in _PREFIX.values() if start not in ("", prefix))

    def belongs(name: str) -> bool:
        return name.startswith(prefix) and not name.startswith(others_start)

    parts = {"unit": units, _TARGET_AXIS[level]: examples if level == "example" else None}
    at = {axis: np.asarray(entries, np.int64) for axis, entries in parts.items() if entries is not None}
    group = read_group(place, only=belongs, at=at)
    if units is not None and "unit_name" in group.strings:
        if at["unit"].max(initial=-1) >= len(group.strings["unit_name"]):
            raise checks.UserError(f"{place} is damaged: it does not name every unit: estimate it again.")
        names = tuple(group.strings["unit_name"][u] for u in at["unit"])
        group = group._replace(strings={**group.strings, "unit_name": names})
    if f"{prefix}influence" not in group.arrays:
        saved = read_group(place, only=lambda name: name.endswith("influence")).arrays
        there = [name for name, start in _PREFIX.items() if f"{start}influence" in saved]
        raise checks.UserError(f"{place} has no influences at level {level!r}; it has: {', '.join(there)}.")
    influence = group.arrays[f"{prefix}influence"]
    core: dict[str, Any] = {name: group.arrays.get(prefix + name) for name in (*GRIDS, "intercept")}
    if (degrees := core["degrees_of_freedom"]) is not None and degrees.ndim == 1:
        core["degrees_of_freedom"] = degrees[:, None]  # Runs of version 0.1 have one number a unit.
    if fault := _misfit(group, core):
        raise checks.UserError(f"{place} is damaged: {fault}: estimate it again.")
    columns = {
        "example": tuple(str(i) for i in at.get("example", range(influence.shape[1]))),
        "class": group.strings["class_name"],
        "task": (str(group.attributes.get("target", "task")),),
    }[level]
    if len(columns) != influence.shape[1]:
        raise checks.UserError(f"{place} is damaged: {influence.shape[1]} columns with {len(columns)} names.")
    others = {
        name.removeprefix(prefix): value for name, value in group.arrays.items() if value.shape == influence.shape[1:]
    }
    return Influences(
        **core,
        unit_names=group.strings["unit_name"],
        target_names=columns,
        estimator=str(group.attributes["estimator"]),
        output=str(group.attributes["output"]),
        num_models=group.attributes["num_models"],
        info={**group.attributes, **{name: value for name, value in others.items() if name not in core}},
    )


def _misfit(group: Group, core: Mapping[str, np.ndarray | None]) -> str:
    """What of a group is not as `save_influences` makes it, each file being as it was written; or an empty string."""
    for name, kind in (("estimator", str), ("output", str), ("num_models", int)):
        if type(group.attributes.get(name)) is not kind:
            return f"its attribute {name} is not of type {kind.__name__}"
    for name in ("unit_name", "class_name"):
        if name not in group.strings:
            return f"it has no {name}"
    influence = core["influence"]
    if influence is None or influence.ndim != 2 or len(influence) != len(group.strings["unit_name"]):
        return f"its influences have no row for each of {len(group.strings['unit_name'])} units"
    units, columns = influence.shape
    fits = {"degrees_of_freedom": {(a, b) for a in (1, units) for b in (1, columns)}, "intercept": {(columns,)}}
    for name, values in core.items():
        missing = values is None and name == "intercept"
        if missing or (values is not None and values.shape not in fits.get(name, {influence.shape})):
            return f"{name} is missing or does not fit {units} units and {columns} columns"
        if values is not None and values.dtype.kind != "f":
            return f"{name} is {values.dtype}, not of floating point"
    return ""


def _find(root: Place, target: str | None, mode: str, output: str | None, estimator: str) -> Place:
    run = open_run(root)
    targets = list(run.layout.num_examples)
    if target is None and len(targets) > 1:
        raise checks.UserError(
            f"the run {str(root)!r} has {len(targets)} targets: pass target= one of {', '.join(targets)}."
        )
    target = targets[0] if target is None else target
    if target not in targets and target in run.added:
        run = run.added[target]
        root = run.path
    output = str(run.provenance.get("output", "confidence")) if output is None else output
    path = influence_path(root, target, mode, output, estimator)
    if not is_group(path):
        found = ["/".join(parts).removesuffix(".zarr") for parts in saved_groups(root / "influences")]
        raise checks.UserError(
            f"the run {str(root)!r} has no influences {target}/{mode}/{output}/{estimator}; "
            + (f"it has: {', '.join(found)}." if found else "none were estimated yet: finish the run first.")
        )
    return path
