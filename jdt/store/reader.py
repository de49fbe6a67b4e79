"""Read a run: lazily, verified against the checksums of its blocks, also while it is being written."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from jdt import metrics
from jdt.checks import UserError, require_known
from jdt.config import fingerprint
from jdt.store import records as block_records
from jdt.store.arrays import open_columns, read_checked, start_reading
from jdt.store.files import Place, exists, explained, names_in, read_json, run_path
from jdt.store.records import Damage, load_run_file
from jdt.store.schema import ACCURACY, TRAIN_ACCURACY, Column, Layout, Target, labels_digest, safe_name
from jdt.store.strings import read_int32, read_strings
from jdt.types import Bool, Float, Int32, Shaped

TRANSFERS = "transfers"
"""Folder of targets that were added to a run later, each a run of its own."""
_REMEDY = "run the same command again with the same --out"
LOG_ODDS = "log_odds"
METRICS = (ACCURACY, TRAIN_ACCURACY, "per_class_accuracy", "auroc")
"""What `Run.metric` knows."""
_READ_AHEAD = 8  # Blocks decoded while earlier ones are checked and copied.


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run directory as it was when it was opened; every array holds the complete models only.

    Attributes:
      path: The directory.
      schema_version: Version of its layout.
      config: What was asked for.
      provenance: Versions, device, commit and so on.
      layout: Sizes of its columns.
    """

    path: Place
    schema_version: int
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    layout: Layout
    _description: Mapping[str, Any] = dataclasses.field(repr=False)
    _records: tuple[Mapping[str, Any], ...] = dataclasses.field(repr=False)

    @property
    def num_models(self) -> int:
        """Models asked for, complete or not."""
        return self.layout.num_models

    @property
    def modes(self) -> tuple[str, ...]:
        """Kinds of transfer, e.g. `("fixed", "full")`."""
        return self.layout.modes

    @functools.cached_property
    def complete(self) -> Int32[np.ndarray, " models"]:
        """Ids, ascending, of the models whose block is recorded; rows of every array below are in this order."""
        spans = [np.arange(*record["models"], dtype=np.int32) for record in self._records]
        return np.concatenate([np.empty(0, np.int32), *spans])

    @functools.cached_property
    def unit_names(self) -> tuple[str, ...]:
        """What each mask column switches."""
        names = read_strings(self.path / "store.zarr" / "unit_name")
        self._require_digest("unit_name", fingerprint(names), self._description["unit_names"])
        self._require_length("unit_name", len(names), self.layout.num_units)
        return names

    @functools.cached_property
    def targets(self) -> Mapping[str, Target]:
        """Labels and class names of every target, those included that were added later, by name."""
        own = {name: self.target(name) for name in self.layout.num_examples}
        return own | {name: run.target(name) for name, run in self.added.items()}

    @functools.cached_property
    def added(self) -> Mapping[str, "Run"]:
        """Targets that were added to this run later, by name: each is a run of its own, in `transfers/`.

        Raises:
          UserError: Where one of them is damaged, or belongs to another run.
        """
        found: dict[str, Run] = {}
        with explained(f"listing the targets that were added to {self.path}"):
            folders = added_folders(self.path)
        for folder in folders:
            run = open_run(folder)
            if len(run.layout.num_examples) != 1 or run.config.get("run") != fingerprint(self.config):
                raise UserError(f"{folder} is no target that was added to this run: move it elsewhere.")
            found[next(iter(run.layout.num_examples))] = run
        return {name: run for name, run in found.items() if name not in self.layout.num_examples}

    def holding(self, target: str) -> "Run":
        """The run that a target's columns are in: this one, or one inside it, for a target that was added later.

        Raises:
          UserError: Where there is no such target.
        """
        if target in self.layout.num_examples:
            return self
        require_known("target", target, [*self.layout.num_examples, *self.added])
        return self.added[target]

    @property
    def summary(self) -> dict[str, Any] | None:
        """Key figures of the experiment, or None before there are any."""
        try:
            return read_json(self.path / "summary.json")
        except FileNotFoundError:
            return None

    def records(self) -> list[Mapping[str, Any]]:
        """The block records, in the order of the blocks."""
        return list(self._records)

    def mask(self) -> Bool[np.ndarray, "models units"]:
        """Which units each complete model was trained on."""
        return self.column("mask")

    def outputs(
        self, target: str, mode: str = "fixed", output: str = "margin", *, examples: slice = slice(None)
    ) -> Float[np.ndarray, "models examples"] | Int32[np.ndarray, "models examples"]:
        """What the complete models say about every example of a target.

        Args:
          target: Target name.
          mode: Kind of transfer.
          output: `margin` or `confidence` (float32), `prediction` (int32), or what an imported run holds instead;
            `log_odds` (float32) of a run that holds margin and confidence is told from these: see
            `jdt.metrics.log_odds_of`.
          examples: Only these; of the others no more than a few blocks are in memory at a time.

        Raises:
          UserError: Where there is no such target, mode or output, a chunk is damaged, or the target was added later
            and not all complete models have been transferred to it yet.
        """
        held = self.holding(target)
        if held is not self:
            return self._of_complete(held, target, held.outputs(target, mode, output, examples=examples))
        stored = self.layout.example_outputs
        if output == LOG_ODDS not in stored and {"margin", "confidence"} <= {*stored}:
            confidence, margin = (self.outputs(target, mode, o, examples=examples) for o in ("confidence", "margin"))
            return metrics.log_odds_of(confidence, margin, len(self._classes(target)))
        return self._gather(self.output_column(target, mode, output), (slice(None), examples))

    def metric(self, target: str, mode: str = "fixed", name: str = ACCURACY) -> Float[np.ndarray, " models"]:
        """How good every complete model is on a target, in [0, 1]; NaN for models that diverged.

        Args:
          target: Target name.
          mode: Kind of transfer.
          name: `accuracy`, `train_accuracy`, `per_class_accuracy` (the mean over classes of the accuracy on each), or
            `auroc` (of the probability of class 1, where there are two classes).

        Raises:
          UserError: Where there is no such target, mode or metric, the run does not hold what it takes, or the target
            has not two classes.
        """
        require_known("metric", name, METRICS)
        held = self.holding(target)
        if held is not self:
            return self._of_complete(held, target, held.metric(target, mode, name))
        if name == "per_class_accuracy":
            classes = self._classes(target)
            return metrics.per_class_accuracy(
                self.outputs(target, mode, "prediction"), self.target(target).labels, len(classes)
            )
        if name == "auroc":
            if len(classes := self._classes(target)) != 2:
                raise UserError(
                    f"target {target!r} has {len(classes)} classes, but auroc is of two: ask for per_class_accuracy."
                )
            labels = self.target(target).labels
            # With two classes the margin is the log-odds: no two of them are equal because they were rounded to 1.
            margin = self.outputs(target, mode, "margin")
            return metrics.binary_auroc(np.where(labels == 1, margin, -margin), labels)
        require_known("target", target, self.layout.num_examples)
        require_known("mode", mode, self.modes)
        column = f"targets/{target}/{mode}/{name}"
        if column not in self.layout.columns():
            raise UserError(f"{self.path} holds no {name} of the models: it was not recorded when the run was made.")
        return self.column(column)

    def _of_complete(self, held: "Run", target: str, rows: Shaped[np.ndarray, "..."]) -> Any:
        """Of the rows of a target that was added later, those of this run's complete models."""
        missing = np.setdiff1d(self.complete, held.complete)
        if len(missing):
            raise UserError(
                f"{len(missing)} of {len(self.complete)} complete models have not been transferred to {target} yet: "
                "run experiments.transfer_again once more, or read those that have with "
                f"jdt.open_run({str(held.path)!r})."
            )
        return rows[np.isin(held.complete, self.complete)]

    def _classes(self, target: str) -> tuple[str, ...]:
        """Class names of a target all of whose labels are known."""
        require_known("target", target, self.layout.num_examples)
        if not self.target(target).class_names or (self.target(target).labels < 0).any():
            raise UserError(f"the labels of target {target!r} are not known in {self.path}: import it with labels.")
        return self.target(target).class_names

    def output_column(self, target: str, mode: str, output: str) -> str:
        """Name of the column of an output, in `holding(target)`.

        Raises:
          UserError: Where the run has no such target, mode or output; what it has is listed.
        """
        if self.holding(target) is not self:
            return self.added[target].output_column(target, mode, output)
        require_known("mode", mode, self.modes)
        if output not in self.layout.example_outputs:
            raise UserError(
                f"{self.path} holds no output {output!r}, only {', '.join(self.layout.example_outputs)}: ask for what "
                "it holds" + ("." if self.layout.outputs is None else ", or import this one as well.")
            )
        return f"targets/{target}/{mode}/{output}"

    def column(self, name: str) -> Shaped[np.ndarray, "models ..."]:
        """The rows of the complete models of any column, e.g. `source/accuracy`, checked against the records.

        Raises:
          UserError: Where there is no such column, or a chunk is damaged (naming block, column and file).
        """
        return self._gather(name, ())

    def blocks(self, name: str) -> Iterator[Shaped[np.ndarray, "models ..."]]:
        """The complete blocks of a column, one after the other, checked like `column`; memory holds a few at a time.

        Raises:
          UserError: Where there is no such column, at once; where a chunk is damaged, when its block is due.
        """
        columns, store = self.layout.columns(), self.path / "store.zarr"
        require_known("column", name, columns)
        return self._read_blocks(columns[name], open_columns(store, [columns[name]], writable=False)[name])

    def _read_blocks(self, column: Column, array: Any) -> Iterator[np.ndarray]:
        waiting: collections.deque[tuple[Mapping[str, Any], Any]] = collections.deque()
        store = self.path / "store.zarr"

        def finish() -> np.ndarray:
            record, future = waiting.popleft()
            values, reason = read_checked(
                future, record["checksums"][column.name], array=array, column=column, block=record["block"],
                store=store,
            )  # fmt: skip
            if values is None:
                _refuse(self.path, Damage(record["block"], column.name, reason))
            return values

        for record in self._records:
            waiting.append((record, start_reading(array, column, record, store)))
            if len(waiting) > _READ_AHEAD:
                yield finish()
        while waiting:
            yield finish()

    def _gather(self, name: str, part: tuple[slice, ...]) -> np.ndarray:
        """The rows of all complete blocks, of each the part that is asked for."""
        blocks, filled = self.blocks(name), 0
        column = self.layout.columns()[name]
        widths = [len(range(*s.indices(n))) for s, n in zip(part[1:], column.shape[1:], strict=False)]
        try:
            rows = np.empty((len(self.complete), *(widths or column.shape[1:])), column.dtype)
        except (MemoryError, ValueError) as error:  # ValueError: more than there are addresses.
            raise UserError(
                f"{name} of {self.path} is {list(column.shape)}, more than the memory holds: ask for fewer examples."
            ) from error
        for values in blocks:
            rows[filled : filled + len(values)] = values[part]
            filled += len(values)
        return rows

    def target(self, name: str) -> Target:
        """Labels and class names of one target.

        Raises:
          UserError: Where they are damaged.
        """
        folder, description = f"targets/{safe_name(name)}", self._description["targets"][name]
        labels = read_int32(self.path / "store.zarr" / folder / "label")
        class_names = read_strings(self.path / "store.zarr" / folder / "class_name")
        self._require_digest(f"{folder}/label", labels_digest(labels), description["labels"])
        self._require_digest(f"{folder}/class_name", fingerprint(class_names), description["class_names"])
        self._require_length(f"{folder}/label", len(labels), self.layout.num_examples[name])
        try:
            return Target(labels, class_names)
        except UserError as error:
            raise UserError(f"{self.path}/store.zarr/{folder} is damaged: {error}") from error

    def _require_digest(self, name: str, found: str, expected: str) -> None:
        if found != expected:
            raise UserError(f"{self.path}/store.zarr/{name} is damaged: {_REMEDY}: it is mended.")

    def _require_length(self, name: str, found: int, expected: int) -> None:
        if found != expected:
            raise UserError(f"{self.path}/store.zarr/{name} has {found} entries, but run.json says {expected}.")


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a run directory for reading.

    Only `run.json` and the block records are read here; blocks that are written later are not seen.

    Raises:
      UserError: Where there is no run, it has another schema version, or `run.json` or a record is damaged.
    """
    root = run_path(path)
    saved = _saved(root)
    found = _loaded_records(root, saved)
    while isinstance(found, Damage):
        before, saved = saved, _saved(root)
        if saved == before:
            _refuse(root, found)
        found = _loaded_records(root, saved)  # The run has grown in between.
    return Run(
        path=root,
        schema_version=saved["schema_version"],
        config=saved["config"],
        provenance=saved["provenance"],
        layout=layout_of(saved["schema"], root),
        _description=saved["schema"],
        _records=tuple(found),
    )


def added_folders(root: Place) -> list[Place]:
    """Runs inside a run, each of a target that was added later.

    Raises:
      OSError: As the system or the bucket reports it.
    """
    try:
        names = names_in(root / TRANSFERS)
    except NotADirectoryError:
        return []
    # As all that jdt writes, and all that a message can show; without run.json nothing is there yet.
    folders = [root / TRANSFERS / name for name in names if safe_name(name) == name]
    return [folder for folder in folders if _has_run_file(folder)]


def _has_run_file(folder: Place) -> bool:
    try:
        return exists(folder / "run.json")
    except NotADirectoryError:  # Somebody's file.
        return False


def _saved(root: Place) -> dict[str, Any]:
    try:
        return load_run_file(root).saved
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{root} is not a run directory: it holds no run.json.") from None


def _loaded_records(root: Place, saved: Mapping[str, Any]) -> list[Mapping[str, Any]] | Damage:
    """All records, or the first that is damaged as far as this `run.json` tells."""
    layout = layout_of(saved["schema"], root)
    found: list[Mapping[str, Any]] = []
    with explained(f"listing the blocks of {root}"):
        blocks = block_records.recorded_blocks(root)
    for block in blocks:
        record = block_records.load_record(root, block, layout, saved["config_fingerprint"])
        if isinstance(record, Damage):
            return record
        if record is not None:
            found.append(record)
    return found


def layout_of(description: Mapping[str, Any], root: Place) -> Layout:
    """Sizes from `run.json`, which anyone may have edited: names become paths through `safe_name` only."""
    try:
        counts: Sequence[int] = [description[key] for key in ("num_models", "block_size", "num_units")]
        targets = description["targets"]
        examples = {name: target["num_examples"] for name, target in targets.items()}
        modes, outputs = tuple(description["modes"]), description.get("outputs")
        added: dict[str, Any] = {name: description.get(name, False) for name in ("train_accuracy", "sgd_head")}
        spectrum, spectrum_of = description.get("spectrum", 0), description.get("spectrum_of")
        digests = [description["unit_names"], *(t[key] for t in targets.values() for key in ("labels", "class_names"))]
        if not all(type(count) is int and count >= 0 for count in [*counts, spectrum, *examples.values()]):
            raise TypeError("sizes must be whole numbers")
        if not all(type(flag) is bool for flag in added.values()):
            raise TypeError("what was added must be true or false")
        named = (outputs, spectrum_of)
        if not isinstance(description["modes"], list) or not all(one is None or isinstance(one, list) for one in named):
            raise TypeError("modes and outputs must be lists")
        if not all(isinstance(text, str) for text in (*digests, *modes, *(outputs or ()), *(spectrum_of or ()))):
            raise TypeError("names and digests must be strings")
        outputs, spectrum_of = (None if one is None else tuple(one) for one in named)
        fits = description.get("fits", {})
        if not isinstance(fits, dict) or not all(isinstance(text, str) for item in fits.items() for text in item):
            raise TypeError("how modes get their heads must be names by mode")
        added |= {"spectrum": spectrum, "spectrum_of": spectrum_of, "fits": fits}
        return Layout(counts[0], counts[1], counts[2], examples, modes, outputs, **added)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{root}/run.json is damaged: its schema cannot be read ({error}).") from error
    except UserError as error:
        raise UserError(f"{root}/run.json is damaged: its schema is not one of a run: {error}") from error


def _refuse(root: Place, damage: Damage) -> NoReturn:
    raise UserError(
        f"{root} is damaged: block {damage.block}, {damage.column}: {damage.reason}: {_REMEDY}: the block is retrained."
    )


def saved_run(path: str | os.PathLike[str]) -> Run | None:
    """Open the run that is in a directory, or None where there is none that can be read."""
    try:
        return open_run(path)
    except UserError:  # Whoever opens the run for writing says what is wrong with it.
        return None
