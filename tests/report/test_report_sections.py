"""Laws of sections: each command adds its own to the page, and no file of a run can do harm."""

import csv
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
from report_examples import (
    figure,
    make_case,
    make_content,
    make_counterfactual,
    make_suspects,
    make_target,
    pictures,
)
from scipy import stats

from jdt.checks import UserError
from jdt.report import add_cases, add_counterfactual, add_suspects, renew_report, write_report
from jdt.report.csvs import csv_bytes
from jdt.report.curves import curve_points
from jdt.report.sections import load_section, load_sections, save_section, section_names


def titles(folder):
    found = re.findall(r'<h2 id="([^"]+)">', (folder / "report.html").read_text())
    return [title for title in found if title != "warnings"]


@pytest.fixture
def copied(study, tmp_path):
    return shutil.copytree(study, tmp_path / "run")


def test_sections_stand_in_one_order_whoever_comes_first(study, tmp_path, content):
    names = ["influences-1", "bias", "counterfactual", "cases", "suspects"]
    last = ["influences-reading", "influences-figures", "influences-provenance"]
    assert titles(study) == names + last
    add_suspects(tmp_path, [make_suspects(np.random.default_rng(0))])
    assert titles(tmp_path) == ["suspects"]
    add_counterfactual(tmp_path, [make_counterfactual()])
    assert titles(tmp_path) == ["counterfactual", "suspects"]
    path = write_report(tmp_path / "report.html", content)
    assert path == tmp_path / "report.html"
    assert titles(tmp_path) == ["influences-1", "counterfactual", "suspects", *last]


def test_a_section_replaces_that_of_its_name_alone(copied):
    before = {name: load_section(copied, name) for name in section_names(copied)}
    add_cases(copied, [make_case(np.random.default_rng(1), title="a new case")])
    after = {name: load_section(copied, name) for name in section_names(copied)}
    assert [name for name in before if before[name] != after[name]] == ["cases"]
    assert "a new case" in (copied / "report.html").read_text()
    add_cases(copied, [make_case(np.random.default_rng(1))], name="more", title="More cases")
    assert {"cases", "more"} < set(titles(copied))


def test_fewer_targets_leave_no_section_behind(tmp_path):
    target = make_target(units=4, classes=("a", "b"), estimators=("ridge",))
    write_report(tmp_path / "report.html", make_content(target, dataclasses.replace(target, target="other")))
    assert "influences-2" in titles(tmp_path)
    write_report(tmp_path / "report.html", make_content(target))
    assert "influences-2" not in titles(tmp_path) + section_names(tmp_path)


def test_sections_come_back_as_they_were_saved(study, tmp_path):
    sections, complaints = load_sections(study)
    assert complaints == []
    assert {type(block).__name__ for section in sections for block in section.blocks} == {
        "Text", "Tiles", "Plate", "Table", "Heatmap", "Strips", "Facts", "Reading"
    }  # fmt: skip
    for section in sections:
        save_section(tmp_path, section)
    assert load_sections(tmp_path) == (sections, [])
    page = (study / "report.html").read_bytes()
    assert renew_report(study).read_bytes() == page


def _set(*keys):
    *where, value = keys

    def change(section):
        for key in where[:-1]:
            section = section[key]
        section[where[-1]] = value

    return change


FAULTS = {
    "of format 2": _set("format", 2),
    "is no block": _set("blocks", 0, "kind", "iframe"),
    "title of section is '7'": _set("title", 7),
    "name of section is 'None'": _set("name", None),
    "holds the section 'other'": _set("name", "other"),
    "has no order": lambda section: section.pop("order"),
    "blocks of section is no list": _set("blocks", {}),
    "is no file of figures/": _set("blocks", 0, "links", ["javascript:alert(1)"]),
    "is no file of figures/ or": _set("blocks", 0, "links", ["figures/../../x.png"]),
    "neither PNG nor WebP": _set("blocks", 0, "image", "kind", "svg+xml"),
    "not in base64": _set("blocks", 0, "image", "data", '"><script>'),
    "an image is neither": _set("blocks", 0, "image", "data", "PHN2Zz4="),
    "width of image is": _set("blocks", 0, "image", "width", "1 onload=x"),
    "name of a figure": _set("blocks", 0, "name", "x y"),
    "not as many cells": _set("blocks", 1, "columns", []),
    "tone of a cell": _set("blocks", 1, "groups", 0, "rows", 0, 0, "tone", "x"),
    "is 'nan' where float": _set("blocks", 1, "groups", 0, "rows", 0, 0, "value", "nan"),
}


