"""Streamed datasets: labels up front and cached, images read and decoded only when asked for."""

import json
import logging
import pathlib
from typing import Any

import numpy as np

from jdt import config
from jdt.checks import UserError
from jdt.data import arrays, cache
from jdt.data.base import Dataset
from jdt.data.decode import Mode, decode_image
from jdt.data.images import StreamedImages
from jdt.data.source import Source
from jdt.data.views import WHOLE, View

_FORMAT = 1  # Raise it whenever the files' layout changes: old entries are then ignored.
_READ_AT_ONCE = 256  # Records in the pass over labels and encoded images.

logger = logging.getLogger(__name__)


def load_streamed(
    source: Source, *, image_size: int | None, root: pathlib.Path, progress: cache.Progress | None, view: View = WHOLE
) -> Dataset:
    """Open a split without decoding it; the first time, all records are read once for labels and fingerprint.

    The fingerprint hashes the encoded images, the image size, class names and labels. It stays when the files are
    copied to another machine, and is not that of the same data decoded, which hashes pixels.

    Args:
      source: The split to read.
      image_size: Side in pixels, or `None` for the stored size: that of the first image, which all must share.
      root: The cache folder; the entry is `root/streamed/<hash of the identity>/`.
      progress: Called with (records read, records in all); never called on a cache hit.
      view: How images are cut where nothing else is asked for: a still view.

    Returns:
      The dataset; its images are a `StreamedImages`.

    Raises:
      UserError: For bad labels, unreadable records, or a cache folder that cannot be written. Images that cannot be
        decoded raise when they are asked for; only the first is decoded here.
    """
    plain = {"image_size": image_size, "format": [_FORMAT, cache.FORMAT], **cache.view_identity(view)}
    identity = config.to_plain({**source.identity, **plain})
    folder = root / "streamed" / config.fingerprint(identity)
    dataset = _read(folder, source, identity, view)
    if dataset is None:
        with cache.replacing(folder, is_sound=lambda path: _read(path, source, identity, view) is not None) as partial:
            _write(partial, source, identity, view, progress)
        dataset = _read(folder, source, identity, view)
    if dataset is None:
        raise UserError(f"the cache entry {folder} cannot be read back: check the disk, or pass another cache_dir.")
    return dataset


def _read(folder: pathlib.Path, source: Source, identity: Any, view: View) -> Dataset | None:
    """Open a cache entry, or return `None` if it is absent or damaged."""
    if not folder.exists():
        return None
    try:
        meta = json.loads((folder / "meta.json").read_text())
        labels = np.load(folder / "labels.npy", allow_pickle=False)
        num_examples, height, width, channels = (int(n) for n in meta["shape"])
        if meta["identity"] != identity or num_examples != source.num_examples:
            raise ValueError("its parts do not belong together")
        if labels.dtype != np.int32 or labels.shape != (num_examples,):
            raise ValueError("its labels do not fit its images")
        arrays.check_labels(source.name, labels, source.class_names)
        mode: Mode = "L" if channels == 1 else "RGB"
        images = StreamedImages(source, mode, identity["image_size"], (num_examples, height, width, channels), view)
        return Dataset(source.name, images, labels, source.class_names, str(meta["fingerprint"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        logger.warning("the cache entry %s is damaged (%s) and is read again.", folder, error)
        return None


def _write(folder: pathlib.Path, source: Source, identity: Any, view: View, progress: cache.Progress | None) -> None:
    first = source.read([0])[0]
    image = decode_image(first.raw, first.where, mode=source.mode(), size=identity["image_size"], view=view)
    shape = [source.num_examples, *image.shape]
    digest = arrays.start_fingerprint(shape, source.class_names)
    shown = {"streamed": True, "image_size": identity["image_size"], **cache.view_identity(view)}
    digest.update(json.dumps(shown).encode())
    labels = np.empty(source.num_examples, np.int64)
    for start in range(0, source.num_examples, _READ_AT_ONCE):
        records = source.read(range(start, min(start + _READ_AT_ONCE, source.num_examples)))
        for position, record in enumerate(records, start):
            labels[position] = record.label
            digest.update(len(record.raw).to_bytes(8, "little"))
            digest.update(record.raw)
        if progress is not None:
            progress(start + len(records), source.num_examples)
    arrays.check_labels(source.name, labels, source.class_names)
    checked = labels.astype(np.int32)
    np.save(folder / "labels.npy", checked, allow_pickle=False)
    meta = {"fingerprint": arrays.finish_fingerprint(digest, checked), "shape": shape, "identity": identity}
    (folder / "meta.json").write_text(json.dumps(meta, indent=1))
