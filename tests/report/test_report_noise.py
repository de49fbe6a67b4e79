"""The section of noisy pre-training: every number with its interval, signs said beside it, nothing empty shown."""

import csv
import dataclasses
import io
import json
import math
import re

import numpy as np
import pytest
from noise_examples import RATES, SEEDS, TUNERS, make_bars, make_noise, share
from report_examples import figure, poisoned, read

from jdt.checks import UserError
from jdt.report import Noise, NoiseBar, add_noise
from jdt.report.noise_plots import rate_looks, tuner_looks
from jdt.report.requirements import bar_sentence, figure_words
from jdt.report.sections import load_section, save_section


@pytest.fixture
def undrawn(monkeypatch):
    """Drawing takes time."""
    monkeypatch.setattr("jdt.report.noise.noise_pictures", lambda _: iter(()))


def plain(text):
    return re.sub(r"\s+", " ", text).replace("\N{MINUS SIGN}", "-")


def in_words(path):
    return plain("".join(read(path.read_text("utf-8")).words))


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))


def test_every_part_is_drawn_and_every_string_is_escaped(tmp_path):
    plain_one = make_noise(views=("edges",))
    plain_one = dataclasses.replace(
        plain_one, spectra=plain_one.spectra[:1], fractions=plain_one.fractions[:1], robustness=()
    )  # Drawing takes time.
    hostile = poisoned(plain_one)
    # What is no free text stays what it is.
    bars = zip(hostile.bars, plain_one.bars, strict=True)
    hostile = dataclasses.replace(
        hostile, bars=tuple(dataclasses.replace(bad, verdict=bar.verdict) for bad, bar in bars)
    )
    path = add_noise(tmp_path, hostile, warnings=(hostile.title,))
    text = path.read_text("utf-8")
    reader = read(text)
    assert text.count("<script") == text.count("</script") == 1
    assert reader.wrong == reader.open == []
    assert not [c for c in text if ord(c) < 32 and c != "\n"]
    said = "".join(reader.words)
    shown = [hostile.title, hostile.text, hostile.sets[0].name, hostile.bars[0].asked, hostile.suspects.units[0].name,
             hostile.suspects.examples[0].suggested, *hostile.figures, *hostile.suspects.retraining]  # fmt: skip
    assert [name for name in shown if name.removesuffix("\0\x1b[2J\ud800") not in said] == []
    json.loads((tmp_path / "sections" / "noise.json").read_text("utf-8"))
    section = load_section(tmp_path, "noise")
    plates = [block for block in section.blocks if type(block).__name__ == "Plate"]
    assert {plate.name for plate in plates} == {"lines", "spectrum", "scatter", "ablation", "roc", "retraining"}
    for plate in plates:
        assert all((tmp_path / link).stat().st_size > 100 for link in plate.links)
        assert [link.rpartition(".")[2] for link in plate.links] == ["png", "svg", "csv"]
        assert len(plate.image.alt) > 60
    save_section(tmp_path / "copy", section)
    assert load_section(tmp_path / "copy", "noise") == section


def test_the_page_says_verdicts_signs_and_intervals(undrawn, tmp_path):
    path = add_noise(tmp_path, make_noise())
    text = in_words(path)
    for said in (
        "C3 (reached): OOD accuracy falls from 0 to 30 % noise. Found: +5.1 pp (+4.3 to +5.9); Spearman -1.00.",
        "Of 6 requirements that were fixed before the run: 3 reached (C0, C3, C6); 1 MISSED (C4); 1 exploratory "
        "(C5); 1 not run (C9).",
        "C5 (exploratory): Slight noise helps in domain. Found: +0.1 pp (-0.7 to +0.9); -0.2 pp at 5 %",
        "SVE is the entropy of the singular values in nats: higher = flatter. LSVR = -ln(σ₁/Σσ): higher = less "
        "dominated by one direction.",
        "centred by column (each feature minus its mean over the images)",
        "0.7 (0.4 to 0.9) rank correlation",
        "confident learning 0.93 (0.92 to 0.94)",
        "What does label noise in the source data do to transfer",
        "NMTune (code form)",
        "before tuning (frozen features)",
        "first by influence",
    ):
        assert said in text, said
    assert text.count("LSVR = -ln(σ₁/Σσ)") >= 2  # Beside the figures and beside the table.
    assert "· noisy pre-training</title>" in path.read_text("utf-8")


