"""The section of pre-training data: numbers with intervals, what is not reached said, nothing empty shown."""

import csv
import dataclasses
import io
import json
import math
import re

import pytest
import rich.console
from pretraining_examples import NAMES, SHOTS, SIZES, change, make_pretraining, make_sizes, share
from report_examples import figure, poisoned, read

from jdt.checks import UserError
from jdt.report import Pretraining, PretrainingAccuracy, PretrainingRanking, add_pretraining, ranking_table, shots_table
from jdt.report.pretraining_pictures import heat_shots, ranked_sources
from jdt.report.pretraining_plots import MOST_LINES, shot_places, source_looks
from jdt.report.pretraining_words import images_words, needed_interval, needed_words, ratio_words, size_sentence
from jdt.report.sections import load_section, save_section


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes time."""
    monkeypatch.setattr("jdt.report.pretraining.pretraining_pictures", lambda _: iter(()))


def plain(text):
    return re.sub(r"\s+", " ", text).replace("\N{MINUS SIGN}", "-")


def in_words(path):
    return plain("".join(read(path.read_text("utf-8")).words))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def on_terminal(table):
    console = rich.console.Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table)
    return console.file.getvalue()


def without_intervals(value):
    """As an imported log has its numbers: one run each."""
    if hasattr(value, "low"):
        return dataclasses.replace(value, low=None, high=None, n=1)
    if dataclasses.is_dataclass(value):
        fields = {one.name: without_intervals(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {key: without_intervals(item) for key, item in value.items()}
    return tuple(map(without_intervals, value)) if isinstance(value, tuple) else value


def test_every_part_is_drawn_and_every_string_is_escaped(tmp_path):
    plain_one = make_pretraining(NAMES[:2], ("digits",), (("supervised", "LP"),))
    plain_one = dataclasses.replace(plain_one, sizes=plain_one.sizes[:1])  # Drawing takes time.
    hostile = poisoned(plain_one)
    # What is no free text stays what it is.
    bars = zip(hostile.bars, plain_one.bars, strict=True)
    hostile = dataclasses.replace(
        hostile, bars=tuple(dataclasses.replace(bad, verdict=bar.verdict) for bad, bar in bars)
    )
    path = add_pretraining(tmp_path, hostile, warnings=(hostile.title,))
    text = path.read_text("utf-8")
    reader = read(text)
    assert text.count("<script") == text.count("</script") == 1
    assert reader.wrong == reader.open == []
    assert not [c for c in text if ord(c) < 32 and c != "\n"]
    said = "".join(reader.words)
    shown = [hostile.title, hostile.text, hostile.bars[0].asked, hostile.sources[0].text, hostile.accuracies[0].source,
             hostile.optimism[0].chosen, hostile.zero_shot[0].classes_of, *hostile.figures]  # fmt: skip
    assert [name for name in shown if name.removesuffix("\0\x1b[2J\ud800") not in said] == []
    json.loads((tmp_path / "sections" / "pretraining.json").read_text("utf-8"))
    section = load_section(tmp_path, "pretraining")
    plates = [block for block in section.blocks if type(block).__name__ == "Plate"]
    assert {plate.name for plate in plates} == {"shots", "heat", "spread", "sizes", "dots", "optimism", "zero_shot"}
    for plate in plates:
        assert all((tmp_path / link).stat().st_size > 100 for link in plate.links)
        assert [link.rpartition(".")[2] for link in plate.links] == ["png", "svg", "csv"]
        assert len(plate.image.alt) > 60
    save_section(tmp_path / "copy", section)
    assert load_section(tmp_path / "copy", "pretraining") == section


def test_the_page_says_verdicts_fades_and_what_images_are_worth(undrawn, tmp_path):
    path = add_pretraining(tmp_path, make_pretraining())
    text = in_words(path)
    for said in (
        "D2 (reached): The spread fades from few shots to full data. Found: +9.0 pp (+8.0 to +10.0); on both targets.",
        "Of 5 requirements that were fixed before the run: 2 reached (D0, D2); 1 MISSED (D5); 1 exploratory (D7); 1 "
        "not judged (D1).",
        "cifar10_32 (supervised, LP): sources are apart by 13.0 pp (11.8 to 14.2) at 20 shots (near before pixels) "
        "and 4.0 pp (2.8 to 5.2) with full data (near before pixels); 31 % (18 to 46) of the few-shot spread is left "
        "with full data (a fade of +9.0 pp, +7.0 to +11.0: beyond noise).",
        "2k images of near, grey are worth 1.44k (980 to 2.21k) of near, a ratio of 0.72 (0.49 to 1.1).",
        "4k images of near, clean labels are worth > 8k (7.1k to > 8k) of near: the curve does not reach them.",
        "Which source to take: cifar10_32, 5 shots",
        "Six more seeds, about 4 minutes, would tell the first two apart",
        "LP: linear probe.",
        "Which pre-training data and method are best for a target",
    ):
        assert said in text, said
    assert "· pre-training data</title>" in path.read_text("utf-8")


def test_tables_hold_the_numbers_in_full(undrawn, tmp_path):
    found = make_pretraining()
    add_pretraining(tmp_path, found)

    def table(name):
        return rows_of(tmp_path / "tables" / f"pretraining_{name}.csv")

    rows = table("accuracy")
    assert len(rows) == sum(len(one.accuracy) for one in found.accuracies)
    one = found.accuracies[0]
    (row,) = (
        r for r in rows
        if (r["method"], r["source"], r["target"], r["shots"]) == (one.method, one.source, one.target, "full")
    )  # fmt: skip
    wanted = one.accuracy[None]
    assert [float(row[name]) for name in ("accuracy", "low", "high", "n")] == [
        wanted.value,
        wanted.low,
        wanted.high,
        15,
    ]
    size = [r for r in table("size") if r["reference"] == "near, clean labels"]
    assert {r["images_needed"] for r in size} == {"inf"}  # Not empty: that would be "not asked".
    assert [int(r["images"]) for r in size] == [*SIZES, *SIZES]
    assert float(table("gap")[0]["examples_low"]) == found.gaps[0].examples.low
    assert len(table("optimism")) == len(found.optimism)
    assert {path.stem.removeprefix("pretraining_") for path in (tmp_path / "tables").iterdir()} == {
        "bars", "sources", "accuracy", "spread", "size", "label_worth", "gap", "gain", "optimism", "stability",
        "zero_shot", "ranking", "figures",
    }  # fmt: skip


def test_one_run_has_no_interval_and_says_so(undrawn, tmp_path):
    text = in_words(add_pretraining(tmp_path, without_intervals(make_pretraining())))
    assert "No intervals: one run a number." in text
    assert "With 95 % intervals" not in text
    assert "sources are apart by 13.0 pp at 20 shots" in text
    assert not re.search(r"\bnan\b|\bNone\b", text)


def test_what_was_not_measured_is_left_out_and_never_a_zero(tmp_path):
    missing = figure(math.nan, n=0, unit="share")
    cells = (
        PretrainingAccuracy("clip", "a", "pets", "FT", {1: share(0.4), None: missing}),
        PretrainingAccuracy("clip", "b", "pets", "FT", {None: missing}),
        PretrainingAccuracy("clip", "a", "dtd", "FT", {1: missing}),
    )
    path = add_pretraining(tmp_path, Pretraining("A study", "", (1, None), accuracies=cells))
    text = in_words(path)
    assert text.count("not measured") == 3
    assert not re.search(r"\bnan\b", path.read_text("utf-8").lower().split("<body>")[1].split("base64")[0])
    for absent in ("Spread", "are as good", "Optimism", "Key figures", "What was asked"):
        assert absent not in text
    assert [row["accuracy"] for row in rows_of(tmp_path / "tables" / "pretraining_accuracy.csv")] == ["0.4", "", "", ""]


def test_many_sources_keep_apart():
    few = source_looks(["scratch", *NAMES[:-1]])
    assert len({look[:2] for look in few.values()}) == len(few) == len(NAMES)
    many = source_looks([f"source {i}" for i in range(20)])
    assert [*many] == [f"source {i}" for i in (0, 1, 2, 17, 18, 19)]
    assert len({colour for colour, *_ in many.values()}) == len(many) <= MOST_LINES


def test_sources_are_ranked_over_what_each_has():
    def cell(source, target, value):
        return PretrainingAccuracy("clip", source, target, "FT", {5: share(value)})

    found = [
        cell("a", "t", 0.3),
        cell("b", "t", 0.5),
        cell("b", "u", 0.1),
        cell("c", "u", 0.2),
        cell("a", "u", math.nan),
    ]
    assert ranked_sources(found) == ["c", "b", "a"]


def test_shots_stand_in_their_order_and_full_data_last():
    places = shot_places((0, 1, 5, 100, None))
    assert [*places] == [0, 1, 5, 100, None]
    assert list(places.values()) == sorted(places.values())
    assert heat_shots(make_pretraining()) == (20, None)
    assert heat_shots(dataclasses.replace(make_pretraining(), heat_shots=5)) == (5, None)


def _needing(value, low=None, high=None):
    one = make_sizes()
    ends = [end and end / 2000 for end in (low, high)]
    by = dataclasses.replace(
        one.references[0], needed=figure(value, low, high, 5, "images"), ratio=figure(value / 2000, *ends, 5, "ratio")
    )
    return dataclasses.replace(one, references=(by,)), by


@pytest.mark.parametrize(
    ("needed", "words", "interval", "ratio"),
    [
        ((3000.0, 1500.0, math.inf), "3k", "1.5k to > 8k", "1.5 (0.75 to > 4.0)"),
        ((math.inf, math.inf, math.inf), "> 8k", "> 8k", "> 4.0"),
        ((500.0, 500.0, 900.0), "≤ 500", "500 to 900", "≤ 0.25 (0.25 to 0.45)"),
        ((3000.0,), "3k", "", "1.5"),
        ((math.nan,), "not measured", "", "not measured"),
    ],
)
def test_what_images_are_worth_is_never_extrapolated(needed, words, interval, ratio):
    one, by = _needing(*needed)
    assert needed_words(by, one.sizes) == words
    assert needed_interval(by, one.sizes) == interval
    assert ratio_words(by, one.sizes) == ratio
    assert ("does not reach" in size_sentence(one, by)) == math.isinf(needed[0])


def test_numbers_of_images_are_short():
    assert [images_words(x) for x in (500, 999.7, 12_500, 2.7e6, 2e9)] == ["500", "1k", "12.5k", "2.7M", "2B"]


def test_the_terminal_has_rankings_and_accuracies():
    found = make_pretraining()
    said = on_terminal(ranking_table(found.rankings[0]))
    for words in (
        "sources for cifar10_32, 5 shots",
        "near, grey",
        "39.8-42.2",
        "-2.5 to +0.5",
        "71 %",
        "Six more seeds",
    ):
        assert words in said, words
    hostile = dataclasses.replace(
        found.rankings[0].candidates[0], source="[red]x[/nonsense]\x1b[2J", behind=change(0.0)
    )
    said = on_terminal(ranking_table(PretrainingRanking("[b]t", 1, (hostile,))))
    assert "[red]x" in said
    assert "[b]t" in said
    assert "\x1b" not in said
    said = on_terminal(shots_table(found.accuracies[: len(NAMES)], SHOTS))
    assert "accuracy (%), cifar10_32, supervised, LP" in said
    assert "35.8-38.2" in said


def _with_first(part, **changes):
    return lambda found: dataclasses.replace(
        found, **{part: (dataclasses.replace(getattr(found, part)[0], **changes), *getattr(found, part)[1:])}
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: Pretraining("empty", "", found.shots), "has nothing to show"),
        (lambda found: dataclasses.replace(found, shots=(None, 1)), "must ascend"),
        (lambda found: dataclasses.replace(found, shots=(1, None)), "5 shots"),
        (_with_first("bars", verdict="passed"), "unknown verdict of D0 'passed'; known: reached"),
        (_with_first("accuracies", accuracy={7: share(0.5)}), "has 7 shots, but the study has 1 shot, 5 shots"),
        (_with_first("sizes", sizes=(2, 1)), "they must ascend"),
        (_with_first("sizes", sizes=(1, 2)), "has 5 figures, but there are 2 sizes"),
        (_with_first("label_worth", references=()), "has no clean reference"),
    ],
)
def test_what_does_not_fit_is_refused(change, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        add_pretraining(tmp_path, change(make_pretraining()))
    assert list(tmp_path.iterdir()) == []
