"""What a study of bias transfer says of its measurements, without any training."""

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

import jdt
from experiments import bias_measures, bias_page, bias_report, bias_terminal
from experiments.bias_measures import Measured
from experiments.bias_setup import Variant


class Shown(bias_measures.Predictions):
    """Predictions without and with a pattern, by arm; every image reports, and every image chooses."""

    def __init__(self, labels, by_arm):
        self.own, self.by_arm = labels, by_arm

    arms = property(lambda self: tuple(self.by_arm))
    twin = property(lambda self: next(iter(self.by_arm)))

    def of(self, name, mode, arm):
        return self.by_arm[arm]["+" in name]

    def halves(self, target):
        every = np.ones(len(self.own), bool)
        return jdt.analyses.Halves(every, every)

    def labels(self, target):
        return self.own


def planted_study(labels, **changes):
    """No more of a study than measuring asks for."""
    test = jdt.data.Dataset(
        fingerprint="test",
        name="digits", images=np.zeros((len(labels), 2, 2, 1), np.uint8), labels=labels.astype(np.int32),
        class_names=("0", "1"),
    )  # fmt: skip
    target = SimpleNamespace(name="digits", test=test)
    fields = {
        "base": SimpleNamespace(targets=(target,)), "triggers": ("square",), "shams": (), "kind": "pattern",
        "arms": ("clean", "square"), "task": SimpleNamespace(modes=("fixed",)), "stamps": {"square": None},
        "groups": {}, "variants": (),
    }  # fmt: skip
    return SimpleNamespace(**(fields | changes))


def measured_by(shown, *, modes=("fixed",), named=()):
    study = planted_study(shown.own, task=SimpleNamespace(modes=modes))
    made = bias_measures._measure_pattern(study, shown, Variant("digits", "digits"), "fixed", "square", named, 0)
    return {(one.arm, one.metric): one for one in made}


def test_models_from_scratch_are_those_of_the_full_network_and_rates_differ_from_theirs_by_seed():
    labels, nothing = np.zeros(4, int), np.zeros((2, 4), int)
    some, all_of = np.array([[1, 1, 0, 0], [1, 0, 0, 0]]), np.ones((2, 4), int)
    rates = {("fixed", "square"): all_of, ("fixed", "scratch"): all_of, ("full", "scratch"): some}
    shown = Shown(labels, dict.fromkeys(("clean", "square", "scratch"), (nothing, nothing)))
    shown.of = lambda name, mode, arm: rates.get((mode, arm), nothing) if "+" in name else nothing
    for modes, mean in ((("fixed",), 0.0), (("fixed", "full"), 1 - (0.5 + 0.25) / 2)):
        one = measured_by(shown, modes=modes)["square", bias_measures.ASR]
        plain = one.to_plain()["from_scratch"]
        assert (plain["mean"], plain["pairs"], plain["left_out"]) == (mean, 2, 0)
        assert plain["low"] <= mean <= plain["high"]
    assert "from_scratch" not in measured_by(shown)["scratch", bias_measures.ASR].to_plain()


def measure_of(name="digits", *, metric=bias_measures.ASR, arm="square", pattern="square", **changes):
    fields = {"mode": "fixed", "attacked": ("1", "1"), "twin": "clean", "values": np.array([0.25, 0.5])}
    variant = changes.pop("variant", Variant("digits", name))
    return Measured(**(fields | {"variant": variant, "metric": metric, "arm": arm, "pattern": pattern} | changes))


def test_what_is_shown_is_the_model_that_is_given_and_never_its_twin():
    stamps = {"square": None, "corner": None}
    study = planted_study(np.zeros(2, int), triggers=(), stamps=stamps)
    planted = planted_study(np.zeros(2, int), triggers=("square", "hat"), stamps=stamps)
    for arms, pattern, shown in (
        (("twin", "given", "scratch"), "square", "given"), (("twin", "given", "scratch"), "corner", "given"),
    ):  # fmt: skip
        assert bias_page.shown_arm(study, pattern, arms) == shown
    arms = ("clean", "square", "hat", "scratch")
    assert [bias_page.shown_arm(planted, one, arms) for one in ("square", "hat", "sham")] == [
        "square", "hat", "square",
    ]  # fmt: skip
    assert bias_page.shown_arm(study, "corner", ("scratch",)) == "scratch"
    other = measure_of(arm="twin", attacked=("0", "0"))
    assert bias_page.pushed_to(study, [other, measure_of(arm="given")]) == "1"


