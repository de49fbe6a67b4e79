"""Few-shot draws of each model's own, and named modes of any kind, as targets and modes of a run."""

import dataclasses
import json

import numpy as np
import pytest

import jdt
from jdt import pipeline, train, transfer
from jdt.checks import UserError
from jdt.pipeline import blocks, measuring
from jdt.pipeline import task as tasks
from jdt.pipeline import trial as trials

RECIPE = train.Recipe(epochs=2, batch_size=8, learning_rate=0.05, warmup_epochs=0.2)
NAMED = {
    "LP@0.1": transfer.FixedFeature(0.1),
    "prototype": transfer.FixedFeature(solver="prototype"),
    "sgd": transfer.FixedFeature(solver="sgd", recipe=RECIPE),
    "LP-FT": transfer.FullNetwork(RECIPE, start="probe"),
    "linear": transfer.Tuning("linear", epochs=2, batch_size=8),
}
CONVERGENCE = {"LP@0.1": "gradient_norm", "prototype": None}  # Else the loss.


def few_shot(make_task, *, shots=(3,), modes=tuple(NAMED), draws=1, **changes):
    task = make_task("fixed-size", **{"num_models": 4, "epochs": 1, "block_size": 4, **changes})
    (target,) = task.targets
    test, held = target.test.part(np.arange(9, 48)), target.test.part(np.arange(9), "held out")
    target = dataclasses.replace(target, test=test, views=(("validation", held),))
    targets = pipeline.drawn(target, shots, draws)
    tuners = {mode: NAMED[mode] for mode in modes if mode in NAMED}
    return dataclasses.replace(task, targets=targets, modes=modes, tuners=tuners, baseline_models=0)


def trained(task, path, blocks=None):
    writer = jdt.store.create_or_open(
        path, config={"design": {"kind": task.design.kind}}, provenance={}, schema=task.schema()
    )
    pipeline.train_missing_blocks(task, writer, blocks)
    return jdt.open_run(path) if blocks is None else None


@pytest.fixture(scope="module")
def run(make_task, tmp_path_factory):
    return trained(few_shot(make_task, draws=2), tmp_path_factory.mktemp("draws") / "run")


def test_named_modes_have_the_columns_of_their_kind_and_old_runs_say_nothing_of_it(run, make_task, tmp_path):
    names = [f"target@3shot.{number}{view}" for number in (0, 1) for view in ("", "+validation")]
    found = set(run.layout.columns())
    for name in names:
        for mode in NAMED:
            convergence = CONVERGENCE.get(mode, "loss")
            expected = {"margin", "confidence", "prediction", "accuracy", "train_accuracy", convergence} - {None}
            expected |= set(jdt.store.SPECTRA.values()) if mode == "linear" else set()
            prefix = f"targets/{name}/{mode}/"
            assert {column.removeprefix(prefix) for column in found if column.startswith(prefix)} == expected
            right = run.outputs(name, mode, "prediction") == run.target(name).labels
            np.testing.assert_allclose(run.column(f"{prefix}accuracy"), right.mean(axis=1), rtol=1e-6)
            for column in expected - {"prediction"}:
                assert np.isfinite(run.column(prefix + column)).all()
    assert jdt.store.check_run(run.path).is_sound
    plain = json.dumps(make_task().schema().describe())
    assert "fits" not in plain


def test_a_model_is_the_same_in_any_block_of_a_run_that_is_resumed_and_grows(run, make_task, tmp_path):
    modes = ("LP@0.1", "prototype", "sgd", "LP-FT")
    task = few_shot(make_task, block_size=2, num_models=2, modes=modes)
    trained(task, tmp_path / "run", blocks=[])
    grown = trained(dataclasses.replace(task, num_models=4), tmp_path / "run")
    for mode in modes:
        for output in ("margin", "accuracy", "train_accuracy"):
            column = f"targets/target@3shot.0/{mode}/{output}"
            np.testing.assert_array_equal(grown.column(column), run.column(column), err_msg=column)
    assert jdt.store.check_run(tmp_path / "run").is_sound
    first, second = (run.column(f"targets/target@3shot.{number}/LP@0.1/margin") for number in (0, 1))
    assert (first != second).any(axis=1).all()


