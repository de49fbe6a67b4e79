"""What the processes of one `jax.distributed` job tell each other: arrays for all, rows for columns, and failures.

Bytes travel as bytes, so that nothing is rounded and any dtype will do. A process that is alone is the case of one:
nothing is sent, and there need be no job. All processes call the same functions in the same order.
"""

import contextlib
import functools
import io
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jdt import checks
from jdt.hosts import Hosts
from jdt.types import Shaped, UInt8

PIECE = 2**24
"""Bytes that each process sends at a time in `gather`; every process receives as many from each."""


@contextlib.contextmanager
def in_step(hosts: Hosts) -> Iterator[None]:
    """Finish this process's own work in all processes, or in none; the others would wait for one that fails.

    The work must exchange nothing itself.

    Raises:
      Exception: Whatever the work raised here.
      UserError: If it failed in another process; the first of them is named.
    """
    if hosts.count == 1:
        yield
        return
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        own = error
    failed = np.flatnonzero(_resharded(np.array([[own is not None]]), hosts, _EVERYWHERE))
    if own is not None:
        raise own
    if len(failed):
        raise checks.UserError(
            f"process {hosts.index} of {hosts.count} stops because process {failed[0]} failed: see what that one says."
        )


def gather(arrays: Mapping[str, np.ndarray], hosts: Hosts) -> list[dict[str, np.ndarray]]:
    """Give every process the named arrays of each, in the order of the processes.

    Names, numbers and shapes of arrays may differ between processes. Memory holds all arrays of all processes.
    """
    if hosts.count == 1:
        return [dict(arrays)]
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    own = np.frombuffer(file.getbuffer(), np.uint8)
    sizes = _resharded(np.array([[len(own)]]), hosts, _EVERYWHERE)[:, 0]
    parts = [np.empty(size, np.uint8) for size in sizes]
    # Few different lengths of pieces, so that few programs are compiled.
    piece = min(PIECE, 1 << int(sizes.max() - 1).bit_length())
    for start in range(0, int(sizes.max()), piece):
        sent = np.zeros((1, piece), np.uint8)
        _put(sent[0], own[start : start + piece])
        for part, received in zip(parts, _resharded(sent, hosts, _EVERYWHERE), strict=True):
            _put(part[start : start + piece], received)
    return [dict(np.load(io.BytesIO(part.data), allow_pickle=False)) for part in parts]


def trade(parts: Sequence[Shaped[np.ndarray, "own_rows _"]], hosts: Hosts) -> Shaped[np.ndarray, "rows columns"]:
    """Give each process columns of one's rows, and get from each its rows of one's own columns.

    Args:
      parts: For each process the columns that it gets, of this process's rows; the same columns in all processes. A
        process may have no rows, or get no columns.
      hosts: The processes.

    Returns:
      All rows, those of process 0 first, of the columns of this process. What is sent and received is as much as the
      larger of the two arrays, up to what rows and columns differ in number between processes.
    """
    if hosts.count == 1:
        return parts[0]
    dtype, rows = parts[0].dtype, len(parts[0])
    counts = _resharded(np.array([[rows]]), hosts, _EVERYWHERE)[:, 0]
    width = max(part.shape[1] for part in parts)
    sent = np.zeros((counts.max(), hosts.count, width), dtype)
    for place, part in enumerate(parts):
        sent[:rows, place, : part.shape[1]] = part
    received = _resharded(sent.reshape(len(sent), -1), hosts, PartitionSpec(None, "hosts"))
    received = received.reshape(hosts.count, len(sent), width)
    columns = parts[hosts.index].shape[1]
    return np.concatenate([own[:count, :columns] for own, count in zip(received, counts, strict=True)])


_EVERYWHERE = PartitionSpec()


def _put(there: UInt8[np.ndarray, " size"], found: UInt8[np.ndarray, " other"]) -> None:
    """Fill the beginning of one array with that of another, as far as both go."""
    size = min(len(there), len(found))
    there[:size] = found[:size]


@functools.lru_cache
def _mesh(count: int) -> Mesh:
    """One device of each process: JAX's own helpers put a copy on every device of every process."""
    if jax.process_count() != count:
        raise ValueError(
            f"{count} processes are to exchange arrays, but {jax.process_count()} share a jax.distributed job: join it "
            "with jdt.hosts.join(together=True)."
        )
    first = {device.process_index: device for device in reversed(jax.devices())}
    return Mesh(np.array([first[i] for i in range(count)]), ("hosts",))


def _resharded(
    rows: Shaped[np.ndarray, "own_rows columns"], hosts: Hosts, spec: PartitionSpec
) -> Shaped[np.ndarray, "rows some_columns"]:
    """This process's part under `spec` of the array whose rows are those of all processes, equally many of each."""
    mesh = _mesh(hosts.count)
    words = np.ascontiguousarray(rows).view(np.uint8)
    there = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("hosts")), words)
    found = _identity(NamedSharding(mesh, spec))(there)
    return np.asarray(found.addressable_data(0)).view(rows.dtype)


@functools.lru_cache
def _identity(sharding: NamedSharding) -> jax.stages.Wrapped:
    return jax.jit(lambda x: x, out_shardings=sharding)