@pytest.mark.parametrize(("modes", "kind"), [(("fixed", "full"), "scratch"), (("fixed",), "untrained")])
def test_predictions_stand_beside_those_of_models_that_were_trained_from_scratch(modes, kind):
    labels = np.zeros(3, int)
    study = planted_study(labels, task=SimpleNamespace(modes=modes))
    shown = Shown(labels, dict.fromkeys(("clean", "square", "scratch")))
    shown.of = lambda _, mode, arm: np.full((1, 3), int(arm == "scratch" and mode == "full"))
    (found,) = bias_page.histograms(study, shown)
    assert set(found.panels) == {kind, *modes}
    assert found.panels[kind][0].tolist() == ([0, 3] if kind == "scratch" else [3, 0])
    del shown.by_arm["square"]
    (found,) = bias_page.histograms(study, shown)
    assert found.title == "digits, square (clean models)"


def test_decay_is_swept_at_one_composition_and_told_as_a_line():
    labels = np.zeros(4, int)
    variants = [
        Variant("digits", f"digits@{share}@{decay}", decay=decay, composition=share)
        for share in (0.8, 0.5) for decay in (None, 0.1, 0.2)
    ]  # fmt: skip
    study = planted_study(labels, kind="group", triggers=(), stamps={}, variants=variants,
                          groups={"digits": np.array([0, 0, 1, 1])})  # fmt: skip
    measured = [
        measure_of(variant=one, metric=bias_measures.SKEW, arm="phi=1", pattern="", attacked=(), twin="phi=0",
                   values=np.full(2, 0.1 * i), transfer=jdt.analyses.Difference(0.1, 0.05, 0.15, 2, 0))
        for i, one in enumerate(variants)
    ]  # fmt: skip
    curves = {curve.title: curve for curve in bias_page.curves(study, measured)}
    assert set(curves) == {"Weight decay, digits", "Composition, digits"}
    assert curves["Weight decay, digits"].x == (0.1, 0.2)
    assert [one.value for one in curves["Weight decay, digits"].lines["phi=1, fixed"]] == pytest.approx([0.4, 0.5])
    words = list(bias_terminal.sweep_words(study, list(curves.values()), measured))
    assert words[:2] == ["Weight decay, digits (group skew): 0.1 0.2", "  phi=1, fixed: 40.0% 50.0%"]
    assert "2 variants of targets differ in more than one thing" in words[-1]
    (bar, *_) = bias_page.bars(study, measured)
    assert bar.denominators == {"phi=1": "of 2 a group"}
    assert printed(bias_terminal.table(study, measured)).count("phi=1") == 1  # As a heading: no decay is a row.


