"""The parts of a report: thumbnails, the terminal's table, words."""

import dataclasses
import doctest
import io

import numpy as np
import pytest
import rich.console
from PIL import Image
from report_examples import make_target, with_influences

from jdt.checks import UserError
from jdt.report import findings_table, sample_images, strip_png, words
from jdt.report.select import extremes


class Counting(np.ndarray):
    """Images that count how many were read."""

    read = 0

    def __getitem__(self, index):
        assert isinstance(index, int)
        self.read += 1
        return np.asarray(self)[index]


def _numbered(count):
    """Image i is filled with i."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 5, 3))


def test_sample_images_are_of_their_group_and_spread():
    groups = np.repeat([1, -1, 0], [100, 50, 30])
    chosen = sample_images(_numbered(180), groups, ["first", "second", "empty"], count=5)
    assert list(chosen) == ["first", "second"]
    for name, start, size in (("first", 150, 30), ("second", 0, 100)):
        ids = chosen[name][:, 0, 0, 0].astype(int) - start
        assert chosen[name].shape == (5, 4, 5, 3)
        assert chosen[name].dtype == np.uint8
        assert (ids * 5 // size).tolist() == [0, 1, 2, 3, 4]


def test_sample_images_read_only_what_they_return_and_repeat():
    images = _numbered(200).view(Counting)
    groups = np.arange(200) % 2
    first = sample_images(images, groups, ["a", "b"], count=3, seed=1)
    assert images.read == 6
    again = sample_images(images, groups, ["a", "b"], count=3, seed=1)
    other = sample_images(images, groups, ["a", "b"], count=3, seed=2)
    assert all((first[name] == again[name]).all() for name in first)
    assert any((first[name] != other[name]).any() for name in first)


def test_sample_images_from_a_memory_map_and_small_groups(tmp_path):
    np.save(tmp_path / "images.npy", _numbered(10))
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    chosen = sample_images(mapped, np.array([0] * 2 + [1] * 8), ["two", "eight"], count=6)
    assert {name: len(x) for name, x in chosen.items()} == {"two": 2, "eight": 6}
    assert not isinstance(chosen["two"], np.memmap)
    assert sample_images(mapped[:0], np.array([], int), ["a"]) == {}


def test_sample_images_refuse_what_does_not_fit():
    with pytest.raises(UserError, match="there are 10 images"):
        sample_images(_numbered(10), np.zeros(9, int), ["a"])
    with pytest.raises(UserError, match="group 3"):
        sample_images(_numbered(10), np.full(10, 3), ["a"])
    with pytest.raises(UserError, match="count"):
        sample_images(_numbered(10), np.zeros(10, int), ["a"], count=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_strips_keep_pixels(channels):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 10, channels), dtype=np.uint8)
    images[..., 3:] = 255
    strip = np.asarray(Image.open(io.BytesIO(strip_png(images))))
    assert strip.shape == (48, 3 * 60 + 2 * 2, 4)
    second = strip[::6, 62:122:6]
    np.testing.assert_array_equal(second[..., :3], np.broadcast_to(images[1][..., :3], (8, 10, 3)))


def test_large_images_shrink():
    strip = Image.open(io.BytesIO(strip_png(np.zeros((2, 224, 224, 3), np.uint8))))
    assert strip.size == (2 * 96 + 2, 96)


def test_strips_refuse_other_shapes():
    with pytest.raises(UserError, match="1, 3 or 4"):
        strip_png(np.zeros((2, 8, 8, 2), np.uint8))


def _printed(table):
    console = rich.console.Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def test_terminal_table_names_the_top_units():
    findings = make_target(units=22)
    printed = _printed(findings_table(findings, count=2))
    classes = findings.estimators["ridge"].classes
    for name in classes.target_names:
        assert name in printed
        for side in (False, True):
            for unit, influence, _, z in classes.top(name, 2, harmful=side):
                assert f"{unit} {100 * influence:+.2f} pp (z {z:.1f})" in printed


def test_terminal_table_has_no_z_where_there_is_none():
    def forget(influences):
        return dataclasses.replace(influences, standard_error=None, z=None, degrees_of_freedom=None)

    findings = with_influences(make_target(units=22), forget)
    printed = _printed(findings_table(findings, count=2))
    best = findings.estimators["ridge"].classes.top("cat", 1)[0]
    assert f"{best.unit} {100 * best.influence:+.1f}" in printed
    assert "(z " not in printed


def test_terminal_table_escapes_markup_and_control_characters():
    names = ["[red]r[/red]", "[/]", "\x1b[31mx", "back\\"] + [f"u{i}" for i in range(6)]
    findings = make_target(names=names, classes=("[bold]c[/bold]",))
    findings = dataclasses.replace(findings, target="[link]")
    printed = _printed(findings_table(findings, count=5))
    for text in ("[red]r[/red] ", "[/] ", " [31mx"[1:], "back\\ ", "[bold]c[/bold]", "[link]"):
        assert text in printed
    assert "\x1b" not in printed


def test_unknown_units_are_in_no_ranking():
    def forget(influences):
        error = influences.standard_error.copy()
        error[np.argmax(influences.influence[:, 0])] = np.inf
        return dataclasses.replace(influences, standard_error=error)

    before = make_target(units=10)
    task = with_influences(before, forget).estimators["ridge"].task
    best = before.estimators["ridge"].task.top(0, 1)[0].unit
    assert best not in {task.unit_names[u] for side in extremes(task, 0, 10) for u in side}


@pytest.mark.parametrize("units", [1, 2, 5])
def test_no_unit_both_helps_and_harms(units):
    helpful, harmful = extremes(make_target(units=units).estimators["ridge"].task, 0, 3)
    assert len({*helpful, *harmful}) == len(helpful) + len(harmful) == units


def test_doctests_of_words():
    assert doctest.testmod(words).failed == 0


def test_numbers_that_are_not_finite_are_unknown():
    for value in (np.nan, np.inf, -np.inf):
        assert words.decimal(value, 2) == words.percent(value) == words.figure_number(value) == "unknown"
    assert words.figure_interval(None, None) == ""
    assert words.figure_interval(0.5, np.inf) == "0.5 to unknown"


def test_shortened_names_fit_and_stay_different():
    names = [f"{'long' * 30}{i}" for i in range(10)] + ["猫" * 40]
    short = [words.shorten(name, 20) for name in names]
    assert len(set(short)) == len(names)
    assert all(len(s) <= 20 for s in short)
