"""Source data on the device, and the batches that models draw from them."""

from typing import Any, NamedTuple

import numpy as np

from jdt.data.augment import random_crop_flip
from jdt.data.base import NO_STAMP, Dataset, Stamps
from jdt.data.stamps import stamp_batch
from jdt.train.recipe import Recipe
from jdt.types import Array, Int, UInt8


class SourceData(NamedTuple):
    """A source dataset on the device: images uint8 `[examples, height, width, channels]`, labels int32 `[examples]`.

    `stamps`, `version_of` and `tokens` are those of `jdt.data.Dataset`, None where it has none.
    """

    images: UInt8[Array, "examples height width channels"]
    labels: Int[Array, " examples"]
    stamps: Stamps | None = None
    version_of: Int[Array, " examples"] | None = None
    tokens: Int[Array, "examples length"] | None = None


def source_data(data: Dataset) -> SourceData:
    """A dataset as training reads it, still on the host."""
    arrays: Any = (np.asarray(data.images), np.asarray(data.labels), data.stamps, data.version_of, data.tokens)
    return SourceData(*arrays)


def chunk(dataset: Dataset, rows: np.ndarray, images: np.ndarray, labels: np.ndarray) -> SourceData:
    """A chunk of a pool, padded behind its rows, with what its examples carry."""
    stamps, version_of, tokens = dataset.stamps, dataset.version_of, dataset.tokens
    padding = (0, len(labels) - len(rows))
    if stamps is not None:
        carried = np.pad(np.asarray(stamps.of_example)[rows], padding, constant_values=NO_STAMP)
        stamps = stamps._replace(of_example=carried)
    if version_of is not None:  # The first version of each that is here.
        _, first, which = np.unique(version_of[rows], return_index=True, return_inverse=True)
        version_of = np.concatenate([first[which], np.arange(len(rows), len(labels))]).astype(np.int32)
    if tokens is not None:
        tokens = np.pad(np.asarray(tokens)[rows], (padding, (0, 0)))
    return SourceData(images, labels, stamps, version_of, tokens)  # pyright: ignore[reportArgumentType]


def batch_images(
    recipe: Recipe, source: SourceData, key: Array, batch: Int[Array, " batch"]
) -> UInt8[Array, "batch height width channels"]:
    """Images of a training batch as the model sees them but for the scale of pixels: augmented, then stamped."""
    images = random_crop_flip(key, source.images[batch], pad=recipe.crop_pad, flip=recipe.flip)
    return images if source.stamps is None else stamp_batch(images, source.stamps, batch)
