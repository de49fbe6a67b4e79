"""A whole run compared with what was recorded of it, and brought back to a state from which it can be resumed."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping

from jdt.checks import UserError
from jdt.config import fingerprint
from jdt.store import records as block_records
from jdt.store.arrays import open_columns
from jdt.store.create import OWN_FOLDERS
from jdt.store.files import (
    Place,
    explained,
    read_content,
    read_json,
    remove_abandoned,
    remove_tree,
    run_path,
    write_bytes,
)
from jdt.store.groups import read_group, saved_groups
from jdt.store.reader import TRANSFERS, Run, added_folders, layout_of
from jdt.store.records import Damage, load_run_file
from jdt.store.schema import Column, Layout, safe_name
from jdt.store.strings import metadata_bytes


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something in a run that is not as it was written.

    Attributes:
      file: Its path in the run directory.
      reason: What is wrong.
      remedy: What `repair` does about it, and what remains to be done.
    """

    file: str
    reason: str
    remedy: str


@dataclasses.dataclass(frozen=True)
class Checkup:
    """What a run was found to hold.

    Attributes:
      num_models: Models asked for.
      complete: Models in sound blocks.
      blocks: Sound blocks.
      faults: Everything that is damaged.
      abandoned: Unfinished files of killed processes.
    """

    num_models: int
    complete: int
    blocks: int
    faults: tuple[Fault, ...]
    abandoned: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is damaged; missing blocks are no damage."""
        return not self.faults


_RETRAIN = "its block is dropped; the command that made the run trains it again"
_RESUME = "the command that made the run writes it again"


def check_run(
    path: str | os.PathLike[str], *, repair: bool = False, progress: Callable[[int, int], None] | None = None
) -> Checkup:
    """Read everything in a run back and compare it with the checksums that were recorded.

    Args:
      path: The run directory, local or in a bucket.
      repair: Drop the records of damaged blocks, so that resuming trains them again, remove damaged influences and what
        killed processes left half-written, and write descriptions of arrays again. Nothing that is sound is touched.
      progress: Called with (blocks read, blocks in all).

    Returns:
      What was found, before any repair; faults of targets that were added later are among the faults.

    Raises:
      UserError: Where there is no run, `run.json` is damaged or of another version (nothing can be told of such a
        run), a file cannot be read or repaired for a reason that is not damage, or what is to be repaired is not in the
        run but behind a symbolic link.
    """
    found = _checked(path, repair=repair, progress=progress)
    root, faults = run_path(path), list(found.faults)
    with explained(f"listing the targets that were added to {root}"):
        folders = added_folders(root)
    for folder in folders:
        place = f"{TRANSFERS}/{folder.name}"
        try:
            inside = _checked(folder, repair=repair, progress=None)
        except UserError as error:
            faults.append(Fault(f"{place}/run.json", str(error), "left alone: remove the folder and add it again"))
        else:
            faults += [dataclasses.replace(fault, file=f"{place}/{fault.file}") for fault in inside.faults]
    return dataclasses.replace(found, faults=tuple(faults))


def _checked(path: str | os.PathLike[str], *, repair: bool, progress: Callable[[int, int], None] | None) -> Checkup:
    """Check a run, without the runs inside it."""
    run = _run_without_records(path)
    root, layout = run.path, run.layout
    abandoned = _abandoned(root) if repair else []
    faults, readable = [], dict(layout.columns())
    for column in _misdescribed(root, layout):
        file = f"store.zarr/{column.path}/zarr.json"
        faults.append(Fault(file, "missing, or not the description of this array", "written again"))
        if repair:
            with explained(f"writing {root / file}"):
                write_bytes(root / file, metadata_bytes(column.metadata()))
        else:
            del readable[column.name]
    faults += _names(run)
    whole, complete = 0, 0
    for damage, models in _blocks(run, readable, progress):
        if damage is None:
            whole, complete = whole + 1, complete + models
            continue
        if _run_without_records(root).layout != layout:
            raise UserError(f"{root} has grown while it was read: verify it again.")
        faults.append(Fault(f"blocks/{damage.block:06d}.json", f"{damage.column}: {damage.reason}", _RETRAIN))
        if repair:
            with explained(f"removing the record of block {damage.block} in {root}"):
                block_records.drop(root, damage, layout)
    for folder, reason in _groups(root):
        faults.append(Fault(folder, reason, "removed; the command that made the run estimates it again"))
        if repair:
            with explained(f"removing {root / folder}"):
                remove_tree(root / folder)
    return Checkup(layout.num_models, complete, whole, tuple(faults), tuple(abandoned))


def _run_without_records(path: str | os.PathLike[str]) -> Run:
    root = run_path(path)
    try:
        saved = load_run_file(root).saved
    except FileNotFoundError:
        raise UserError(f"{root} is not a run directory: it holds no run.json.") from None
    return Run(root, saved["schema_version"], saved["config"], saved["provenance"], layout_of(saved["schema"], root),
               saved["schema"], ())  # fmt: skip


def _misdescribed(root: Place, layout: Layout) -> Iterator[Column]:
    """Columns whose `zarr.json` is missing or damaged."""
    for column in layout.columns().values():
        path = root / "store.zarr" / column.path / "zarr.json"
        with explained(f"reading {path}"):
            try:
                there = read_content(path).value
            except UserError:  # A pipe, say: writing puts a file in its place.
                there = None
        if there is None or not column.is_described_by(there):
            yield column


def _names(run: Run) -> list[Fault]:
    """Names and labels, which only the command that made the run knows."""
    faults: list[Fault] = []
    try:
        _ = run.unit_names
    except UserError as error:
        faults.append(Fault("store.zarr/unit_name", str(error), _RESUME))
    for name in run.layout.num_examples:
        try:
            run.target(name)
        except UserError as error:
            faults.append(Fault(f"store.zarr/targets/{safe_name(name)}", str(error), _RESUME))
    return faults


def _blocks(
    run: Run, readable: Mapping[str, Column], progress: Callable[[int, int], None] | None
) -> Iterator[tuple[Damage | None, int]]:
    """For each recorded block what is wrong with it, or None, and its number of models."""
    root, layout = run.path, run.layout
    config_fingerprint = fingerprint(run.config)
    with explained(f"listing the blocks of {root}"):
        numbers = block_records.recorded_blocks(root)
    records = {}
    for block in numbers:
        record = block_records.load_record(root, block, layout, config_fingerprint)
        if isinstance(record, Damage):
            yield record, 0
        elif record is not None:
            records[block] = record
    # A column without a sound description does not open; that was reported.
    arrays = open_columns(root / "store.zarr", readable.values(), writable=False)
    verified = block_records.verify(records, arrays, layout, root / "store.zarr", models=True)
    for done, (block, damage) in enumerate(verified, start=1):
        start, stop = records[block]["models"]
        yield damage, stop - start
        if progress is not None:
            progress(done, len(records))


def _groups(root: Place) -> Iterator[tuple[str, str]]:
    for parts in saved_groups(root / "influences"):
        folder = "/".join(("influences", *parts))
        try:
            read_group(root / folder)
        except UserError as error:
            yield folder, str(error)
    try:
        read_json(root / "summary.json")
    except FileNotFoundError:
        pass
    except UserError as error:
        yield "summary.json", str(error)


def _abandoned(root: Place) -> list[str]:
    with explained(f"removing unfinished files from {root}"):
        return [name for folder, deep in OWN_FOLDERS.items() for name in remove_abandoned(root, folder, deep=deep)]
