"""The section of bias transfer: verdicts follow from intervals, nothing is called 0 that was not measured."""

import csv
import dataclasses
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from report_examples import figure, make_bar, make_bias, poisoned, read

from jdt.checks import UserError
from jdt.report import BiasHistogram, add_bias, renew_report
from jdt.report.bias_plots import arm_looks
from jdt.report.bias_tables import blamed_table
from jdt.report.bias_words import bias_summary, comparisons, verdict
from jdt.report.blocks import Text
from jdt.report.sections import load_section, save_section


def bare(found, **kept):
    """A study with nothing but what is named: drawing takes time."""
    nothing = {"bars": (), "curves": (), "histograms": (), "strips": (), "blamed": (), "figures": {}}
    return dataclasses.replace(found, **(nothing | kept))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def plain(text):
    return re.sub(r"\s+", " ", text).replace("\N{MINUS SIGN}", "-")


def in_words(path):
    return plain("".join(read(path.read_text("utf-8")).words))


def plates_of(section):
    return [block for block in section.blocks if type(block).__name__ == "Plate"]


def test_the_section_holds_every_part_and_comes_back(study, tmp_path):
    section = load_section(study, "bias")
    save_section(tmp_path, section)
    assert load_section(tmp_path, "bias") == section
    plates = plates_of(section)
    assert [plate.name for plate in plates] == ["bars", "curve", "curve", "predictions"]
    for plate in plates:
        assert all((study / link).stat().st_size > 1000 for link in plate.links)
        assert len(plate.image.alt) > 60
        assert "5 seeds" in plate.caption or "predictions" in plate.caption
        assert "intervals" in plate.caption or "predictions" in plate.caption
    drawn = (study / plates[0].links[1]).read_text("utf-8")
    for label in ("square → bird", "clean source", "no source", "fixed-feature transfer", "full-network transfer"):
        assert label in drawn, label
    text = in_words(study / "report.html")
    for said in ("45.0 %", "+40.0 pp", "AUROC; Of influence", "of 3,912 to 3,950 images", "0 stands left of the dotted",
                 "A note.", "Which source units carry the bias", "the bias (confidence with the pattern"):  # fmt: skip
        assert said in text, said


def test_units_are_blamed_in_percentage_points_and_in_colour_beyond_noise_alone():
    blamed = make_bias().blamed[:2]
    noise = dataclasses.replace(blamed[0], low=-0.01, high=0.03)
    found = bare(make_bias(), blamed=(noise, blamed[1]), output="share of predictions of the class")
    table = blamed_table(found, False, "tables/x.csv")
    cells = [row[3] for row in table.groups[0].rows]
    assert [cell.tone for cell in cells] == ["", "harms"]
    assert "pp" in cells[0].text
    assert "bias (share of predictions of the class with the pattern minus without it)" in table.note


def test_tables_hold_the_numbers_in_full(study):
    found = make_bias()
    rows = rows_of(study / "tables" / "bias_bars.csv")
    assert len(rows) == sum(len(bar.rates) for bar in found.bars)
    bar = found.bars[2]
    row = next(r for r in rows if (r["mode"], r["pattern"], r["source"]) == (bar.mode, bar.pattern, "square"))
    rate, moved = bar.rates["square"], bar.transfer["square"]
    scratch = bar.from_scratch["square"]
    shown = [float(row[f"{name}{end}"]) for name in ("minus_twin", "minus_scratch") for end in ("", "_low", "_high")]
    assert [float(row[name]) for name in ("rate", "low", "high")] == [rate.value, rate.low, rate.high]
    assert shown == [end for one in (moved, scratch) for end in (one.value, one.low, one.high)]
    assert (row["twin"], row["interval_over"], row["control"]) == ("clean", "seeds", "no")
    assert row["attacked"] == "bird"
    assert next(r for r in rows if r["source"] == "clean")["attacked"] == "deer"  # A class of its own.
    assert row["denominator"] == "of 3,912 to 3,950 images"
    curves = rows_of(study / "tables" / "bias_curves.csv")
    assert len(curves) == 2 * 4 * 5
    predictions = rows_of(study / "tables" / "bias_predictions.csv")
    counts = found.histograms[0].panels["fixed"]
    assert [int(row["with"]) for row in predictions if row["models"] == "fixed"] == counts[1].tolist()