@pytest.mark.parametrize("complaint", FAULTS)
def test_a_damaged_section_is_named_and_left_out(complaint, study, tmp_path):
    (tmp_path / "sections").mkdir()
    shutil.copy(study / "sections" / "influences-reading.json", tmp_path / "sections")
    section = json.loads((study / "sections" / "counterfactual.json").read_text())
    FAULTS[complaint](section)
    (tmp_path / "sections" / "counterfactual.json").write_text(json.dumps(section))
    with pytest.raises(UserError, match=complaint):
        load_section(tmp_path, "counterfactual")
    page = renew_report(tmp_path).read_text()
    assert "The section counterfactual is left out" in page
    assert page.count("<script") == 1
    assert titles(tmp_path) == ["influences-reading"]


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": ' * 200, b"\xff", b'{"title": NaN}'])
def test_files_that_are_no_section(content, tmp_path):
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "x.json").write_bytes(content)
    (tmp_path / "sections" / "..odd name.json").write_bytes(content)
    assert "The section x is left out" in renew_report(tmp_path).read_text()


def test_sections_of_later_versions_may_say_more(study, tmp_path):
    section = json.loads((study / "sections" / "suspects.json").read_text())
    section["blocks"][0]["novel"] = section["novel"] = 1
    del section["warnings"]  # As an earlier version might have left out.
    (tmp_path / "sections").mkdir()
    (tmp_path / "sections" / "suspects.json").write_text(json.dumps(section))
    assert load_section(tmp_path, "suspects") == load_section(study, "suspects")


def test_nothing_is_written_through_links(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tables").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="symbolic link"):
        add_counterfactual(tmp_path / "run", [make_counterfactual()])
    assert list((tmp_path / "elsewhere").iterdir()) == []


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))