@pytest.mark.parametrize("mode", ["prototype", "LP@0.1", "linear"])
def test_what_a_drawn_target_gives_is_what_its_images_alone_give(make_task, mode):
    task, ids = few_shot(make_task), np.array([3])
    (drawn,) = task.targets
    rows = drawn.rows(task.design.seed, ids)
    assert (drawn.num_examples, rows.shape) == (12, (1, 12))
    few = dataclasses.replace(drawn, draw=None, train=drawn.train.part(rows[0]))
    variables = train.initial_variables(task.ensemble, 0, ids)
    found, expected = (blocks._transfer(task, task.ensemble, variables, one, mode, ids)[0] for one in (drawn, few))
    for column in ("margin", "train_accuracy"):
        np.testing.assert_array_equal(found[drawn.name][column], expected[drawn.name][column])


def test_a_task_with_draws_and_named_modes_is_planned(make_task, tmp_path):
    task = few_shot(make_task, num_models=2, block_size=2, modes=("prototype", "LP-FT"))
    assert "training LP-FT" in measuring._memory(task)
    choice = train.Choice(task.plan, "asked for", (train.Timing("matmul", 1, 1e-3, 1.0),))
    trial = trials.plan_trial(task, choice, 1e-9)
    assert trial.tuning["target@3shot.0", "LP-FT"].draw == transfer.Draw(3)
    timed = trials.Rounds(trial, tmp_path / "run")()
    assert {"target@3shot.0, LP-FT", "target@3shot.0, prototype"} <= set(timed.scaled)


def test_every_split_is_apart_from_every_other_and_looked_at_once(make_task, monkeypatch):
    task = few_shot(make_task, shots=(2, 3), draws=2)
    whole, looked = task.targets[0].whole, []
    real = tasks.overlap
    monkeypatch.setattr(tasks, "overlap", lambda *images: (looked.append(1), real(*images))[1])
    fresh = dataclasses.replace(whole)
    for one in pipeline.drawn(fresh, (2, 3), 2):
        assert one.test is whole.test  # However few the shots are.
        assert not one.overlap_words()
    assert len(looked) == 3  # Training and test split, and each with the view.

    leak = np.concatenate([whole.test.images[:1], whole.train.images[7:8]])
    held = dataclasses.replace(whole.views[0][1], images=leak, labels=np.zeros(2, np.int32))
    (leaking,) = pipeline.drawn(dataclasses.replace(whole, views=((pipeline.VALIDATION, held),)), (2,))
    with pytest.raises(UserError, match=r"its training split and its view 'validation'.*training image 7 is image 1"):
        dataclasses.replace(task, targets=(leaking,))
    assert "its test split and its view 'validation', which settings are chosen on, share 1" in leaking.overlap_words()
    dataclasses.replace(task, targets=(leaking,), allow_overlap=True)


def test_a_class_of_the_test_split_without_training_images_is_refused_by_name(make_task):
    (target,) = make_task().targets
    without = target.train.part(np.flatnonzero(target.train.labels != 2))
    with pytest.raises(UserError, match="target 'target': class 'c' has test images, but no training image"):
        dataclasses.replace(target, train=without)
    dataclasses.replace(target, train=without, test=target.test.part(np.flatnonzero(target.test.labels != 2)))


def test_draws_that_cannot_be_are_refused(make_task):
    (target,) = make_task().targets
    with pytest.raises(UserError, match=r"target 'target@11shot.0': shots is 11, but class 'a' has 10 training images"):
        pipeline.drawn(target, (2, 11))
    with pytest.raises(UserError, match="draws is 0"):
        pipeline.drawn(target, (2,), 0)
    task = few_shot(make_task, modes=("LP-FT",))
    other = dataclasses.replace(task.targets[0], own={"LP-FT": transfer.FixedFeature()})
    with pytest.raises(UserError, match=r"mode 'LP-FT' of target 'target@3shot.0' is of another kind"):
        dataclasses.replace(task, targets=(other,))
