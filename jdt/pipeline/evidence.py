"""The influences that questions are put to: saved ones, read as far as they are needed, or estimated anew in memory."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt import checks, store
from jdt.estimators import TABLE, Influences, Level, influence_path, load_influences, named
from jdt.evaluate import aggregate, by_class, whole_task
from jdt.pipeline.rows import OUTPUTS, usable_rows
from jdt.types import Int

MOST_IN_MEMORY = 50_000_000
"""Numbers (of outputs, or of influences) up to which influences are estimated anew, and read as a whole."""
_MOST_FOR_LASSO = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """Influences of a run's source units on one target.

    Attributes:
      run: The run that holds the target's outputs.
      target: Name of the target.
      mode: Transfer mode.
      output: Which output the influences are of.
      estimator: Name of the estimator.
      num_models: How many models they rest on.
      note: What to know about that, in a sentence; empty where they rest on all complete models of a finished run.
      estimated: Influences by level that were estimated anew; None where saved ones are read.
    """

    run: store.Run
    target: str
    mode: str
    output: str
    estimator: str
    num_models: int
    note: str
    estimated: Mapping[Level, Influences] | None

    @property
    def num_units(self) -> int:
        """Source units."""
        return self.run.layout.num_units

    @property
    def num_examples(self) -> int:
        """Target test images."""
        return self.run.layout.num_examples[self.target]

    @property
    def fits_in_memory(self) -> bool:
        """Whether influences on all examples may be read as a whole."""
        return self.num_units * self.num_examples <= MOST_IN_MEMORY

    def examples(
        self, *, units: Int[np.ndarray, " some_units"] | None = None, only: Int[np.ndarray, " some"] | None = None
    ) -> Influences:
        """Influences on single test images: of some units, on some images; the rest is not read.

        Raises:
          UserError: If there is no such unit or image, or what is saved is damaged.
        """
        if self.estimated is None:
            return self._load("example", units, only)
        return part_of(self.estimated["example"], units, only)

    def level(self, level: Level, *, units: Int[np.ndarray, " some_units"] | None = None) -> Influences:
        """Influences on the mean outputs of target classes, or of the whole task."""
        return self._load(level, units) if self.estimated is None else part_of(self.estimated[level], units)

    def _load(
        self,
        level: Level,
        units: Int[np.ndarray, " some_units"] | None = None,
        only: Int[np.ndarray, " some"] | None = None,
    ) -> Influences:
        place = influence_path(self.run.path, self.target, self.mode, self.output, self.estimator)
        return load_influences(place, level=level, units=units, examples=only)


def part_of(
    influences: Influences,
    units: Int[np.ndarray, " some_units"] | None = None,
    targets: Int[np.ndarray, " some"] | None = None,
) -> Influences:
    """Influences of some units on some targets."""

    def part(values: np.ndarray) -> np.ndarray:
        values = values if units is None or len(values) == 1 != len(influences.unit_names) else values[units]
        return values if targets is None or values.shape[1] == 1 != len(influences.target_names) else values[:, targets]

    columns = np.arange(len(influences.target_names)) if targets is None else np.asarray(targets)
    rows = np.arange(len(influences.unit_names)) if units is None else np.asarray(units)
    return dataclasses.replace(
        influences,
        **{name: part(values) for name, values in influences.grids().items()},
        intercept=influences.intercept[columns],
        unit_names=tuple(influences.unit_names[u] for u in rows),
        target_names=tuple(influences.target_names[t] for t in columns),
        info={},
    )


def gather_evidence(
    run: store.Run,
    target: str | None = None,
    mode: str | None = None,
    output: str | None = None,
    estimator: str | None = None,
) -> Evidence:
    """Find the influences that a run has, or estimate them anew from what is complete, where that is cheap.

    Saved influences are used where they rest on all models that are complete. Where models have come since, or none
    were saved yet because the run is in progress, they are estimated in memory and not saved; where that is not cheap,
    saved ones serve as they are, with a note of what they rest on.

    Args:
      run: The run.
      target: Which target; may be left out where the run has one.
      mode: By default the run's first.
      output: By default the one that the run's report shows.
      estimator: By default the first that is saved, else ridge.

    Raises:
      UserError: If the run has no such target, mode, output or estimator (what it has is listed), or influences are
        neither saved nor cheap to estimate.
    """
    names = [*run.layout.num_examples, *run.added]
    if target is None and len(names) > 1:
        raise checks.UserError(f"the run {str(run.path)!r} has {len(names)} targets: choose one of {', '.join(names)}.")
    target = names[0] if target is None else target
    held = run.holding(target)
    mode = held.modes[0] if mode is None else mode
    shown = output or str(run.provenance.get("output", OUTPUTS[0]))
    output = shown if output or shown in held.layout.example_outputs else held.layout.example_outputs[0]
    held.output_column(target, mode, output)  # Refuses what the run does not hold, listing what it does.
    if output == "prediction":
        raise checks.UserError(
            "output 'prediction' is a class number, of which there is no influence: ask for another."
        )
    known = [one.name for one in TABLE]
    if estimator is not None:
        checks.require_known("estimator", estimator, known)
    saved = [
        name for name in known if store.is_group(influence_path(held.path, target, mode, output, name))
    ]  # fmt: skip
    wanted = estimator or (saved or known)[0]
    complete, total = len(held.complete), held.num_models
    progress = "" if complete == total else f"the run is in progress: {complete} of {total} models are complete"
    command = (
        f"python -m experiments.fit_datamodels --run {run.path} --target {target} --mode {mode} --output {output} "
        f"--estimator {wanted}"
    )
    rest = 0
    if wanted in saved:
        kept = load_influences(influence_path(held.path, target, mode, output, wanted), level="task")
        rest = kept.num_models + len(kept.info.get("left_out", ()))
        if rest >= complete:
            return Evidence(held, target, mode, output, wanted, kept.num_models, _sentence(progress), None)
    elif saved and not progress:
        raise checks.UserError(
            f"the run {str(run.path)!r} has no influences of {wanted} on {target}/{mode}/{output}; it has: "
            f"{', '.join(saved)}; estimate them with: {command}."
        )
    if not _is_cheap(held, target, complete, wanted):
        if wanted in saved:
            behind = (
                f"influences rest on {rest} models, and {complete} are complete; estimate them anew with: {command}"
            )
            return Evidence(held, target, mode, output, wanted, rest, _sentence(progress, behind), None)
        raise checks.UserError(
            f"the run {str(run.path)!r} has no influences of {wanted} on {target}/{mode}/{output} yet, and it is too "
            f"large to estimate them in passing: {command}."
        )
    levels, num_models = _estimate(held, target, mode, output, wanted)
    told = f"influences are estimated anew from {num_models} models, and not saved"
    return Evidence(held, target, mode, output, wanted, num_models, _sentence(progress, told), levels)


def _sentence(*parts: str) -> str:
    text = "; ".join(part for part in parts if part)
    return f"{text}." if text else ""


def _is_cheap(run: store.Run, target: str, models: int, estimator: str) -> bool:
    examples, units = run.layout.num_examples[target], run.layout.num_units
    most = _MOST_FOR_LASSO if estimator == "lasso" else MOST_IN_MEMORY
    return max(models, units) * examples <= most and min(models, units) <= 2_000


def _estimate(
    run: store.Run, target: str, mode: str, output: str, estimator: str
) -> tuple[dict[Level, Influences], int]:
    rows = usable_rows(run, target, mode)
    if output not in rows.outputs:
        checks.require_known("output", output, list(rows.outputs))
    values, labelled = rows.outputs[output], run.target(target)
    outputs: dict[Level, tuple[np.ndarray, tuple[str, ...]]] = {
        "example": (values, tuple(str(i) for i in range(values.shape[1]))),
        "task": (aggregate(values, whole_task(values.shape[1], target)), (target,)),
    }
    if labelled.class_names:
        classes = by_class(labelled.labels, labelled.class_names)
        outputs["class"] = (aggregate(values, classes), classes.names)
    fit = named((estimator,))[0].fit
    return {
        level: dataclasses.replace(
            fit(rows.masks, some, paired=rows.paired), unit_names=run.unit_names, target_names=names, output=output
        )
        for level, (some, names) in outputs.items()
    }, len(rows.masks)
