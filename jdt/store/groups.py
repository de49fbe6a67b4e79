"""Whole Zarr v3 groups written at once, such as one estimator's influences."""

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdt.checks import UserError
from jdt.config import fingerprint
from jdt.store.arrays import checksum, open_array
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
from jdt.store.schema import CODECS, MAX_EXAMPLES_PER_CHUNK
from jdt.store.strings import array_metadata, group_bytes, metadata_bytes, read_strings, string_files

_CHECKSUMS = "jdt_checksums"
_DEPTH = 4
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


def read_group(path: str | os.PathLike[str]) -> Group:
    """Read what `write_group` wrote.

    Returns:
      `(arrays, strings, attributes)`.

    Raises:
      UserError: Where there is no such group, or a file in it is damaged.
    """
    path = run_path(path)
    try:
        attributes = dict(read_json(path / "zarr.json").get("attributes", {}))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not there, or is not a Zarr group: compute it first.") from None
    checksums, coordinates = attributes.pop(_CHECKSUMS, None), str(attributes.pop("coordinates", "")).split()
    if not isinstance(checksums, dict) or not all(map(_is_name, checksums)):
        raise UserError(f"{path} was not written by jdt, or is damaged: its zarr.json has no checksums.")
    arrays = {name: _read_array(path, name, value) for name, value in checksums.items() if name not in coordinates}
    strings = {name: _read_names(path, name, value) for name, value in checksums.items() if name in coordinates}
    return Group(arrays, strings, attributes)


def is_group(path: str | os.PathLike[str]) -> bool:
    """Whether there is a group; what a kill left half-written is none."""
    return exists(run_path(path) / "zarr.json")


def saved_groups(folder: Place) -> list[tuple[str, str, str, str]]:
    """Where in `folder` groups were written, four names below it, e.g. target, mode, output and estimator."""

    def below(parts: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if len(parts) == _DEPTH:
            yield from [parts] if is_group(folder.joinpath(*parts)) else []
            return
        for name in names_in(folder.joinpath(*parts)):
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
    files |= {f"{name}/zarr.json": metadata_bytes(_metadata(values, dims)) for name, (values, dims) in arrays.items()}
    own = {"coordinates": " ".join(strings)} if strings else {}
    checksums = {name: checksum(values) for name, (values, _) in arrays.items()}
    checksums |= {name: fingerprint(tuple(values)) for name, (values, _) in strings.items()}
    for name, content in files.items():
        write_bytes(folder / name, content)
    opened = {name: open_array(folder / name, writable=True) for name in arrays}
    writes = [opened[name].result().write(values) for name, (values, _) in arrays.items()]
    failures = [error for write in writes if (error := write.exception()) is not None]  # Waits for every one.
    if failures:
        raise failures[0]
    write_bytes(folder / "zarr.json", group_bytes({**attributes, **own, _CHECKSUMS: checksums}))


def _metadata(values: np.ndarray, dims: tuple[str, ...]) -> dict[str, Any]:
    one_byte = values.dtype.itemsize == 1
    codecs = [{"name": "bytes"} if one_byte else {"name": "bytes", "configuration": {"endian": "little"}}, *CODECS]
    fill = {"b": False, "f": "NaN"}.get(values.dtype.kind, 0)
    chunks = list(values.shape)
    if values.ndim > 1:  # Even chunks along the last axis, which is that of the examples.
        chunks[-1] = math.ceil(chunks[-1] / max(1, math.ceil(chunks[-1] / MAX_EXAMPLES_PER_CHUNK)))
    return array_metadata(values.shape, chunks, dims, data_type=values.dtype.name, fill=fill, codecs=codecs)


def _read_names(group: Place, name: str, expected: str) -> tuple[str, ...]:
    values = read_strings(group / name)
    if fingerprint(values) != expected:
        raise UserError(f"the names in {group / name} are damaged: not those that were written: {_REMEDY}.")
    return values


def _read_array(group: Place, name: str, expected: str) -> np.ndarray:
    with explained(f"reading {group / name}"):
        try:
            values = open_array(group / name, writable=False).result().read().result()
        except ValueError as error:
            raise UserError(f"the array {group / name} is damaged ({one_line(error)}): {_REMEDY}.") from error
    if checksum(values) != expected:
        raise UserError(f"the array {group / name} is damaged: its values are not those that were written: {_REMEDY}.")
    return values
