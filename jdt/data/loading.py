"""From a dataset's name to its images, decoded or streamed."""

import dataclasses
import os
import pathlib

import numpy as np

from jdt.checks import UserError
from jdt.data import cache, folder_source, tfds_source
from jdt.data import streamed as streaming
from jdt.data.base import Dataset
from jdt.data.decode import Mode
from jdt.data.source import Source
from jdt.data.views import WHOLE, View
from jdt.types import Int32

_FOLDER = "folder:"

PathLike = str | os.PathLike[str]


def load(
    name: str,
    split: str,
    *,
    data_dir: PathLike | None = None,
    image_size: int | None = None,
    cache_dir: PathLike | None = None,
    streamed: bool = False,
    view: View = WHOLE,
    image_channels: int | None = None,
    label: str | None = None,
    progress: cache.Progress | None = None,
) -> Dataset:
    """Load a split of a labelled image dataset; decode it once, and read it from the cache ever after.

    Args:
      name: A TFDS dataset prepared in array_record (`cifar10`, `name/config`, `name:version`), a folder of images
        (`folder:PATH`, see `jdt.data.folder_source.open_folder`), or `jdt_digits` / `jdt_digits_source`, which
        prepare themselves.
      split: `train`, `test`, ..., or slices in TFDS's syntax: `train[:50%]`, `train+validation`.
      data_dir: Where TFDS datasets were prepared; by default `$TFDS_DATA_DIR`, else `~/tensorflow_datasets`.
      image_size: Side in pixels. Other sizes are resized (bilinear, antialiased), non-square ones cropped to their
        centre. `None` keeps the stored size, which must then be one and the same.
      cache_dir: Where decoded images are kept; by default `$JDT_CACHE`, else `$XDG_CACHE_HOME/jdt`, else
        `~/.cache/jdt`.
      streamed: Decode nothing now: images are read and decoded when they are asked for, to the same bits. For data
        that outgrow the disk's or the device's room; feed them with `read_chunks`. The fingerprint differs from that
        of the decoded data (see `jdt.data.streamed.load_streamed`), and broken or mixed images are found when read.
      view: How images are cut: the largest central square, a smaller one, or whole and enlarged by repeating pixels.
        Random crops are not for loading but for training: see `jdt.train.Recipe`.
      image_channels: 3 reads grey images as coloured ones, 1 the other way round; `None` keeps what the dataset has.
      label: Path of the feature of a TFDS dataset that is the label, such as `attributes/Young`: a class label, a truth
        value, or whole numbers from 0 (whose classes are told by reading them in all splits). `None` takes the class
        label that the dataset has.
      progress: Called with (images done, images in all) while decoding, or while reading streamed data for its labels;
        not called when the cache has them.

    Returns:
      Images uint8 `[examples, height, width, channels]` (one channel if the dataset is grey throughout, else three),
      a read-only memory map or `StreamedImages`; labels int32 `[examples]`.

    Raises:
      UserError: For anything the user can mend: names, splits, formats, missing features, broken or mixed images.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"image_size is {image_size}, but it must be at least 1 (pixels), or None for the stored size.")
    if view.kind == "random-resized":
        raise UserError("random crops cannot be decoded once and for all: pass view center or native.")
    root = cache.cache_root(cache_dir)
    if name.startswith(_FOLDER):
        if label is not None:
            raise UserError(_no_features(name, label))
        source = folder_source.open_folder(name.removeprefix(_FOLDER), split)
    else:
        source = tfds_source.open_tfds(name, split, _data_dir(name, data_dir, root), label)
    if image_channels is not None:
        source = _with_channels(source, image_channels)
    if streamed:
        return streaming.load_streamed(source, image_size=image_size, root=root, progress=progress, view=view)
    return cache.load_decoded(source, image_size=image_size, root=root, progress=progress, view=view)


def attribute(
    name: str, split: str, feature: str, *, data_dir: PathLike | None = None, cache_dir: PathLike | None = None
) -> tuple[Int32[np.ndarray, " examples"], tuple[str, ...]]:
    """Read one more class number of every example of a TFDS dataset, such as an attribute that divides it into groups.

    No image is decoded. Positions are those of `load` for the same split.

    Args:
      name: A prepared TFDS dataset.
      split: As for `load`.
      feature: Path of a feature: a class label, a truth value (`attributes/Male`), or whole numbers from 0.
      data_dir: As for `load`.
      cache_dir: As for `load`; for embedded datasets.

    Returns:
      Values int32 `[examples]`, and one name a value: "not Male" and "Male" for a truth value.

    Raises:
      UserError: If the dataset, split or feature is not there, or the feature is of another kind.
    """
    if name.startswith(_FOLDER):
        raise UserError(_no_features(name, feature))
    return tfds_source.read_attribute(name, split, feature, _data_dir(name, data_dir, cache.cache_root(cache_dir)))


def captions(
    name: str, split: str, feature: str, *, data_dir: PathLike | None = None, cache_dir: PathLike | None = None
) -> tuple[str, ...]:
    """Read one text of every example of a TFDS dataset, such as what its image shows.

    No image is decoded. Positions are those of `load` for the same split.

    Args:
      name: A prepared TFDS dataset.
      split: As for `load`.
      feature: Path of a feature that is one text an example.
      data_dir: As for `load`.
      cache_dir: As for `load`; for embedded datasets.

    Raises:
      UserError: If the dataset, split or feature is not there, the feature is no text, or a text is empty or no UTF-8
        (its example is named).
    """
    if name.startswith(_FOLDER):
        raise UserError(_no_features(name, feature))
    return tfds_source.read_captions(name, split, feature, _data_dir(name, data_dir, cache.cache_root(cache_dir)))


def evaluation_split(name: str, *, data_dir: PathLike | None = None, cache_dir: PathLike | None = None) -> str:
    """Name the split to evaluate on: `test` if the dataset has it, else `validation`.

    Raises:
      UserError: If it has neither (the message lists what it has), or if the dataset cannot be found.
    """
    known = split_names(name, data_dir=data_dir, cache_dir=cache_dir)
    for split in ("test", "validation"):
        if split in known:
            return split
    raise UserError(
        f"{name} has neither a test nor a validation split, only {', '.join(known)}: name the split to evaluate on, "
        f"for example {known[0]}[-20%:]."
    )


def split_names(name: str, *, data_dir: PathLike | None = None, cache_dir: PathLike | None = None) -> list[str]:
    """List a dataset's splits.

    Raises:
      UserError: If the dataset cannot be found.
    """
    if name.startswith(_FOLDER):
        return list(folder_source.find_splits(pathlib.Path(name.removeprefix(_FOLDER)).expanduser()))
    return list(tfds_source.find_builder(name, _data_dir(name, data_dir, cache.cache_root(cache_dir))).info.splits)


def _no_features(name: str, feature: str) -> str:
    return f"{name} has no feature {feature!r}: a folder has class names alone; prepare a TFDS dataset for more."


def _with_channels(source: Source, image_channels: int) -> Source:
    modes: dict[int, Mode] = {1: "L", 3: "RGB"}
    if image_channels not in modes:
        raise UserError(f"image_channels is {image_channels}, but must be 1 (grey) or 3 (red, green, blue).")
    identity = {**source.identity, "image_channels": image_channels}
    return dataclasses.replace(source, mode=lambda: modes[image_channels], identity=identity)


def _data_dir(name: str, data_dir: PathLike | None, root: pathlib.Path) -> pathlib.Path:
    if name in tfds_source.EMBEDDED:
        from jdt.data import digits  # Imports TFDS and scikit-learn, which `import jdt` should not wait for.

        return digits.prepare(name, root / "tfds")
    return pathlib.Path(data_dir).expanduser() if data_dir is not None else tfds_source.default_data_dir()
