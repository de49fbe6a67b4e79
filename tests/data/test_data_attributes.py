"""Labels and groups from any feature of a dataset, nested ones among them, as CelebA has them."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from data_examples import build_tfds, encode, random_images

import jdt.data
from jdt.checks import UserError

COUNTS = {"train": 12, "test": 6}
IMAGES = random_images(12)


def columns(split):
    place = np.arange(COUNTS[split])
    return {"young": place % 2 == 0, "male": place < 4, "age": place // 4, "kind": place % 3}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("faces")
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "attributes": {"Young": np.bool_, "Male": np.bool_, "Always": np.bool_},
        "age": np.int64,
        "signed": np.int64,
        "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
        "landmarks": tfds.features.Tensor(shape=(2,), dtype=np.int64),
        "who": tfds.features.Text(),
        "gaps": tfds.features.Text(),
    }
    examples = {}
    for split, count in COUNTS.items():
        of = columns(split)
        examples[split] = [
            {
                "image": encode(IMAGES[i]),
                "attributes": {"Young": bool(of["young"][i]), "Male": bool(of["male"][i]), "Always": True},
                "age": int(of["age"][i]),
                "signed": i - 1,
                "kind": int(of["kind"][i]),
                "landmarks": [i, i],
                "who": str(i),
                "gaps": "" if i == 5 else "ä dog",
            }
            for i in range(count)
        ]
    build_tfds(data_dir, "faces", features, examples)
    return data_dir


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("label", "column", "names"),
    [
        ("attributes/Young", "young", ("not Young", "Young")),
        ("age", "age", ("0", "1", "2")),  # The test split has no 2.
        ("kind", "kind", ("a", "b", "c")),
    ],
)
def test_any_feature_of_classes_can_be_the_label(faces, tmp_path, label, column, names, streamed):
    for split, count in COUNTS.items():
        got = jdt.data.load("faces", split, data_dir=faces, cache_dir=tmp_path, label=label, streamed=streamed)
        np.testing.assert_array_equal(got.labels, columns(split)[column])
        np.testing.assert_array_equal(np.asarray(got.images), IMAGES[:count])
        assert got.class_names == names


def test_naming_the_label_that_is_there_changes_nothing(faces, tmp_path):
    usual = jdt.data.load("faces", "train", data_dir=faces, cache_dir=tmp_path)
    named = jdt.data.load("faces", "train", data_dir=faces, cache_dir=tmp_path, label="kind")
    assert usual.fingerprint == named.fingerprint
    assert len(list((tmp_path / "decoded").iterdir())) == 1
    assert jdt.data.load("faces", "train", data_dir=faces, cache_dir=tmp_path, label="age").labels.max() == 2
    assert len(list((tmp_path / "decoded").iterdir())) == 2


def test_an_attribute_is_read_for_the_examples_of_a_split(faces):
    values, names = jdt.data.attribute("faces", "train[3:9]", "attributes/Male", data_dir=faces)
    np.testing.assert_array_equal(values, columns("train")["male"][3:9])
    assert (values.dtype, names) == (np.int32, ("not Male", "Male"))
    values, names = jdt.data.attribute("faces", "test", "age", data_dir=faces)
    np.testing.assert_array_equal(values, columns("test")["age"])
    assert names == ("0", "1", "2")
    assert (jdt.data.attribute("faces", "train", "attributes/Always", data_dir=faces)[0] == 1).all()


@pytest.mark.parametrize(
    ("name", "feature", "message"),
    [
        ("faces", "attributes/Yong", r"no feature 'attributes/Yong'; nearest: .*Young.*labels: age, .*attributes/Male"),
        ("faces", "Young", r"no feature 'Young'; nearest: attributes/Young"),
        ("faces", "attributes", r"no feature 'attributes'; nearest: "),
        ("faces", "landmarks", r"'landmarks' of faces is Tensor of shape \(2,\), but a label is a class label"),
        ("faces", "who", r"'who' of faces is Text"),
        ("faces", "image", r"'image' of faces is Image"),
        ("faces", "signed", r"1 of 12 (values|labels) .*faces\[train\] lie outside 0..10 \(first: -1\)"),
        ("folder:pets", "age", r"folder:pets has no feature 'age'"),
    ],
)
def test_a_wrong_feature_says_what_there_is(faces, tmp_path, name, feature, message):
    for order in (
        lambda: jdt.data.attribute(name, "train", feature, data_dir=faces),
        lambda: jdt.data.load(name, "train", label=feature, data_dir=faces, cache_dir=tmp_path),
    ):
        with pytest.raises(UserError, match=message) as caught:
            order()
        assert "\n" not in str(caught.value)


def test_texts_are_read_and_empty_ones_named(faces):
    assert jdt.data.captions("faces", "test", "who", data_dir=faces) == tuple("012345")
    assert jdt.data.captions("faces", "train[:2]", "gaps", data_dir=faces) == ("ä dog", "ä dog")
    with pytest.raises(UserError, match=r"gaps of example 5 of faces\[train\] is empty"):
        jdt.data.captions("faces", "train", "gaps", data_dir=faces)
    with pytest.raises(UserError, match="'age' of faces is Tensor, not one text; features that are texts: gaps, who"):
        jdt.data.captions("faces", "train", "age", data_dir=faces)
    with pytest.raises(UserError, match="'name' of faces is not there"):
        jdt.data.captions("faces", "train", "name", data_dir=faces)
