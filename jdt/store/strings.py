"""Static files of a Zarr v3 group, as bytes: group metadata, small int32 arrays and arrays of names.

TensorStore cannot write strings, and these arrays are written once and small: each is its `zarr.json` and one chunk.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdt.checks import UserError
from jdt.store.files import Place, jsonable, one_line, read_bytes, read_json
from jdt.types import Int32


def metadata_bytes(metadata: Mapping[str, Any]) -> bytes:
    """Encode a `zarr.json`, the same bytes for the same content."""
    return (json.dumps(metadata, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def group_bytes(attributes: Mapping[str, Any]) -> bytes:
    """The `zarr.json` of a group."""
    return metadata_bytes({"zarr_format": 3, "node_type": "group", "attributes": jsonable(attributes)})


def array_metadata(
    shape: Sequence[int],
    chunks: Sequence[int],
    dims: Sequence[str],
    *,
    data_type: str,
    fill: Any,
    codecs: Sequence[Any],
) -> dict[str, Any]:
    """The `zarr.json` of an array as a dictionary; chunks are stored under `c/0/0`."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [max(1, size) for size in chunks]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": list(codecs),
        "dimension_names": list(dims),
        "attributes": {},
    }


def string_files(values: Sequence[str], dim: str) -> dict[str, bytes]:
    """Encode names as a Zarr v3 array of data type `string` (codec `vlen-utf8`): relative path -> bytes."""
    codecs = [{"name": "vlen-utf8", "configuration": {}}]
    metadata = array_metadata([len(values)], [len(values)], [dim], data_type="string", fill="", codecs=codecs)
    encoded = [value.encode() for value in values]
    chunk = b"".join([struct.pack("<I", len(encoded)), *(struct.pack("<I", len(item)) + item for item in encoded)])
    return {"zarr.json": metadata_bytes(metadata)} | ({"c/0": chunk} if values else {})


def int32_files(values: Int32[np.ndarray, " examples"], dim: str) -> dict[str, bytes]:
    """Encode a small integer vector, uncompressed: relative path -> bytes."""
    codecs = [{"name": "bytes", "configuration": {"endian": "little"}}]
    metadata = array_metadata([len(values)], [len(values)], [dim], data_type="int32", fill=0, codecs=codecs)
    chunk = np.ascontiguousarray(values, dtype="<i4").tobytes()
    return {"zarr.json": metadata_bytes(metadata)} | ({"c/0": chunk} if len(values) else {})


def _static_chunk(path: Place) -> tuple[int, bytes]:
    """The length and the one chunk of a static array written by this file."""
    try:
        (length,) = read_json(path / "zarr.json")["shape"]
        return int(length), read_bytes(path / "c" / "0") if length else b""
    except OSError as error:
        raise UserError(f"cannot read the array {path} ({one_line(error)}).") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the array {path} is damaged ({error}).") from error


def read_strings(path: Place) -> tuple[str, ...]:
    """Read an array that `string_files` describes.

    Raises:
      UserError: Where the array is missing or damaged.
    """
    length, chunk = _static_chunk(path)
    values, start = [], 4
    try:
        for _ in range(length):
            (size,) = struct.unpack_from("<I", chunk, start)
            start += 4 + size
            values.append(chunk[start - size : start].decode())
    except (struct.error, UnicodeDecodeError) as error:
        raise UserError(f"the names in {path} are damaged ({error}).") from error
    if length and (start != len(chunk) or struct.unpack_from("<I", chunk) != (length,)):
        raise UserError(f"the names in {path} are damaged: {len(chunk)} bytes where {start} are due.")
    return tuple(values)


def read_int32(path: Place) -> Int32[np.ndarray, " examples"]:
    """Read an array that `int32_files` describes.

    Raises:
      UserError: Where the array is missing or damaged.
    """
    length, chunk = _static_chunk(path)
    if len(chunk) != 4 * length:
        raise UserError(f"the array {path} is damaged: {len(chunk)} bytes where {4 * length} are due.")
    return np.frombuffer(chunk, dtype="<i4").astype(np.int32)
