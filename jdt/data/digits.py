"""The embedded data: scikit-learn's handwritten digits as two TFDS datasets with a truth to be found.

The source has 30 classes: each digit upright, upside down, and with its 64 pixels scrambled by one fixed permutation.
The target is the ten upright digits, with few training images. So the answer is known beforehand: upright source
classes help the target more than upside-down ones, and those more than scrambled ones.

Importing this module imports TFDS and registers the two builders; `jdt.data.load` does so on first use.
"""

import contextlib
import functools
import hashlib
import io
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jdt.checks import UserError
from jdt.data import cache, tfds_source
from jdt.types import Int, UInt8

KINDS = ("upright", "upside-down", "scrambled")

_PER_CLASS = {"target_train": 10, "source_test": 10, "source_train": 70}  # The rest is target_test.


@functools.cache
def base_images() -> tuple[UInt8[np.ndarray, "1797 8 8"], Int[np.ndarray, " 1797"]]:
    """Return scikit-learn's 1,797 digits, brightness 0..16 brought to 0..255, and their labels 0..9."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target.astype(np.int64)


@functools.cache
def split_indices() -> dict[str, tuple[int, ...]]:
    """Share the base images among `target_train`, `source_test`, `source_train` and `target_test`, class by class.

    No base image is in two of them. The order within a class is that of a hash of the index, which no change of a
    random generator can ever alter.
    """
    _, labels = base_images()
    parts: dict[str, list[int]] = {part: [] for part in (*_PER_CLASS, "target_test")}
    for digit in range(10):
        rest = sorted(np.flatnonzero(labels == digit).tolist(), key=lambda i: _hash("image", i))
        for part, count in _PER_CLASS.items():
            parts[part] += rest[:count]
            rest = rest[count:]
        parts["target_test"] += rest
    return {part: tuple(members) for part, members in parts.items()}


@functools.cache
def scramble_order() -> tuple[int, ...]:
    """Return the one permutation of the 64 pixels behind every scrambled image: pixel i shows pixel `order[i]`."""
    return tuple(sorted(range(64), key=lambda i: _hash("pixel", i)))


def variant(image: UInt8[np.ndarray, "8 8"], kind: str) -> UInt8[np.ndarray, "8 8"]:
    """Show a digit upright, upside-down or scrambled."""
    if kind == "upside-down":
        return np.rot90(image, 2)
    return image.reshape(64)[list(scramble_order())].reshape(8, 8) if kind == "scrambled" else image


class _Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What the two datasets share: 8x8 grey PNGs, a label, and the index of the base image in scikit-learn's set."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}  # noqa: RUF012 (TFDS reads a plain dict)
    # There are no checksums of downloads to look up beside the code; looking makes TFDS 4.9.10 import
    # importlib_resources, which it does not install.
    url_infos = None
    kinds: tuple[str, ...] = ()
    parts: tuple[str, str] = ("", "")

    def _info(self) -> tfds.core.DatasetInfo:
        digits = [str(digit) for digit in range(10)]
        names = digits if len(self.kinds) == 1 else [f"{kind} {digit}" for kind in self.kinds for digit in digits]
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
            "label": tfds.features.ClassLabel(names=names),
            "index": tfds.features.Scalar(np.int64),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing to download.
        train, test = self.parts
        return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

    def _generate_examples(self, part: str) -> Iterator[tuple[int, dict]]:
        images, labels = base_images()
        for index in split_indices()[part]:
            for k, kind in enumerate(self.kinds):
                example = {
                    "image": _png(variant(images[index], kind)),
                    "label": 10 * k + int(labels[index]),
                    "index": index,
                }
                yield len(self.kinds) * index + k, example


class JdtDigitsSource(_Digits):
    """30 classes: each digit upright, upside down and scrambled."""

    name = "jdt_digits_source"
    kinds = KINDS
    parts = ("source_train", "source_test")


class JdtDigits(_Digits):
    """The ten upright digits, ten training images each."""

    name = "jdt_digits"
    kinds = ("upright",)
    parts = ("target_train", "target_test")


def prepare(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """Prepare an embedded dataset unless it is there; safe in any number of processes at once.

    Args:
      name: `jdt_digits` or `jdt_digits_source`.
      data_dir: TFDS folder to prepare it in.

    Returns:
      `data_dir`.

    Raises:
      UserError: If the folder cannot be written.
    """
    if not _is_sound(data_dir / name):
        builder_cls = {cls.name: cls for cls in (JdtDigits, JdtDigitsSource)}[name]
        version = str(_Digits.VERSION)
        with cache.replacing(data_dir / name, is_sound=_is_sound) as partial:
            # TFDS talks to the terminal about a job of half a second; errors still come as exceptions.
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                builder_cls(data_dir=partial, file_format="array_record").download_and_prepare()
            # TFDS wrote name/version/ and downloads/ here; only version/ belongs in a dataset's own folder.
            (partial / name / version).rename(partial / version)
            (partial / name).rmdir()
            shutil.rmtree(partial / "downloads", ignore_errors=True)
    return data_dir


def _is_sound(folder: pathlib.Path) -> bool:
    if not folder.exists():
        return False
    try:
        info = tfds_source.find_builder(folder.name, folder.parent).info
        return all(pathlib.Path(path).is_file() for split in info.splits.values() for path in split.filepaths)
    except UserError:
        return False


def _png(image: UInt8[np.ndarray, "8 8"]) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image), "L").save(out, "PNG")
    return out.getvalue()


def _hash(what: str, index: int) -> bytes:
    return hashlib.sha256(f"jdt_digits {what} {index}".encode()).digest()
