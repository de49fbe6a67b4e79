"""Bars of noisy pre-training on made-up measurements: each can be reached and missed."""

import dataclasses
import json
import types

import numpy as np
import pytest

import jdt
from experiments import noise_bars
from experiments.noise_measures import Accuracy, ByClass, Measured, Spectrum
from experiments.noise_setup import CODE, LINEAR, MLP, PAPER, SCRATCH, Config, Variant, rate_name

RATES = (0.0, 0.05, 0.1, 0.2, 0.3)
SEEDS = 5
WHOLE, PART, MIXED = Variant("t", "t"), Variant("t", "t@50%", 0.5), Variant("t", "t@shuffled", is_shuffled=True)
CONFIG = Config(out="nowhere")


def values(rng, level, slope=0.0, rates=RATES):
    """A line in the rate for every seed; models from scratch are 0.2 worse than those without noise."""
    arms = np.r_[level + slope * np.array(rates), level - 0.2]
    return arms[:, None] + rng.normal(0, 2e-3, SEEDS) + rng.normal(0, 2e-4, (len(arms), SEEDS))


def measured(
    *, harm=0.3, lsvr=1.0, over_linear=0.02, over_mlp=0.0, part=-0.05, chance=0.5, apart=0.0, ood=True, rates=RATES
):
    """What noise costs and does to LSVR by its rate; what NMTune gains; what half of a target lacks, and shuffling."""
    rng = np.random.default_rng(1)
    levels = {LINEAR: 0.6, MLP: 0.6 + over_linear - over_mlp, PAPER: 0.6 + over_linear, CODE: 0.6 + over_linear}
    found, spectra = [], []
    for mode, level in levels.items():
        found.append(Accuracy(WHOLE, mode, "", values(rng, level + 0.2, -0.05, rates)))
        found.append(Accuracy(PART, mode, "", values(rng, level + 0.2 + part, -0.05, rates)))
        found.append(Accuracy(MIXED, mode, "", values(rng, chance, 0.0, rates) + 0.2 * np.eye(len(rates) + 1)[-1:].T))
        if ood:
            found.append(Accuracy(WHOLE, mode, "blur", values(rng, level, -harm, rates)))
            for center in ("column", "row"):
                rows = values(rng, 1.0, lsvr, rates)
                spectra.append(Spectrum(WHOLE, mode, "blur", center, rows, rows, np.empty(0)))
    by_class = {(MIXED.name, mode): ByClass(np.array([chance - apart, chance + apart]), 0.5) for mode in levels}
    arms = (*map(rate_name, rates), SCRATCH)
    return Measured(arms, np.array(rates), values(rng, 0.8), tuple(found), tuple(spectra), by_class)


def study(labels=(0, 1) * 200, flipped=None, classes=("a", "b")):
    """As much of a study as bars look at."""
    labels = np.array(labels, np.int32)
    data = jdt.data.from_arrays("t", np.zeros((len(labels), 1, 1, 1), np.uint8), labels, classes)
    target = types.SimpleNamespace(name="t", test=data)
    base = types.SimpleNamespace(source=data, targets=(target,))
    noise = types.SimpleNamespace(flipped=flipped)
    return types.SimpleNamespace(rates=RATES, base=base, noise=noise, inside=np.ones(len(labels), bool))


def one(verdicts, start):
    (found,) = (verdict for verdict in verdicts if verdict.name.startswith(start))
    return found.passed


CASES = [
    ("C3", {}, True),
    ("C3", {"harm": 0.0}, False),
    ("C3", {"harm": -0.3}, False),
    ("C3", {"ood": False}, None),
    ("C4", {}, True),
    ("C4", {"lsvr": -1.0}, False),
    ("C4", {"ood": False}, None),
    ("C6, nmtune repairs", {}, True),
    ("C6, nmtune repairs", {"over_linear": 0.002}, False),
    ("C6, nmtune repairs", {"over_mlp": -0.01}, False),
    ("C6, nmtune repairs", {"over_mlp": -0.001}, True),
    ("C6, nmtune-code repairs", {"over_linear": -0.02}, False),
    ("C8, linear", {}, True),
    ("C8, mlp", {"chance": 0.6}, False),
    ("C8, nmtune", {"chance": 0.4}, False),
    ("C8, nmtune", {"chance": 0.4, "apart": 0.2}, True),  # Classes are right or wrong as a whole.
    ("C9, linear", {}, True),
    ("C9, nmtune", {"part": 0.05}, False),
]


@pytest.mark.parametrize(("name", "changes", "passed"), CASES, ids=lambda value: str(value))
def test_a_bar_is_reached_or_missed(name, changes, passed):
    found = measured(**changes)
    verdicts = [
        noise_bars.harm(found), noise_bars.spectrum(found), *noise_bars.repair(found),
        *noise_bars.shuffled(study(), found), *noise_bars.fractions(found),
    ]  # fmt: skip
    assert one(verdicts, name) is passed


