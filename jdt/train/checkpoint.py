"""Checkpoints inside a block's training, so that a run that is killed loses minutes and not the block.

A checkpoint is the arrays of one wave after so many steps. It is written by Orbax in a thread of its own, from a copy
on the host, while training goes on; it bears its final name only when it is complete, and what it replaces is removed
after that. What is read back is used only if its SHA-256, taken from the copy, comes out again.
"""

import collections
import dataclasses
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath

from jdt import config
from jdt.types import UInt8

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<wave>\d{4,})-(?P<step>\d{9,})-(?P<tag>[0-9a-f]{16})")
_DIGEST = hashlib.sha256().digest_size


class Checkpoints:
    """The checkpoints of one block, in a folder that nothing else is in and no other process uses.

    One object serves one block at a time: `train` asks it for each wave's checkpoint and gives it the wave's states,
    the caller calls `discard` once the block is stored.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        identity: str,
        every_seconds: float = 600.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Describe the checkpoints of a block; nothing is read or written yet.

        Args:
          folder: Local or gs://; made when the first checkpoint is written.
          identity: Says everything that the trained models depend on and `train` cannot see: source data, masks'
            design, block, versions of the caller. `train` adds what it can see.
          every_seconds: Time between checkpoints. No more than that, and one call of the training program, is lost.
          clock: Tells seconds, from any zero.
        """
        self.folder = epath.Path(folder)
        self._identity, self._every, self._clock = identity, every_seconds, clock
        self._since: float | None = None
        self._writer: threading.Thread | None = None
        self._finished: collections.deque[_Job] = collections.deque()

    def of_wave(self, number: int, settings: Mapping[str, Any], *, last: bool) -> "WaveCheckpoints":
        """The checkpoints of one wave.

        Args:
          number: Of the wave, from 0; wave 0 begins the block anew.
          settings: Plain JSON: everything that the wave's result depends on, besides the block's identity.
          last: Whether no wave of the block comes after it.
        """
        if number == 0:
            self.wait()
            self._finished.clear()
        if self._since is None:
            self._since = self._clock()
        identity = json.dumps([self._identity, config.to_plain(settings)], sort_keys=True)
        return WaveCheckpoints(self, number, identity, last)

    def wait(self) -> None:
        """Wait until what is being written is complete."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def discard(self) -> None:
        """Remove the folder: the block is stored, or wanted no more."""
        self.wait()
        self._finished.clear()
        self._since = None
        try:
            if self.folder.exists():
                self.folder.rmtree()
        except OSError as error:
            logger.warning("%s cannot be removed (%s): it is of no more use.", self.folder, error)

    def _due(self) -> bool:
        """Whether it is time; never while the last one is still being written."""
        if self._since is None or self._clock() - self._since < self._every:
            return False
        return self._writer is None or not self._writer.is_alive()

    def _write(self, job: "_Job") -> None:
        """Begin to write a checkpoint, after those of waves that have finished since the last time."""
        self._since = self._clock()
        self._writer = threading.Thread(target=self._write_all, args=(job,), name="jdt-checkpoint")
        self._writer.start()

    def _write_all(self, job: "_Job") -> None:
        try:
            while self._finished:
                self._write_one(self._finished[0])
                self._finished.popleft()
            self._write_one(job)
        except Exception as error:
            # Orbax, TensorStore and file systems fail in many ways, and training needs none of them.
            logger.warning(
                "no checkpoint could be written to %s (%s): training goes on, and the last complete one stays.",
                self.folder,
                _first_line(error),
            )

    def _write_one(self, job: "_Job") -> None:
        from jdt.train import orbax_bytes  # Takes a third of a second, which `import jdt` should not wait for.

        job.content[:_DIGEST] = _digest(job.seal, job.content)
        name = f"{job.wave:04d}-{job.step:09d}-{_tag(job.identity)}"
        orbax_bytes.save(self.folder / name, job.content, {"identity": job.identity, "step": job.step})
        for path in self._entries(job.wave):
            if path.name != name:
                path.rmtree()

    def _entries(self, wave: int) -> list[epath.Path]:
        """What the folder holds of a wave, complete or not."""
        if not self.folder.exists():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.startswith(f"{wave:04d}-"))


@dataclasses.dataclass(frozen=True)
class _Job:
    """A checkpoint to be written: `content` has room for the digest, then the bytes of all leaves in order."""

    wave: int
    step: int
    identity: str
    seal: str
    content: UInt8[np.ndarray, " bytes"]


@dataclasses.dataclass(frozen=True)
class WaveCheckpoints:
    """The checkpoints of one wave; made by `Checkpoints.of_wave`."""

    block: Checkpoints
    number: int
    identity: str
    last: bool

    def restore(self, like: Callable[[int], Any]) -> tuple[int, Any] | None:
        """Read the newest complete checkpoint of this wave; others are named in one warning and left where they are.

        Args:
          like: Called with a number of steps; gives the pytree of shapes and dtypes that was saved after them.

        Returns:
          (steps done, pytree of NumPy arrays), or None where training begins from the start.
        """
        ignored, found = [], None
        for path in reversed(self.block._entries(self.number)):
            name = _NAME.fullmatch(path.name)
            if name is None:
                ignored.append(f"{path.name} (half-written)")
            elif name["tag"] != _tag(self.identity):
                ignored.append(f"{path.name} (made with other settings or data)")
            elif found is None:
                step = int(name["step"])
                shapes = like(step)
                try:
                    found = step, _read(path, self.identity, step, shapes)
                except Exception as error:  # Damage can show in any way that Orbax and TensorStore have of failing.
                    ignored.append(f"{path.name} (damaged: {_first_line(error)})")
        if ignored:
            logger.warning("checkpoints in %s are ignored: %s.", self.block.folder, ", ".join(ignored))
        if found is not None:
            logger.info("wave %d goes on from step %d", self.number, found[0])
        return found

    def due(self) -> bool:
        """Whether `save` should be called now."""
        return self.block._due()

    def save(self, step: int, tree: Any) -> None:
        """Copy the arrays of a pytree to the host and begin to write them, as the state after `step` steps."""
        self.block._write(self._job(step, tree))

    def finish(self, step: int, tree: Any) -> None:
        """Take a finished wave's result: it is written if it is time, or with the block's next checkpoint."""
        if self.due():
            self.save(step, tree)
        elif not self.last:
            self.block._finished.append(self._job(step, tree))

    def _job(self, step: int, tree: Any) -> _Job:
        leaves = jax.device_get(jax.tree.leaves(tree))
        content = np.empty(_DIGEST + _num_bytes(leaves), np.uint8)
        start = _DIGEST
        for leaf in leaves:
            end = start + leaf.nbytes
            # Copied whatever the device: on CPUs the host sees the very memory that training will write to.
            content[start:end] = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
            start = end
        return _Job(self.number, step, self.identity, _seal(self.identity, step, leaves), content)


def _read(path: epath.Path, identity: str, step: int, shapes: Any) -> Any:
    """Read a checkpoint into a pytree like `shapes`.

    Raises:
      Exception: Of any kind, if it is damaged.
    """
    from jdt.train import orbax_bytes  # As in `_write_one`.

    leaves, structure = jax.tree.flatten(shapes)
    content = orbax_bytes.restore(path, _DIGEST + _num_bytes(leaves))
    if (content[:_DIGEST] != _digest(_seal(identity, step, leaves), content)).any():
        raise ValueError("its bytes are not those that were saved")
    arrays, start = [], _DIGEST
    for leaf in leaves:
        end = start + leaf.size * leaf.dtype.itemsize
        arrays.append(content[start:end].view(leaf.dtype).reshape(leaf.shape))
        start = end
    return jax.tree.unflatten(structure, arrays)


def _num_bytes(leaves: list[Any]) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _seal(identity: str, step: int, leaves: list[Any]) -> str:
    """What the digest covers besides the bytes: a checkpoint that is renamed or read as other arrays is damaged."""
    return json.dumps([identity, step, [[leaf.dtype.name, list(leaf.shape)] for leaf in leaves]])


def _digest(seal: str, content: UInt8[np.ndarray, " bytes"]) -> UInt8[np.ndarray, " 32"]:
    hashed = hashlib.sha256(seal.encode())
    hashed.update(content[_DIGEST:].data)
    return np.frombuffer(hashed.digest(), np.uint8)


def _tag(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
