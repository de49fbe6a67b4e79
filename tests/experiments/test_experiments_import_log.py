"""Somebody else's results through the analyses: the published log's format, its numbers, and what is refused."""

import json

import numpy as np
import pytest

from experiments import import_log, results
from jdt import analyses, checks

HEADER = "\t" + "\t".join(
    [
        "loss",
        "arch",
        "us",
        "ds",
        "us_epochs",
        "us_lr",
        "us_bs",
        "us_wd",
        "ds_epochs",
        "ds_lr",
        "ds_bs",
        "ds_wd",
        "zero",
        "1",
        "5",
        "10",
        "20",
        "full",
        "100",
        "200",
    ]
)
# Rows of the published log (arXiv 2302.13602): method, network, source, target, ds_lr and accuracies in per cent.
ROWS = """\
CLIP RN50 CC3m REAL 0.0001 3.768 27.014 39.478 52.377 80.602
CLIP RN50 CC3m REAL 0.0003 8.986 31.652 43.449 54.623 82.702
CLIP RN50 CC12m REAL 0.0003 8.986 30.783 43.913 55.377 82.748
CLIP RN50 Redcaps2.7m REAL 0.0003 7.536 30.957 42.493 53.971 82.923
CLIP RN50 YFCC2.7m REAL 0.0003 6.087 26.899 37.971 49.232 82.172
CLIP RN50 LAION2.7m REAL 0.0003 8.406 31.246 43.681 54.899 82.752
CLIP RN50 WIT2.7m REAL 0.0003 5.217 23.072 33.797 45.928 81.772
CLIP RN50 Shutterstock2.7m REAL 0.0003 7.826 29.739 42.551 54.580 82.769
CLIP RN50 LAION1m REAL 0.001 5.797 24.058 33.304 46.261 82.3
CLIP RN50 LAION15m REAL 0.0001 8.406 41.913 54.174 63.159 84.5
CLIP RN50 LAION15m REAL 0.0003 13.333 42.319 51.913 61.043 -1
CLIP VITB32 LAION2B REAL 3E-05 11.884 44.174 59.855 70.464 88
CLIP RN50 Scratch REAL 0.0003 - - - - 77.76
Supervised RN50 IN1K REAL 0.0001 22.029 55.246 62.899 69.043 85.1
CLIP_LP-FT RN50 CC12m REAL 0.003 13.623 49.565 71.71 80.739 -
SimCLR_LP-FT RN50 CC12m REAL 0.0003 39.42 53.507 56.522 60.783 77
"""


def log(rows=ROWS):
    """The file as published: separated by tabs, with a column of row numbers and blanks where nothing was run."""
    lines = [HEADER]
    for i, row in enumerate(rows.splitlines()):
        method, network, source, target, rate, *few, full = row.replace(" -", " _").split()
        cells = [i, method, network, source, target, 16, 0.001, 1024, 0.1, 128, rate, 128, 0.1, "", *few, full, "", ""]
        lines.append("\t".join("" if cell == "_" else str(cell) for cell in cells).replace("_1", "-1"))
    return "\n".join(lines) + "\n"


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "Hyperparameters_results.csv"
    path.write_text(log())
    return path


def test_reads_the_published_format(written):
    found = analyses.read_accuracy_log(written)
    assert len(found.accuracy) == 16 * 5 - 1 - 4 - 1
    assert (found.method[-1], found.transfer[-1], found.transfer[0]) == ("SimCLR", "LP-FT", "FT")
    assert (found.shots[4], found.accuracy[4], found.row[4]) == (None, pytest.approx(0.80602), 2)
    cells = {(cell.method, cell.source, cell.shots): cell for cell in analyses.best_of_grid(found)}
    best = cells["CLIP", "LAION15m", 10]
    assert (best.accuracy, best.attempts, "ds_lr 0.0001" in best.setting) == (0.54174, 2, True)
    assert cells["CLIP", "LAION15m", None].attempts == 1


