"""Source models that a run keeps: `checkpoints/NNNNNN/FIRST-LAST-TOKEN/`, named in the record of their block.

Each folder is an Orbax checkpoint of the models of a block that were trained together, written before the block's
record, which names it and holds a digest of every model: a row of bytes, model after model, and `leaves.json`, which
says what the bytes of one model are. The bytes are read here without Orbax, by a description of this module's own.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdt.checks import UserError
from jdt.store.arrays import open_array
from jdt.store.files import (
    Place,
    explained,
    is_local,
    names_in,
    odd_file,
    parse_json,
    read_content,
    remove_tree,
)
from jdt.types import UInt8

CHECKPOINTS = "checkpoints"
"""Folder of the source models that a run keeps."""
MODELS_KEY = "source_models"
"""Where a block's record describes them."""
LEAVES_FILE = "leaves.json"
CHUNK_BYTES = 2**24
"""Of a file, as `jdt.train.orbax_bytes` writes them."""
_LARGEST = 1 << 50  # Bytes of a part of a block.
_FOLDER = re.compile(r"[0-9]{1,8}-(?P<last>[0-9]{1,8})-[0-9a-f]{16}")
_DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclasses.dataclass(frozen=True)
class SavedPart:
    """Models of a block that were trained, and saved, together.

    Attributes:
      folder: Its name in the block's folder.
      models: Their ids.
      bytes_per_model: Bytes of each.
      leaves: Digest of `leaves.json`.
      digests: Of the bytes of each model.
    """

    folder: str
    models: range
    bytes_per_model: int
    leaves: str
    digests: tuple[str, ...]

    def described(self) -> dict[str, Any]:
        """The entry of the block's record."""
        return {
            "folder": self.folder,
            "models": [self.models.start, self.models.stop],
            "bytes_per_model": self.bytes_per_model,
            "leaves": self.leaves,
            "digests": list(self.digests),
        }

    @property
    def num_bytes(self) -> int:
        """Of all its models."""
        return len(self.models) * self.bytes_per_model


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a model: where it is in the tree, such as `params/head/kernel`, its type and its shape."""

    path: str
    dtype: str
    shape: tuple[int, ...]


def part_folder(models: range, token: str) -> str:
    """Name of a part's folder.

    >>> part_folder(range(8, 16), "0123456789abcdef")
    '8-15-0123456789abcdef'
    """
    return f"{models.start}-{models.stop - 1}-{token}"


def model_digest(content: UInt8[np.ndarray, " bytes"]) -> str:
    """16 hex digits of the SHA-256 of a model's bytes, or of a file's."""
    return hashlib.sha256(np.ascontiguousarray(content).data if len(content) else b"").hexdigest()[:16]


def leaves_bytes(leaves: Sequence[Leaf]) -> bytes:
    """The content of `leaves.json`, the same for the same leaves: they follow each other without gaps, in C order."""
    plain = [{"path": leaf.path, "dtype": leaf.dtype, "shape": list(leaf.shape)} for leaf in leaves]
    return (json.dumps({"format": 1, "byteorder": "little", "leaves": plain}, indent=1) + "\n").encode()


def parts_of(record: Mapping[str, Any]) -> tuple[SavedPart, ...]:
    """The saved models that a block's record speaks of; none where the run keeps none.

    Raises:
      ValueError: If what it says is nothing that jdt writes.
    """
    if MODELS_KEY not in record:
        return ()
    entries = record[MODELS_KEY]
    if not isinstance(entries, list):
        raise ValueError("is no list")
    parts = tuple(map(_part, entries))
    ends = [record["models"][0], *(part.models.stop for part in parts)]
    if [part.models.start for part in parts] != ends[:-1] or ends[-1] != record["models"][1]:
        raise ValueError("speaks of other models than the record")
    return parts


def _part(entry: Any) -> SavedPart:
    try:
        (start, stop), size = entry["models"], entry["bytes_per_model"]
        folder, leaves, digests = entry["folder"], entry["leaves"], entry["digests"]
        sound = all(type(number) is int for number in (start, stop, size)) and 0 <= start < stop and size >= 0
        sound = sound and (stop - start) * size <= _LARGEST and isinstance(digests, list)
        sound = sound and len(digests) == stop - start and _FOLDER.fullmatch(folder) is not None
        if not (sound and all(_DIGEST.fullmatch(digest) for digest in (leaves, *digests))):
            raise ValueError("holds what jdt never writes")
    except (TypeError, KeyError) as error:
        raise ValueError("is not as jdt writes it") from error
    return SavedPart(folder, range(start, stop), size, leaves, tuple(digests))


def block_folder(root: Place, block: int) -> Place:
    """Where the models of a block are."""
    return root / CHECKPOINTS / f"{block:06d}"


def fault_of(root: Place, record: Mapping[str, Any], *, whole: bool) -> str:
    """What is wrong with the saved models of a block, naming the file; or an empty string.

    Args:
      root: The run.
      record: The block's, which was checked by `load_record`.
      whole: Read every byte, too; otherwise only what tells that files are missing or cut.

    Raises:
      UserError: If something cannot be read for a reason that is not damage.
    """
    for part in parts_of(record):
        folder = block_folder(root, record["block"]) / part.folder
        name = f"{CHECKPOINTS}/{record['block']:06d}/{part.folder}"
        with explained(f"reading {folder}"):
            reason = _files_fault(folder, part)
            if not reason and whole:
                damaged = [m for m, digest in zip(part.models, _digests(folder, part), strict=True)
                           if digest != part.digests[m - part.models.start]]  # fmt: skip
                reason = f"the bytes of model {damaged[0]} are not those that were recorded" if damaged else ""
        if reason:
            return f"{name}: {reason}"
    return ""


def read_leaves(root: Place, block: int, part: SavedPart) -> tuple[Leaf, ...]:
    """What the bytes of each model of a part are.

    Raises:
      UserError: If that is damaged.
    """
    folder = block_folder(root, block) / part.folder
    with explained(f"reading {folder}"):
        if reason := _files_fault(folder, part):
            raise _damaged(root, folder, reason)
        content = read_content(folder / LEAVES_FILE).value
        found = None if content is None else _parsed(content, folder / LEAVES_FILE)
    if found is None:
        raise _damaged(root, folder, f"{LEAVES_FILE} is not as jdt writes it")
    return found


def read_models(root: Place, block: int, part: SavedPart, models: range) -> UInt8[np.ndarray, "models bytes"]:
    """Read the bytes of consecutive models of a part, and of no others, checked against the record.

    Raises:
      UserError: If they are damaged, or cannot be read.
    """
    folder, size = block_folder(root, block) / part.folder, part.bytes_per_model
    first, stop = ((end - part.models.start) * size for end in (models.start, models.stop))
    with explained(f"reading {folder}"):
        if reason := _files_fault(folder, part):
            raise _damaged(root, folder, reason)
        try:
            content = open_array(folder / "bytes", _described(part), writable=False).result()[first:stop].read()
            rows = content.result().reshape(len(models), size)
        except MemoryError as error:
            raise UserError(f"{folder} has {stop - first:,} bytes, more than the memory holds.") from error
    for model, row in zip(models, rows, strict=True):
        if model_digest(row) != part.digests[model - part.models.start]:
            raise _damaged(root, folder, f"the bytes of model {model} are not those that were recorded")
    return rows


def remove_strays(root: Place, record: Mapping[str, Any]) -> None:
    """Remove what lies in a complete block's folder and its record does not name: left by killed or slower workers.

    Raises:
      UserError: If it cannot be removed.
    """
    folder, kept = block_folder(root, record["block"]), {part.folder for part in parts_of(record)}
    if not kept:
        return
    with explained(f"removing unfinished models from {folder}"):
        for name in names_in(folder):
            found = _FOLDER.match(name)
            # Not what a process is writing that knows of more models, since the run is growing.
            if name not in kept and not (found and int(found["last"]) >= record["models"][1]):
                remove_tree(folder / name)


def _damaged(root: Place, folder: Place, reason: str) -> UserError:
    return UserError(
        f"{folder} is damaged: {reason}: `python -m experiments.verify --run {root} --repair` drops its block, and the "
        "command that made the run trains it again."
    )


def _parsed(content: bytes, path: Place) -> tuple[Leaf, ...] | None:
    try:
        leaves = parse_json(content, path)["leaves"]
        found = tuple(Leaf(leaf["path"], leaf["dtype"], tuple(leaf["shape"])) for leaf in leaves)
        return found if leaves_bytes(found) == content else None
    except (UserError, TypeError, KeyError, ValueError):
        return None


def _chunk(part: SavedPart) -> int:
    return max(1, min(part.num_bytes, CHUNK_BYTES))


def _described(part: SavedPart) -> dict[str, Any]:
    """The `zarr.json` that TensorStore makes for `jdt.train.orbax_bytes`."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [part.num_bytes],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [_chunk(part)]}},
        "chunk_key_encoding": {"name": "default"},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}],
    }


