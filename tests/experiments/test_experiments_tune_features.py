import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

import jdt
from experiments import tune_features
from jdt.checks import UserError

DRAW = np.random.default_rng(0)
CENTRES = 2.0 * DRAW.normal(size=(3, 6))
LABELS = DRAW.integers(0, 3, 64)
FEATURES = (CENTRES[LABELS] + DRAW.normal(size=(64, 6))).astype(np.float32)
GOOD = {
    "features": FEATURES,
    "labels": LABELS,
    "views": FEATURES + 0.1 * DRAW.normal(size=(2, 64, 6)).astype(np.float32),
    "ood_moved_features": FEATURES + 0.5,
    "ood_moved_labels": LABELS,
}


def run(tmp_path, arrays, *flags):
    np.savez(tmp_path / "in.npz", **arrays)
    arguments = ["--preset", "smoke", "--features", str(tmp_path / "in.npz"), "--out", str(tmp_path / "out"), *flags]
    return jdt.cli.main(
        tune_features.main,
        tune_features.PRESETS,
        default="demo",
        description="",
        argv=["--preset", "smoke", *arguments],
    )


def test_figures_follow_from_what_is_saved(tmp_path, capsys):
    assert run(tmp_path, GOOD, "--methods", "linear", "mlp", "--select") == 0
    out = tmp_path / "out"
    found = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    predictions = np.load(out / "predictions.npz", allow_pickle=False)
    for name in ("linear", "mlp"):
        tests = found["methods"][name]["tests"]
        assert list(tests) == ["held out", "moved"]
        for test, figures in tests.items():
            right = predictions[f"{name}.{test}"] == predictions[f"labels.{test}"]
            assert right.shape[0] == 2
            np.testing.assert_allclose(figures["accuracy"], right.mean(axis=1))
            assert figures["mean"] == pytest.approx(right.mean())
            assert figures["low"] <= figures["mean"] <= figures["high"]
        heads = jdt.transfer.Tuned.load(out / f"{name}.npz")
        moved = np.broadcast_to(GOOD["ood_moved_features"], (2, 64, 6))
        np.testing.assert_array_equal(heads.predict(moved), predictions[f"{name}.moved"])
        read = jdt.analyses.singular_values(heads.features(moved), "column", zero_rows="keep")
        assert tests["moved"]["lsvr"] == pytest.approx(jdt.analyses.lsvr(read).mean())
    assert len(found["selected"]["linear"]["tried"]) == 3
    assert len(found["selected"]["mlp"]["tried"]) == 3
    assert (out / "tuned.png").stat().st_size > 5_000
    assert not list(out.glob(".partial*"))
    assert "-ln(sigma_1 / sum)" in capsys.readouterr().out


def test_heads_that_diverge_are_blank_and_results_of_another_configuration_stay(tmp_path, capsys):
    lost = ("--methods", "mlp", "--learning-rate", "1e30")
    assert run(tmp_path, GOOD, *lost) == 0
    figures = tmp_path / "out" / "figures.json"
    before = figures.read_bytes()
    found = json.loads(before)["methods"]["mlp"]
    assert found["finite"] == [False, False]
    for test in ("held out", "moved"):
        assert np.isnan([*found["tests"][test]["accuracy"], *map(found["tests"][test].get, ("mean", "sve"))]).all()
        assert (np.load(tmp_path / "out" / "predictions.npz")[f"mlp.{test}"] == -1).all()
    assert "diverged, in some seeds: mlp" in capsys.readouterr().out

    for arrays, flags, words in (
        (GOOD, ("--methods", "linear"), "methods: saved ['mlp'], asked ['linear']"),
        (GOOD | {"labels": LABELS[::-1]}, lost, "features: saved "),
        (GOOD, (*lost, "--select", "--overwrite"), "mlp diverged with all settings"),
    ):
        assert run(tmp_path, arrays, *flags) == 2
        assert words in capsys.readouterr().err
    assert figures.read_bytes() == before
    assert run(tmp_path, GOOD, "--methods", "linear", "--overwrite") == 0
    assert {path.name for path in figures.parent.iterdir()} == {
        "figures.json", "linear.npz", "predictions.npz", "tuned.png",
    }  # fmt: skip


@pytest.mark.parametrize(("features", "expected"), [(None, (60, 16, 0.01)), ("FILE.npz", (30, 64, None))])
def test_what_is_left_out_depends_on_the_features(features, expected):
    config = tune_features.PRESETS["demo"]
    found = tune_features.filled(dataclasses.replace(config, features=features and pathlib.Path(features)))
    assert (found.epochs, found.batch_size, found.learning_rate) == expected
    kept = tune_features.filled(dataclasses.replace(config, epochs=7, learning_rate=0.5))
    assert (kept.epochs, kept.batch_size, kept.learning_rate) == (7, 16, 0.5)


def without(*names):
    return {name: array for name, array in GOOD.items() if name not in names}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (without("labels"), "has no labels; it holds"),
        (GOOD | {"features": np.where(np.arange(64)[:, None] == 7, np.nan, FEATURES)}, "in rows 7"),
        (GOOD | {"labels": LABELS[:60]}, "64 examples, but there are 60 labels"),
        (GOOD | {"labels": LABELS * 0}, "all labels are 0"),
        (without("ood_moved_labels"), "no ood_moved_labels"),
        (GOOD | {"ood_moved_labels": LABELS + 5}, "labels of ood_moved_features lie outside 0..2"),
        (GOOD | {"ood_moved_features": FEATURES[:, :4]}, "have 4 columns, but the training features 6"),
        (GOOD | {"extra": LABELS}, "unknown arrays extra"),
        (GOOD | {"ood_test_features": FEATURES, "ood_test_labels": LABELS}, "are called 'test', as test examples in"),
        (GOOD | {"ood_held out_features": FEATURES, "ood_held out_labels": LABELS}, "are called 'held out'"),
        (GOOD | {"features": FEATURES[None]}, "must be [examples, features]"),
        (GOOD | {"labels": np.array([{}] * 64)}, "(it holds Python objects): pass an .npz file of plain numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_one_line(tmp_path, capsys, arrays, words):
    assert run(tmp_path, arrays) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_array_alone_is_refused(tmp_path):
    np.save(tmp_path / "features.npy", FEATURES)
    with pytest.raises(UserError, match=r"holds one array without a name: pass an \.npz file"):
        tune_features.read(tmp_path / "features.npy")


def test_settings_and_files_that_cannot_be():
    for changed, words in (({"methods": ("lora",)}, "known: linear"), ({"seeds": 0}, "--seeds is 0")):
        with pytest.raises(UserError, match=re.escape(words)):
            tune_features.main(tune_features.Config(**changed))
