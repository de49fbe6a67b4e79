import time

import numpy as np
import pytest
from data_examples import random_images, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

import jdt
from jdt.data import overlap

pixels = st.lists(st.integers(0, 3), max_size=12)


@settings(max_examples=30)
@given(train=pixels, test=pixels)
def test_it_finds_what_a_loop_finds(train, test):
    images = [np.array(values, np.uint8).reshape(-1, 1, 1, 1) for values in (train, test)]
    found = overlap(*images)
    assert found.tolist() == [[train.index(value), i] for i, value in enumerate(test) if value in train]


def test_equal_bytes_in_another_shape_are_other_images():
    assert len(overlap(np.zeros((2, 2, 3, 1), np.uint8), np.zeros((2, 3, 2, 1), np.uint8))) == 0


def test_decoded_and_streamed_images_are_compared_alike(tmp_path):
    images = random_images(8, height=5, width=5)
    members = {f"{split}/{'ab'[i % 2]}/{i}": images[i] for split, rows in (("train", range(6)), ("test", range(4, 8)))
               for i in rows}  # fmt: skip
    folder = write_folder(tmp_path / "folder", members)
    both = [
        [jdt.data.load(f"folder:{folder}", split, cache_dir=tmp_path, streamed=streamed) for split in ("train", "test")]
        for streamed in (False, True)
    ]
    decoded, streamed = (overlap(train.images, test.images) for train, test in both)
    assert len(decoded) == 2
    assert decoded.tolist() == streamed.tolist()
    for train, test in decoded:
        np.testing.assert_array_equal(both[0][0].images[train], both[0][1].images[test])


@pytest.mark.parametrize(
    ("name", "image_size"), [("jdt_digits", None), ("jdt_digits", 16), ("jdt_digits_source", None)]
)
def test_the_embedded_data_have_no_image_in_both_splits(name, image_size):
    train, test = (jdt.data.load(name, split, image_size=image_size).images for split in ("train", "test"))
    assert len(overlap(train, test)) == 0


def test_sixty_thousand_small_images_take_no_time():
    images = np.random.default_rng(0).integers(0, 256, (60_000, 32, 32, 3), np.uint8)
    start = time.process_time()
    assert len(overlap(images[:50_000], images[50_000:])) == 0
    assert time.process_time() - start < 3
