"""Whole Zarr v3 groups written at once, such as one estimator's influences."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdt.checks import UserError
from jdt.config import fingerprint
from jdt.store.arrays import checksum, lacking, open_array
from jdt.store.files import (
    Place,
    exists,
    explained,
    names_in,
    one_line,
    read_json,
    remove,
    remove_tree,
    run_path,
    write_bytes,
)
from jdt.store.schema import CODECS, MAX_EXAMPLES_PER_CHUNK, safe_name
from jdt.store.strings import array_metadata, group_bytes, metadata_bytes, read_strings, string_files
from jdt.types import Int

_CHECKSUMS = "jdt_checksums"
_DEPTH = 4
_LONGEST = 1 << 40  # Of an axis.
_TYPES = {np.dtype(code).name: np.dtype(code) for code in "?bBhHiIqQefd"}
_RESERVED = ("coordinates", _CHECKSUMS)
_REMEDY = "compute it again"


class Group(NamedTuple):
    """A group in memory: numeric arrays, arrays of names, and attributes."""

    arrays: dict[str, np.ndarray]
    strings: dict[str, tuple[str, ...]]
    attributes: dict[str, Any]


def write_group(
    path: str | os.PathLike[str],
    arrays: Mapping[str, tuple[np.ndarray, tuple[str, ...]]],
    *,
    strings: Mapping[str, tuple[Sequence[str], str]],
    attributes: Mapping[str, Any],
) -> None:
    """Write a group, the file that makes it one last; a group that was there is removed first.

    Args:
      path: For example `runs/demo/influences/cifar10/fixed/margin/ridge.zarr`.
      arrays: Name -> values (bool, integer or float) and dimension names.
      strings: Name -> names and the dimension they label; xarray shows them as coordinates.
      attributes: Plain values.

    Raises:
      UserError: Where a name or array does not fit, the disk is full or may not be written.
    """
    path = run_path(path)
    arrays = {name: (np.asarray(values), tuple(dims)) for name, (values, dims) in arrays.items()}
    _require_consistent(arrays, strings, attributes)
    with explained(f"writing {path}"):
        # In this order a kill leaves a group without metadata, which is no group and is computed again.
        remove(path / "zarr.json")
        remove_tree(path)
        _write_files(path, arrays, strings, attributes)


def read_group(
    path: str | os.PathLike[str],
    *,
    only: Callable[[str], bool] | None = None,
    at: Mapping[str, Int[np.ndarray, " some"]] | None = None,
) -> Group:
    """Read what `write_group` wrote, or a part of it.

    Args:
      path: The group.
      only: Says by name which numeric arrays to read; all of them when None.
      at: Dimension -> which entries along it, of every array that has this dimension. Of such arrays the chunks that
        hold these entries are decoded, a few at a time, and each is checked by its CRC-32C; whole arrays are also
        compared with the checksum of all their values.

    Returns:
      `(arrays, strings, attributes)`; strings are always all of them.

    Raises:
      UserError: Where there is no such group, a file in it is damaged, or it has no such entry.
    """
    path = run_path(path)
    try:
        attributes = read_json(path / "zarr.json").get("attributes")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not there, or is not a Zarr group: compute it first.") from None
    if not isinstance(attributes, dict):
        raise UserError(f"{path} was not written by jdt, or is damaged: its zarr.json has no attributes.")
    checksums, coordinates = attributes.pop(_CHECKSUMS, None), str(attributes.pop("coordinates", "")).split()
    if not isinstance(checksums, dict) or not all(map(_is_name, checksums)):
        raise UserError(f"{path} was not written by jdt, or is damaged: its zarr.json has no checksums.")
    wanted = [name for name in checksums if name not in coordinates and (only is None or only(name))]
    arrays = {name: _read_array(path, name, checksums[name], at or {}) for name in wanted}
    strings = {name: _read_names(path, name, value) for name, value in checksums.items() if name in coordinates}
    return Group(arrays, strings, attributes)


def is_group(path: str | os.PathLike[str]) -> bool:
    """Whether there is a group; what a kill left half-written is none."""
    place = run_path(path) / "zarr.json"
    with explained(f"reading {place}"):
        return exists(place)


def saved_groups(folder: Place) -> list[tuple[str, str, str, str]]:
    """Where in `folder` groups were written, four names below it, e.g. target, mode, output and estimator."""

    def below(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(parts) == _DEPTH:
            yield from [parts] if is_group(folder.joinpath(*parts)) else []
            return
        try:
            names = names_in(folder.joinpath(*parts))
        except NotADirectoryError:
            return  # Somebody's file between the folders.
        for name in names:
            if safe_name(name) == name:  # As all that jdt writes, and all that a message can show.
                yield from below((*parts, name))

    with explained(f"listing {folder}"):
        return [(a, b, c, d) for a, b, c, d in below(())]


def _is_name(name: str) -> bool:
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is not None


def _require_consistent(
    arrays: Mapping[str, tuple[np.ndarray, tuple[str, ...]]],
    strings: Mapping[str, tuple[Sequence[str], str]],
    attributes: Mapping[str, Any],
) -> None:
    for name in (*arrays, *strings):
        if not _is_name(name) or (name in arrays and name in strings):
            raise UserError(f"array name {name!r} must be unique, of letters, digits and underscores.")
    if taken := [key for key in _RESERVED if key in attributes]:
        raise UserError(f"the attribute {taken[0]} is the store's own: choose another name.")
    sizes: dict[str, int] = {}
    for name, (values, dims) in arrays.items():
        if len(dims) != values.ndim or values.dtype.kind not in "biuf" or values.dtype.itemsize > 8:
            raise UserError(f"{name} is {values.dtype}{list(values.shape)} with dimensions {list(dims)}: not storable.")
    shapes = [(name, values.shape, dims) for name, (values, dims) in arrays.items()]
    for name, shape, dims in [*shapes, *((name, (len(v),), (dim,)) for name, (v, dim) in strings.items())]:
        for dim, size in zip(dims, shape, strict=True):
            if sizes.setdefault(dim, size) != size:
                raise UserError(f"{name} has {size} entries along {dim!r}, other arrays have {sizes[dim]}.")


def _write_files(
    folder: Place,
    arrays: Mapping[str, tuple[np.ndarray, tuple[str, ...]]],
    strings: Mapping[str, tuple[Sequence[str], str]],
    attributes: Mapping[str, Any],
) -> None:
    files = {
        f"{name}/{file}": content
        for name, (v, dim) in strings.items()
        for file, content in string_files(v, dim).items()
    }
    metadata = {name: _metadata(values.shape, values.dtype, dims) for name, (values, dims) in arrays.items()}
    files |= {f"{name}/zarr.json": metadata_bytes(value) for name, value in metadata.items()}
    own = {"coordinates": " ".join(strings)} if strings else {}
    checksums = {name: checksum(values) for name, (values, _) in arrays.items()}
    checksums |= {name: fingerprint(tuple(values)) for name, (values, _) in strings.items()}
    for name, content in files.items():
        write_bytes(folder / name, content)
    opened = {name: open_array(folder / name, value, writable=True) for name, value in metadata.items()}
    writes = [opened[name].result().write(values) for name, (values, _) in arrays.items()]
    failures = [error for write in writes if (error := write.exception()) is not None]  # Waits for every one.
    if failures:
        raise failures[0]
    write_bytes(folder / "zarr.json", group_bytes({**attributes, **own, _CHECKSUMS: checksums}))


def _metadata(shape: Sequence[int], dtype: np.dtype, dims: Sequence[str]) -> dict[str, Any]:
    one_byte = dtype.itemsize == 1
    codecs = [{"name": "bytes"} if one_byte else {"name": "bytes", "configuration": {"endian": "little"}}, *CODECS]
    fill = {"b": False, "f": "NaN"}.get(dtype.kind, 0)
    return array_metadata(shape, _chunk_shape(shape), dims, data_type=dtype.name, fill=fill, codecs=codecs)


def _chunk_shape(shape: Sequence[int]) -> list[int]:
    """Even chunks along the last axis, which is that of the examples; a vector is one chunk."""
    chunks = list(shape)
    if len(shape) > 1:
        chunks[-1] = math.ceil(chunks[-1] / max(1, math.ceil(chunks[-1] / MAX_EXAMPLES_PER_CHUNK)))
    return chunks


def _read_names(group: Place, name: str, expected: str) -> tuple[str, ...]:
    values = read_strings(group / name)
    if fingerprint(values) != expected:
        raise UserError(f"the names in {group / name} are damaged: not those that were written: {_REMEDY}.")
    return values


def _described(path: Place) -> dict[str, Any]:
    """The `zarr.json` of an array, if it is as `write_group` makes it and the chunk files can hold what it promises.

    Raises:
      UserError: Where it is missing or anything else.
    """
    try:
        found = read_json(path / "zarr.json")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"the array {path} is damaged: its zarr.json is missing: {_REMEDY}.") from None
    shape, kind, dims = (found.get(key) for key in ("shape", "data_type", "dimension_names"))
    dtype = _TYPES.get(kind) if isinstance(kind, str) else None
    sizes = shape if isinstance(shape, list) and all(type(n) is int and 0 <= n < _LONGEST for n in shape) else None
    names = dims if isinstance(dims, list) and all(isinstance(dim, str) for dim in dims) else None
    if (
        dtype is None or sizes is None or names is None or len(names) != len(sizes)
        or found != _metadata(sizes, dtype, names)
    ):  # fmt: skip
        raise UserError(f"the array {path} is damaged: its zarr.json is not as it was written: {_REMEDY}.")
    chunks = _chunk_shape(sizes)
    for i in range(math.ceil(sizes[-1] / chunks[-1]) if sizes and math.prod(sizes) else len(sizes) == 0):
        name = "/".join(("c", *"0" * (len(sizes) - 1), *([str(i)] if sizes else [])))
        if reason := lacking(path / name, math.prod(chunks) * dtype.itemsize):
            raise UserError(f"the array {path} is damaged: chunk file {name} {reason}: {_REMEDY}.")
    return found


def _read_array(group: Place, name: str, expected: str, at: Mapping[str, Int[np.ndarray, " some"]]) -> np.ndarray:
    metadata = _described(group / name)
    part = tuple(
        _entries(at[dim], size, dim) if dim in at else slice(None)
        for dim, size in zip(metadata["dimension_names"], metadata["shape"], strict=True)
    )
    is_whole = all(isinstance(where, slice) for where in part)
    with explained(f"reading {group / name}"):
        try:
            array = open_array(group / name, metadata, writable=False).result()
            values = (array if is_whole else array.oindex[part]).read().result()
        except ValueError as error:
            raise UserError(f"the array {group / name} is damaged ({one_line(error)}): {_REMEDY}.") from error
    if is_whole and checksum(values) != expected:
        raise UserError(f"the array {group / name} is damaged: its values are not those that were written: {_REMEDY}.")
    return values


def _entries(entries: Int[np.ndarray, " some"], size: int, dim: str) -> Int[np.ndarray, " some"]:
    entries = np.asarray(entries, np.int64)
    if outside := entries[(entries < 0) | (entries >= size)].tolist():
        raise UserError(f"{dim} {outside[0]} is asked for, but there are {size:,}, numbered from 0 to {size - 1}.")
    return entries
