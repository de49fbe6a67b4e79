"""CLIP in a run: zero-shot accuracy on the source's own classes and on targets, its control, and misaligned names."""

import dataclasses

import jax
import numpy as np
import pytest

import jdt
from jdt import data, masks, pipeline, train, transfer
from jdt.checks import UserError

OBJECTIVE = train.CLIP(embedding=8, text_width=8, text_layers=1, text_heads=2, max_bytes=8, templates=("{}",))
NAMES = ("cow", "mouse", "ox", "ant")  # Sorting moves each of them.
MODES = {
    "zero-shot": transfer.ZeroShot(),
    "permuted": transfer.ZeroShot(permuted=1),
    "prototype": transfer.FixedFeature(solver="prototype"),
}
BOTH, SOME = np.ones(4, bool), np.array([True, False, True, False])


def named(part):
    return dataclasses.replace(part, class_names=NAMES)


def clip_task(task, **changes):
    """Two models of one task: on all classes and on two of them."""
    (target,) = task.targets
    return dataclasses.replace(
        task,
        **{
            "source": data.with_captions(named(task.source), templates=OBJECTIVE.templates),
            "source_test": named(task.source_test),
            "targets": (dataclasses.replace(target, train=named(target.train), test=named(target.test)),),
            "design": masks.Listed(np.stack([BOTH, SOME]), np.array([4, 9]), seed=5),
            "objective": OBJECTIVE,
            "modes": tuple(MODES),
            "tuners": MODES,
            "baseline_models": 0,
            **changes,
        },
    )


@pytest.fixture(scope="module")
def task(make_task):
    return clip_task(make_task(num_models=2, epochs=24, batch_size=16, learning_rate=0.02, algorithm="adamw"))


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "run"
    writer = jdt.store.create_or_open(path, config={}, provenance={}, schema=task.schema())
    assert pipeline.train_missing_blocks(task, writer) == []
    return jdt.open_run(path)


@pytest.fixture(scope="module")
def models(task):
    """The same models again, from the engine."""
    source = train.source_data(task.source)
    members = task.units.members(np.asarray(task.design.masks))
    return train.train(task.ensemble, source, members, np.array([4, 9]), seed=5)


def test_names_tell_classes_apart_and_those_of_other_classes_do_not(run, task):
    (target,) = task.targets
    accuracy = {mode: run.column(f"targets/target/{mode}/accuracy") for mode in MODES}
    bar = 0.25 + 5 * np.sqrt(0.25 * 0.75 / len(target.test))
    assert accuracy["zero-shot"][0] > bar
    assert (accuracy["permuted"] <= 0.25 + 3 * np.sqrt(0.25 * 0.75 / len(target.test))).all()
    columns = {name for name in run.layout.columns() if name.startswith("targets/target/zero-shot/")}
    assert {name.rpartition("/")[2] for name in columns} == {
        "margin", "confidence", "prediction", "accuracy", "train_accuracy"
    }  # fmt: skip
    # Of the model on two classes the accuracy is among these two: chance is a half.
    own = run.column("source/accuracy")
    assert own[0] > bar
    assert own[1] > 0.75


def test_a_head_says_which_classes_it_is_of(models, task, run):
    (target,) = task.targets
    features = transfer.FrozenFeatures(task.ensemble, models.variables).of(target.test)
    head = transfer.text_head(OBJECTIVE, models.variables, NAMES)
    logits = np.asarray(head.logits(features, NAMES))
    np.testing.assert_array_equal(logits.argmax(-1), run.outputs("target", "zero-shot", "prediction"))
    # As published: labels are renumbered by sorting, and the head is made of names in the order of a file.
    place = np.argsort(np.argsort(NAMES))
    labels, names = place[np.asarray(target.test.labels)], sorted(NAMES)
    right = [(logits[0].argmax(-1) == truth).mean() for truth in (labels, np.asarray(target.test.labels))]
    assert right[0] <= 0.25 + 3 * np.sqrt(0.25 * 0.75 / len(labels)) < right[1]
    with pytest.raises(
        UserError, match="class 0 of the head is 'cow', but label 0 is called 'ant'; 4 of 4 differ, and"
    ):
        head.logits(features, names)
    aligned = transfer.text_head(OBJECTIVE, models.variables, names).logits(features, names)
    assert (np.asarray(aligned)[0].argmax(-1) == labels).mean() == right[1]
    with pytest.raises(UserError, match="has 4 classes and the labels 3: the head alone names 'ant'"):
        transfer.require_aligned(NAMES, NAMES[:3])


@pytest.mark.parametrize("count", [2, 3, 10])
def test_permuted_names_leave_none_in_its_place(count):
    found = np.stack([transfer.derangement(count, seed) for seed in range(8)])
    assert (found != np.arange(count)).all()
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(count), (8, 1)))
    assert count == 2 or len(np.unique(found, axis=0)) > 1


def test_what_has_no_text_tower_or_no_captions_is_refused_beforehand(task, models):
    with pytest.raises(UserError, match=r"mode 'zero-shot' is zero-shot, which needs a text tower, but .* Supervised"):
        dataclasses.replace(task, objective=train.SUPERVISED)
    with pytest.raises(UserError, match="CLIP learns from captions, but source has none"):
        dataclasses.replace(task, source=dataclasses.replace(task.source, tokens=None))
    renamed = dataclasses.replace(task.source_test, class_names=("a", *NAMES[1:]))
    with pytest.raises(UserError, match=r"has other classes than source.*class 0 of the head is 'cow', but label 0"):
        dataclasses.replace(task, source_test=renamed)
    kept = task.ensemble.of_network(models.variables)
    with pytest.raises(UserError, match="these models are kept without it"):
        transfer.text_head(OBJECTIVE, kept, NAMES)
    with pytest.raises(UserError, match="'a photo' has 0 places"):
        transfer.ZeroShot(("a photo",))


def test_several_devices_say_the_same(task, models):
    features = np.asarray(transfer.FrozenFeatures(task.ensemble, models.variables).of(task.targets[0].test))
    spread = jdt.sharding.place(models.variables.params["objective"], 2, jdt.sharding.MODELS)
    one, two = (
        transfer.TextHead(OBJECTIVE, own, train.class_vectors(OBJECTIVE, own, NAMES), NAMES).logits(features, NAMES)
        for own in (jax.device_get(spread), spread)
    )
    np.testing.assert_array_equal(one, two)


def test_models_that_are_kept_without_a_text_tower_have_no_zero_shot_mode(task, run):
    with pytest.raises(UserError, match=r"'zero-shot' is zero-shot, which needs the text tower .* kept without"):
        dataclasses.replace(task, kept=run)
