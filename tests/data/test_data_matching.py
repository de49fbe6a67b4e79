"""Another dataset under the target's class names."""

import json

import numpy as np
import pytest

from jdt.checks import UserError
from jdt.data import StreamedImages, from_arrays, load, matched

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), np.uint8)
OTHER = from_arrays("sketches", IMAGES, np.arange(8) % 4, ["Ice-Cream", "PET CAT", "zebra", "lorry"])
TARGET = ["pet_cat", "dog", "ice cream", "truck"]


def test_equal_names_are_found_and_others_by_the_map(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"lorry": "truck", "zebra": None}))
    for label_map in (path, {"lorry": "truck", "zebra": None}):
        made = matched(OTHER, TARGET, label_map)
        assert made.data.labels.tolist() == [2, 0, 3, 2, 0, 3]
        assert made.data.labels.dtype == np.int32
        np.testing.assert_array_equal(made.data.images, IMAGES[[0, 1, 3, 4, 5, 7]])
        assert made.data.class_names == tuple(TARGET)
        assert (made.left_out, made.missing) == (("zebra",), ("dog",))
        assert made.note == "sketches: classes left out: zebra; classes that it does not have: dog."
    several = matched(OTHER, TARGET, {"lorry": "truck", "zebra": "truck"})
    assert several.data.labels.tolist() == [2, 0, 3, 3] * 2
    assert several.data.images is OTHER.images
    assert len({OTHER.fingerprint, several.data.fingerprint, made.data.fingerprint}) == 3


def test_what_matches_in_full_has_no_note():
    assert matched(OTHER, ["lorry", "zebra", "pet cat", "icecream"]).note == ""


def test_classes_that_match_none_are_listed_or_left_out():
    with pytest.raises(UserError, match=r"2 of 4 classes of sketches .*pet_cat, dog, ice cream, truck: zebra, lorry;"):
        matched(OTHER, TARGET)
    assert matched(OTHER, TARGET, leave_out=True).left_out == ("zebra", "lorry")


def test_streamed_images_stay_streamed(tmp_path):
    digits = load("jdt_digits", "test[:60]", cache_dir=tmp_path, streamed=True)
    names = list(digits.class_names[:2])
    made = matched(digits, names[::-1], leave_out=True).data
    assert isinstance(made.images, StreamedImages)
    assert len(made.images) == len(made) == (digits.labels < 2).sum()
    assert sorted(set(made.labels.tolist())) == [0, 1]
    assert [made.class_names[n] for n in made.labels] == [names[n] for n in digits.labels if n < 2]


@pytest.mark.parametrize(
    ("class_names", "label_map", "message"),
    [
        (["dog", "cow"], None, "images of 0 classes match dog, cow, but at least two"),
        (["zebra", "cow"], None, "images of 1 classes match"),
        (["zebra", "lorry", "Lo_rry"], None, "'lorry' and 'Lo_rry' are one name"),
        (TARGET, {"tram": "truck"}, "the label map names tram, which sketches does not have"),
        (TARGET, {"lorry": "trucks"}, "the label map names trucks, which the target does not have; .*: truck"),
        (TARGET, {"lorry": " "}, "the label map has no name at 'lorry'"),
    ],
)
def test_what_cannot_be_matched_is_refused(class_names, label_map, message):
    with pytest.raises(UserError, match=message):
        matched(OTHER, class_names, label_map, leave_out=True)
