"""A row of bytes as an Orbax checkpoint that one process writes and reads alone.

Orbax makes the folder under another name, gives it its own name once everything in it is written (on gs:// it adds a
file that says so), and knows a finished checkpoint from another. The bytes are a TensorStore array, as Orbax's own
arrays are. Those cannot be used here: in a process that has left its `jax.distributed` job JAX still counts all
processes of the job, whereupon Orbax asks the coordinator that is gone, and writes NumPy arrays on process 0 only.

Kept apart from `jdt.train.checkpoint` because importing Orbax takes time that only a checkpoint is worth.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from jdt.types import UInt8

_CHUNK = 2**24
"""Bytes a file: large ones to write fast, several to write at once."""


class BytesHandler(ocp.CheckpointHandler):
    """Writes and reads uint8 `[bytes]`."""

    def save(self, directory: epath.Path, args: "BytesSave") -> None:
        """Write `args.array`, and the files beside it."""
        for name, content in args.files.items():
            (directory / name).write_bytes(content)
        size = len(args.array)
        layout = ts.ChunkLayout(chunk_shape=[max(1, min(size, _CHUNK))])
        _open(directory, create=True, dtype=ts.uint8, shape=[size], chunk_layout=layout).write(args.array).result()

    def restore(self, directory: epath.Path, args: "BytesRestore") -> np.ndarray:
        """Read the bytes, if they are `args.size`.

        Raises:
          ValueError: If they are not, or cannot be read.
        """
        array = _open(directory, open=True)
        if array.dtype != ts.uint8 or array.shape != (args.size,):
            raise ValueError(f"holds {array.dtype.name} {list(array.shape)}, not uint8 [{args.size}]")
        return array.read().result()


@ocp.args.register_with_handler(BytesHandler, for_save=True)
@dataclasses.dataclass
class BytesSave(ocp.args.CheckpointArgs):
    """What to save."""

    array: UInt8[np.ndarray, " bytes"]
    files: Mapping[str, bytes] = dataclasses.field(default_factory=dict)


@ocp.args.register_with_handler(BytesHandler, for_restore=True)
@dataclasses.dataclass
class BytesRestore(ocp.args.CheckpointArgs):
    """How many bytes to expect."""

    size: int


def save(
    directory: epath.Path,
    array: UInt8[np.ndarray, " bytes"],
    about: dict[str, Any],
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write a checkpoint; until this returns there is none, and a folder of this name that was there is gone.

    Args:
      directory: Where to; the folders above it are made.
      array: The bytes.
      about: Plain JSON to keep beside them, for people to read.
      files: Small files to keep beside them, by name.
    """
    with _checkpointer() as checkpointer:
        checkpointer.save(directory, args=BytesSave(array, files or {}), force=True, custom_metadata=about)


def restore(directory: epath.Path, size: int) -> UInt8[np.ndarray, " bytes"]:
    """Read a checkpoint of `size` bytes.

    Raises:
      Exception: Of any kind, if it is not there, unfinished, of another size or damaged in a way that shows.
    """
    with _checkpointer() as checkpointer:
        return checkpointer.restore(directory, args=BytesRestore(size))


def _checkpointer() -> ocp.Checkpointer:
    """Orbax for this process alone: it waits for no other."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return ocp.Checkpointer(BytesHandler(), multiprocessing_options=alone)


def _open(directory: epath.Path, **how: Any) -> ts.TensorStore:
    path = f"{directory / 'bytes'}/"
    store = path if "://" in path else {"driver": "file", "path": path}
    return ts.open({"driver": "zarr3", "kvstore": store}, **how).result()
