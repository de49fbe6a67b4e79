"""Write a run block by block; a block counts once its record is there."""

import dataclasses
import socket
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from jdt.checks import UserError
from jdt.store import records as block_records
from jdt.store.arrays import check_block, checksum, open_columns, read_checked, start_reading
from jdt.store.files import (
    Place,
    access_is_denied,
    disk_is_full,
    error_number,
    explained,
    json_bytes,
    odd_file,
    one_line,
    read_content,
    remove,
    remove_tree,
    write_bytes,
)
from jdt.store.records import Damage, record_path
from jdt.store.schema import Schema, ranges
from jdt.store.source_models import MODELS_KEY, fault_of, remove_strays

REPORTER_FILE = "reporter.json"
"""There while one of several processes makes the report."""
_OWN_RECORD_KEYS = {"block", "models", "checksums", "config_fingerprint", "written", "digest"}


@dataclasses.dataclass(frozen=True, eq=False)
class FirstRows:
    """What there is of a block whose other models are still to come.

    Attributes:
      models: Their ids; none where nothing is there.
      arrays: All columns by name.
      record: The block's record.
    """

    models: range = range(0)
    arrays: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def followed_by(
        self, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The whole block: these rows, then those of `arrays`, with a record of all; lists and seconds add up."""
        if not self.models:
            return dict(arrays), dict(record)
        joined = {name: np.concatenate([self.arrays[name], values]) for name, values in arrays.items()}
        own = {key: value for key, value in self.record.items() if key not in _OWN_RECORD_KEYS}
        added = {
            key: own[key] + value
            if isinstance(value, (list, float)) and isinstance(own.get(key), type(value))
            else value
            for key, value in record.items()
        }
        return joined, {**own, **added}


class RunWriter:
    """Writes the blocks of one run; several processes may each hold one on the same directory.

    Attributes:
      path: The run directory.
      schema: Names and sizes of its columns.
    """

    def __init__(self, path: Place, schema: Schema, config_fingerprint: str) -> None:
        self.path, self.schema = path, schema
        self._fingerprint = config_fingerprint
        self._layout = schema.layout
        self._arrays = open_columns(path / "store.zarr", self._layout.columns().values(), writable=True)
        self._verified: dict[int, str] = {}  # Block -> digest of the record that was compared with the data.
        self._whole: set[int] = set()  # Blocks seen to be complete.
        self._damaged: list[Damage] = []
        self._since = time.monotonic()

    @property
    def damaged(self) -> tuple[Damage, ...]:
        """Blocks whose record or data turned out to be damaged; they count as missing and are retrained."""
        return tuple(self._damaged)

    def missing_blocks(self) -> list[int]:
        """Blocks without a valid record of all their models, also after what other processes have written meanwhile.

        Records not seen before are compared with the data in the store. The record of a damaged block is removed.

        Raises:
          UserError: Where the store cannot be read.
        """
        fresh: dict[int, dict[str, Any]] = {}
        whole: set[int] = set()
        for block in self._recorded():
            record = block_records.load_record(self.path, block, self._layout, self._fingerprint)
            if isinstance(record, Damage):
                self._discard(record)
            elif record is not None:
                if block_records.is_whole(record, self._layout):
                    whole.add(block)
                if self._verified.get(block) != record["digest"]:
                    fresh[block] = record
        for block, damage in block_records.verify(fresh, self._arrays, self._layout, self.path / "store.zarr"):
            if damage is None:
                self._verified[block] = fresh[block]["digest"]
                if block in whole:
                    remove_strays(self.path, fresh[block])
            else:
                whole.discard(block)
                self._discard(damage)
        self._whole = whole
        return [block for block in range(self._layout.num_blocks) if block not in whole]

    def unrecorded_blocks(self) -> list[int]:
        """Like `missing_blocks`, at the price of one listing: what others record meanwhile is taken at their word.

        Raises:
          UserError: Where the store cannot be read.
        """
        there = set(self._recorded())
        for block in there - self._whole:
            record = block_records.load_record(self.path, block, self._layout, self._fingerprint)
            if isinstance(record, dict) and block_records.is_whole(record, self._layout):
                self._whole.add(block)
        self._whole &= there  # Somebody may have removed a record.
        return [block for block in range(self._layout.num_blocks) if block not in self._whole]

    @property
    def config_fingerprint(self) -> str:
        """Of the run's configuration."""
        return self._fingerprint

    @property
    def num_complete(self) -> int:
        """Models in blocks that were complete when this writer last looked; nothing is read."""
        return sum(len(self._layout.models_of(block)) for block in tuple(self._whole))

    def claim_report(self) -> bool:
        """Whether it falls to this process to make the report on the models that are complete now.

        Of processes that ask for the same number of complete models one is told so, until it has `reported`.

        Raises:
          UserError: Where the run cannot be written.
        """
        path = self.path / REPORTER_FILE
        with explained(f"writing {path}"):
            there = read_content(path)
            claim = json_bytes({"num_complete": self.num_complete})
            return there.value != claim and write_bytes(path, claim, replacing=there.version)

    def reported(self) -> None:
        """Withdraw the claim: the report is there.

        Raises:
          UserError: Where the run cannot be written.
        """
        with explained(f"removing {self.path / REPORTER_FILE}"):
            remove(self.path / REPORTER_FILE)

    def first_rows(self, block: int) -> "FirstRows":
        """Rows of a block that are complete although the block is not: those from before the run grew.

        Returns:
          The rows, verified; none where the block has no record.

        Raises:
          UserError: Where the store cannot be read.
        """
        record = block_records.load_record(self.path, block, self._layout, self._fingerprint)
        if not isinstance(record, dict):
            return FirstRows()
        columns, rows = self._layout.columns(), range(*record["models"])
        found: dict[str, np.ndarray] = {}
        store = self.path / "store.zarr"
        started = {name: start_reading(array, columns[name], record, store) for name, array in self._arrays.items()}
        for name, future in started.items():
            values, _ = read_checked(
                future, record["checksums"][name], array=self._arrays[name], column=columns[name], block=block,
                store=store,
            )  # fmt: skip
            if values is None:
                return FirstRows()  # Damaged since it was verified: the block is trained as a whole.
            found[name] = values
        if fault_of(self.path, record, whole=False):
            return FirstRows()
        return FirstRows(rows, found, record)

    def _recorded(self) -> list[int]:
        with explained(f"listing the blocks of {self.path}"):
            return block_records.recorded_blocks(self.path)

    def write_block(self, block: int, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
        """Write every column of a block, wait until it is on disk, then write the block's record.

        Writing a block again with the same values leaves the same files, its first record included.

        Args:
          block: Block number.
          arrays: All of the schema's columns by name, each with the block's models as rows.
          record: What else to record, e.g. `{"seconds": 12.5, "device": "cpu"}`; `seconds` defaults to the time since
            the last block.

        Raises:
          UserError: Where columns do not fit the schema, the disk is full or may not be written; the message says
            which blocks are safe and how to go on.
        """
        if reserved := sorted(_OWN_RECORD_KEYS & record.keys()):
            raise UserError(f"a block record may not set {', '.join(reserved)}: the store does.")
        values = check_block(arrays, self._layout, block)
        checksums = {name: checksum(value) for name, value in values.items()}
        doing = f"writing block {block} to {self.path}"
        try:
            earlier = block_records.load_record(self.path, block, self._layout, self._fingerprint)
            if isinstance(earlier, Damage):  # Or one of more rows, since the run has grown.
                self._require_current()
            # A record that stays true while the rows are written stays: no kill may cost what it stands for.
            if earlier is not None and not _holds(earlier, values, self._layout.models_of(block).start):
                remove(record_path(self.path, block))
            self._write_rows(block, values)
            if not (isinstance(earlier, dict) and earlier["checksums"] == checksums):
                self._require_unrecorded_growth(block)
                self._require_models(block, record)
                self._write_record(block, checksums, record)
            self._whole.add(block)
            if MODELS_KEY in record:
                self._remove_strays(block)
        except (OSError, ValueError) as error:
            self._explain(error, doing)
        self._since = time.monotonic()

    def _require_models(self, block: int, record: Mapping[str, Any]) -> None:
        """Raise unless the source models that a record is to speak of are there."""
        rows = self._layout.models_of(block)
        if reason := fault_of(self.path, {**record, "block": block, "models": [rows.start, rows.stop]}, whole=False):
            raise UserError(f"the source models of block {block} vanished from {self.path} ({reason}): run it again.")

    def _remove_strays(self, block: int) -> None:
        """Remove source models that the block's record does not name: this worker's, where another was faster."""
        record = block_records.load_record(self.path, block, self._layout, self._fingerprint)
        if isinstance(record, dict) and block_records.is_whole(record, self._layout):
            remove_strays(self.path, record)

    def _write_rows(self, block: int, values: Mapping[str, np.ndarray]) -> None:
        columns = self._layout.columns()
        for path in (self.path / "store.zarr" / file for name in values for file in columns[name].chunk_files(block)):
            if odd_file(path):  # A pipe, say, at which TensorStore would wait for ever.
                remove_tree(path)
        failures = self._try_to_write(block, values)
        if failures and len(self._layout.models_of(block)) < self._layout.block_size:
            # A chunk at the end of an array is read before rows of it are written. One that does not decode is of no
            # use to anyone, and stands in the way.
            for name, error in failures.items():
                if not isinstance(error, OSError) and error_number(error) is None:
                    for file in columns[name].chunk_files(block):
                        remove(self.path / "store.zarr" / file)
            failures = self._try_to_write(block, {name: values[name] for name in failures})
        if failures:
            raise next(iter(failures.values()))

    def _try_to_write(self, block: int, values: Mapping[str, np.ndarray]) -> dict[str, Exception]:
        rows = self._layout.models_of(block)
        futures = {name: self._arrays[name][rows.start : rows.stop].write(value) for name, value in values.items()}
        waited = {name: future.exception() for name, future in futures.items()}
        return {name: error for name, error in waited.items() if error is not None}

    def _write_record(self, block: int, checksums: Mapping[str, str], record: Mapping[str, Any]) -> None:
        rows = self._layout.models_of(block)
        sealed = block_records.sealed(
            {
                "block": block,
                "models": [rows.start, rows.stop],
                "checksums": checksums,
                "seconds": time.monotonic() - self._since,
                "host": socket.gethostname(),
                "config_fingerprint": self._fingerprint,
                "written": block_records.now(),
                **record,
            }
        )
        path = record_path(self.path, block)
        while True:
            version = read_content(path).version
            there = block_records.load_record(self.path, block, self._layout, self._fingerprint)
            if isinstance(there, dict) and there["checksums"] == checksums:
                self._verified[block] = there["digest"]  # Another process has just written the same: its record stays.
                return
            if write_bytes(path, json_bytes(sealed), replacing=version):
                self._verified[block] = sealed["digest"]
                return

    def _require_current(self) -> None:
        """Raise if another process has let the run grow: records of more models than this one knows are no damage."""
        models = block_records.load_run_file(self.path).saved["schema"].get("num_models")
        if models != self.schema.num_models:
            raise UserError(
                f"{self.path} has grown to {models} models meanwhile, and this process knows of "
                f"{self.schema.num_models}: nothing is lost; pass --num-models {models} to help with the others."
            )

    def _require_unrecorded_growth(self, block: int) -> None:
        """Raise if another process has recorded more rows of a block than this one writes, while it wrote."""
        if len(self._layout.models_of(block)) < self._layout.block_size:
            there = block_records.load_record(self.path, block, self._layout, self._fingerprint)
            if isinstance(there, Damage):
                self._require_current()

    def _discard(self, damage: Damage) -> None:
        with explained(f"removing the record of block {damage.block} in {self.path}"):
            self._require_current()
            block_records.drop(self.path, damage, self._layout)
        self._verified.pop(damage.block, None)
        self._damaged.append(damage)

    def _explain(self, error: Exception, doing: str) -> NoReturn:
        if isinstance(error, UserError):
            raise error
        try:
            done = [b for b in block_records.recorded_blocks(self.path) if b < self._layout.num_blocks]
        except OSError:  # The folder is gone or closed to us, which `error` says already.
            done, safe = [], "what was complete before is safe"
        else:
            safe = f"{ranges(done)} {'is' if len(done) == 1 else 'are'} safe" if done else "no block is complete yet"
        if disk_is_full(error):
            left = (self._layout.num_blocks - len(done)) * self._layout.bytes_per_block() * 1.05 / 1e6
            raise UserError(
                f"disk full while {doing} ({one_line(error)}); {safe}; free about {max(1, round(left))} MB and run the "
                "same command again to resume."
            ) from error
        if access_is_denied(error):
            raise UserError(
                f"no permission while {doing} ({one_line(error)}); {safe}; make the directory writable and run the "
                "same command again to resume."
            ) from error
        raise UserError(
            f"failed while {doing} ({one_line(error)}); {safe}; run the same command again to resume."
        ) from error


def _holds(record: Any, values: Mapping[str, np.ndarray], start: int) -> bool:
    """Whether a record is true of these rows of its block, or of the first of them."""
    if not isinstance(record, dict):
        return False
    count = record["models"][1] - start
    return all(checksum(rows[:count]) == record["checksums"][name] for name, rows in values.items())
