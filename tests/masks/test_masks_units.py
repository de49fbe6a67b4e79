import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt.checks import UserError
from jdt.masks import OUTSIDE, Units, by_class, by_example, by_group, equalized, parse, read_groups

CLASSES = ("beagle", "collie", "tabby", "oak")
LABELS = np.array([0, 0, 1, 2, 2, 2, 3, 1])
GROUPS = {"dogs": ["collie", "beagle"], "cats": ["tabby"]}


def groups_file(folder, content):
    path = folder / "groups.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_classes():
    units = by_class(LABELS, CLASSES)
    assert units.names == CLASSES
    assert len(units) == 4
    assert units.sizes.tolist() == [2, 2, 3, 1]
    np.testing.assert_array_equal(units.of_example, LABELS)


def test_examples():
    units = by_example(LABELS)
    assert units.names == tuple("01234567")
    assert units.sizes.tolist() == [1] * 8
    np.testing.assert_array_equal(units.of_example, np.arange(8))


def test_groups_leave_other_classes_outside():
    units = by_group(LABELS, CLASSES, GROUPS)
    assert units.names == ("dogs", "cats")
    assert units.sizes.tolist() == [4, 3]
    assert units.of_example.tolist() == [0, 0, 0, 1, 1, 1, OUTSIDE, 0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 5))
def test_members_are_the_examples_of_kept_units_and_never_those_outside(seed, num_units, num_models):
    rng = np.random.default_rng(seed)
    of_example = rng.integers(OUTSIDE, num_units, 17)
    units = Units(tuple(map(str, range(num_units))), of_example)
    masks = rng.random((num_models, num_units)) < 0.5
    members = units.members(masks)
    expected = [[bool(u != OUTSIDE and row[u]) for u in of_example] for row in masks]
    np.testing.assert_array_equal(members, np.array(expected, bool).reshape(num_models, 17))
    np.testing.assert_array_equal(members.sum(axis=1), masks @ units.sizes)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_equalized_units_have_one_size_and_keep_their_own_examples(seed, sizes):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    units = by_class(labels, [f"c{i}" for i in range(len(sizes))])
    equal = equalized(units, seed)
    assert equal.names == units.names
    assert equal.sizes.tolist() == [min(sizes)] * len(sizes)
    stays = equal.of_example != OUTSIDE
    np.testing.assert_array_equal(equal.of_example[stays], units.of_example[stays])
    np.testing.assert_array_equal(equalized(units, seed).of_example, equal.of_example)


def test_equalizing_again_with_another_seed_keeps_others_and_what_was_outside_stays_there():
    units = by_group(np.repeat(np.arange(4), 50), CLASSES, GROUPS)
    first, second = equalized(units, 0), equalized(units, 1)
    assert (first.of_example != second.of_example).any()
    assert (first.of_example[150:] == OUTSIDE).all()


def test_a_unit_is_equalized_by_seed_and_position_alone():
    small = by_class(np.repeat([0, 1], [30, 10]), "ab")
    more = by_class(np.repeat([0, 1, 2], [30, 10, 20]), "abc")
    np.testing.assert_array_equal(equalized(small, 4).of_example, equalized(more, 4).of_example[:40])


def test_parse_reads_every_form(tmp_path):
    path = groups_file(tmp_path, GROUPS)
    assert parse("classes", LABELS, CLASSES).names == CLASSES
    assert parse("examples", LABELS, CLASSES).names == tuple("01234567")
    assert parse(f"groups:{path}", LABELS, CLASSES).names == ("dogs", "cats")
    assert read_groups(path) == GROUPS


@pytest.mark.parametrize("spec", ["", "class", "groups", "groups:", "classes:x", "examples:3", "Classes"])
def test_other_forms_are_refused(spec):
    with pytest.raises(UserError, match=rf"units is '{spec}', but must be classes, groups:FILE .* or examples"):
        parse(spec, LABELS, CLASSES)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"dogs": ["beagel"], "cats": ["tabby"]}, r"group 'dogs' names class 'beagel'.*nearest: beagle"),
        ({"dogs": ["collie"], "pets": ["tabby", "collie"]}, r"class 'collie' is in groups 'dogs' and 'pets': keep it"),
        ({"dogs": ["collie"], "none": []}, r"group 'none' names no class: remove it or give it classes"),
        ({"dogs": ["collie"]}, r"only one group \('dogs'\).*at least two"),
        ({}, r"there is no group: name at least two"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups, message):
    with pytest.raises(UserError, match=message):
        by_group(LABELS, CLASSES, groups)


def test_units_without_examples_are_refused():
    with pytest.raises(UserError, match=r"class 'oak' has no source example \(1 such\): choose a split .*groups file"):
        by_class(LABELS[LABELS != 3], CLASSES)
    with pytest.raises(UserError, match=r"group 'cats' has no source example \(1 such\)"):
        by_group(LABELS[LABELS != 2], CLASSES, GROUPS)
    with pytest.raises(UserError, match=r"only one class \('beagle'\)"):
        by_class(np.zeros(3, int), CLASSES[:1])


def test_a_missing_groups_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the groups file '.*absent\.json': No such file"):
        read_groups(tmp_path / "absent.json")
    with pytest.raises(UserError, match="cannot read the groups file"):
        read_groups(tmp_path)


@pytest.mark.parametrize("content", ["{", "dogs: [beagle]", ""])
def test_a_groups_file_that_is_not_json_is_named(tmp_path, content):
    with pytest.raises(UserError, match=r"groups\.json' is not JSON: .*"):
        read_groups(groups_file(tmp_path, content))


@pytest.mark.parametrize("content", [["dogs"], {"dogs": "beagle"}, {"dogs": [1]}, {"dogs": {"beagle": 1}}, "null"])
def test_a_groups_file_of_another_form_is_shown_the_right_one(tmp_path, content):
    with pytest.raises(UserError, match=r'must map each group to a list of class names, like \{"dogs": \["beagle"\]\}'):
        read_groups(groups_file(tmp_path, content))
