"""The log directories of MadryLab's `datamodels` and `data-transfer`: opened, checked, read a few rows at a time.

One `.npy` file for each array, a row for each model (`datamodels/training/initialize_store.py`, `worker.py`;
`data-transfer/src/spec_utils.py`): `_completed` bool `[rows]`, `masks` bool `[rows, units]`, any outputs.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jdt.checks import UserError
from jdt.store.files import one_line
from jdt.store.schema import ACCURACY
from jdt.types import Bool, Int, Shaped

COMPLETED = "_completed"
_STORED_AS = {
    "margins": "margin",
    "raw_margins": "margin",
    "softmax_logits": "confidence",
    "predictions": "prediction",
    "acc": ACCURACY,
}
_PERCENT = {"acc"}  # data-transfer stores 100 times the share of right predictions.


@dataclasses.dataclass(frozen=True, eq=False)
class Log:
    """A log directory, opened and checked: memory maps, none of which has been read but `_completed`.

    Attributes:
      masks: bool or uint8 `[rows, units]`, memory-mapped.
      mask_file: Where they are.
      outputs: Name in the run -> numbers `[rows, examples]`, or `[rows]` for accuracy, memory-mapped.
      files: Name in the run -> where that output is.
      kept: Rows to import: completed, and when paired, so is the partner.
    """

    masks: Shaped[np.ndarray, "rows units"]
    mask_file: Path
    outputs: Mapping[str, Shaped[np.ndarray, "rows ..."]]
    files: Mapping[str, Path]
    kept: Int[np.ndarray, " models"]

    @property
    def num_examples(self) -> int:
        """Number of examples of the target."""
        return next(values.shape[1] for name, values in self.outputs.items() if name != ACCURACY)


def open_log(logdir: Path, masks: Path | None, outputs: Mapping[str, str] | None, *, paired: bool) -> Log:
    """Open a log directory and check that its files fit each other; arguments as in `import_datamodels`.

    Raises:
      UserError: Where a file is missing, unreadable or does not fit, or no row is completed.
    """
    if not logdir.is_dir():
        raise UserError(f"{logdir} is not a directory: pass the log directory that holds {COMPLETED}.npy.")
    completed = _completed(logdir / f"{COMPLETED}.npy")
    mask_file = logdir / "masks.npy" if masks is None else masks
    found = _map(mask_file, "pass masks= (--masks) if the masks are in another file")
    if found.ndim != 2 or found.dtype not in (np.dtype(bool), np.dtype(np.uint8)):
        raise UserError(
            f"{mask_file} is {found.dtype}{list(found.shape)}, but masks must be bool or uint8 [rows, units]: convert "
            "it, or pass masks= (--masks) another file."
        )
    files = {name: logdir / f"{stem}.npy" for name, stem in (outputs or _known_outputs(logdir)).items()}
    arrays = {name: _output(name, path) for name, path in files.items()}
    for path, rows in ((mask_file, len(found)), *((files[name], len(values)) for name, values in arrays.items())):
        if rows != len(completed):
            raise UserError(
                f"{path} has {rows} rows, but {COMPLETED}.npy has {len(completed)}: they must describe the same "
                "models in the same order; cut the longer file to the models of the shorter."
            )
    widths = {files[name].name: values.shape[1] for name, values in arrays.items() if values.ndim == 2}
    if len(set(widths.values())) > 1:
        raise UserError(
            f"outputs have different numbers of examples ({', '.join(f'{n}: {w}' for n, w in widths.items())}): import "
            "them one by one, with outputs= (--outputs) and an --out each."
        )
    if ACCURACY in arrays and not widths:
        raise UserError(f"{files[ACCURACY].name} alone has no value an example: name an output such as margin as well.")
    done = completed
    if paired:
        even = completed[: len(completed) // 2 * 2].reshape(-1, 2)
        done = np.repeat(even.all(axis=1), 2)
    kept = np.flatnonzero(done)
    if not len(kept):
        what = "pair of rows is" if paired else "row is"
        raise UserError(f"no {what} completed in {logdir / COMPLETED}.npy: run the workers first.")
    return Log(found, mask_file, arrays, files, kept)


def _map(path: Path, remedy: str) -> Shaped[np.ndarray, "..."]:
    """Map a `.npy` file; NumPy's memory maps never unpickle, and refuse arrays of objects."""
    if not path.is_file():
        there = ", ".join(sorted(p.name for p in path.parent.glob("*.npy"))) or "no .npy file"
        raise UserError(f"{path} is not there; its directory holds {there}: {remedy}.")
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"{path} is not a readable .npy file of numbers ({one_line(error)}); files that need pickle are never "
            "read: write it anew with numpy.save(..., allow_pickle=False)."
        ) from error


def _completed(path: Path) -> Bool[np.ndarray, " rows"]:
    found = _map(path, "it says which models are done; if all are, save numpy.ones(number of models, bool) there")
    if found.ndim != 1 or found.dtype.kind not in "biu":
        raise UserError(
            f"{path} is {found.dtype}{list(found.shape)}, but must be bool [rows]: is this a datamodels log directory?"
        )
    return np.asarray(found) != 0


