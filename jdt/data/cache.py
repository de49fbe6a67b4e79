"""Decoded images on disk: decoded once, written whole or not at all, opened as a memory map ever after."""

import collections
import concurrent.futures
import contextlib
import errno
import functools
import json
import logging
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jdt import config
from jdt.checks import UserError
from jdt.data import arrays
from jdt.data.base import Dataset
from jdt.data.decode import Mode, decode_image, describe_mixed_sizes
from jdt.data.source import Record, Source
from jdt.data.views import WHOLE, View
from jdt.devices import cache_root as cache_root

Progress = Callable[[int, int], None]

FORMAT = 1  # Raise it whenever decoding, resizing or the files' layout change: old entries are then ignored.
_BATCH = 64  # Examples a decoding task: large enough to hide the cost of a task.
_PARTIAL = ".partial-"
_STALE_SECONDS = 24 * 3600

logger = logging.getLogger(__name__)


def load_decoded(
    source: Source, *, image_size: int | None, root: pathlib.Path, progress: Progress | None, view: View = WHOLE
) -> Dataset:
    """Open a split's decoded images, decoding them first unless a sound cache entry exists.

    Args:
      source: The split to read.
      image_size: Side in pixels, or `None` for the stored size.
      root: The cache folder; the entry is `root/decoded/<hash of the identity>/`.
      progress: Called with (images done, images in all) while decoding; never called on a cache hit.
      view: How images are cut: a still view.

    Returns:
      The dataset; its images are a read-only memory map.

    Raises:
      UserError: For unreadable or mixed-size images, bad labels, or a cache folder that cannot be written.
    """
    plain = {"image_size": image_size, "resize": "bilinear", "format": FORMAT, **view_identity(view)}
    identity = config.to_plain({**source.identity, **plain})
    folder = root / "decoded" / config.fingerprint(identity)
    dataset = _read(folder, source.name, identity)
    if dataset is None:
        with replacing(folder, is_sound=lambda path: _read(path, source.name, identity) is not None) as partial:
            decode = functools.partial(_decode_batch, size=image_size, view=view)
            _decode_into(partial, source, identity, decode, progress)
        dataset = _read(folder, source.name, identity)
    if dataset is None:
        raise UserError(f"the cache entry {folder} cannot be read back: check the disk, or pass another cache_dir.")
    return dataset


def view_identity(view: View) -> dict[str, Any]:
    """What a view adds to a cache entry's identity: nothing where it is the one that all had at first."""
    return {} if view == WHOLE else {"view": config.to_plain(view)}


@contextlib.contextmanager
def replacing(folder: pathlib.Path, *, is_sound: Callable[[pathlib.Path], bool]) -> Iterator[pathlib.Path]:
    """Fill a folder all or nothing: yield a temporary one, and rename it to `folder` when the block succeeds.

    Any number of processes may do this at once: the first to finish wins, the others' work is thrown away. A folder
    that stands there already but is not sound is replaced.

    Raises:
      UserError: If the folder cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder.parent)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
    except OSError as error:
        raise UserError(f"cannot write to {folder.parent} ({error}): pass cache_dir, or set JDT_CACHE.") from error
    try:
        yield partial
        partial.chmod(0o755)  # mkdtemp makes private folders, but a cache may be shared.
        _move(partial, folder, is_sound)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(f"no room left for {folder} ({error}): free some, pass cache_dir, or set JDT_CACHE.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # Gone already when the move succeeded.


def _move(partial: pathlib.Path, folder: pathlib.Path, is_sound: Callable[[pathlib.Path], bool]) -> None:
    for _ in range(3):  # Another process may put its own result there between our look and our rename.
        try:
            partial.rename(folder)
            return
        except OSError:
            if not folder.exists():
                raise
            if is_sound(folder):
                return
            grave = pathlib.Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder.parent))
            with contextlib.suppress(FileNotFoundError):  # Another process moved it away first.
                folder.rename(grave / folder.name)
            shutil.rmtree(grave, ignore_errors=True)
    raise UserError(f"{folder} cannot be replaced: remove it by hand.")


def _remove_stale(parent: pathlib.Path) -> None:
    """Remove what killed processes left behind, long enough ago that nobody can still be writing it."""
    for path in parent.glob(f"{_PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _read(folder: pathlib.Path, name: str, identity: Any) -> Dataset | None:
    """Open a cache entry, or return `None` if it is absent or damaged."""
    if not folder.exists():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        class_names = tuple(meta["class_names"])
        if meta["identity"] != identity or list(images.shape) != meta["shape"] or images.dtype != np.uint8:
            raise ValueError("its parts do not belong together")
        if labels.dtype != np.int32 or labels.shape != images.shape[:1]:
            raise ValueError("its labels do not fit its images")
        arrays.check_labels(name, labels, class_names)
        return Dataset(name, images, labels, class_names, str(meta["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        logger.warning("the cache entry %s is damaged (%s) and is decoded again.", folder, error)
        return None


def _decode_into(
    folder: pathlib.Path,
    source: Source,
    identity: Any,
    decode: Callable[..., list[np.ndarray]],
    progress: Progress | None,
) -> None:
    labels = np.empty(source.num_examples, np.int64)
    digest: Any = None
    shape: tuple[int, ...] = ()
    first, done = "", 0
    with (folder / "images.npy").open("wb") as out:
        for records, images in _decoded_batches(source, functools.partial(decode, mode=source.mode())):
            for record, image in zip(records, images, strict=True):
                if digest is None:
                    first, shape = record.where, (source.num_examples, *image.shape)
                    digest = arrays.start_fingerprint(shape, source.class_names)
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(out, header)
                if image.shape != shape[1:]:
                    raise UserError(describe_mixed_sizes(source.name, first, shape[1:], record.where, image.shape))
            block = np.stack(images)
            out.write(block.data)
            digest.update(block)
            labels[done : done + len(records)] = [record.label for record in records]
            done += len(records)
            if progress is not None:
                progress(done, source.num_examples)
    arrays.check_labels(source.name, labels, source.class_names)
    checked = labels.astype(np.int32)
    np.save(folder / "labels.npy", checked, allow_pickle=False)
    meta = {
        "class_names": list(source.class_names),
        "fingerprint": arrays.finish_fingerprint(digest, checked),
        "shape": list(shape),
        "identity": identity,
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))


def _decoded_batches(
    source: Source, decode: Callable[[list[Record]], list[np.ndarray]]
) -> Iterator[tuple[list[Record], list[np.ndarray]]]:
    """Read in this thread and decode in a few others, in order, with a bounded number of batches in flight."""
    workers = min(4, os.cpu_count() or 1)
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for start in range(0, source.num_examples, _BATCH):
            records = source.read(range(start, min(start + _BATCH, source.num_examples)))
            waiting.append((records, pool.submit(decode, records)))
            if len(waiting) > 2 * workers:
                records, future = waiting.popleft()
                yield records, future.result()
        while waiting:
            records, future = waiting.popleft()
            yield records, future.result()


def _decode_batch(records: list[Record], *, mode: Mode, size: int | None, view: View) -> list[np.ndarray]:
    return [decode_image(record.raw, record.where, mode=mode, size=size, view=view) for record in records]