def test_a_page_without_the_section_is_what_it_was(study, tmp_path):
    folder = shutil.copytree(study, tmp_path / "run")
    (folder / "sections" / "bias.json").unlink()
    before = renew_report(folder).read_bytes()
    add_bias(folder, bare(make_bias(), strips=make_bias().strips))
    assert (folder / "report.html").read_bytes() != before
    (folder / "sections" / "bias.json").unlink()
    assert renew_report(folder).read_bytes() == before


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.43, 0.38, 0.48), "the bias survives"),
        ((0.02, -0.01, 0.05), "no transfer is seen"),
        ((-0.1, -0.2, -0.05), "smaller than with the clean source"),
        ((0.43, None, None), "cannot be said from so few seeds"),
        ((0.43, math.nan, math.nan), "cannot be said from so few seeds"),
        ((math.nan, None, None), "nothing can be said"),
    ],
)
def test_verdicts_follow_from_intervals(interval, words):
    moved = figure(*interval, n=5)
    assert words in verdict(moved)
    bar = dataclasses.replace(make_bar(np.random.default_rng(0)), transfer={"square": moved})
    (sentence,) = bias_summary([bar])
    assert words in sentence
    assert ("images are left in the denominator" in sentence) == math.isnan(interval[0])


def test_the_control_stands_beside_each_verdict_and_an_alarm_is_said():
    rng = np.random.default_rng(0)
    bar, quiet = make_bar(rng), make_bar(rng, pattern="sham")
    loud = dataclasses.replace(quiet, transfer={"square": figure(0.1, 0.05, 0.15, n=5)})
    assert [(arm, control) for _, arm, control in comparisons([bar, quiet])] == [("square", quiet.transfer["square"])]
    said = [plain(bias_summary([bar, control])[0]) for control in (quiet, loud)]
    assert said[0].endswith("against the clean source; control pattern: 0.0 pp (-2.0 to +2.0).")
    assert said[1].endswith("control pattern: +10.0 pp (+5.0 to +15.0), which should contain 0.")
    many = [make_bar(rng, target) for target in "abcde"]
    (counted,) = bias_summary([*many, *(dataclasses.replace(loud, target=target) for target in "ab"), quiet])
    assert "Of 5 combinations of target, transfer, pattern and source, the bias survives in 5." in counted
    assert "beyond noise in 1 of 3 comparisons" in counted


def test_what_no_source_has_is_a_control_whatever_it_is_called():
    rng = np.random.default_rng(0)
    clover = make_bar(rng, pattern="shamrock")
    shuffled = dataclasses.replace(make_bar(rng, pattern="shuffled", effect=0.0), control=True)
    ((bar, _, control),) = comparisons([clover, shuffled])
    assert (bar.pattern, control) == ("shamrock", shuffled.transfer["square"])


@pytest.mark.parametrize(
    ("twin", "words"),
    [("clean", "the clean source"), ("phi=0", "the phi=0 source"), ("scratch", "models from scratch"),
     ("twin", "their twin")],
)  # fmt: skip
def test_the_page_names_what_models_are_compared_with(twin, words, tmp_path, monkeypatch):
    monkeypatch.setattr("jdt.report.bias.plate", lambda *_: Text("A figure."))
    monkeypatch.setattr("jdt.report.bias._pictures", lambda *_: [])
    bar = make_bar(np.random.default_rng(0))
    rates = {"given" if arm == "square" else twin if arm == "clean" else arm: one for arm, one in bar.rates.items()}
    weaker = figure(-0.1, -0.2, -0.05, n=2)
    bar = dataclasses.replace(bar, rates=rates, transfer={"given": weaker}, denominators={}, from_scratch={},
                              over="test images")  # fmt: skip
    page = in_words(add_bias(tmp_path, bare(make_bias(), bars=(bar,), compared_with=twin)))
    assert f"the bias is smaller than with {words}" in page
    assert f"against {words}, interval over test images." in page
    assert f"minus {twin}" in page
    assert "in fixed mode over test images, as all seeds are one model there" in page
    assert ("clean source" in page) == (twin == "clean")
    assert "· bias transfer</title>" in (tmp_path / "report.html").read_text()
    assert "Does a bias of the source data come along" in page


def test_untrained_features_stand_beside_heads_and_are_called_so(tmp_path):
    counts = np.arange(10), np.arange(10)[::-1].copy()
    found = dataclasses.replace(make_bias().histograms[0], panels={"untrained": counts, "fixed": counts})
    add_bias(tmp_path, bare(make_bias(), histograms=(found,)))
    (drawn,) = (tmp_path / "figures").glob("*.svg")
    assert "untrained features" in drawn.read_text("utf-8")
    assert "training from scratch" not in drawn.read_text("utf-8")


def test_images_of_a_group_stand_one_by_one(tmp_path):
    strip = make_bias().strips[0]
    strip = dataclasses.replace(strip, images=strip.images[:5], paired=False)
    page = in_words(add_bias(tmp_path, bare(make_bias(), strips=(strip,))))
    assert "Images of the groups" in page
    assert "In every pair" not in page