def test_gives_the_published_figures_and_says_what_they_are(written, tmp_path):
    out = tmp_path / "out"
    curve = ("LAION1m=1e6", "LAION2.7m=2.7e6", "LAION15m=15e6")
    import_log.main(import_log.Config(written, out, curve=curve))
    found = json.loads((out / "log.json").read_text())
    spread = next(one for one in found["spreads"] if one["method"] == "CLIP" and one["transfer"] == "FT")
    np.testing.assert_allclose(
        [spread["spread"][k] for k in ("1", "5", "10", "20", "all")], [0.038, 0.086, 0.101, 0.094, 0.012], atol=6e-4
    )
    assert spread["fade"] == pytest.approx(0.0115 / 0.1012, abs=0.001)
    beyond = next(one for one in found["equivalence"] if one["shots"] == "all")
    assert (beyond["images"], beyond["ratio"]) == ("> 15,000,000", "> 11.7")
    assert (found["selected_on"], found["intervals"]) == ("test", None)
    page = (out / "report.html").read_text()
    assert "best of its grid on the test set" in page
    assert "no figure has an interval" in page
    assert found["images_tested"][:2] == [
        {"target": "REAL", "shots": 1, "images": 345, "fitting": 12, "accuracies": 12},
        {"target": "REAL", "shots": 5, "images": 1725, "fitting": 15, "accuracies": 15},
    ]
    assert "REAL (345 at 1 shot, 1,725 at 5 shots" in page
    gap = {(one["method"], one["other"], one["transfer"], one["shots"]): one["gap"] for one in found["gaps"]}
    assert gap["SimCLR", "CLIP", "LP-FT", "1"] == pytest.approx(0.3942 - 0.13623)
    assert {transfer for _, _, transfer, _ in gap} == {"LP-FT"}  # Never FT with LP-FT.
    results.main(results.Config(runs=(out,), out=tmp_path / "results.md"))
    told = (tmp_path / "results.md").read_text()
    assert "| CLIP | FT | REAL | 3.8 | 8.6 | 10.1 | 9.4 | 1.2 | 11% |" in told
    assert "| REAL | CLIP | FT | LAION1m to LAION15m | IN1K, Supervised | > 15,000,000 | > 11.7 |" in told
    assert "| REAL | 1 | 345 | 12 of 12 |" in told
    first = (out / "cells.csv").read_bytes()
    import_log.main(import_log.Config(written, out, curve=(*curve, "LAION2B=2e9")))
    again = json.loads((out / "log.json").read_text())
    within = next(one for one in again["equivalence"] if one["shots"] == "all")
    assert 11.7 < float(within["ratio"].replace(",", "")) < 1600
    assert (out / "cells.csv").read_bytes() == first


def test_logs_that_were_imported_before_are_to_be_imported_again(tmp_path):
    (tmp_path / "log.json").write_text('{"cells": [], "notes": []}')
    with pytest.raises(checks.UserError, match=r"lacks equal, .*: run experiments.import_log once more"):
        results.main(results.Config(runs=(tmp_path,), out=tmp_path / "results.md"))


def measured(images, decimals, count=40, seed=0):
    """A log of accuracies, with so many decimals of a per cent, on so many test images at each number of shots."""
    rng, words = np.random.default_rng(seed), ("",) * count
    parts = [(k, np.round(rng.integers(1, n, count) / n, decimals + 2)) for k, n in images.items()]
    shots = tuple(k for k, _ in parts for _ in range(count))
    accuracy = np.concatenate([values for _, values in parts])
    repeated = words * len(parts)
    return analyses.AccuracyLog(*[repeated] * 4, ("t",) * len(shots), shots, repeated, accuracy, np.arange(len(shots)))


@pytest.mark.parametrize("decimals", [2, 3, 5])
def test_accuracies_tell_how_many_images_they_were_measured_on(decimals):
    images = {1: 30, 5: 150, 20: 600, None: 1987}
    found = analyses.images_tested(measured(images, decimals))
    assert {one.shots: one.images for one in found} == images
    assert analyses.drawn_tests(found) == {"t": 30}
    whole = analyses.images_tested(measured(dict.fromkeys(images, 1987), decimals))
    assert {one.images for one in whole} == {1987}
    assert not analyses.drawn_tests(whole)