def test_a_model_that_diverged_is_no_evidence():
    """Where no seed has both rates there is no difference; one that is missing is left out of the pairs."""
    found = measured()
    values = next(row.values for row in found.accuracies if row.view and row.mode == LINEAR)
    values[-2, 0] = np.nan  # Scratch is last.
    told = noise_bars.harm(found)
    assert told.passed
    assert told.figures["cost"].pairs == SEEDS - 1
    values[-2] = np.nan
    assert noise_bars.harm(found).passed is None


def test_one_seed_and_two_rates_test_nothing():
    """Neither reached nor missed, and no interval of nothing in the words."""
    found = measured()
    alone = dataclasses.replace(
        found,
        source=found.source[:, :1],
        accuracies=tuple(dataclasses.replace(row, values=row.values[:, :1]) for row in found.accuracies),
        spectra=tuple(dataclasses.replace(row, lsvr=row.lsvr[:, :1]) for row in found.spectra),
    )
    verdicts = [
        noise_bars.sound(study(classes=tuple("abcd")), alone),
        noise_bars.harm(alone), *noise_bars.slight(alone), *noise_bars.repair(alone),
        noise_bars.forms(alone), *noise_bars.fractions(alone),
    ]  # fmt: skip
    assert {row.passed for row in verdicts} == {None}
    assert not any("nan" in row.words for row in verdicts)
    assert all("not tested: no interval" in row.words for row in verdicts if not row.exploratory)
    two = measured(rates=(0.0, 0.3))
    assert [noise_bars.harm(two).passed, noise_bars.spectrum(two).passed] == [None, None]
    assert "no correlation" in noise_bars.spectrum(two).words


@pytest.mark.parametrize(("source", "scratch", "passed"), [(0.8, 0.2, True), (0.1, 0.2, False), (0.8, -0.2, False)])
def test_a_broken_source_is_no_evidence(source, scratch, passed):
    found = measured()
    at_first = found.scores(LINEAR, ood=False)[0]
    for row in found.accuracies:
        if not row.view and row.mode == LINEAR:
            row.values[-1] = at_first - scratch + np.linspace(0, 0.01, SEEDS)
    found = dataclasses.replace(found, source=np.full_like(found.source, source))
    assert noise_bars.sound(study(classes=tuple("abcd")), found).passed is passed


def test_noise_that_is_slight_is_told_whatever_it_does(monkeypatch):
    told = noise_bars.slight(measured())
    assert [row.name for row in told] == [f"C5, {rate} noise in distribution" for rate in ("5%", "10%")]
    assert {(row.passed, row.exploratory) for row in told} == {(None, True)}
    assert "it harms" in told[1].words


@pytest.mark.parametrize(
    ("rates", "c3", "c4"), [(RATES, True, True), ((0.0, 0.1, 0.3), True, False), ((0.0, 0.3), None, None)]
)
def test_rates_that_are_given_at_random_show_nothing(monkeypatch, rates, c3, c4):
    """Of three rates one order in six is the right one, which is more than may pass by chance."""
    monkeypatch.setattr(noise_bars, "RELABELLINGS", 300)
    found = noise_bars.relabelled(CONFIG, measured(rates=rates))
    assert (one(found, "C8, C3"), one(found, "C8, C4")) == (c3, c4)
    assert 0 <= found[1].figures["draws that pass"] < 0.3
    assert (found[1].figures["draws that pass"] > 0) is (c4 is not None)
    assert found == noise_bars.relabelled(CONFIG, measured(rates=rates))


@pytest.mark.parametrize(
    ("kind", "counts", "passed"),
    [
        ("flip_to_other", (0, 20, 40, 80, 120), True),
        ("flip_to_other", (0, 20, 41, 80, 120), False),
        ("uniform", (0, 10, 20, 40, 75), True),  # Half of the draws are right.
        ("uniform", (0, 10, 20, 40, 120), False),
        ("uniform", (0, 10, 20, 40, 78), False),  # Exactly 120 are drawn: 60 with 5.5 of standard error.
        ("asymmetric", (0, 10, 20, 40, 60), True),  # Of one class of two.
        ("asymmetric", (0, 20, 40, 80, 120), False),
    ],
)
def test_wrong_labels_are_counted_as_their_kind_asks(tmp_path, kind, counts, passed):
    path = tmp_path / "map.json"
    path.write_text(json.dumps({"a": "b"}))
    flipped = {
        (rate, seed): np.arange(400) < count for rate, count in zip(RATES, counts, strict=True) for seed in range(2)
    }
    config = dataclasses.replace(CONFIG, noise=f"asymmetric:{path}" if kind == "asymmetric" else kind)
    told = noise_bars.counts(config, study(flipped=flipped))
    assert told.passed is passed
    assert told.figures["30%, seed 1"] == counts[-1]