def test_tables_hold_the_numbers_in_full(undrawn, tmp_path):
    found = make_noise()
    add_noise(tmp_path, found)
    rows = rows_of(tmp_path / "tables" / "noise_accuracy.csv")
    assert len(rows) == len(found.sets) * len(TUNERS) * len(RATES)
    row = next(r for r in rows if (r["role"], r["tuner"], r["noise"]) == ("OOD", "mlp", "0.3"))
    accuracy, effect = found.sets[1].accuracy["mlp"][-1], found.sets[1].effect["mlp"][-1]
    assert [float(row[name]) for name in ("accuracy", "low", "high")] == [accuracy.value, accuracy.low, accuracy.high]
    assert [float(row[f"effect_{x}"]) for x in ("value", "low", "high")] == [effect.value, effect.low, effect.high]
    values = rows_of(tmp_path / "tables" / "noise_singular_values.csv")
    assert [float(r["share"]) for r in values[:24]] == found.spectra[0].curve[0].tolist()
    dots = rows_of(tmp_path / "tables" / "noise_scatters.csv")
    assert len(dots) == len(found.scatters) * len(RATES) * SEEDS
    (gain,) = (
        r for r in rows_of(tmp_path / "tables" / "noise_tuning.csv")
        if (r["noise"], r["tuner"], r["compared_with"], r["role"]) == ("0.3", "nmtune", "linear", "OOD")
    )  # fmt: skip
    assert float(gain["value"]) == found.tuning[-2].gain["linear"]["OOD"].value
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {
        f"noise_{name}" for name in ("bars", "accuracy", "spectra", "singular_values", "scatters", "robustness",
                                     "tuning", "ablation", "fractions", "roc", "units", "retraining", "examples",
                                     "figures")
    }  # fmt: skip


def test_what_was_not_measured_is_left_out_and_never_a_zero(tmp_path):
    missing = figure(math.nan, n=0, unit="share")
    one = dataclasses.replace(
        make_noise().sets[0], accuracy={"linear": (share(0.5), missing), "mlp": (missing, missing)}, effect={}
    )
    path = add_noise(tmp_path, Noise("A study", "", (0.0, 0.3), sets=(one,)))
    text = in_words(path)
    assert text.count("not measured") == 3
    assert not re.search(r"\bnan\b", path.read_text("utf-8").lower().split("<body>")[1].split("base64")[0])
    for absent in ("spectrum", "What tuning repairs", "Which source labels", "Key figures", "What was asked"):
        assert absent not in text
    assert [row["accuracy"] for row in rows_of(tmp_path / "tables" / "noise_accuracy.csv")] == ["0.5", "", "", ""]


def test_bars_say_what_they_are():
    assert figure_words(figure(0.5, 0.4, 0.6, unit="share")) == "50.0\N{NO-BREAK SPACE}% (40.0 to 60.0)"
    assert plain(bar_sentence(make_bars()[-1])) == "C9 (not run): More target images never hurt."
    missed = NoiseBar("C4", "LSVR rises.", "rho 0.2.", "missed")
    assert bar_sentence(missed) == "C4 (MISSED): LSVR rises. Found: rho 0.2."


def test_tuners_and_rates_look_different_and_the_same_in_every_figure():
    looks = tuner_looks([*TUNERS, "nmtune-no-consistency", "nmtune-no-covariance", "nmtune-no-dominance", "other"])
    assert len({look[:2] for look in looks.values()}) == len(looks)
    assert looks["nmtune"] == tuner_looks(["nmtune"])["nmtune"]
    shades = rate_looks(RATES)
    assert len({marker for _, marker, _ in shades.values()}) == len({colour for colour, *_ in shades.values()}) == 5


def _with_first(part, **changes):
    return lambda found: dataclasses.replace(
        found, **{part: (dataclasses.replace(getattr(found, part)[0], **changes), *getattr(found, part)[1:])}
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda found: Noise("empty", "", found.rates), "has nothing to show"),
        (lambda found: dataclasses.replace(found, rates=(0.3, 0.0)), "must ascend"),
        (_with_first("bars", verdict="passed"), "unknown verdict of C0 'passed'; known: reached"),
        (_with_first("sets", accuracy={"mlp": (share(0.5),)}), "has 1 figures, but there are 5 noise rates"),
        (_with_first("spectra", curve=np.ones((2, 3))), "has 2 curves, but there are 5"),
        (_with_first("fractions", fractions=(0.5,)), "has 5 figures, but there are 1 fractions"),
        (_with_first("scatters", x=np.zeros(3)), "3 x, 25 y and 25 noise rates"),
    ],
)
def test_what_does_not_fit_is_refused(change, complaint, tmp_path):
    with pytest.raises(UserError, match=complaint):
        add_noise(tmp_path, change(make_noise(views=())))
    assert list(tmp_path.iterdir()) == []
