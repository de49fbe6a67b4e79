"""Datasets whose classes are groups of another's."""

import numpy as np
import pytest
from data_examples import random_images

from jdt.checks import UserError
from jdt.data import from_arrays, regrouped

CLASSES = ["beagle", "pug", "tabby", "barge"]
DATA = from_arrays("pets", random_images(40), np.arange(40) % 4, CLASSES)
GROUPS = {"cats": ["tabby"], "dogs": ["pug", "beagle"]}


def test_groups_become_classes_and_the_rest_is_left_out():
    data = regrouped(DATA, GROUPS)
    assert data.class_names == ("cats", "dogs")
    assert np.bincount(data.labels).tolist() == [10, 20]
    expected = np.concatenate([np.flatnonzero(DATA.labels == 2), np.flatnonzero(DATA.labels < 2)])
    assert (data.images == DATA.images[expected]).all()


def test_so_many_images_of_each_are_drawn_by_seed_and_group_alone():
    data = regrouped(DATA, GROUPS, per_group=5, seed=3)
    assert np.bincount(data.labels).tolist() == [5, 5]
    assert regrouped(DATA, GROUPS, per_group=5, seed=3).fingerprint == data.fingerprint
    assert regrouped(DATA, GROUPS, per_group=5, seed=4).fingerprint != data.fingerprint
    more = regrouped(DATA, {**GROUPS, "boats": ["barge"]}, per_group=5, seed=3)
    assert (more.images[:10] == data.images).all()


@pytest.mark.parametrize(
    ("groups", "per_group", "message"),
    [
        ({"dogs": ["pugg"], "cats": ["tabby"]}, None, "'pugg', which pets does not have; nearest: pug"),
        ({"dogs": ["pug"], "cats": ["pug"]}, None, "in groups 'dogs' and 'cats'"),
        (GROUPS, 11, "group 'cats' of pets has 10"),
        (GROUPS, 0, "0 images of each group"),
        ({}, None, "no example"),
    ],
)
def test_groups_that_cannot_be_made_are_refused(groups, per_group, message):
    with pytest.raises(UserError, match=message):
        regrouped(DATA, groups, per_group=per_group)
