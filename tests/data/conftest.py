"""Data that the tests of this folder share."""

import numpy as np
import pytest
from data_examples import build_images, random_images


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A TFDS dataset: 2 classes, 6x6 RGB, 12 train images in class order and 4 validation images."""
    data_dir = tmp_path_factory.mktemp("tfds")
    train, validation = random_images(12), random_images(4, seed=1)
    labels = np.repeat([0, 1], 6), np.array([0, 1, 0, 1])
    splits = {"train": (train, labels[0]), "validation": (validation, labels[1])}
    build_images(data_dir, "toy", splits, ["cat", "dog"])
    return data_dir, splits


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache for the embedded digits, so that they are prepared once."""
    return tmp_path_factory.mktemp("cache")
