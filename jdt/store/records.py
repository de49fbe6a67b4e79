"""`run.json`, and the block records `blocks/NNNNNN.json` whose presence says that a block's rows are data."""

import collections
import dataclasses
import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jdt.checks import UserError
from jdt.config import fingerprint
from jdt.store.arrays import read_checked, start_reading
from jdt.store.files import (
    Content,
    Place,
    jsonable,
    names_in,
    one_line,
    parse_json,
    read_content,
    read_json,
    remove,
    remove_tree,
)
from jdt.store.schema import READABLE_VERSIONS, SCHEMA_VERSION, Column, Layout
from jdt.store.source_models import MODELS_KEY, fault_of, parts_of

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


class RunFile(NamedTuple):
    """What `run.json` says, and which version of the file said it."""

    saved: dict[str, Any]
    version: bytes


def read_run_file(root: Place) -> Content:
    """Read `run.json` as it is; its value is None where there is none.

    Raises:
      UserError: Where it cannot be read.
    """
    path = root / "run.json"
    try:
        return read_content(path)
    except NotADirectoryError:
        return Content(None, b"")
    except OSError as error:
        raise UserError(f"cannot read {path} ({one_line(error)}).") from error


def load_run_file(root: Place) -> RunFile:
    """Read and check `run.json`.

    Raises:
      FileNotFoundError: Where there is none.
      UserError: Where it is damaged, edited or of another schema version.
    """
    path = root / "run.json"
    content = read_run_file(root)
    if content.value is None:
        raise FileNotFoundError(str(path))
    saved = parse_json(content.value, path)
    version = saved.get("schema_version")
    if version not in READABLE_VERSIONS or type(version) is not int:
        newer = type(version) is int and version > SCHEMA_VERSION
        remedy = "update jdt" if newer else "use the jdt that wrote it"
        raise UserError(
            f"{path} has schema version {str(version)[:40]}, but this jdt reads version {SCHEMA_VERSION}: {remedy}, or "
            "start anew with another --out or --overwrite."
        )
    for key, kind in (("config", dict), ("provenance", dict), ("schema", dict), ("config_fingerprint", str)):
        if not isinstance(saved.get(key), kind):
            raise UserError(f"{path} is damaged: {key} is missing: restore the file, or start anew with --overwrite.")
    if fingerprint(saved["config"]) != saved["config_fingerprint"]:
        raise UserError(
            f"{path} is damaged: its config does not match its fingerprint: restore the file, or start anew with "
            "another --out or --overwrite."
        )
    if version > 1 and saved.get("digest") != _digest(saved):
        raise UserError(
            f"{path} is damaged: it was changed after it was written: restore the file, or start anew with another "
            "--out or --overwrite."
        )
    return RunFile(saved, content.version)


def record_path(root: Place, block: int) -> Place:
    """Where the record of a block lies."""
    return root / "blocks" / f"{block:06d}.json"


def recorded_blocks(root: Place) -> list[int]:
    """Numbers of the blocks that have a record file, valid or not.

    Raises:
      OSError: As the system or the bucket reports it.
    """
    # Fewer than 19 digits: whoever made up a longer name did not mean a block.
    return sorted(int(name[:-5]) for name in names_in(root / "blocks") if re.fullmatch(r"[0-9]{6,18}\.json", name))


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest of the rest of the record, so that an edit shows."""
    plain = jsonable(record)
    return {**plain, "digest": fingerprint(plain)}


def _digest(record: Mapping[str, Any]) -> str:
    return fingerprint({key: value for key, value in record.items() if key != "digest"})


def load_record(root: Place, block: int, layout: Layout, config_fingerprint: str) -> dict[str, Any] | Damage | None:
    """Read a record: itself, what is wrong with it, or None where there is none (any more).

    A record may cover the first rows of its block only: those that there were before the run grew.
    """
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
    if record.get("digest") != _digest(record):
        return Damage(block, "record", f"{name} was changed after it was written")
    if record.get("block") != block or type(record["block"]) is not int or not _covers(record.get("models"), rows):
        return Damage(block, "record", f"{name} describes another block")
    if not isinstance(record.get("checksums"), dict) or record["checksums"].keys() != layout.columns().keys():
        return Damage(block, "record", f"{name} does not list this run's columns")
    try:
        parts_of(record)
    except ValueError as error:
        return Damage(block, "record", f"{name} is damaged: {MODELS_KEY} {error}")
    return record


def _covers(models: Any, rows: range) -> bool:
    """Whether `models` is `[start, stop]` of the whole block, or of its first rows."""
    if not (isinstance(models, list) and len(models) == 2 and all(type(model) is int for model in models)):
        return False
    return models[0] == rows.start and rows.start < models[1] <= rows.stop


def is_whole(record: Mapping[str, Any], layout: Layout) -> bool:
    """Whether a record covers all models of its block."""
    return record["models"][1] == layout.models_of(record["block"]).stop


def drop(root: Place, damage: Damage, layout: Layout) -> None:
    """Remove the record of a damaged block, so that it counts as missing.

    Of a partial last block the chunks go, too: what they hold beyond the last model would outlive the new rows.

    Raises:
      OSError: As the system or the bucket reports it.
    """
    remove(record_path(root, damage.block))
    if 0 < len(layout.models_of(damage.block)) < layout.block_size:
        for column in layout.columns().values():
            for file in column.chunk_files(damage.block):
                remove_tree(root / "store.zarr" / file)


def verify(
    records: Mapping[int, Mapping[str, Any]],
    arrays: Mapping[str, Any],
    layout: Layout,
    store: Place,
    *,
    models: bool = False,
) -> Iterator[tuple[int, Damage | None]]:
    """Read the blocks of `records` back and compare their checksums, reading ahead while hashing.

    Args:
      records: By block.
      arrays: The columns to read.
      layout: Sizes.
      store: The run's `store.zarr`.
      models: Read saved source models, too; otherwise only whether their files are there and have their sizes.

    Yields:
      For each block, in order, its number and the first damage found in it or None.
    """
    columns = layout.columns()
    waiting: collections.deque[tuple[int, dict[str, Any]]] = collections.deque()

    def finish() -> tuple[int, Damage | None]:
        block, futures = waiting.popleft()
        damage = _first_damage(block, futures, records[block]["checksums"], arrays, columns, store)
        if damage is None and (reason := fault_of(store.parent, records[block], whole=models)):
            damage = Damage(block, MODELS_KEY, reason)
        return block, damage

    for block in sorted(records):
        started = {name: start_reading(array, columns[name], records[block], store) for name, array in arrays.items()}
        waiting.append((block, started))
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
    store: Place,
) -> Damage | None:
    for name, future in futures.items():
        _, reason = read_checked(
            future, checksums[name], array=arrays[name], column=columns[name], block=block, store=store
        )
        if reason:
            return Damage(block, name, reason)
    return None
