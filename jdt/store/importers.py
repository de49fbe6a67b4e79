"""Runs made of what other programs stored: the log directories of MadryLab's `datamodels` and `data-transfer`."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jdt.checks import UserError
from jdt.store.arrays import checksum
from jdt.store.create import create_or_open
from jdt.store.datamodels_log import Log, open_log, read_rows
from jdt.store.files import is_local, run_path
from jdt.store.reader import Run, open_run, saved_run
from jdt.store.schema import ACCURACY, Schema, Target

_BLOCK_BYTES = 32 * 2**20


def is_foreign(path: str | os.PathLike[str]) -> bool:
    """Whether a directory holds `.npy` files and no run of jdt, so that it may be a log directory."""
    place = run_path(path)
    return is_local(place) and not (place / "run.json").exists() and any(place.glob("*.npy"))


def import_datamodels(
    logdir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    masks: str | os.PathLike[str] | None = None,
    outputs: Mapping[str, str] | None = None,
    target: str = "target",
    mode: str = "fixed",
    unit_names: Sequence[str] | None = None,
    labels: Sequence[int] | np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
    paired: bool = False,
    allow_diverged: bool = False,
    block_size: int | None = None,
    overwrite: bool = False,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Turn a log directory of MadryLab/datamodels (or data-transfer) into a run, block by block.

    Such a directory holds one `.npy` file for each array, a row for each model: `_completed` (bool `[rows]`), `masks`
    (bool or uint8 `[rows, units]`, units being training examples or classes) and outputs `[rows, examples]`, often in
    float16 (`datamodels/training/initialize_store.py`, `worker.py`). Files are mapped, never unpickled, and read in
    blocks. Rows that are not completed are dropped. The run holds the outputs that there are and no others, in
    float32. After a kill the same call goes on where it was.

    Args:
      logdir: The log directory; it is only read.
      out: Run directory to make or to go on with.
      masks: File of the masks; by default `masks.npy` in the log directory (data-transfer keeps it elsewhere).
      outputs: Name in the run -> name of the file without `.npy`. By default the files called `margins` or
        `raw_margins` (margin), `softmax_logits` (confidence), `predictions` (prediction) and `acc` (accuracy). Under
        other names any numeric array `[rows]` or `[rows, examples]` can be imported; it is kept as float32.
      target: What to call the target.
      mode: Kind of transfer that made the outputs; models that were not transferred are `fixed`, for want of a word.
      unit_names: Names of the mask columns; their numbers by default.
      labels: True class of each target example, integer `[examples]`; without it there is no level of classes.
      class_names: Names of the target's classes; their numbers by default.
      paired: Rows 2i and 2i+1 are a mask and its complement; a row is then dropped with its partner.
      allow_diverged: Keep completed models with NaN or infinite outputs as diverged ones, which estimators leave out.
      block_size: Models written together; by default about 32 MiB of them.
      overwrite: Remove the run that is in `out` first.
      provenance: What else to keep about how the run came about.
      progress: Called with (models written, models in all).

    Returns:
      The run, complete.

    Raises:
      UserError: Where a file is missing, unreadable, holds objects, or does not fit the others; where completed rows
        hold what cannot be; where `out` holds something else.
    """
    log = open_log(Path(logdir), None if masks is None else Path(masks), outputs, paired=paired)
    saved = None if overwrite else saved_run(out)
    schema = Schema(
        num_models=len(log.kept),
        block_size=block_size or (saved.layout.block_size if saved else _default_block_size(log, paired=paired)),
        unit_names=_names("unit_names", unit_names, log.masks.shape[1], "mask columns"),
        targets={target: _target(labels, class_names, log.num_examples)},
        modes=(mode,),
        outputs=tuple(log.outputs),
    )
    if paired and schema.block_size % 2:
        raise UserError(f"block_size is {schema.block_size}, but pairs stay in one block: pass an even number.")
    sample = log.kept[np.unique(np.linspace(0, len(log.kept) - 1, 16).astype(int))]
    writer = create_or_open(
        out,
        config={
            "experiment": "import_datamodels",
            "target": target,
            "mode": mode,
            "design": {"kind": "antithetic" if paired else "unknown"},
            "outputs": {name: path.stem for name, path in log.files.items()},
            # Not of every value, which would mean to read the files twice.
            "fingerprints": {
                "rows": checksum(log.kept),
                "masks": checksum(np.asarray(log.masks[sample])),
                **{name: checksum(np.asarray(values[sample])) for name, values in log.outputs.items()},
            },
        },
        provenance={
            **(provenance or {}),
            "imported_from": str(Path(logdir).absolute()),
            "output": "margin" if "margin" in log.outputs else next(n for n in log.outputs if n != ACCURACY),
        },
        schema=schema,
        overwrite=overwrite,
    )
    missing = writer.missing_blocks()
    done = schema.num_models - sum(len(schema.layout.models_of(block)) for block in missing)
    for block in missing:
        models = schema.layout.models_of(block)
        rows = log.kept[models.start : models.stop]
        arrays, diverged = read_rows(log, rows, f"targets/{target}/{mode}", paired, allow_diverged)
        record = {
            "rows": rows.tolist(),
            "diverged": [model for model, bad in zip(models, diverged, strict=True) if bad],
        }
        writer.write_block(block, arrays, record)
        done += len(models)
        if progress is not None:
            progress(done, schema.num_models)
    return open_run(out)


def _names(argument: str, names: Sequence[str] | None, count: int, of: str) -> tuple[str, ...]:
    if names is None:
        return tuple(map(str, range(count)))
    if len(names) != count:
        raise UserError(f"{argument} has {len(names)} names, but there are {count} {of}: give each its name, in order.")
    return tuple(names)


def _target(labels: Sequence[int] | np.ndarray | None, class_names: Sequence[str] | None, num_examples: int) -> Target:
    if labels is None:
        if class_names is not None:
            raise UserError("class_names are given without labels: pass labels= (--labels), the class of each example.")
        return Target(np.full(num_examples, -1, np.int32), ())
    found = np.asarray(labels)
    if found.shape != (num_examples,) or found.dtype.kind not in "iu" or found.min() < 0:
        raise UserError(
            f"labels are {found.dtype}{list(found.shape)}, but must be integers [{num_examples}] of at least 0, one "
            "for each example of the outputs, in their order."
        )
    return Target(found.astype(np.int32), _class_names(class_names, int(found.max()) + 1))


def _class_names(names: Sequence[str] | None, count: int) -> tuple[str, ...]:
    if names is not None and len(names) < count:
        raise UserError(f"class_names has {len(names)} names, but labels go up to {count - 1}: name every class.")
    return tuple(map(str, range(count))) if names is None else tuple(names)


def _default_block_size(log: Log, *, paired: bool) -> int:
    row = log.masks.shape[1] + sum(4 * values.shape[-1] for values in log.outputs.values() if values.ndim == 2)
    size = min(max(_BLOCK_BYTES // row, 2), len(log.kept))
    return max(size - size % 2, 2) if paired else size
