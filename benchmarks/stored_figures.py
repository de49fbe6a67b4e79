"""Figures that a run claims beside those that its store gives: what programs that compute them again share.

Nothing here comes from jdt or from experiments: a store is read as the Zarr v3 that it is.
"""

import functools
import itertools
import json
import math
import pathlib
import re
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorstore
from scipy import stats

ROUNDING, FLOAT32 = 1e-9, 1e-5
MISSING = "missing"


class Near(NamedTuple):
    """A number that is known within a tolerance."""

    value: float
    tolerance: float


class Figure(NamedTuple):
    """What a run claims, `MISSING` where it claims nothing, and the same from its store."""

    what: str
    claimed: Any
    found: Any

    @property
    def agrees(self) -> bool:
        """Whether they are the same."""
        return same(self.claimed, self.found)


def same(claimed: Any, found: Any) -> bool:
    """Whether a claim has the form and the numbers of what was found: floats within a tolerance, all else exactly.

    >>> same([1, 0.5], [1, 0.5 + 1e-12]), same([2], [1]), same({"low": None}, {"low": 0.5}), same(1.0, Near(1.1, 0.2))
    (True, False, False, True)
    """
    if isinstance(found, float | Near):
        value, tolerance = found if isinstance(found, Near) else (found, ROUNDING)
        return isinstance(claimed, int | float) and abs(claimed - value) <= tolerance
    if isinstance(found, dict):
        return (
            isinstance(claimed, dict)
            and claimed.keys() == found.keys()
            and all(same(claimed[key], value) for key, value in found.items())
        )
    if isinstance(found, list):
        return (
            isinstance(claimed, list)
            and len(claimed) == len(found)
            and all(same(*pair) for pair in zip(claimed, found, strict=True))
        )
    return type(claimed) is type(found) and claimed == found


def known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)


class Store:
    """A run directory's configuration and arrays."""

    def __init__(self, run: pathlib.Path) -> None:
        """Look at what is there.

        Raises:
          ValueError: If blocks are missing.
        """
        self.run, self._root = run, run / "store.zarr"
        saved = json.loads((run / "run.json").read_text(encoding="utf-8"))
        self.config, self.settings = saved["config"], saved["provenance"]["settings"]
        self.num_models = saved["schema"]["num_models"]
        records = [json.loads(path.read_text(encoding="utf-8")) for path in (run / "blocks").glob("*.json")]
        rows = sorted(itertools.chain.from_iterable(range(*record["models"]) for record in records))
        if rows != list(range(self.num_models)):
            raise ValueError(f"{run} holds {len(rows)} of {self.num_models} models: run its command again.")
        # Names are made into paths that any disk takes; the group keeps the name itself.
        self._folders = {
            json.loads(path.read_text(encoding="utf-8"))["attributes"]["name"]: path.parent
            for path in (self._root / "targets").glob("*/zarr.json")
        }

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """Which units each model was trained on, bool `[models, units]`."""
        return read_array(self._root / "mask")

    @functools.cached_property
    def units(self) -> list[str]:
        """Names of the units."""
        return read_names(self._root / "unit_name")

    @functools.cache  # noqa: B019  # A store lives as long as the program.
    def predictions(self, target: str, mode: str) -> np.ndarray:
        """int32 `[models, examples]`; -1 where a model diverged."""
        return self.of_target(target, mode, "prediction")

    def labels(self, target: str) -> np.ndarray:
        """int32 `[examples]`."""
        return read_array(self._folder(target) / "label")

    def classes(self, target: str) -> list[str]:
        """Names of a target's classes."""
        return read_names(self._folder(target) / "class_name")

    def column(self, name: str) -> np.ndarray:
        """A column of all models, such as `source/accuracy`."""
        return read_array(self._root / name)

    def of_target(self, target: str, mode: str, name: str) -> np.ndarray:
        """A column of one target in one mode, `[models, ...]`."""
        return read_array(self._folder(target) / re.sub(r"[^A-Za-z0-9_.\-:\[\]%+ ]", "_", mode) / name)

    @property
    def targets(self) -> list[str]:
        """Names of targets, their variants and views."""
        return list(self._folders)

    def _folder(self, target: str) -> pathlib.Path:
        if target not in self._folders:
            raise ValueError(f"{self.run} has no predictions on {target!r}.")
        return self._folders[target]


