import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_examples import build_images, build_tfds, encode, random_images

import jdt.data
from jdt.checks import UserError


def test_images_labels_names_and_counts_are_those_of_the_builder(toy, tmp_path):
    data_dir, splits = toy
    info = tfds.builder("toy", data_dir=data_dir).info
    for split, (images, labels) in splits.items():
        got = jdt.data.load("toy", split, data_dir=data_dir, cache_dir=tmp_path)
        assert len(got) == info.splits[split].num_examples
        assert got.class_names == tuple(info.features["label"].names)
        assert got.name == f"toy[{split}]"
        assert (got.images.dtype, got.labels.dtype, got.image_shape) == (np.uint8, np.int32, (6, 6, 3))
        np.testing.assert_array_equal(got.images, images)
        np.testing.assert_array_equal(got.labels, labels)


def test_tfds_itself_decodes_the_same(toy, tmp_path):
    data_dir, _ = toy
    records = tfds.builder("toy", data_dir=data_dir).as_data_source("train")
    got = jdt.data.load("toy", "train", data_dir=data_dir, cache_dir=tmp_path)
    np.testing.assert_array_equal(got.images, np.stack([record["image"] for record in records]))
    np.testing.assert_array_equal(got.labels, [record["label"] for record in records])


def test_pillow_and_opencv_decode_alike(toy, tmp_path):
    data_dir, _ = toy
    raw = tfds.builder("toy", data_dir=data_dir).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    got = jdt.data.load("toy", "train", data_dir=data_dir, cache_dir=tmp_path)
    for example, image in zip(raw, got.images, strict=True):
        blue_green_red = cv2.imdecode(np.frombuffer(example["image"], np.uint8), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(image, blue_green_red[:, :, ::-1])


def test_names_with_version_and_split_slices(toy, tmp_path):
    data_dir, splits = toy
    images = splits["train"][0]
    got = jdt.data.load("toy:1.0.0", "train[3:9]", data_dir=data_dir, cache_dir=tmp_path)
    np.testing.assert_array_equal(got.images, images[3:9])
    both = jdt.data.load("toy", "train+validation", data_dir=data_dir, cache_dir=tmp_path)
    assert len(both) == 16
    assert len(jdt.data.load("toy", "train[25%:75%]", data_dir=data_dir, cache_dir=tmp_path)) == 6


def test_the_environment_names_the_default_data_dir(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(toy[0]))
    assert len(jdt.data.load("toy", "train", cache_dir=tmp_path)) == 12


def test_grey_stays_one_channel(tmp_path):
    images = random_images(4, channels=1)
    build_images(tmp_path, "grey", {"train": (images, [0, 1, 0, 1])}, "ab", channels=1)
    got = jdt.data.load("grey", "train", data_dir=tmp_path, cache_dir=tmp_path)
    np.testing.assert_array_equal(got.images, images)


def test_evaluation_split(toy, tmp_path):
    assert jdt.data.evaluation_split("toy", data_dir=toy[0]) == "validation"
    build_images(tmp_path, "lonely", {"train": (random_images(2), [0, 1])}, "ab")
    with pytest.raises(
        UserError, match=r"neither a test nor a validation split, only train.*lonely|lonely has neither"
    ):
        jdt.data.evaluation_split("lonely", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("toi", "train", r"unknown dataset 'toi'; nearest: .*toy"),
        ("jdt_digit", "train", r"unknown dataset 'jdt_digit'; nearest: .*jdt_digits"),
        ("not a name", "train", r"unknown dataset 'not a name'"),
        ("mnist", "train", r"'mnist' is not prepared in .*python -c .*tfds.builder\('mnist', data_dir='.*array_record"),
        ("toy:2.0.0", "train", r"'toy:2.0.0' is not in .*, which holds toy:1.0.0"),
        ("toy", "test", r"toy has no split 'test'; known: train, validation"),
        ("toy", "train[:200%]", r"toy has no split 'train\[:200%\]'; known: train, validation"),
        ("toy", "train[:0]", r"split 'train\[:0\]' of toy is empty"),
        ("toy", "train[:6]", r"only one class, 'cat'"),
    ],
)
def test_a_wrong_name_or_split_says_what_there_is(toy, tmp_path, name, split, message):
    with pytest.raises(UserError, match=message) as caught:
        jdt.data.load(name, split, data_dir=toy[0], cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_default_data_dir_stays_out_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(UserError, match=r"tfds.builder\('cifar10', file_format='array_record'\)"):
        jdt.data.load("cifar10", "train", cache_dir=tmp_path)


def test_another_record_format_is_refused_with_the_way_out(tmp_path):
    builder = build_images(tmp_path, "old", {"train": (random_images(2), [0, 1])}, "ab")
    meta = builder.data_path / "dataset_info.json"
    meta.write_text(meta.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(UserError, match=r"stored as tfrecord, but must be array_record.*convert_format"):
        jdt.data.load("old", "train", data_dir=tmp_path, cache_dir=tmp_path)


def test_a_feature_class_outside_tfds_is_never_imported(tmp_path, monkeypatch):
    builder = build_images(tmp_path, "foreign", {"train": (random_images(2), [0, 1])}, "ab")
    (tmp_path / "evil_features.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    file = builder.data_path / "features.json"
    file.write_text(file.read_text().replace("tensorflow_datasets.core.features.image_feature", "evil_features"))
    with pytest.raises(UserError, match=r"class 'evil_features.Image', and importing what is not of TFDS would run"):
        jdt.data.load("foreign", "train", data_dir=tmp_path, cache_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_missing_features_are_named(tmp_path):
    image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(names=["a", "b"])
    pixels = encode(random_images(1)[0])
    build_tfds(tmp_path, "unlabelled", {"image": image}, {"train": [{"image": pixels}]})
    build_tfds(tmp_path, "blind", {"label": label}, {"train": [{"label": 0}]})
    pair = {"left": image, "right": image, "label": label}
    build_tfds(tmp_path, "pair", pair, {"train": [{"left": pixels, "right": pixels, "label": 0}]})
    for name, message in [
        ("unlabelled", r"no class label feature.*image \(Image\)"),
        ("blind", r"no 8-bit image feature.*label \(ClassLabel\)"),
        ("pair", r"2 features that could be its 8-bit image.*left \(Image\), right \(Image\)"),
    ]:
        with pytest.raises(UserError, match=message):
            jdt.data.load(name, "train", data_dir=tmp_path, cache_dir=tmp_path)


def test_unusual_feature_names_are_found(tmp_path):
    features = {
        "photo": tfds.features.Image(shape=(None, None, 3)),
        "species": tfds.features.ClassLabel(names=["a", "b"]),
    }
    images = random_images(2)
    examples = [{"photo": encode(image), "species": i} for i, image in enumerate(images)]
    build_tfds(tmp_path, "odd", features, {"train": examples})
    got = jdt.data.load("odd", "train", data_dir=tmp_path, cache_dir=tmp_path)
    np.testing.assert_array_equal(got.images, images)


def test_hidden_labels_are_counted(tmp_path):
    build_images(tmp_path, "secret", {"test": (random_images(4), [0, -1, -1, 1])}, "ab")
    with pytest.raises(UserError, match=r"2 of 4 labels of secret\[test\] lie outside 0..1 \(first: -1\)"):
        jdt.data.load("secret", "test", data_dir=tmp_path, cache_dir=tmp_path)


def test_mixed_sizes_need_image_size(tmp_path):
    images = [random_images(1)[0], random_images(1, height=8, width=5)[0]]
    build_images(tmp_path, "mixed", {"train": (images, [0, 1])}, "ab")
    message = r"example 0 of mixed\[train\] is 6x6, example 1 of mixed\[train\] is 5x8: pass image_size"
    with pytest.raises(UserError, match=message):
        jdt.data.load("mixed", "train", data_dir=tmp_path, cache_dir=tmp_path)
    got = jdt.data.load("mixed", "train", data_dir=tmp_path, cache_dir=tmp_path, image_size=4)
    assert got.images.shape == (2, 4, 4, 3)


@pytest.mark.parametrize("size", [0, -3])
def test_image_size_is_at_least_one(toy, tmp_path, size):
    with pytest.raises(UserError, match=f"image_size is {size}, but it must be at least 1"):
        jdt.data.load("toy", "train", data_dir=toy[0], cache_dir=tmp_path, image_size=size)


def test_heavy_packages_wait_and_tensorflow_never_comes(toy, tmp_path):
    # A stand-in that looks installed and ends the process when anything runs it: where TensorFlow is absent, code that
    # asks "is it there?" before importing it would otherwise go unnoticed.
    (tmp_path / "path/tensorflow").mkdir(parents=True)
    (tmp_path / "path/tensorflow/__init__.py").write_text(
        "import os, sys, traceback\ntraceback.print_stack()\nsys.stderr.flush()\nos._exit(3)\n"
    )
    program = f"""
import importlib.util, sys
import jdt.data
from jdt.checks import UserError
heavy = sys.modules.keys() & {{"tensorflow_datasets", "sklearn", "PIL"}}
assert not heavy, heavy
assert importlib.util.find_spec("tensorflow").origin.startswith({str(tmp_path)!r})
jdt.data.load("toy", "train", data_dir={str(toy[0])!r}, cache_dir={str(tmp_path)!r}, image_size=4)
jdt.data.load("jdt_digits", "train[:50%]", cache_dir={str(tmp_path)!r})
for unknown in ("mnist", "nothing_like_it"):
    try:
        jdt.data.load(unknown, "train", data_dir={str(tmp_path)!r})
    except UserError:
        continue
    raise AssertionError(unknown)
assert "tensorflow" not in sys.modules
"""
    path = os.pathsep.join([str(tmp_path / "path"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