@pytest.mark.parametrize(("decimals", "count"), [(2, 40), (3, 40), (3, 3), (0, 40)])
def test_of_accuracies_that_are_no_shares_of_few_images_nothing_is_said(decimals, count):
    for seed in range(10):  # Of ten million images: any number of so many decimals.
        assert not analyses.images_tested(measured({1: 10**7, None: 10**7}, decimals, count, seed))


def of_shares(counts, images, decimals=7):
    """A log of so many images right, out of so many, by shots."""
    shots = tuple(k for k in counts for _ in counts[k])
    accuracy = np.array([round(n / images, decimals) for k in counts for n in counts[k]])
    words = ("",) * len(shots)
    return analyses.AccuracyLog(*[words] * 4, ("t",) * len(shots), shots, words, accuracy, np.arange(len(shots)))


def test_even_shares_are_not_taken_for_shares_of_half_the_images():
    counts = [*range(2, 26, 2), *range(1, 22, 2)]  # Of 40 images, even ones have two decimals and odd ones three.
    found = analyses.images_tested(of_shares({1: counts}, 40))
    assert [(one.images, one.accuracies) for one in found] == [(40, 23)]


def test_accuracies_that_are_rounded_to_tenths_say_nothing():
    assert not analyses.images_tested(of_shares({1: range(1, 10)}, 10))


def test_few_accuracies_do_not_tell_that_test_images_were_drawn():
    found = analyses.images_tested(of_shares({1: [1000, 2000], 5: [200, 1400]}, 3000))
    assert [(one.shots, one.images) for one in found] == [(1, 3), (5, 15)]
    assert not analyses.drawn_tests(found)  # They were the same 3,000 at all shots.


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_accuracies_that_are_all_alike_say_nothing(value):
    log = of_shares({1: [value] * 9, None: [value] * 9}, 1)
    assert not analyses.images_tested(log)


def test_other_names_shares_and_commas(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("data,task,how,5,full\na,t,CLIP,0.5,nan\nb,t,CLIP,0.25,1\n\n")
    columns = analyses.LogColumns(source="data", target="task", method="how")
    found = analyses.read_accuracy_log(path, columns, percent=False)
    table = analyses.cell_table(
        analyses.best_of_grid(found), "CLIP", "FT", targets=["t"], shots=[5, None], sources=["a", "b"]
    )
    np.testing.assert_array_equal(table, [[[0.5, 0.25], [np.nan, 1]]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("82.702", "eighty", r"row 3, column 'full' is 'eighty'"),
        ("82.702", "827.02", r"row 3, column 'full' is '827.02', but an accuracy from 0 to 100"),
        ("\tSupervised", "\t", r"row 15, column 'loss' is empty"),
        ("\tus\t", "\tupstream\t", r"no column 'us'; its columns: loss, arch, upstream"),
        ("\t82.702\t\t", "\t82.702", r"row 3 has 19 cells, but the header has 21"),
    ],
)
def test_refuses_by_row_and_column(written, old, new, message):
    written.write_text(log().replace(old, new, 1))
    with pytest.raises(checks.UserError, match=message):
        analyses.read_accuracy_log(written)


def test_refuses_what_the_log_does_not_have(written, tmp_path):
    with pytest.raises(checks.UserError, match="unknown source 'LAION'"):
        import_log.main(import_log.Config(written, tmp_path / "out", equal=("LAION",)))
    with pytest.raises(checks.UserError, match="NAME=IMAGES"):
        import_log.main(import_log.Config(written, tmp_path / "out", curve=("LAION1m=many",)))
    with pytest.raises(checks.UserError, match="cannot be read"):
        analyses.read_accuracy_log(tmp_path / "nothing.csv")