def _known_outputs(logdir: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for stem, name in _STORED_AS.items():
        if (logdir / f"{stem}.npy").is_file():
            if name in found:
                raise UserError(
                    f"{logdir} holds both {found[name]}.npy and {stem}.npy: say which is the {name}, with "
                    f'outputs={{"{name}": "{stem}"}} (--outputs {name}={stem}).'
                )
            found[name] = stem
    if not set(found) - {ACCURACY}:
        others = sorted(p.stem for p in logdir.glob("*.npy") if p.stem not in (COMPLETED, "masks", *_STORED_AS))
        example = others[0] if others else "FILE"
        raise UserError(
            f"{logdir} holds no output that is known by name ({', '.join(f'{n}.npy' for n in _STORED_AS)}), only "
            f'{", ".join(others) or "masks"}: name one, with outputs={{"margin": "{example}"}} '
            f"(--outputs margin={example})."
        )
    return found


def _output(name: str, path: Path) -> Shaped[np.ndarray, "rows ..."]:
    found = _map(path, "name a file that is there, with outputs= (--outputs)")
    expected = "numbers [rows]" if name == ACCURACY else "numbers [rows, examples]"
    kinds = "iu" if name == "prediction" else "fiub"
    if found.ndim not in ((1,) if name == ACCURACY else (1, 2)) or found.dtype.kind not in kinds:
        expected = expected.replace("numbers", "integers") if name == "prediction" else expected
        raise UserError(
            f"{path} is {found.dtype}{list(found.shape)}, but the output {name!r} must be {expected}: leave it out, or "
            "import it in that shape."
        )
    return found if name == ACCURACY or found.ndim == 2 else found[:, None]


def read_rows(
    log: Log, rows: Int[np.ndarray, " models"], prefix: str, paired: bool, allow_diverged: bool
) -> tuple[dict[str, np.ndarray], Bool[np.ndarray, " models"]]:
    """Read the run's columns of these rows.

    Args:
      log: The log.
      rows: Which rows.
      prefix: Of the outputs' columns.
      paired: Rows come in pairs of complements.
      allow_diverged: Blank models with NaN or infinite outputs instead of refusing them.

    Returns:
      Columns by name, and which of the rows diverged.

    Raises:
      UserError: Naming the first row that cannot be.
    """
    arrays = {"mask": _read_masks(log, rows, paired)}
    diverged = np.zeros(len(rows), bool)
    for name, source in log.outputs.items():
        path = log.files[name]
        arrays[f"{prefix}/{name}"] = values = _as_stored(name, np.asarray(source[rows]), path)
        if values.dtype == np.float32:
            bad = ~np.isfinite(values.reshape(len(rows), -1)).all(axis=1)
            if bad.any() and not allow_diverged:
                raise UserError(
                    f"{path} row {rows[bad.argmax()]} is completed but has NaN or infinite values (so have "
                    f"{int(bad.sum())} of the {len(rows)} models read with it): pass allow_diverged=True "
                    "(--allow-diverged) to leave such models out."
                )
            diverged |= bad
    for name in log.outputs:  # A diverged model is blank in every output, as in jdt's own runs.
        values = arrays[f"{prefix}/{name}"]
        values[diverged] = -1 if values.dtype == np.int32 else np.nan
    return arrays, diverged


def _read_masks(log: Log, rows: Int[np.ndarray, " models"], paired: bool) -> Bool[np.ndarray, "models units"]:
    raw = np.asarray(log.masks[rows])
    if raw.dtype == np.uint8 and raw.max() > 1:
        row = rows[(raw > 1).any(axis=1).argmax()]
        raise UserError(f"{log.mask_file} row {row} holds {raw.max()}, but masks hold 0 and 1: convert it to bool.")
    masks = raw.astype(bool)
    if not (kept := masks.any(axis=1)).all():
        row = rows[kept.argmin()]
        raise UserError(
            f"{log.mask_file} row {row} is completed but keeps no unit, so its worker stored no mask: set "
            f"{COMPLETED}[{row}] to False."
        )
    if paired and (broken := (masks[0::2] == masks[1::2]).any(axis=1)).any():
        row = rows[2 * broken.argmax()]
        raise UserError(
            f"{log.mask_file} rows {row} and {row + 1} are not a mask and its complement: leave out paired=True "
            "(--paired)."
        )
    return masks


def _as_stored(name: str, values: Shaped[np.ndarray, "models ..."], path: Path) -> Shaped[np.ndarray, "models ..."]:
    if name == "prediction":
        if values.size and (values.min() < -1 or values.max() > np.iinfo(np.int32).max):
            raise UserError(f"{path} holds {values.min()} to {values.max()}, which are no classes: leave it out.")
        return values.astype(np.int32)
    with np.errstate(over="ignore"):  # A float64 beyond float32 becomes infinite, which is refused above by its row.
        found = values.astype(np.float32)
    if name != ACCURACY:
        return found
    found = found / np.float32(100) if path.stem in _PERCENT else found
    if (finite := found[np.isfinite(found)]).size and (finite.min() < 0 or finite.max() > 1):
        raise UserError(
            f"{path} holds accuracies from {finite.min():g} to {finite.max():g}, but they must lie between 0 and 1 "
            "(between 0 and 100 in acc.npy): leave it out with outputs= (--outputs)."
        )
    return found
