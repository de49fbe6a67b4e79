"""Labelled image datasets as plain arrays: uint8 images, int32 labels, class names and a fingerprint.

Datasets come from any prepared TFDS dataset (read without TensorFlow), any folder of images, the embedded digits or
arrays in memory; images are decoded once and cached, or streamed. Augmentation runs on the device.

    source = jdt.data.load("jdt_digits_source", "train")
    target = jdt.data.load("jdt_digits", jdt.data.evaluation_split("jdt_digits"))
    pets = jdt.data.load("folder:~/pets", "train", image_size=64)
    big = jdt.data.load("imagenet2012", "train", image_size=64, streamed=True)  # for jdt.data.read_chunks
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jdt.data.arrays import fingerprint_arrays as fingerprint_arrays
    from jdt.data.arrays import from_arrays as from_arrays
    from jdt.data.augment import Windows as Windows
    from jdt.data.augment import draw_windows as draw_windows
    from jdt.data.augment import normalise as normalise
    from jdt.data.augment import random_crop_flip as random_crop_flip
    from jdt.data.augmentation import Augmentation as Augmentation
    from jdt.data.augmentation import augmented as augmented
    from jdt.data.bank import augmented_views as augmented_views
    from jdt.data.base import NO_STAMP as NO_STAMP
    from jdt.data.base import Dataset as Dataset
    from jdt.data.base import Stamps as Stamps
    from jdt.data.cache import cache_root as cache_root
    from jdt.data.chunks import read_chunks as read_chunks
    from jdt.data.images import ImageArray as ImageArray
    from jdt.data.images import StreamedImages as StreamedImages
    from jdt.data.loading import attribute as attribute
    from jdt.data.loading import captions as captions
    from jdt.data.loading import evaluation_split as evaluation_split
    from jdt.data.loading import load as load
    from jdt.data.loading import split_names as split_names
    from jdt.data.matching import Matched as Matched
    from jdt.data.matching import matched as matched
    from jdt.data.matching import read_name_map as read_name_map
    from jdt.data.overlapping import overlap as overlap
    from jdt.data.regrouping import regrouped as regrouped
    from jdt.data.shifts import SHIFTS as SHIFTS
    from jdt.data.shifts import Shift as Shift
    from jdt.data.shifts import greyed as greyed
    from jdt.data.shifts import parse_shift as parse_shift
    from jdt.data.shifts import shift_images as shift_images
    from jdt.data.shifts import shifted as shifted
    from jdt.data.stamps import as_shown as as_shown
    from jdt.data.stamps import stamp_batch as stamp_batch
    from jdt.data.stamps import stamped_pixels as stamped_pixels
    from jdt.data.stamps import with_stamps as with_stamps
    from jdt.data.texts import VOCABULARY as VOCABULARY
    from jdt.data.texts import filled as filled
    from jdt.data.texts import num_cut as num_cut
    from jdt.data.texts import require_templates as require_templates
    from jdt.data.texts import tokenize as tokenize
    from jdt.data.texts import with_captions as with_captions
    from jdt.data.texts import with_tokens as with_tokens
    from jdt.data.views import Look as Look
    from jdt.data.views import View as View
    from jdt.data.views import crop_key as crop_key

_HOMES = {
    "fingerprint_arrays": "jdt.data.arrays",
    "from_arrays": "jdt.data.arrays",
    "Windows": "jdt.data.augment",
    "draw_windows": "jdt.data.augment",
    "normalise": "jdt.data.augment",
    "random_crop_flip": "jdt.data.augment",
    "Augmentation": "jdt.data.augmentation",
    "augmented": "jdt.data.augmentation",
    "augmented_views": "jdt.data.bank",
    "NO_STAMP": "jdt.data.base",
    "Dataset": "jdt.data.base",
    "Stamps": "jdt.data.base",
    "cache_root": "jdt.data.cache",
    "read_chunks": "jdt.data.chunks",
    "ImageArray": "jdt.data.images",
    "StreamedImages": "jdt.data.images",
    "attribute": "jdt.data.loading",
    "captions": "jdt.data.loading",
    "evaluation_split": "jdt.data.loading",
    "load": "jdt.data.loading",
    "split_names": "jdt.data.loading",
    "Matched": "jdt.data.matching",
    "matched": "jdt.data.matching",
    "read_name_map": "jdt.data.matching",
    "overlap": "jdt.data.overlapping",
    "regrouped": "jdt.data.regrouping",
    "SHIFTS": "jdt.data.shifts",
    "Shift": "jdt.data.shifts",
    "greyed": "jdt.data.shifts",
    "parse_shift": "jdt.data.shifts",
    "shift_images": "jdt.data.shifts",
    "shifted": "jdt.data.shifts",
    "as_shown": "jdt.data.stamps",
    "stamp_batch": "jdt.data.stamps",
    "stamped_pixels": "jdt.data.stamps",
    "with_stamps": "jdt.data.stamps",
    "VOCABULARY": "jdt.data.texts",
    "filled": "jdt.data.texts",
    "num_cut": "jdt.data.texts",
    "require_templates": "jdt.data.texts",
    "tokenize": "jdt.data.texts",
    "with_captions": "jdt.data.texts",
    "with_tokens": "jdt.data.texts",
    "Look": "jdt.data.views",
    "View": "jdt.data.views",
    "crop_key": "jdt.data.views",
}
__all__ = [
    "NO_STAMP",
    "SHIFTS",
    "VOCABULARY",
    "Augmentation",
    "Dataset",
    "ImageArray",
    "Look",
    "Matched",
    "Shift",
    "Stamps",
    "StreamedImages",
    "View",
    "Windows",
    "as_shown",
    "attribute",
    "augmented",
    "augmented_views",
    "cache_root",
    "captions",
    "crop_key",
    "draw_windows",
    "evaluation_split",
    "filled",
    "fingerprint_arrays",
    "from_arrays",
    "greyed",
    "load",
    "matched",
    "normalise",
    "num_cut",
    "overlap",
    "parse_shift",
    "random_crop_flip",
    "read_chunks",
    "read_name_map",
    "regrouped",
    "require_templates",
    "shift_images",
    "shifted",
    "split_names",
    "stamp_batch",
    "stamped_pixels",
    "tokenize",
    "with_captions",
    "with_stamps",
    "with_tokens",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: the engine needs augmentation only, and neither TFDS nor an image library.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'jdt.data' has no attribute {name!r}")
