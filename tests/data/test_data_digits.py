import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds
from sklearn.datasets import load_digits

import jdt.data
from jdt.data import digits

COUNTS = {
    ("jdt_digits_source", "train"): 2100,
    ("jdt_digits_source", "test"): 300,
    ("jdt_digits", "train"): 100,
    ("jdt_digits", "test"): 897,
}


@pytest.fixture(scope="module")
def stored(shared_cache):
    """Every split as jdt loads it, and the index of each example's base image as TFDS stores it."""
    found = {}
    for name, split in COUNTS:
        data = jdt.data.load(name, split, cache_dir=shared_cache)
        builder = tfds.builder(name, data_dir=shared_cache / "tfds")
        found[name, split] = data, np.array([int(example["index"]) for example in builder.as_data_source(split)])
    return found


def test_counts_names_and_balance(stored):
    for key, count in COUNTS.items():
        data, _ = stored[key]
        assert len(data) == count
        assert data.image_shape == (8, 8, 1)
    source, _ = stored["jdt_digits_source", "train"]
    assert source.class_names == tuple(
        f"{kind} {d}" for kind in ("upright", "upside-down", "scrambled") for d in range(10)
    )
    np.testing.assert_array_equal(np.bincount(source.labels), np.full(30, 70))
    target, _ = stored["jdt_digits", "train"]
    assert target.class_names == tuple("0123456789")
    np.testing.assert_array_equal(np.bincount(target.labels), np.full(10, 10))
    assert np.bincount(stored["jdt_digits", "test"][0].labels).min() > 80


def test_no_base_image_is_in_two_splits_and_none_is_lost(stored):
    indices = {key: set(index) for key, (_, index) in stored.items()}
    for one, other in itertools.combinations(indices.values(), 2):
        assert not one & other
    assert set.union(*indices.values()) == set(range(1797))
    assert sorted(itertools.chain(*digits.split_indices().values())) == list(range(1797))


def test_pixels_and_labels_are_those_of_scikit_learn(stored):
    truth = load_digits()
    for split in ("train", "test"):
        data, index = stored["jdt_digits", split]
        np.testing.assert_array_equal(data.images[..., 0], np.round(truth.images[index] * 255 / 16))
        np.testing.assert_array_equal(data.labels, truth.target[index])


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_three_kinds_show_the_same_images(stored, split):
    data, index = stored["jdt_digits_source", split]
    kind = data.labels // 10
    upright, upside_down, scrambled = (data.images[kind == k][np.argsort(index[kind == k])][..., 0] for k in range(3))
    np.testing.assert_array_equal(upside_down, np.rot90(upright, 2, axes=(1, 2)))
    order = np.array(digits.scramble_order())
    np.testing.assert_array_equal(scrambled.reshape(-1, 64), upright.reshape(-1, 64)[:, order])
    assert sorted(order) == list(range(64))
    assert (order != np.arange(64)).mean() > 0.9
    digit = [data.labels[kind == k][np.argsort(index[kind == k])] % 10 for k in range(3)]
    np.testing.assert_array_equal(digit[0], digit[1])
    np.testing.assert_array_equal(digit[0], digit[2])
    np.testing.assert_array_equal(digit[0], load_digits().target[np.sort(index[kind == 0])])


def test_a_second_start_prepares_nothing(stored, shared_cache):
    folder = shared_cache / "tfds/jdt_digits"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    digits.prepare("jdt_digits", shared_cache / "tfds")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_half_a_dataset_is_prepared_again(tmp_path):
    digits.prepare("jdt_digits", tmp_path)
    records = next(tmp_path.rglob("*train.array_record*"))
    records.unlink()
    digits.prepare("jdt_digits", tmp_path)
    assert records.is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["jdt_digits"]


def test_evaluation_split_of_the_digits(shared_cache):
    assert jdt.data.evaluation_split("jdt_digits", cache_dir=shared_cache) == "test"
    assert jdt.data.split_names("jdt_digits_source", cache_dir=shared_cache) == ["train", "test"]
