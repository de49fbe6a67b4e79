"""The TensorStore side: open columns, read blocks of them, and say which chunk file is at fault."""

import hashlib
import math
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jdt.checks import UserError
from jdt.store.files import (
    Place,
    access_is_denied,
    error_number,
    exists,
    explained,
    is_local,
    is_passing,
    odd_file,
    one_line,
    parse_json,
    read_contents,
    store_spec,
)
from jdt.store.schema import Column, Layout
from jdt.types import Shaped

if TYPE_CHECKING:
    import tensorstore as ts

_EXHAUSTED = {12, 23, 24}  # ENOMEM, ENFILE, EMFILE: the reader's trouble, which says nothing about the data.


# Zstandard's blocks have four bytes at least and give 128 KiB at most.
_MOST_FROM_A_BYTE = 1 << 15
_MOST_MORE = 1 << 16  # Bytes that compression may add.


def open_array(path: Place, metadata: Mapping[str, Any], *, writable: bool) -> Any:
    """Start opening an existing Zarr v3 array; returns a TensorStore future.

    Args:
      path: The array.
      metadata: What its `zarr.json` says. That file must have been read and compared with what jdt writes: TensorStore
        does not read it, since what it says could make TensorStore ask for any memory, or end the process.
      writable: Whether to write to it.
    """
    import tensorstore as ts

    spec = {
        "driver": "zarr3",
        "kvstore": store_spec(path),
        "metadata": dict(metadata),
        # A chunk of nothing but fill values is a file too, so that a missing file can be named as the damage.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, open=True, assume_metadata=True, read=True, write=writable)


def open_columns(store: Place, columns: Iterable[Column], *, writable: bool) -> dict[str, "ts.TensorStore"]:
    """Open columns at once.

    Raises:
      UserError: Where a column is missing, has another shape or type, or may not be read.
    """
    columns = list(columns)
    with explained(f"opening the arrays of {store}"):
        described = read_contents([store / column.path / "zarr.json" for column in columns])
    metadata = [_metadata(column, content.value, store) for column, content in zip(columns, described, strict=True)]
    futures = [open_array(store / c.path, m, writable=writable) for c, m in zip(columns, metadata, strict=True)]
    arrays = {}
    for column, future in zip(columns, futures, strict=True):
        with explained(f"opening {store / column.path}"):
            arrays[column.name] = future.result()
    return arrays


def _metadata(column: Column, content: bytes | None, store: Place) -> dict[str, Any]:
    """The array's own description, with as many rows as its `zarr.json` says there are."""
    path = store / column.path / "zarr.json"
    if content is None or not column.is_described_by(content):
        due = f"{column.dtype}{list(column.shape)}"
        reason = "is missing" if content is None else f"does not describe the {due} that run.json speaks of"
        raise UserError(
            f"cannot open the array {store / column.path}: its {path.name} {reason}: run the same command again with "
            "the same --out: it is mended."
        )
    # More rows than there should be: another process is letting the run grow at this moment.
    return {**column.metadata(), "shape": parse_json(content, path)["shape"]}


def start_reading(array: "ts.TensorStore", column: Column, record: Mapping[str, Any], store: Place) -> Any:
    """Begin to read the rows of a block that its record speaks of; returns what `read_checked` finishes.

    A chunk file that is too small for what it should hold is not read, since TensorStore would first ask for the memory
    of all that, and end the process where it does not get it.
    """
    for name in column.chunk_files(record["block"]):
        if reason := lacking(store / name, math.prod(column.chunks) * np.dtype(column.dtype).itemsize):
            return f"chunk file {store.name}/{name} {reason}"
    start, stop = record["models"]
    return array[start:stop].read()


def lacking(chunk: Place, size: int) -> str:
    """Why a chunk file cannot hold `size` bytes of values, as far as its own size and kind tell; or an empty string.

    Of a bucket nothing is told: asking costs as much as reading.
    """
    if not is_local(chunk):
        return ""
    if reason := odd_file(chunk, 2 * size + _MOST_MORE):
        return f"does not decode (it {reason})"
    try:
        there = os.stat(chunk).st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    except OSError:
        return ""  # Reading says what is wrong.
    return f"does not decode ({there} bytes cannot hold {size})" if there * _MOST_FROM_A_BYTE < size else ""


def checksum(values: Shaped[np.ndarray, "..."]) -> str:
    """16 hex digits of the SHA-256 of the values of a block, in C order and little-endian."""
    values = np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))
    return hashlib.sha256(values.data if values.size else b"").hexdigest()[:16]


