"""Perceptual similarity: what a copy may be changed by, and what is no copy."""

import numpy as np
import pytest
from PIL import Image

from jdt.analyses import SURELY_A_COPY, nearest_copies, similarity_of
from jdt.checks import UserError


def pictures(count, size=32, seed=0):
    """Random images with the spectrum of photographs: amplitude falls as 1 / frequency."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size)))
    waves = np.fft.fft2(rng.normal(size=(count, 3, size, size)) + rng.normal(size=(count, 1, size, size)))
    flat = np.fft.ifft2(waves / np.maximum(frequency, 1 / size)).real
    flat = flat / flat.std(axis=(2, 3), keepdims=True) * 45 + 128
    return np.clip(flat, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def cut(images, side, start):
    """A square of the images, enlarged to their size."""
    size = images.shape[1]
    box = tuple(size * edge for edge in (start, start, start + side, start + side))
    cuts = [Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box) for image in images]
    return np.stack([np.asarray(image) for image in cuts])


CHANGES = {
    "nothing": lambda x: x,
    "mirrored": lambda x: x[:, :, ::-1],
    "recoloured": lambda x: np.clip((x - 128.0) * [0.7, 1.2, 0.9] + [150, 110, 128], 0, 255).astype(np.uint8),
    "grey": lambda x: x.mean(axis=3, keepdims=True).astype(np.uint8),
    "cropped": lambda x: cut(x, 0.87, 0.05),
    "cropped to its corner and mirrored": lambda x: cut(x, 0.8, 0.2)[:, :, ::-1],
    "halved": lambda x: x.reshape(len(x), 16, 2, 16, 2, 3).mean(axis=(2, 4)).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_whichever_of_the_two_was_changed(change):
    originals = pictures(300)
    copies = CHANGES[change](originals[:12])
    for sources, targets in ((originals, copies), (CHANGES[change](originals), originals[:12])):
        found = nearest_copies(sources, targets, count=2, block=5)
        assert found.index[:, 0].tolist() == list(range(12))
        assert (found.similarity[:, 0] > SURELY_A_COPY).all()
        assert (found.similarity[:, 1] < SURELY_A_COPY - 0.2).all()  # The next best is no copy.


def test_similarity_is_symmetric_and_blind_to_mirrors_and_brightness():
    some, others = pictures(8), pictures(8, seed=1)
    value = similarity_of(some, others)
    assert value == pytest.approx(similarity_of(others, some), abs=1e-5)
    assert value == pytest.approx(similarity_of(some[:, :, ::-1], others), abs=1e-5)
    dim = (some // 2 + 20).astype(np.uint8)
    assert value == pytest.approx(similarity_of(dim, others), abs=0.05)
    assert similarity_of(some, some) == pytest.approx(1.0, abs=1e-5)
    assert 0 <= value.min() <= value.max() < 0.6


def test_the_search_gives_the_similarity_of_the_pairs_that_it_names():
    sources, targets = pictures(200), pictures(3, seed=1)
    found = nearest_copies(sources, targets, count=4)
    for k in range(4):
        assert found.similarity[:, k] == pytest.approx(similarity_of(sources[found.index[:, k]], targets), abs=1e-5)
    assert (np.diff(found.similarity, axis=1) <= 0).all()


def test_blank_images_are_copies_of_nothing():
    blank = np.full((2, 8, 8, 3), 90, np.uint8)
    assert similarity_of(blank, blank).tolist() == [0.0, 0.0]


def test_what_cannot_be_compared_is_refused():
    images = pictures(2, size=8)
    with pytest.raises(UserError, match="count is 3, but there are 2 source images"):
        nearest_copies(images, images, count=3)
    with pytest.raises(UserError, match="2 images and 1 to compare"):
        similarity_of(images, images[:1])
