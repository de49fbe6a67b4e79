"""Create a run directory, resume the one that is there or let it grow, or say why not."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from jdt.checks import UserError
from jdt.config import difference, fingerprint
from jdt.store.files import (
    Place,
    explained,
    json_bytes,
    jsonable,
    names_in,
    read_content,
    remove_abandoned,
    remove_tree,
    run_path,
    write_bytes,
)
from jdt.store.reader import TRANSFERS
from jdt.store.records import RunFile, load_run_file, now, read_run_file, sealed
from jdt.store.schema import SCHEMA_VERSION, Column, Schema
from jdt.store.source_models import CHECKPOINTS
from jdt.store.writer import REPORTER_FILE, RunWriter

UNFINISHED = "unfinished"
"""Folder of the checkpoints of blocks that are being trained."""
PLAN_FILE = "plan.json"
"""What a run is expected to take, which may be there before the run is."""
# What --overwrite removes, in this order: run.json last, so that a removal cut short can be repeated.
OWN_FILES = (
    "blocks", "store.zarr", "influences", TRANSFERS, CHECKPOINTS, UNFINISHED, "summary.json", "figures", "tables",
    "sections", "inspection", "planted.json", "report.html", REPORTER_FILE, "run.json",
)  # fmt: skip
OWN_FOLDERS = {
    "": False, "blocks": False, "store.zarr": True, "influences": True, TRANSFERS: True, CHECKPOINTS: True,
    UNFINISHED: True, "figures": False, "tables": False, "sections": False, "inspection": True,
}  # fmt: skip
"""Folders that jdt writes to, and whether it also writes to folders below them."""
_ATTEMPTS = 5


def create_or_open(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    schema: Schema,
    overwrite: bool = False,
) -> RunWriter:
    """Create a run directory, or go on with the one that is there with the same configuration.

    Any number of processes may do so at the same moment: one of them makes the run, the others join it or are refused.
    With more models than the run has, it grows: what is there stays, as the first models of the larger run.

    Args:
      path: The run directory, local or `gs://bucket/folder`; its parents are made.
      config: What was asked for, without the number of models; a resumed run must have the same.
      provenance: How it came about (versions, device, commit); kept as it was when the run began.
      schema: Names and sizes of the columns.
      overwrite: Remove the files of a run that is there (and no others) and begin anew.

    Returns:
      A writer; `missing_blocks()` says what is left to do. Its schema has no training accuracy where the run that is
      there is from before that was recorded, and singular values of all targets where it is from before they were
      chosen.

    Raises:
      UserError: Where the directory holds something else, a run of another configuration or schema version, one with
        more models, or a damaged `run.json`; or where it cannot be written.
    """
    root, asked = run_path(path), jsonable(config)
    with explained(f"creating the run directory {root}"):
        refuse_other_directories(root)
        for folder, deep in OWN_FOLDERS.items():
            remove_abandoned(root, folder, deep=deep)
        if overwrite and read_run_file(root).value is not None:
            for name in OWN_FILES:
                remove_tree(root / name)
        begun = {
            "schema_version": SCHEMA_VERSION,
            "config": asked,
            "config_fingerprint": fingerprint(asked),
            "provenance": provenance,
            "created": now(),
            "schema": schema.describe(),
        }
        there = read_run_file(root)
        if there.value is None:  # Or another process is faster: then its run is the one that is there.
            write_bytes(root / "run.json", json_bytes(sealed(begun)), replacing=there.version)
        run = load_run_file(root)
        if schema.train_accuracy and not run.saved["schema"].get("train_accuracy"):
            schema = dataclasses.replace(schema, train_accuracy=False)  # From before it was recorded: it goes on so.
        if schema.spectrum_of is not None and "spectrum_of" not in run.saved["schema"]:
            schema = dataclasses.replace(schema, spectrum_of=None)  # From before one could choose: it keeps all.
        _require_same(root, run.saved, asked, schema)
        columns = {f"{column.path}/zarr.json": column for column in schema.columns().values()}
        for name, content in schema.static_files().items():
            _ensure(root / "store.zarr" / name, content, columns.get(name))
        _grow(root, run, asked, schema)
    writer = RunWriter(root, schema, run.saved["config_fingerprint"])
    writer.missing_blocks()  # Verifies what is there, so that `damaged` is known at once.
    return writer


def _grow(root: Place, run: RunFile, asked: Mapping[str, Any], schema: Schema) -> None:
    """Let `run.json` say that there are more models; the arrays have been enlarged before.

    A kill in between leaves arrays with more rows than models, which every reader accepts.
    """
    for _ in range(_ATTEMPTS):
        before = run.saved["schema"]["num_models"]
        if before == schema.num_models:
            return
        history = [*_list(run.saved.get("grown")), {"from": before, "to": schema.num_models, "when": now()}]
        saved = {key: value for key, value in run.saved.items() if key != "digest"}
        larger = {**saved, "schema": schema.describe(), "grown": history}
        if write_bytes(root / "run.json", json_bytes(sealed(larger)), replacing=run.version):
            return
        run = load_run_file(root)  # Another process was faster: is what it made still what is asked for?
        _require_same(root, run.saved, asked, schema)
    raise UserError(f"{root}/run.json changes all the time: wait until other processes have started, and try again.")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _ensure(path: Place, content: bytes, column: Column | None) -> None:
    """Write a static file unless it is there as it should be, or describes a column that another process enlarged."""
    for _ in range(_ATTEMPTS):
        try:
            there = read_content(path)
        except UserError:  # A pipe, say: writing puts a file in its place.
            remove_tree(path)
            continue
        if there.value == content or (column is not None and there.value and column.is_described_by(there.value)):
            return
        # Not over what another process, which may know of more models, has written in between.
        if write_bytes(path, content, replacing=there.version):
            return
    raise UserError(f"{path} changes all the time: wait until other processes have started, and try again.")


def refuse_other_directories(root: Place) -> None:
    """Refuse a directory that holds something else than a run, or the plan of one.

    Raises:
      UserError: Where it does.
      OSError: As the system or the bucket reports it.
    """
    there = set(names_in(root)) - {PLAN_FILE}
    if there and "run.json" not in there:
        raise UserError(
            f"{root} is not empty and holds no run.json: not a jdt run, so it is left alone; choose another --out."
        )


def _require_same(root: Place, saved: Mapping[str, Any], asked: Mapping[str, Any], schema: Schema) -> None:
    """Refuse a run of another configuration or other data; more models than it has are fine."""
    wanted, before = dict(schema.describe()), dict(saved["schema"])
    asked_models, models = wanted.pop("num_models"), before.pop("num_models", None)
    config = {key: value for key, value in saved["config"].items() if key != "num_models"}  # Version 1 had it there.
    for kind, old, new in (("config", config, asked), ("data", before, wanted)):
        if changes := difference(old, new):
            raise UserError(
                f"{root} holds a run with another {kind}: {'; '.join(changes)}; pass another --out, or --overwrite to "
                "replace it."
            )
    if fingerprint(before) != fingerprint(wanted):  # 6.0 units are as many as 6, but no reader takes them.
        raise UserError(
            f"{root}/run.json is damaged: its schema holds numbers of another kind: start anew with --overwrite."
        )
    if type(models) is not int or models > asked_models:
        raise UserError(
            f"{root} holds a run of {models} models, and {asked_models} are asked for, but a run only grows: pass "
            f"--num-models {models} or more, or another --out."
        )
