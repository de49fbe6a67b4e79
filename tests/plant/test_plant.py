"""What was planted is where it is said to be, and nothing else changed."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import masks
from jdt.analyses import SURELY_A_COPY, similarity_of
from jdt.checks import UserError
from jdt.data import from_arrays
from jdt.plant import CHANGES, Planted, changed, harmful_unit, leaked_copies, mislabelled_unit, misleading_copies

CLASSES = ("beagle", "pug", "tabby", "barge")
FITS = {"dog": ("beagle", "pug"), "cat": ("tabby",), "ship": ("barge",)}
PLANTERS = {"leak": leaked_copies, "misleading": misleading_copies}


def dataset(name, num_examples, classes, seed, size=16):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(len(classes)), rng.integers(len(classes), size=num_examples - len(classes))])
    images = rng.integers(0, 256, (num_examples, size, size, 3), np.uint8)
    return from_arrays(name, images, labels, classes)


SOURCE = dataset("source", 48, CLASSES, 0)
TARGET = dataset("target", 30, ("dog", "cat", "ship", "plane"), 1)
UNITS = masks.by_group(SOURCE.labels, CLASSES, {"dogs": ["beagle", "pug"], "others": ["tabby", "barge"]})


def differing(one, other):
    """Positions whose images differ."""
    return np.flatnonzero((one.images != other.images).any(axis=(1, 2, 3))).tolist()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["leak", "misleading"]), st.integers(1, 8), st.integers(0, 1000), st.booleans())
def test_copies_lie_where_they_are_said_to_lie_and_nowhere_else(kind, count, seed, is_control):
    plant = PLANTERS[kind]
    data, planted = plant(SOURCE, TARGET, count, fits=FITS, seed=seed, changes=["flip"], is_control=is_control)
    places, of = list(planted.source), list(planted.target)
    assert len(set(places)) == len(set(of)) == count
    expected = SOURCE.images[places] if is_control else TARGET.images[of]
    assert (data.images[places] == expected[:, :, ::-1]).all()
    assert set(differing(data, SOURCE)) == set(places)
    assert (data.labels == SOURCE.labels).all()
    assert planted.labels == tuple(SOURCE.labels[places])
    for label, example in zip(planted.labels, of, strict=True):
        fitting = FITS[TARGET.class_names[TARGET.labels[example]]]
        assert (CLASSES[label] in fitting) == (kind == "leak")
    assert data.fingerprint != SOURCE.fingerprint
    # The control has the same places; only their images differ.
    other, same = plant(SOURCE, TARGET, count, fits=FITS, seed=seed, changes=["flip"], is_control=not is_control)
    assert dataclasses.replace(same, is_control=is_control) == planted
    assert set(differing(data, other)) == set(places)
    assert other.fingerprint != data.fingerprint
    assert Planted.from_plain(json.loads(json.dumps(planted.to_plain()))) == planted


def test_kinds_side_by_side_share_no_image_and_keep_to_what_is_allowed():
    allowed = np.arange(len(SOURCE)) >= 10
    data, leaks = leaked_copies(SOURCE, TARGET, 7, fits=FITS, seed=3, allowed=allowed)
    data, misleading = misleading_copies(data, TARGET, 7, fits=FITS, seed=3, allowed=allowed, beside=[leaks])
    assert not {*leaks.source} & {*misleading.source}
    assert not {*leaks.target} & {*misleading.target}
    assert min(leaks.source + misleading.source) >= 10
    assert set(differing(data, SOURCE)) == {*leaks.source, *misleading.source}
    assert leaks.changes == ("identity", "flip", "crop", "recolour", "identity", "flip", "crop")


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 1.0), st.integers(0, 1000))
def test_mislabelled_examples_have_labels_from_outside_the_unit(share, seed):
    data, planted = mislabelled_unit(SOURCE, UNITS, "dogs", share, seed=seed)
    places = list(planted.source)
    members = np.flatnonzero(UNITS.of_example == 0)
    assert set(places) <= set(members)
    assert len(places) == max(1, round(share * len(members)))
    assert (data.images == SOURCE.images).all()
    assert np.flatnonzero(data.labels != SOURCE.labels).tolist() == places  # Every one of them is wrong now.
    assert {CLASSES[label] for label in planted.labels} <= {"tabby", "barge"}
    assert data.fingerprint != SOURCE.fingerprint
    control, same = mislabelled_unit(SOURCE, UNITS, "dogs", share, seed=seed, is_control=True)
    assert control.fingerprint == SOURCE.fingerprint
    assert same.source == planted.source


def test_a_harmful_unit_is_full_of_target_images_that_are_all_different():
    training = dataset("target[train]", 60, TARGET.class_names, 2)
    data, planted = harmful_unit(SOURCE, training, UNITS, "others", seed=0)
    members = np.flatnonzero(UNITS.of_example == 1)
    assert list(planted.source) == members.tolist() == differing(data, SOURCE)
    assert (data.images[members] == training.images[list(planted.target)]).all()
    assert len(set(planted.target)) == len(members)
    assert (data.labels == SOURCE.labels).all()
    control, same = harmful_unit(SOURCE, training, UNITS, "others", seed=0, is_control=True)
    assert control.fingerprint == SOURCE.fingerprint
    assert same.target == planted.target


@pytest.mark.parametrize("change", CHANGES)
def test_changed_images_look_alike(change):
    # Smooth images: a cut through noise of single pixels is another image.
    coarse = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    smooth = coarse.repeat(2, axis=1).repeat(2, axis=2)
    rng = np.random.default_rng(1)
    copies = np.stack([changed(image, change, rng) for image in smooth])
    assert copies.shape == smooth.shape
    assert (copies == smooth).all() == (change == "identity")
    assert similarity_of(copies, smooth).min() > SURELY_A_COPY


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda: leaked_copies(SOURCE, TARGET, 0, fits=FITS, seed=0), "0 copies"),
        (lambda: leaked_copies(SOURCE, TARGET, 31, fits=FITS, seed=0), "asks for 31 copies, but only"),
        (lambda: leaked_copies(SOURCE, TARGET, 1, fits={"dgo": ["pug"]}, seed=0), "no class 'dgo'; nearest: dog"),
        (lambda: leaked_copies(SOURCE, TARGET, 1, fits={"dog": ["pugg"]}, seed=0), "no class 'pugg'; nearest: pug"),
        (lambda: misleading_copies(SOURCE, TARGET, 1, fits={"dog": ["pug"]}, seed=0), "but only 0"),
        (lambda: leaked_copies(SOURCE, dataset("t", 30, CLASSES, 1, size=8), 1, fits={}, seed=0), "of shape"),
        (lambda: mislabelled_unit(SOURCE, UNITS, "dog", seed=0), "no unit 'dog'; nearest: dogs"),
        (lambda: mislabelled_unit(SOURCE, UNITS, "dogs", 1.5, seed=0), "share of mislabelled examples is 1.5"),
        (lambda: harmful_unit(SOURCE, TARGET, UNITS, "doggs", seed=0), "no unit 'doggs'; nearest: dogs"),
        (lambda: harmful_unit(SOURCE, dataset("t", 4, CLASSES, 1), UNITS, "dogs", seed=0), "only 4 to fill it with"),
    ],
)
def test_what_cannot_be_planted_is_refused(plant, message):
    with pytest.raises(UserError, match=message):
        plant()
