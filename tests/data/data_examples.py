"""Tiny real TFDS datasets and folders, built where a test asks for them."""

import contextlib
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


def encode(pixels, kind="PNG"):
    out = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[-1] == 1 else pixels).save(out, kind)
    return out.getvalue()


def random_images(count, height=6, width=6, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, channels), dtype=np.uint8)


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    spec: tuple = ()

    def _info(self):
        features, _ = self.spec
        keys = ("image", "label") if {"image", "label"} <= features.keys() else None
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=keys, disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # Nothing to download.
        return {split: enumerate(examples) for split, examples in self.spec[1].items()}

    def _generate_examples(self):
        raise AssertionError("the splits are given as iterators")


def build_tfds(data_dir, name, features, splits):
    """Prepare a dataset whose builder class nobody can import afterwards."""
    attributes = {"name": name, "spec": (features, splits), "__module__": "__main__"}
    cls = type(name, (_Builder,), attributes, skip_registration=True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        builder = cls(data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    return builder


def build_images(data_dir, name, splits, names, channels=3):
    """Prepare images and labels: `splits` maps a split to (list of arrays, list of labels)."""
    features = {
        "image": tfds.features.Image(shape=(None, None, channels), encoding_format="png"),
        "label": tfds.features.ClassLabel(names=list(names)),
    }
    examples = {
        split: [{"image": encode(image), "label": int(label)} for image, label in zip(images, labels, strict=True)]
        for split, (images, labels) in splits.items()
    }
    return build_tfds(data_dir, name, features, examples)


def write_folder(root, members, kind="png"):
    """Write `members`: relative path (without suffix) to pixels."""
    for name, pixels in members.items():
        path = root / f"{name}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(pixels, kind.upper().replace("JPG", "JPEG")))
    return root