def _files_fault(folder: Place, part: SavedPart) -> str:
    """Whether every file of a part is there and has its size; the small ones are read."""
    for name in (LEAVES_FILE, "bytes/zarr.json"):
        try:
            content = read_content(folder / name).value
        except UserError as error:  # A pipe, say.
            return str(error)
        except NotADirectoryError:
            content = None
        if content is None:
            return f"{name} is missing"
        if name == LEAVES_FILE and model_digest(np.frombuffer(content, np.uint8)) != part.leaves:
            return f"{name} is not the one that was recorded"
        if name != LEAVES_FILE and _json(content) != _described(part):
            return f"{name} is not as it was written"
    chunks, there = math.ceil(part.num_bytes / _chunk(part)), set[str]()
    with contextlib.suppress(NotADirectoryError):
        there.update(names_in(folder / "bytes" / "c"))
    # Counted first: a record may speak of more files than there is memory for their names.
    if chunks > len(there) or any(str(i) not in there for i in range(chunks)):
        return f"{chunks} files are due in bytes/c, and some are missing"
    for i in range(chunks if is_local(folder) else 0):
        path = folder / "bytes" / "c" / str(i)
        if reason := odd_file(path):
            return f"bytes/c/{i} {reason}"
        try:
            size = os.stat(path).st_size
        except FileNotFoundError:  # A link to nowhere.
            return f"bytes/c/{i} is missing"
        if size != _chunk(part):
            return f"bytes/c/{i} has {size:,} bytes, not {_chunk(part):,}"
    return ""


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _digests(folder: Place, part: SavedPart) -> list[str]:
    """Digests of all models, from files that are read one after the other."""
    array = open_array(folder / "bytes", _described(part), writable=False).result()
    found, hashed, left = [], hashlib.sha256(), part.bytes_per_model
    if not part.bytes_per_model:
        return [hashed.hexdigest()[:16]] * len(part.models)
    for first in range(0, part.num_bytes, _chunk(part)):
        content = array[first : min(first + _chunk(part), part.num_bytes)].read().result()
        start = 0
        while start < len(content):
            stop = min(len(content), start + left)
            hashed.update(content[start:stop].data)
            left -= stop - start
            start = stop
            if not left:
                found.append(hashed.hexdigest()[:16])
                hashed, left = hashlib.sha256(), part.bytes_per_model
    return found
