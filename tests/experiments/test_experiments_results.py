"""The page of results says what its runs hold, beside controls that find nothing."""

import json
import re

import numpy as np
import pytest

import jdt
from experiments import results

UNITS = ("cats", "dogs", "ships", "tools", "trees", "shoes")
CLASSES = ("cat", "dog")


def world(out, experiment):
    """A run with the outputs of a linear world: cats help the cat, dogs the dog."""
    labels, design = np.repeat(np.arange(2, dtype=np.int32), 5), jdt.masks.Design("fixed-size", 0.5, 0)
    schema = jdt.store.Schema(
        num_models=32, block_size=16, unit_names=UNITS, modes=("fixed",),
        targets={"pets": jdt.store.Target(labels, CLASSES)},
    )  # fmt: skip
    writer = jdt.store.create_or_open(
        out, config={"experiment": experiment, "source": "world", "design": jdt.config.to_plain(design)},
        provenance={"command": f"python -m experiments.{experiment} --out /somewhere/else/run", "device": "2 x cpu"},
        schema=schema,
    )  # fmt: skip
    effect = np.zeros((6, 10))
    effect[0, :5], effect[1, 5:] = 0.3, 0.2
    for block in writer.missing_blocks():
        ids = np.array(schema.layout.models_of(block))
        masks = jdt.masks.sample(design, ids, len(UNITS))
        confidence = 0.5 + (masks - 0.5) @ effect + np.random.default_rng(block).normal(0, 0.05, (len(ids), 10))
        values = {c.name: np.zeros((len(ids), *c.shape[1:]), c.dtype) for c in schema.columns().values()}
        values |= {"mask": masks, "targets/pets/fixed/confidence": confidence.astype(np.float32)}
        writer.write_block(block, values, {"seconds": 1.5})
    figure = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 64, "unit": "accuracy", "text": f"of {experiment} | all"}
    jdt.store.write_json(out / "summary.json", {"gain": figure})
    return jdt.open_run(out)


@pytest.fixture
def run(tmp_path):
    run = world(tmp_path / "run", "class_influence")
    models = jdt.pipeline.usable_models(run, "pets", "fixed")
    jdt.pipeline.fit_target(run, "pets", "fixed", "confidence", jdt.Ridge(), models=models, tile=10)
    world(tmp_path / "run" / "counterfactuals" / "pets", "counterfactual")
    return run


def command(*arguments):
    argv = [str(argument) for argument in arguments]
    return jdt.cli.main(results.main, results.PRESETS, default="demo", description="", argv=argv)


def test_a_page_has_commands_figures_reliability_and_what_is_related(run, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "SHUFFLES", 8)
    related = {"known.json": {"cat": ["cats"], "dog": ["dogs"]}, "other.json": {"cat": ["a unit of another run"]}}
    for name, content in related.items():
        (tmp_path / name).write_text(json.dumps(content))
    out = tmp_path / "docs" / "results.md"
    assert command("--runs", run.path, "--out", out, "--related", *(tmp_path / name for name in related)) == 0
    page = out.read_text()
    assert "/somewhere" not in page
    assert "python -m experiments.class_influence --out run\n" in page
    assert "32 of 32 models, 6 units; 2 x cpu, 3 s of training" in page
    assert r"| gain | 0.25 (0.2 to 0.3) | accuracy | 64 | of class_influence \| all |" in page
    assert r"of counterfactual \| all" in page
    assert re.search(r"\| cat \| cats \| 1 of 6 \| \d+\.\d \| 1\.00 \|", page)
    assert "another run" not in page
    assert "pooled AUROC 1.000" in page
    found = {
        (level, models): float(value)
        for level, models, value in re.findall(r"\| (target classes|whole task) \| ([^|]+) \| (-?[\d.e-]+) \(", page)
    }
    assert found["target classes", "32"] > 0.9
    assert abs(found["target classes", "32, rows exchanged"]) < 0.4, "the control must find nothing"


def test_files_that_say_nothing_of_what_is_related_are_refused(run, tmp_path, capfd):
    (tmp_path / "bad.json").write_text("[1]")
    assert command("--runs", run.path, "--out", tmp_path / "x.md", "--related", tmp_path / "bad.json") == 2
    assert "must map target classes to lists of units" in capfd.readouterr().err
    assert not (tmp_path / "x.md").exists()