def printed(table):
    console = Console(width=80, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


def test_the_table_has_denominators_and_fits_a_terminal():
    study = planted_study(np.zeros(4, int), groups={}, shams=("shuffled",))
    gap = jdt.analyses.Difference(0.4, 0.3, 0.5, 2, 0)
    measured = [
        measure_of("tiny_imagenet32", arm=arm, pattern=pattern, of=of, attacked=("golden retriever", "cat"),
                   transfer=gap if arm == "square" else None)
        for pattern in ("square", "shuffled") for arm, of in (("clean", (3912, 4000)), ("square", (3950, 3961)))
    ]  # fmt: skip
    text = printed(bias_terminal.table(study, measured))
    assert max(map(len, text.splitlines())) <= 80
    for words in ("3,912", "to 4,000", "+40.0", "(+30.0 to +50.0)", "tiny_imagenet32", "shuffled"):
        assert words in text, words
    assert [bar.control for bar in bias_page.bars(study, measured)] == [False, True]


def test_a_model_that_is_one_in_all_seeds_has_an_interval_over_test_images():
    study = planted_study(np.zeros(4, int), triggers=(), arms=("given",) * 2)
    missing, over = (jdt.analyses.Difference(0.4, *ends, 2, 0) for ends in ((np.nan, np.nan), (0.3, 0.5)))
    one = measure_of(arm="given", twin="twin", transfer=missing, over_examples=over)
    (bar,) = bias_page.bars(study, [one, measure_of(arm="twin", twin="twin")])
    assert (bar.over, bar.transfer["given"].low, bar.transfer["given"].high) == ("test images", 0.3, 0.5)
    assert bar.rates["given"].low is not None  # Its heads differ.
    same = dataclasses.replace(one, values=np.full(2, 0.5))
    assert bias_page.bars(study, [same])[0].rates["given"].low is None
    (figure,) = bias_report._figures([one], None).values()
    assert "interval over test images" in figure.text
    assert "over test images" in printed(bias_terminal.table(study, [one]))
    seen = dataclasses.replace(one, arm="square")
    assert bias_page.bars(study, [seen])[0].over == "seeds"


def test_images_of_groups_are_shown_with_the_attribute_and_without():
    data = jdt.data.Dataset(
        name="digits", images=np.arange(4, dtype=np.uint8).repeat(4).reshape(4, 2, 2, 1), fingerprint="test",
        labels=np.array([0, 0, 1, 1], np.int32), class_names=("0", "1"),
    )  # fmt: skip
    groups = np.array([0, 1, 0, 1], np.int8)
    target = SimpleNamespace(name="digits", test=data)
    changes = {"variants": [Variant("digits", "digits@group50%")], "groups": {"digits": groups}, "kind": "group"}
    study = planted_study(data.labels, task=SimpleNamespace(targets=(target,)), **changes)
    strips = bias_page.strips(study)
    assert [(one.caption, one.paired, set(one.images.ravel().tolist())) for one in strips] == [
        ("digits, group 0", False, {0, 2}), ("digits, group 1", False, {1, 3}),
    ]  # fmt: skip
    white = jdt.data.Stamps(np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255 * 255, np.int32),
                            np.where(groups == 1, 0, -1).astype(np.int32))  # fmt: skip
    target.test = jdt.data.with_stamps(data, white)
    (strip,) = bias_page.strips(study)
    assert strip.images[:, 0, 0, 0].tolist() == [1, 255, 3, 255]


def test_classes_that_are_named_are_no_disagreement_and_diverged_models_have_none():
    one = Measured(Variant("a", "a"), "fixed", "square", "rate", "square", ("2", "0", "1"), "clean", np.ones(3))
    assert bias_measures.words_of(list("012334"), 3) == "3 (2 of 6), 0 (1 of 6), 1 (1 of 6) and 2 more"
    assert one.pushed_to == "2 (1 of 3), 0 (1 of 3), 1 (1 of 3)"
    assert dataclasses.replace(one, named=True).pushed_to == "2, 0, 1"
    assert dataclasses.replace(one, values=np.array([1.0, np.nan, 1.0])).pushed_to == "2, 1"


def test_a_rate_of_nothing_is_missing_and_never_zero():
    labels = np.arange(6) % 2
    nothing, some = np.ones((2, 6), int), np.stack([np.ones(6, int), labels])
    found = measured_by(Shown(labels, {"clean": (nothing, nothing), "square": (some, some)}), named=["1"])
    empty, half = (found[arm, bias_measures.ASR] for arm in ("clean", "square"))
    assert (empty.of, empty.hits, np.isnan(empty.values).tolist()) == ((0, 0), (0, 0), [True, True])
    assert (half.of, np.isnan(half.values).tolist()) == ((0, 3), [True, False])
    assert [one.to_plain()["values"] for one in (empty, half)] == [[None, None], [None, 0.0]]
    assert half.transfer is not None
    assert half.to_plain()["transfer"]["mean"] is None  # No seed has both.
    (words,) = bias_report._warnings([empty, half])[:1]
    assert "rates have no image in the denominator of some model, and are missing: digits (fixed, clean)" in words
    assert bias_terminal._percent(empty.values) == "no images"
