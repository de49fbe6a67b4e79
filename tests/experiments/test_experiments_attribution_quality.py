import dataclasses
import json

import numpy as np
import pytest

import jdt
from experiments import attribution_quality, quality_curves

TINY = ("--preset", "smoke", "--devices", "2", "--num-models", "4", "--held-out", "4", "--sizes", "4")
TINY += ("--plan", "matmul", "--model", "tiny_network:Linear")  # Fewer programs to compile, and smaller ones.


def command(*arguments):
    return jdt.cli.main(
        attribution_quality.main,
        attribution_quality.PRESETS,
        default="demo",
        description="",
        argv=[str(argument) for argument in arguments],
    )


@pytest.mark.slow
def test_a_tiny_run_ends_in_figures_a_picture_and_a_page_and_resumes(capfd, tmp_path):
    assert command(*TINY, "--out", tmp_path, "--designs", "balanced") == 0
    assert "models needed" in capfd.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {
        "fixed-size", "balanced", "summary.json", "attribution_quality.png", "attribution_quality.html",
    }  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    for design in ("fixed-size", "balanced"):
        for estimator in ("ridge", "difference"):
            figure = summary[f"jdt_digits/fixed/example/{estimator}/{design}/lds/4"]
            assert {"value", "low", "high", "n", "unit", "text"} <= set(figure)
            assert -1 <= figure["low"] <= figure["high"] <= 1
    assert (tmp_path / "attribution_quality.png").read_bytes().startswith(b"\x89PNG")
    assert "http" not in (tmp_path / "attribution_quality.html").read_text(encoding="utf-8")
    assert jdt.open_run(tmp_path / "fixed-size").num_models == 8
    assert jdt.open_run(tmp_path / "balanced").num_models == 4
    assert command(*TINY, "--out", tmp_path, "--designs", "balanced", "--estimators", "ridge") == 0
    assert capfd.readouterr().out.count("nothing to train") == 2
    again = json.loads((tmp_path / "summary.json").read_text())
    assert again == summary


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "3"], "sizes has 3, but must hold even numbers from 4 to num-models"),
        (["--sizes", "66"], "sizes has 66, but must hold even numbers"),
        (["--estimators", "rigde"], "unknown estimator 'rigde'; known: ridge, difference, lasso"),
        (["--held-out", "2"], "held-out is 2, but a rank correlation"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_training(arguments, message, capfd, tmp_path):
    assert command(*arguments, "--out", tmp_path) == 2
    assert message in capfd.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("models", "sizes"), [(64, (8, 16, 32, 64)), (100, (12, 24, 50, 100)), (6, (6,))])
def test_default_sizes_are_even_halves(models, sizes):
    config = dataclasses.replace(attribution_quality.PRESETS["smoke"], num_models=models)
    assert attribution_quality.fit_sizes(config) == sizes


def planted_curve(kind, estimator, *, noise=1.0, models=128, units=20, sizes=(16, 32, 64, 128)):
    rng = np.random.default_rng(0)
    beta = rng.normal(size=(units, 30))
    masks = jdt.masks.sample(jdt.masks.Design(kind, seed=1), np.arange(models), units)
    held = jdt.masks.sample(jdt.masks.Design("fixed-size", seed=2), np.arange(60), units)
    outputs = masks @ beta + noise * rng.normal(size=(models, 30))
    held_out = quality_curves.HeldOut(held, held @ beta)
    return quality_curves.measure(
        estimator, kind, (masks, outputs), held_out, sizes, paired=jdt.masks.Design(kind).is_paired, resamples=50
    )


def test_curves_grow_with_models_and_balance_beats_chance():
    random, balanced = (planted_curve(kind, jdt.DifferenceOfMeans()) for kind in ("fixed-size", "balanced"))
    assert (np.diff(random.value) > 0).all()
    assert random.parts.tolist() == [4, 4, 2, 1]
    assert (balanced.value[1:] > random.value[1:]).all()
    assert quality_curves.models_to_reach(balanced, random)[1] < 128
    gain, low, high = quality_curves.gain_over(balanced, random)
    assert 0 < low < gain < high
    assert quality_curves.gain_over(random, random) == (0, 0, 0)
    for curve in (random, balanced):
        low, high = curve.intervals
        assert ((low <= curve.value + 0.02) & (curve.value <= high + 0.02)).all()


def test_outputs_without_signal_score_nothing():
    curve = planted_curve("fixed-size", jdt.Ridge(), noise=1e4)
    assert abs(curve.value).max() < 0.1


def curve_of(value):
    value = np.asarray(value, float)
    sizes = 8 * 2 ** np.arange(len(value))
    return quality_curves.Curve("fixed-size", "ridge", sizes, value, np.repeat(value[:, None], 5, 1), 0 * sizes + 1)


@pytest.mark.parametrize(
    ("value", "bar", "models"),
    [
        ([0.1, 0.3, 0.5], 0.3, 16),
        ([0.1, 0.3, 0.5], 0.2, 8 * 2**0.5),
        ([0.1, 0.3, 0.5], 0.05, 8),
        ([0.1, 0.2], 0.5, np.inf),
    ],
)
def test_models_to_reach_a_bar(value, bar, models):
    found = quality_curves.models_to_reach(curve_of(value), curve_of([bar]))
    np.testing.assert_allclose(found, models)
