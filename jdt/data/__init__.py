"""Labelled image datasets as plain arrays: uint8 images, int32 labels, class names and a fingerprint.

Datasets come from any prepared TFDS dataset (read without TensorFlow), any folder of images, the embedded digits or
arrays in memory; images are decoded once and cached, or streamed. Augmentation runs on the device.

    source = jdt.data.load("jdt_digits_source", "train")
    target = jdt.data.load("jdt_digits", jdt.data.evaluation_split("jdt_digits"))
    pets = jdt.data.load("folder:~/pets", "train", image_size=64)
    big = jdt.data.load("imagenet2012", "train", image_size=64, streamed=True)  # for jdt.data.read_chunks
"""

from jdt.data.arrays import fingerprint_arrays as fingerprint_arrays
from jdt.data.arrays import from_arrays as from_arrays
from jdt.data.augment import Windows as Windows
from jdt.data.augment import draw_windows as draw_windows
from jdt.data.augment import normalise as normalise
from jdt.data.augment import random_crop_flip as random_crop_flip
from jdt.data.base import Dataset as Dataset
from jdt.data.cache import cache_root as cache_root
from jdt.data.chunks import read_chunks as read_chunks
from jdt.data.images import ImageArray as ImageArray
from jdt.data.images import StreamedImages as StreamedImages
from jdt.data.loading import evaluation_split as evaluation_split
from jdt.data.loading import load as load
from jdt.data.loading import split_names as split_names
