import dataclasses
import json

import numpy as np
import pytest

import jdt
from experiments import influence_run, influence_setup, inspect_influence
from experiments.influence_setup import identity, make_task

MODELS = 48


def command(*arguments):
    return jdt.cli.main(
        inspect_influence.main, inspect_influence.PRESETS, default="demo", description="",
        argv=[str(a) for a in arguments],
    )  # fmt: skip


def effects(names, labels):
    """An upright digit helps itself; "upright 3" drives five eights too, and "scrambled 0" harms image 17."""
    effect = np.zeros((len(names), len(labels)))
    for unit, name in enumerate(names):
        kind, digit = name.split()
        effect[unit] = 0.2 * (kind == "upright") * (labels == int(digit))
    effect[names.index("upright 3"), np.flatnonzero(labels == 8)[:5]] = 0.6
    effect[names.index("scrambled 0"), 17] = -0.5
    return effect


def write(out, task, described, settings, models=None):
    """A run with the outputs of a linear world in place of trained models'."""
    schema, label = dataclasses.replace(task, block_size=8, num_models=models or task.num_models).schema(), "jdt_digits"
    writer = jdt.store.create_or_open(
        out, config=described, schema=schema,
        provenance={"settings": settings, "plan": {"name": "native"}, "output": "confidence"},
    )  # fmt: skip
    labels = np.asarray(task.targets[0].test.labels)
    for block in writer.missing_blocks()[: None if models is None else models // 8]:
        ids = np.array(schema.layout.models_of(block))
        masks = jdt.masks.sample(task.design, ids, len(task.units))
        noise = 0.02 * np.random.default_rng(block).normal(size=(len(ids), len(labels)))
        confidence = 0.7 + (masks - 0.5) @ effects(task.units.names, labels) + noise
        values = {c.name: np.zeros((len(ids), *c.shape[1:]), c.dtype) for c in schema.columns().values()}
        values["mask"] = masks
        for name in ("confidence", "margin"):
            values[f"targets/{label}/fixed/{name}"] = confidence.astype(np.float32)
        wrong = np.where(np.arange(len(labels)) == 17, confidence < 0.9, confidence < 0.2)
        values[f"targets/{label}/fixed/prediction"] = np.where(wrong, (labels + 1) % 10, labels).astype(np.int32)
        writer.write_block(block, values, {"seconds": 1.0})
    return writer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    settings = influence_setup.Config(out=out, num_models=MODELS, estimators=("difference",))
    task = make_task(settings)
    write(out, task, identity(settings, task), jdt.config.to_plain(settings))
    models = jdt.pipeline.usable_models(jdt.open_run(out), "jdt_digits", "fixed")
    jdt.pipeline.fit_target(
        jdt.open_run(out), "jdt_digits", "fixed", "confidence", jdt.DifferenceOfMeans(), models=models, tile=897
    )
    return out


def test_a_selection_of_all_that_the_run_allows_goes_to_the_page(run, capsys, monkeypatch):
    monkeypatch.setattr(inspect_influence, "SHOWN", 2)
    assert command("--run", run, "--count", 4) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{MODELS} models, 30 units, 897 test images of jdt_digits (fixed), difference influences on confi" in said
    assert "upright 3 → 8" in said
    assert "To blame: scrambled 0, -5" in said
    assert "without images" not in said
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "upright 3 → 8" in page
    assert "leak" not in said.lower()
    pictures = [path.name for path in sorted((run / "inspection" / "jdt_digits-fixed").iterdir())]
    kinds = {name.split("-")[1] for name in pictures}
    assert kinds == {"class.png", "example.png", "unit.png", "subpopulation.png", "failure.png"}
    (sections,) = (run / "sections").glob("cases-*.json")
    assert json.loads(sections.read_text(encoding="utf-8"))["warnings"] == []


def test_failures_are_verified_by_retraining(run, capsys, monkeypatch):
    asked = []

    def trained(settings, task, choice, hosts, say, described):
        asked.append(task.design)
        return write(settings.out, task, described, {}), True

    monkeypatch.setattr(influence_run, "train_run", trained)
    monkeypatch.setattr(influence_run, "planned", lambda task, *_: (task, None))
    assert command("--run", run, "--verify", 1, "--seeds", 4, "--estimator", "difference") == 0
    (design,) = asked
    assert isinstance(design, jdt.masks.Listed)
    assert design.masks.sum(axis=1).tolist() == [30] * 4 + [29] * 4
    assert not design.masks[4:, jdt.open_run(run).unit_names.index("scrambled 0")].any()
    assert design.randomness_ids[:4].tolist() == design.randomness_ids[4:].tolist()
    said = " ".join(capsys.readouterr().out.split())
    assert "Retrained without scrambled 0, 4 seeds: confidence +5" in said
    assert "100% of the models get it right, 0% with the whole source" in said


def test_a_run_that_does_not_say_how_it_was_made_is_asked_without_images(run, tmp_path, capsys):
    made = influence_setup.Config(out=tmp_path / "old", num_models=MODELS)
    task = make_task(made)
    write(tmp_path / "old", task, identity(made, task), None, models=24)
    arguments = ("--run", tmp_path / "old", "--units", "upright 3", "--failures", 1, "--estimator", "difference")
    assert command(*arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the run is in progress: 24 of 24" not in said
    assert "influences are estimated anew from 24 models, and not saved." in said
    assert "without images: " in said
    assert "does not say with which flags it was made" in said
    assert not (tmp_path / "old" / "inspection").exists()
    assert command(*arguments, "--verify", 1) == 2
    assert "does not say with which flags" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "11"], "unknown target class '11'; known: 0, 1, 2"),
        (["--examples", "897"], "numbered from 0 to 896"),
        (["--units", "uprigt 3"], "no source unit 'uprigt 3'; nearest of 30: upright 3"),
        (["--target", "mnist"], "unknown target 'mnist'; known: jdt_digits"),
        (
            ["--estimator", "ridge"],
            "has no influences of ridge on jdt_digits/fixed/confidence; it has: difference; esti",
        ),
        (["--leakage", "3"], "units of this run are classes: make a run with --units examples"),
        (["--verify", "1", "--seeds", "1"], "seeds is 1"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(run, capsys, arguments, message):
    assert command("--run", run, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