def test_an_empty_denominator_is_never_a_zero(tmp_path):
    bar = make_bar(np.random.default_rng(0))
    missing = figure(math.nan, n=0)
    bar = dataclasses.replace(bar, rates={**bar.rates, "square": missing}, transfer={"square": missing},
                              denominators={})  # fmt: skip
    empty = np.zeros(10, int)
    histogram = BiasHistogram("x", make_bias().histograms[0].class_names, {"full": (empty, empty)})
    add_bias(tmp_path, bare(make_bias(), bars=(bar,), histograms=(histogram,), figures={"asr": missing}))
    text = in_words(tmp_path / "report.html")
    assert text.count("no images") >= 4  # Verdict, caption, table, tile.
    assert "not said" in text
    assert not re.search(r"\bnan\b", text)
    assert "no images" in (tmp_path / "figures" / "bias_1_attack_success_rate_bars.svg").read_text("utf-8")
    row = next(row for row in rows_of(tmp_path / "tables" / "bias_bars.csv") if row["source"] == "square")
    assert row["rate"] == row["minus_twin"] == ""
    table = next(block for block in load_section(tmp_path, "bias").blocks if getattr(block, "title", "") == "All rates")
    (cells,) = (row for row in table.groups[0].rows if row[2].text == "square")
    assert cells[3].text == "no images"
    assert cells[3].value is None


def test_many_targets_make_a_figure_a_pattern_and_many_classes_are_counted(tmp_path):
    found = make_bias(targets=[f"target {i}" for i in range(8)], classes=[f"class {i}" for i in range(30)])
    add_bias(tmp_path, bare(found, bars=found.bars, histograms=found.histograms))
    plates = plates_of(load_section(tmp_path, "bias"))
    titles = ["Attack success rate: square", "Attack success rate: sham", "Predictions: cifar10_32, square"]
    assert [plate.title for plate in plates] == titles
    assert "Shown are the 20 of 30 classes" in plates[-1].caption
    assert len(rows_of(tmp_path / "tables" / "bias_predictions.csv")) == 3 * 30


def test_every_string_is_escaped(tmp_path):
    hostile = poisoned(make_bias())
    path = add_bias(tmp_path, hostile, warnings=(hostile.title,))
    text = path.read_text("utf-8")
    reader = read(text)
    assert text.count("<script") == text.count("</script") == 1
    assert reader.wrong == []
    assert reader.open == []
    assert not [c for c in text if ord(c) < 32 and c != "\n"]
    said = "".join(reader.words)
    bar, curve, strip = hostile.bars[0], hostile.curves[0], hostile.strips[0]
    shown = [hostile.title, hostile.text, bar.target, bar.mode, bar.pattern, bar.attacked, *bar.rates, curve.title,
             curve.note, strip.caption, hostile.blamed[0].name, *hostile.figures]  # fmt: skip
    assert [name for name in shown if name.removesuffix("\0\x1b[2J\ud800") not in said] == []
    json.loads((tmp_path / "sections" / "bias.json").read_text("utf-8"))


def _with_bar(**changes):
    return lambda found: bare(found, bars=(dataclasses.replace(found.bars[0], **changes),))


def _with_curve(**changes):
    return lambda found: bare(found, curves=(dataclasses.replace(found.curves[0], **changes),))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (bare, "has nothing to show"),
        (_with_bar(transfer={"other": figure(0.1)}), r"of \['other'\], but rates of"),
        (_with_bar(denominators={"other": "x"}), r"of \['other'\], but rates of"),
        (_with_curve(x=()), "which its axis cannot show"),
        (_with_curve(x=(-1.0, 1.0, 2.0, 3.0, 4.0)), "which its axis cannot show"),
        (_with_curve(x=(1.0, 2.0)), "has 5 points in place of 2"),
        (lambda found: bare(found, strips=(dataclasses.replace(found.strips[0], images=found.strips[0].images[1:]),)),
         "are 5, but every image needs"),
        (lambda found: bare(found, histograms=(dataclasses.replace(found.histograms[0], class_names=("a",)),)),
         "but 1 are named"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(change, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        add_bias(tmp_path, change(make_bias()))
    assert list(tmp_path.iterdir()) == []


def test_arms_look_different_and_the_same_in_every_figure():
    looks = arm_looks(["square", "clean", "scratch", "hat", "gaussian", "tint", "overlay"])
    assert len({(look.colour, look.hatch) for look in looks.values()}) == len(looks)
    assert looks["clean"] == arm_looks(["clean"])["clean"]
    assert list(looks)[-1] == "scratch"