def read_array(path: pathlib.Path) -> np.ndarray:
    """A numeric Zarr v3 array, chunks checked by their CRC-32C."""
    kvstore = {"driver": "file", "path": str(path.resolve())}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result().read().result()


def read_names(path: pathlib.Path) -> list[str]:
    """A Zarr v3 array of strings in one chunk, which TensorStore cannot read: a number, then lengths and UTF-8."""
    chunk, names, start = (path / "c" / "0").read_bytes(), [], 4
    for _ in range(*struct.unpack_from("<I", chunk)):
        (size,) = struct.unpack_from("<I", chunk, start)
        names.append(chunk[start + 4 : start + 4 + size].decode())
        start += 4 + size
    return names


def difference(biased: Sequence[float], twin: Sequence[float]) -> dict[str, Any]:
    """Mean difference of pairs of one seed, and its t interval at 95 % over seeds."""
    apart = [b - t for b, t in zip(biased, twin, strict=True) if not math.isnan(b - t)]
    found: dict[str, Any] = {"mean": None, "low": None, "high": None}
    if apart:
        found["mean"] = float(np.mean(apart))
    if len(apart) > 1:
        error = math.sqrt(float(np.var(apart, ddof=1)) / len(apart))
        reach = float(stats.t.ppf(0.975, len(apart) - 1)) * error
        found |= {"low": found["mean"] - reach, "high": found["mean"] + reach}
    return {**found, "pairs": len(apart), "left_out": len(biased) - len(apart)}


def names_figure(what: str, store: Store, masks: np.ndarray, rows: Sequence[str]) -> Figure:
    """Units are named after the rows whose masks hold them; names of more than three may be cut after two.

    A unit of the name of an earlier one is numbered.
    """
    held = [[name for name, holds in zip(rows, column, strict=True) if holds] for column in masks.T]
    cut = [", ".join(one) if len(one) < 4 else f"{', '.join(one[:2])} and {len(one) - 2} more" for one in held]
    whole, told = [", ".join(one) for one in held], [re.sub(r" \(\d+\)$", "", name) for name in store.units]
    return Figure(what, told, whole if told == whole else cut)


def words(value: Any) -> str:
    """A figure in a cell of the table."""
    if isinstance(value, dict) and {"hits", "of", "values"} <= value.keys():
        if value["hits"] and isinstance(value["hits"], list) and isinstance(value["of"], list):
            return " ".join(f"{hits}/{of}" for hits, of in zip(value["hits"], value["of"], strict=False))
        return words(value["values"])
    if isinstance(value, dict) and {"mean", "low", "high"} <= value.keys():
        return f"{words(value['mean'])} ({words(value['low'])} to {words(value['high'])})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {words(one)}" for name, one in value.items())
    if isinstance(value, Near):
        return words(value.value)
    if isinstance(value, list):
        listed = " ".join(words(one) for one in value[:5])
        return f"{listed} ... ({len(value)})" if len(value) > 5 else listed or "none"
    if isinstance(value, str) and len(value) > 48:
        return f"{value[:44]} ..."
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def table(rows: Sequence[Figure]) -> str:
    """One line a figure."""
    cells = [["what", "claimed", "recomputed", "agree"]]
    cells += [[one.what, words(one.claimed), words(one.found), "yes" if one.agrees else "NO"] for one in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def compared(run: pathlib.Path, figures: Callable[[], Iterable[Figure]], only: str | None) -> int:
    """Print figures side by side; 1 where anything disagrees, 2 where there is nothing to compare.

    Args:
      run: Named where it cannot be compared.
      figures: Computes them.
      only: Print those that have this in their name and those that disagree; all of them when None.
    """
    try:
        found = list(figures())
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        print(f"{run} cannot be compared: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    rows = [one for one in found if (one.claimed, one.found) != (None, None)]  # A twin differs from nothing.
    print(table([one for one in rows if only is None or only in one.what or not one.agrees]))
    wrong = [one for one in rows if not one.agrees]
    print(f"{len(rows)} figures, {len(rows) - len(wrong)} agree, {len(wrong)} do not.")
    for one in wrong:
        print(f"DISAGREES: {one.what}: claimed {one.claimed!r}, recomputed {one.found!r}")
    return 1 if wrong else 0
