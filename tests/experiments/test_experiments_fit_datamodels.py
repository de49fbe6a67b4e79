import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import jdt
from experiments import fit_datamodels

ROOT = pathlib.Path(__file__).parents[2]


def command(*arguments):
    return jdt.cli.main(
        fit_datamodels.main, fit_datamodels.PRESETS, default="demo", description="", argv=[str(a) for a in arguments]
    )


def refusal(capfd, *arguments):
    """Run a command that must be refused and return its one line."""
    code = command(*arguments)
    captured = capfd.readouterr()
    assert code == 2, captured
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]


def planted(models=120, examples=20, units=8):
    """A log directory's arrays in which unit 0 helps the even examples and unit 1 harms the odd ones."""
    rng = np.random.default_rng(0)
    masks = rng.random((models, units)) < 0.5
    masks[:, 7] |= ~masks.any(axis=1)
    effect = np.zeros((units, examples))
    effect[0, ::2], effect[1, 1::2] = 2.0, -2.0
    return masks, (masks @ effect + 0.2 * rng.normal(size=(models, examples))).astype(np.float16)


@pytest.fixture
def log(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    masks, margins = planted()
    completed = np.ones(len(masks), bool)
    completed[17] = False
    for name, values in (("_completed", completed), ("masks", masks), ("margins", margins)):
        np.save(folder / f"{name}.npy", values)
    np.save(tmp_path / "labels.npy", np.arange(20) % 2)
    (tmp_path / "units.json").write_text(json.dumps(["good", "bad", *"cdefgh"]))
    (tmp_path / "classes.json").write_text(json.dumps(["even", "odd"]))
    return folder


def test_a_log_directory_becomes_influences_in_one_command(log, tmp_path):
    out, names = tmp_path / "run", tmp_path
    done = subprocess.run(
        [
            sys.executable, "-m", "experiments.fit_datamodels", "--run", log, "--target", "cifar10",
            "--output", "margin", "--estimator", "ridge", "difference", "--out", out, "--labels", names / "labels.npy",
            "--unit-names", names / "units.json", "--class-names", names / "classes.json", "--held-out", "0.25",
        ],
        capture_output=True, text=True, check=False, timeout=300, cwd=ROOT, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "119 models, 8 units, 20 examples of cifar10 (margin)." in done.stdout
    assert "ridge, 30 models held out: R^2 0.9" in done.stdout
    run = jdt.open_run(out)
    assert run.provenance["versions"]["jax"]
    for estimator in ("ridge", "difference"):
        classes = jdt.load_influences(out, estimator=estimator, level="class")
        assert classes.top("even")[0].unit == "good"
        assert classes.top("odd", harmful=True)[0].unit == "bad"
        examples = jdt.load_influences(out, estimator=estimator)
        assert examples.influence.shape == (8, 20)
        np.testing.assert_allclose(examples.influence[0, ::2], 2.0, atol=0.4)
        assert examples.info["held_out_models"] == 30
        assert examples.info["held_out_lds"].mean() > 0.6  # Few models, and units that only two levels of output.
    # What is imported is a run like any other.
    again = command("--run", out, "--held-out", "0")
    assert again == 0


def test_the_run_goes_beside_the_log_and_tiles_change_nothing(log, capfd):
    assert command("--run", log) == 0
    assert "imported into" in capfd.readouterr().out
    beside = log.with_name("log-jdt")
    whole = jdt.load_influences(beside)
    with pytest.raises(jdt.UserError, match="no influences at level 'class'"):
        jdt.load_influences(beside, level="class")
    assert command("--run", log, "--memory-budget", 3 * 32 * 127 / 2**30) == 0
    assert jdt.estimators.targets_at_once(119, 8, 3 * 32 * 127) == 3
    np.testing.assert_allclose(jdt.load_influences(beside).influence, whole.influence, rtol=1e-3, atol=1e-4)


def test_a_run_of_jdt_is_fitted_where_it_is(log, capfd):
    assert command("--run", log) == 0
    run = log.with_name("log-jdt")
    before = (run / "run.json").read_bytes()
    assert command("--run", run, "--estimator", "difference", "--target", "target") == 0
    assert "relative" not in capfd.readouterr().out
    assert jdt.load_influences(run, estimator="difference").num_models == 119
    assert (run / "run.json").read_bytes() == before
    line = refusal(capfd, "--run", run, "--overwrite", "--labels", log / "labels.npy")
    assert "is a run of jdt, and --labels, --overwrite only says how to import one" in line
    assert (run / "run.json").read_bytes() == before


def test_overwrite_imports_anew(log, capfd):
    assert command("--run", log) == 0
    np.save(log / "margins.npy", -np.load(log / "margins.npy", allow_pickle=False))
    assert "fingerprints.margin" in refusal(capfd, "--run", log)
    assert command("--run", log, "--overwrite") == 0
    assert jdt.load_influences(log.with_name("log-jdt")).influence[0, ::2].max() < 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--estimator", "lars"], "unknown estimator 'lars'; known: ridge"),
        (["--output", "confidence"], "holds no output 'confidence', only margin"),
        (["--output", "prediction"], "holds no output 'prediction', only margin"),
        (["--held-out", "1.5"], "--held-out is 1.5"),
        (["--memory-budget", "0"], "--memory-budget is 0.0 GiB"),
        (["--outputs", "margins"], "--outputs holds 'margins', but each entry is NAME=FILE"),
        (["--outputs", "margin=absent.npy"], "absent.npy is not there"),
        (["--masks", "absent.npy"], "absent.npy is not there"),
        (["--labels", "absent.npy"], "cannot read --labels absent.npy"),
        (["--unit-names", "absent.json"], "cannot read --unit-names absent.json as JSON"),
        (["--preset", "tiny"], "unknown preset 'tiny'; known: demo, smoke, paper"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(arguments, message, log, capfd):
    assert message in refusal(capfd, "--run", log, *arguments)


def test_a_directory_of_neither_kind_is_refused(capfd, tmp_path):
    assert "is not a run directory: it holds no run.json" in refusal(capfd, "--run", tmp_path)
    np.save(tmp_path / "margins.npy", np.zeros((3, 2)))
    assert "_completed.npy is not there; its directory holds margins.npy" in refusal(capfd, "--run", tmp_path)
    (tmp_path / "names.json").write_text('{"a": 1}')
    assert "is not a list of names" in refusal(capfd, "--run", tmp_path, "--unit-names", tmp_path / "names.json")


def test_prediction_has_no_influence(log, capfd):
    np.save(log / "predictions.npy", np.zeros((120, 20), np.int64))
    assert "'prediction' is a class number" in refusal(capfd, "--run", log, "--output", "prediction")
    assert command("--run", log, "--held-out", "0.01") == 0
    assert "no models are held out" in capfd.readouterr().out


def test_every_import_flag_is_one_of_the_configuration():
    fields = {field.name for field in dataclasses.fields(fit_datamodels.Config)}
    assert set(fit_datamodels.IMPORT_ONLY) < fields