def test_tables_hold_the_numbers_in_full(study, content):
    tables = study / "tables"
    classes = content.targets[0].estimators["ridge"].classes
    rows = [row for row in read_csv(tables / "1_cifar10_32_fixed_classes.csv") if row["estimator"] == "ridge"]
    assert len(rows) == classes.influence.size
    low, _ = classes.interval()
    for row in rows[::37]:
        at = classes.unit_names.index(row["unit"]), classes.target_names.index(row["class"])
        assert np.float32(row["influence"]) == classes.influence[at]
        assert float(row["low"]) == pytest.approx(low[at])
    assert {path.name for path in tables.iterdir()} == {
        *(f"1_cifar10_32_fixed_{name}.csv" for name in ("classes", "task", "accuracy", "reliability")), "figures.csv",
        *(f"counterfactual_1_cifar10_32_fixed{name}.csv" for name in ("", "_order", "_figures")),
        *(f"bias_{name}.csv" for name in ("bars", "curves", "predictions", "blamed", "figures")),
        "cases.csv", "cases_figures.csv", "suspects_1.csv", "suspects_1_figures.csv",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x", " =1", "\t=1", "\uff1d1"])
def test_no_name_becomes_a_formula(name):
    _, (entry, number) = csv.reader(io.StringIO(csv_bytes(["n", "x"], [[name, -0.5]]).decode()))
    assert entry.startswith("'")
    assert number == "-0.5"


def test_bands_are_of_paired_changes():
    one = make_counterfactual()
    values = one.arms["top"]
    mean, low, high = curve_points(one, values)
    np.testing.assert_allclose(mean, values.mean(axis=1))
    for point in (1, 3):
        change = values[point] - values[0]
        expected = stats.t.interval(0.95, 4, change.mean(), stats.sem(change))
        np.testing.assert_allclose([low[point], high[point]], values[0].mean() + np.array(expected))
    assert low[0] == mean[0] == high[0]
    unpaired = dataclasses.replace(one, removed=one.removed + 1)
    expected = stats.t.interval(0.95, 4, values[1].mean(), stats.sem(values[1]))
    np.testing.assert_allclose([part[1] for part in curve_points(unpaired, values)[1:]], expected)


def test_a_seed_that_lacks_a_model_has_no_change():
    one = make_counterfactual()
    values = one.arms["top"].copy()
    values[0, 2] = np.nan
    mean, low, high = curve_points(one, values)
    change = np.delete(values[1] - values[0], 2)
    expected = stats.t.interval(0.95, 3, change.mean(), stats.sem(change))
    np.testing.assert_allclose(high[1] - low[1], expected[1] - expected[0])
    np.testing.assert_allclose((low[1] + high[1]) / 2, mean[1])


def test_counterfactual_table_and_words(study):
    one = make_counterfactual()
    rows = read_csv(study / "tables" / "counterfactual_1_cifar10_32_fixed.csv")
    top = next(row for row in rows if (row["arm"], row["removed"], row["images"]) == ("top", "12", "report"))
    difference = one.arms["top"][3] - one.arms["random"][3]
    expected = [difference.mean(), *stats.t.interval(0.95, 4, difference.mean(), stats.sem(difference))]
    shown = [float(top[f"minus_random{end}"]) for end in ("", "_low", "_high")]
    np.testing.assert_allclose(shown, expected)
    assert [row["removed"] for row in rows if row["arm"] == "hand-picked"] == ["6"]
    (summary,) = load_section(study, "counterfactual").summary
    bottom = 100 * one.arms["bottom"][3].mean()
    assert f"{bottom:.1f}\xa0% with the 12 most harmful units removed" in summary
    svg = (study / "figures" / "counterfactual_1_cifar10_32_fixed_curve.svg").read_text()
    assert "most helpful units removed" in svg


@pytest.mark.parametrize("seeds", [1, 2])
def test_few_seeds_and_gaps_still_make_a_page(seeds, tmp_path):
    one = make_counterfactual(points=(0, 1), seeds=seeds)
    arms = {arm: np.where(np.arange(2)[:, None] == 1, np.nan, values) for arm, values in one.arms.items()}
    add_counterfactual(tmp_path, [dataclasses.replace(one, arms=arms, optimistic={}, figures={}, order=()), one])
    page = (tmp_path / "report.html").read_text()
    assert "measured at no point" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*|<script>.*?</script>", "", page, flags=re.DOTALL))


def test_what_does_not_fit_is_refused(tmp_path):
    one = make_counterfactual()
    with pytest.raises(UserError, match="no arm"):
        add_counterfactual(tmp_path, [dataclasses.replace(one, arms={})])
    object.__setattr__(one, "removed", np.array([0, 1]))  # Types are checked where one is made, in tests alone.
    with pytest.raises(UserError, match=r"must be \[2 points, seeds\]"):
        add_counterfactual(tmp_path, [one])
    assert list(tmp_path.iterdir()) == []


def test_a_page_of_a_thousand_units_stays_below_ten_megabytes(tmp_path):
    rng = np.random.default_rng(0)
    content = make_content(make_target(units=1000, estimators=("ridge",), truth=False))
    images = pictures(rng, list(content.unit_images), count=2, side=64)
    write_report(tmp_path / "report.html", dataclasses.replace(content, unit_images=images))
    cases = [make_case(rng, title=f"case {i}", movers=8, side=64) for i in range(41)]
    add_cases(tmp_path, cases)
    path = add_suspects(tmp_path, [make_suspects(rng, rows=101, side=224)])
    assert path.stat().st_size < 10e6
    page = path.read_text()
    assert page.count('<tr><th scope="row" data-name=') == 1000
    assert "Shown are the first 100 of 101" in page
    assert "Shown are 40 of 41 cases" in page
    assert len(read_csv(tmp_path / "tables" / "suspects_1.csv")) == 101


def test_numbers_without_intervals_are_shown_without_them(tmp_path):
    rng = np.random.default_rng(0)
    case = make_case(rng)
    bare = tuple(dataclasses.replace(mover, low=None, high=None, z=None) for mover in case.helps)
    add_cases(tmp_path, [dataclasses.replace(case, helps=bare, harms=(), figures={"x": figure(1.0)})], relative=True)
    page = (tmp_path / "report.html").read_text()
    assert "95\N{NO-BREAK SPACE}% " not in page
    assert "than including an average unit does" in page
