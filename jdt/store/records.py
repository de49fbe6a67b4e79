"""`run.json`, and the block records `blocks/NNNNNN.json` whose presence says that a block's rows are data."""

import collections
import dataclasses
import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jdt.checks import UserError
from jdt.config import fingerprint
from jdt.store.arrays import read_checked, start_reading
from jdt.store.files import jsonable, read_json
from jdt.store.schema import SCHEMA_VERSION, Column, Layout

_READ_AHEAD = 4  # Blocks whose chunks are decoded while an earlier one is hashed.


@dataclasses.dataclass(frozen=True)
class Damage:
    """A block that was complete and is not any more.

    Attributes:
      block: Its number.
      column: The column, or `record` where the record itself is at fault.
      reason: What is wrong, naming the file.
    """

    block: int
    column: str
    reason: str

    def __str__(self) -> str:
        return f"block {self.block}, {self.column}: {self.reason}; the block is retrained."


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load_run_file(root: Path) -> dict[str, Any]:
    """Read and check `run.json`.

    Raises:
      FileNotFoundError: Where there is none.
      UserError: Where it is damaged, edited or of another schema version.
    """
    path = root / "run.json"
    saved = read_json(path)
    version = saved.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, but this jdt reads version {SCHEMA_VERSION}: use the jdt that wrote "
            "it, or start anew with another --out or --overwrite."
        )
    for key, kind in (("config", dict), ("provenance", dict), ("schema", dict), ("config_fingerprint", str)):
        if not isinstance(saved.get(key), kind):
            raise UserError(f"{path} is damaged: {key} is missing: restore the file, or start anew with --overwrite.")
    if fingerprint(saved["config"]) != saved["config_fingerprint"]:
        raise UserError(
            f"{path} is damaged: its config does not match its fingerprint: restore the file, or start anew with "
            "another --out or --overwrite."
        )
    return saved


def record_path(root: Path, block: int) -> Path:
    """Where the record of a block lies."""
    return root / "blocks" / f"{block:06d}.json"


def recorded_blocks(root: Path) -> list[int]:
    """Numbers of the blocks that have a record file, valid or not."""
    folder = root / "blocks"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name[:-5]) for name in names if re.fullmatch(r"\d{6,}\.json", name))


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest of the rest of the record, so that an edit shows."""
    plain = jsonable(record)
    return {**plain, "digest": fingerprint(plain)}


def load_record(root: Path, block: int, layout: Layout, config_fingerprint: str) -> dict[str, Any] | Damage | None:
    """Read a record: itself, what is wrong with it, or None where there is none (any more)."""
    path = record_path(root, block)
    name = f"blocks/{path.name}"
    try:
        record = read_json(path)
    except FileNotFoundError:
        return None
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise  # Not readable for us, which says nothing about the record.
        return Damage(block, "record", f"{name} is not a JSON object")
    if block >= layout.num_blocks:
        return Damage(block, "record", f"{name} is beyond the last block {layout.num_blocks - 1}")
    rows = layout.models_of(block)
    if record.get("config_fingerprint") != config_fingerprint:
        return Damage(block, "record", f"{name} belongs to another configuration")
    if record.get("digest") != fingerprint({key: value for key, value in record.items() if key != "digest"}):
        return Damage(block, "record", f"{name} was changed after it was written")
    if record.get("block") != block or record.get("models") != [rows.start, rows.stop]:
        return Damage(block, "record", f"{name} describes another block")
    if not isinstance(record.get("checksums"), dict) or record["checksums"].keys() != layout.columns().keys():
        return Damage(block, "record", f"{name} does not list this run's columns")
    return record


def verify(
    records: Mapping[int, Mapping[str, Any]], arrays: Mapping[str, Any], layout: Layout, store: Path
) -> Iterator[tuple[int, Damage | None]]:
    """Read the blocks of `records` back and compare their checksums, reading ahead while hashing.

    Yields:
      For each block, in order, its number and the first damage found in it or None.
    """
    columns = layout.columns()
    waiting: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()

    def finish() -> tuple[int, Damage | None]:
        block, futures = waiting.popleft()
        return block, _first_damage(block, futures, records[block]["checksums"], arrays, columns, store)

    for block in sorted(records):
        waiting.append((block, start_reading(arrays, layout.models_of(block))))
        if len(waiting) > _READ_AHEAD:
            yield finish()
    while waiting:
        yield finish()


def _first_damage(
    block: int,
    futures: Mapping[str, Any],
    checksums: Mapping[str, str],
    arrays: Mapping[str, Any],
    columns: Mapping[str, Column],
    store: Path,
) -> Damage | None:
    for name, future in futures.items():
        _, reason = read_checked(
            future, checksums[name], array=arrays[name], column=columns[name], block=block, store=store
        )
        if reason:
            return Damage(block, name, reason)
    return None