def read_checked(
    future: Any, expected: str, *, array: "ts.TensorStore", column: Column, block: int, store: Place
) -> tuple[Shaped[np.ndarray, "models ..."] | None, str]:
    """Finish reading a block of a column; `future` is from `start_reading`.

    Returns:
      The values and an empty string, or None and what is wrong, naming the chunk file.

    Raises:
      UserError: Where reading fails for a reason that is not damage (permission, network, too many open files).
    """
    if isinstance(future, str):
        return None, future
    try:
        values = future.result()
    except (ValueError, OSError) as error:
        if access_is_denied(error) or error_number(error) in _EXHAUSTED or is_passing(error):
            raise UserError(f"cannot read {store / column.path} ({one_line(error)}).") from error
        return None, f"{_unreadable_file(array, column, block, store)} ({_cause(error)})"
    if checksum(values) == expected:
        return values, ""
    files = column.chunk_files(block)
    missing = [name for name in files if not exists(store / name)]
    if missing:
        return None, f"chunk file {store.name}/{missing[0]} is missing"
    place = files[0] if files else column.path  # No files: an array without any values.
    return None, f"the values in {store.name}/{place} are not those that were recorded"


def _cause(error: Exception) -> str:
    """The last clause of a TensorStore message; the first ones repeat the absolute path."""
    return one_line(error).split('": ')[-1].split(" [")[0]


def _unreadable_file(array: "ts.TensorStore", column: Column, block: int, store: Place) -> str:
    """Find the chunk file that does not decode by reading the chunks one by one."""
    rows = slice(block * column.chunks[0], min((block + 1) * column.chunks[0], column.shape[0]))
    for i, name in enumerate(column.chunk_files(block)):
        part = [
            slice(i * size, min((i + 1) * size, total))
            for size, total in zip(column.chunks[1:], column.shape[1:], strict=True)
        ]
        try:
            array[(rows, *part)].read().result()
        except (ValueError, OSError):
            return f"chunk file {store.name}/{name} does not decode"
    return f"a chunk file of {store.name}/{column.path} does not decode"


def check_block(arrays: Mapping[str, Any], layout: Layout, block: int) -> dict[str, np.ndarray]:
    """Check that a block's arrays are exactly the schema's columns, in shape and type.

    Raises:
      UserError: Naming the columns at fault.
    """
    columns, rows = layout.columns(), layout.models_of(block)
    if not 0 <= block < layout.num_blocks:
        raise UserError(f"block is {block}, but there are blocks 0 to {layout.num_blocks - 1}.")
    missing, unknown = sorted(columns.keys() - arrays.keys()), sorted(arrays.keys() - columns.keys())
    if missing or unknown:
        raise UserError(f"block {block} lacks columns {missing} and has unknown ones {unknown}.")
    values = {name: np.asarray(arrays[name]) for name in columns}
    for name, value in values.items():
        shape = (len(rows), *columns[name].shape[1:])
        if value.shape != shape or value.dtype != np.dtype(columns[name].dtype):
            found, due = f"{value.dtype}{list(value.shape)}", f"{columns[name].dtype}{list(shape)}"
            raise UserError(f"block {block}, {name} is {found}, but must be {due}.")
    return values
