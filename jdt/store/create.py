"""Create a run directory, resume the one that is there, or say why not."""

import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdt.checks import UserError
from jdt.config import difference, fingerprint
from jdt.store.files import explained, is_temporary, json_bytes, jsonable, remove_abandoned, write_bytes
from jdt.store.records import load_run_file, now
from jdt.store.schema import SCHEMA_VERSION, Schema
from jdt.store.writer import RunWriter

# What --overwrite removes, in this order: run.json last, so that a removal cut short can be repeated.
OWN_FILES = ("blocks", "store.zarr", "influences", "summary.json", "figures", "report.html", "run.json")
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK}  # Said by some network file systems.


def create_or_open(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any],
    provenance: Mapping[str, Any],
    schema: Schema,
    overwrite: bool = False,
) -> RunWriter:
    """Create a run directory, or resume the one that is there with the same configuration.

    Args:
      path: The run directory; its parents are made.
      config: What was asked for; a resumed run must have the same.
      provenance: How it came about (versions, device, commit); kept as it was when the run began.
      schema: Names and sizes of the columns.
      overwrite: Remove the files of a run that is there (and no others) and begin anew.

    Returns:
      A writer; `missing_blocks()` says what is left to do.

    Raises:
      UserError: Where the directory holds something else, a run of another configuration or schema version, or a
        damaged `run.json`; or where it cannot be written.
    """
    root, asked = Path(path), jsonable(config)
    if "://" in os.fspath(path):
        raise UserError(f"{path} is not a local path: mount the bucket and pass the folder.")
    with explained(f"creating the run directory {root}"):
        root.mkdir(parents=True, exist_ok=True)
        _refuse_other_directories(root)
        if overwrite and (root / "run.json").exists():
            _remove_run(root)
        saved = {
            "schema_version": SCHEMA_VERSION,
            "config": asked,
            "config_fingerprint": fingerprint(asked),
            "provenance": provenance,
            "created": now(),
            "schema": schema.describe(),
        }
        if not (root / "run.json").exists():
            _write_first(root / "run.json", json_bytes(saved))
        saved = load_run_file(root)
        _require_same(root, saved, asked, schema)
        for folder, deep in ((root, False), (root / "blocks", False), (root / "store.zarr", True)):
            remove_abandoned(folder, deep=deep)
        (root / "blocks").mkdir(exist_ok=True)
        for name, content in schema.static_files().items():
            _ensure(root / "store.zarr" / name, content)
    writer = RunWriter(root, schema, saved["config_fingerprint"])
    writer.missing_blocks()  # Verifies what is there, so that `damaged` is known at once.
    return writer


def _write_first(path: Path, content: bytes) -> None:
    """Write `run.json` unless another host just has."""
    try:
        write_bytes(path, content, exclusive=True)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        write_bytes(path, content)


def _ensure(path: Path, content: bytes) -> None:
    """Write a static file unless it is there as it should be."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def _refuse_other_directories(root: Path) -> None:
    if not (root / "run.json").exists() and any(not is_temporary(entry) for entry in root.iterdir()):
        raise UserError(
            f"{root} is not empty and holds no run.json: not a jdt run, so it is left alone; choose another --out."
        )


def _remove_run(root: Path) -> None:
    for name in OWN_FILES:
        path = root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _require_same(root: Path, saved: Mapping[str, Any], asked: Mapping[str, Any], schema: Schema) -> None:
    for kind, before, wanted in (("config", saved["config"], asked), ("data", saved["schema"], schema.describe())):
        if changes := difference(before, wanted):
            raise UserError(
                f"{root} holds a run with another {kind}: {'; '.join(changes)}; pass another --out, or --overwrite to "
                "replace it."
            )
