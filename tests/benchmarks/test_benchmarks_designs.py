import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import jdt

spec = importlib.util.spec_from_file_location("designs", Path(__file__).parents[2] / "benchmarks" / "designs.py")
designs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(designs)


def test_a_record_for_every_design_and_estimator(tmp_path, capsys):
    saved = tmp_path / "designs.json"
    designs.main(
        ["--units=8", "--models", "16", "--targets=2", "--repeats=2", "--splits=1", "--rho", "0.5", f"--json={saved}"]
    )
    records = json.loads(saved.read_text())
    assert len(records) == len(jdt.masks.KINDS) * len(jdt.estimators.TABLE)
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(records)
    for record in records:
        assert record["error"]["low"] <= record["error"]["value"] <= record["error"]["high"]
        assert record["design"] != "fixed-size" or record["ratio"]["value"] == 1


@pytest.mark.parametrize(
    ("kind", "units"), [*((kind, 8) for kind in jdt.masks.KINDS), ("antithetic", 7), ("balanced-pairs", 7)]
)
def test_relative_influences_converge_to_the_truth_in_every_design(kind, units):
    world = designs.World(units=units, targets=3, signal=1e4)
    beta = designs.effects(world, np.random.default_rng(0))
    design = jdt.masks.Design(kind, seed=1)
    masks, outputs = designs.run(world, design, 2000, beta, 0)
    for estimator in (jdt.Ridge(), jdt.DifferenceOfMeans()):
        influence = estimator.fit(masks, outputs, paired=design.is_paired).influence
        found = designs.relative(np.asarray(influence), design, estimator.name)
        error = np.abs(found - (beta - beta.mean(axis=0))).max() / beta.std()
        assert error < (0.02 if estimator.name == "ridge" else 0.3)


def test_explained_variance_and_shared_noise_are_as_asked():
    world = designs.World(units=20, targets=400, signal=2.0, rho=0.5)
    beta = designs.effects(world, np.random.default_rng(0))
    masks, outputs = designs.run(world, jdt.masks.Design("antithetic", seed=1), 400, beta, 0)
    noise = outputs - masks @ beta
    assert np.var(noise) == pytest.approx(1.0, rel=0.03)
    assert np.corrcoef(noise[0::2].ravel(), noise[1::2].ravel())[0, 1] == pytest.approx(0.5, abs=0.02)
    explained = 0.25 * (beta**2).sum(axis=0).mean()
    assert explained == pytest.approx(2.0, rel=0.05)
