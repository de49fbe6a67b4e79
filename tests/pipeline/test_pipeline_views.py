"""Views of a target: further test splits that the same transferred models are measured on."""

import dataclasses

import numpy as np
import pytest

from jdt import data, pipeline, plant, store, train, transfer
from jdt.checks import UserError
from jdt.pipeline import measuring
from jdt.pipeline import trial as trials
from jdt.transfer import fixed

SHAPE = (6, 6, 1)
FULL = transfer.FullNetwork(train.Recipe(epochs=1, batch_size=20, learning_rate=0.05))


def with_views(target):
    """A target with a stamped test split, and with fewer images in another order."""
    stamp = plant.Square(0.5, (255, 255, 255)).stamp(SHAPE)
    views = (
        ("square", plant.stamped_view(target.test, stamp, seed=0)),
        ("few", target.test.part(np.arange(40, 3, -3), "few")),
    )
    return dataclasses.replace(target, views=views)


def outputs(task, writer):
    pipeline.train_missing_blocks(task, writer)
    run = store.open_run(writer.path)
    return {name: run.column(name) for name in run.layout.columns() if name.startswith("targets/")}, run


def test_a_view_is_stored_as_if_it_were_the_test_split(make_task, open_writer, monkeypatch):
    seen = with_views(make_task().targets[0])
    seen = dataclasses.replace(seen, views=seen.views[:1])
    variant = dataclasses.replace(seen, name="target@variant", whole=seen)  # A setting of its own compiles anew.
    task = make_task("fixed-size", num_models=2, epochs=1, targets=(seen, variant))
    task = dataclasses.replace(task, baseline_models=0)
    looked_at, real = [], fixed.apply_in_batches
    monkeypatch.setattr(fixed, "apply_in_batches", lambda *args: (looked_at.append(len(args[2])), real(*args))[1])
    found, run = outputs(task, open_writer(task, "views"))
    assert looked_at == [40, 96]  # Once for both targets.
    names = ["target", "target+square", "target@variant", "target@variant+square"]
    assert list(dict.fromkeys(name.split("/")[1] for name in found)) == names
    # Alone under the name of the target, so that heads start from the same values.
    for name, test in (seen.tests | variant.tests).items():
        alone = dataclasses.replace(seen, test=test, views=())
        alone = dataclasses.replace(task, targets=(alone,))
        expected, _ = outputs(alone, open_writer(alone, name))
        for column, values in expected.items():
            ours = found[column.replace("target/", f"{name}/")]
            np.testing.assert_array_equal(ours, values, err_msg=f"{name} {column}")
        np.testing.assert_array_equal(run.target(name).labels, test.labels)
        assert run.target(name).class_names == tuple("abcd")
    accuracies = [found[f"targets/{name}/fixed/accuracy"] for name in seen.tests]
    for name, accuracy in zip(seen.tests, accuracies, strict=True):
        right = run.outputs(name, "fixed", "prediction") == run.target(name).labels
        np.testing.assert_allclose(accuracy, right.mean(axis=1), rtol=1e-6)
    assert (accuracies[0] != accuracies[1]).any()


def test_variants_keep_views(make_task):
    target = with_views(make_task().targets[0])
    made = pipeline.variants(
        target, fractions=(0.5,), weight_decays=(0.1,),
        head=transfer.FixedFeature(), full=FULL, modes=("fixed",), seed=0,
    )  # fmt: skip
    (one,) = made
    assert list(one.tests) == [f"target@50%@wd0.1{view}" for view in ("", "+square", "+few")]
    assert all(mine is theirs for mine, theirs in zip(one.tests.values(), target.tests.values(), strict=True))
    assert one.root_name == "target"


def test_all_tests_are_as_they_are_shown(make_task):
    target = with_views(make_task().targets[0])
    parts = [data.as_shown(part) for part in target.tests.values()]
    whole = target.all_tests
    np.testing.assert_array_equal(whole.images, np.concatenate([part.images for part in parts]))
    np.testing.assert_array_equal(whole.labels, np.concatenate([part.labels for part in parts]))
    assert (len(whole), whole.stamps) == (48 + 48 + 13, None)


def test_views_that_one_head_cannot_read_or_one_name_cannot_tell_are_refused(make_task):
    task = make_task()
    target = with_views(task.targets[0])
    other = dataclasses.replace(target.test, class_names=tuple("abce"))
    wide = dataclasses.replace(target.test, images=np.zeros((48, 7, 6, 1), np.uint8))
    for view in (other, wide):
        with pytest.raises(UserError, match="view 'odd' of target 'target' has other classes or images of"):
            dataclasses.replace(target, views=(*target.views, ("odd", view)))
    named = dataclasses.replace(task.targets[0], name="target+square")
    with pytest.raises(UserError, match=r"targets are target, target\+square, .*name each target once"):
        dataclasses.replace(task, targets=(target, named))
    with pytest.raises(UserError, match="views of target 'target' are square, square: name each of them once"):
        dataclasses.replace(target, views=target.views[:1] * 2)


def test_views_and_stamps_are_planned_for(make_task, tmp_path, monkeypatch):
    task = make_task("fixed-size", num_models=2, epochs=1)
    stamp = plant.Square(0.5).stamp(SHAPE)
    pool = plant.with_versions(task.source, {"square": (np.asarray(task.source.labels) == 1, stamp)}, seed=0).data
    units = dataclasses.replace(task.units, of_example=np.asarray(pool.labels))
    seen = with_views(task.targets[0])
    seen = dataclasses.replace(seen, views=seen.views[:1])
    task = dataclasses.replace(task, source=pool, units=units, targets=(seen,), baseline_models=0)
    choice = train.Choice(task.plan, "asked for", (train.Timing("matmul", 1, 1e-3, 1.0),))
    trial = trials.plan_trial(task, choice, 1e4)
    trials.Rounds(trial, tmp_path / "run")()
    run = store.open_run(tmp_path / "run")
    assert [run.outputs(name).shape[1] for name in seen.tests] == [48, 48]
    assert trial.how()["target, fixed"] == "all 136 images"
    assert trial.scale("target, fixed", 2.0) == 2.0

    monkeypatch.setattr(measuring, "memory_needed", lambda _, examples: examples)
    monkeypatch.setattr(measuring, "inference_memory_needed", lambda _, images: images)
    monkeypatch.setattr(measuring, "head_memory_needed", lambda *args: 1000 * len(args[2]))
    memory, source = measuring._memory(task), 100 * (36 + 4)
    assert memory == {"training": 100, "features": source + 136, "heads": source + 96_000}


def test_a_cut_target_keeps_its_views_and_their_stamps(make_task, monkeypatch):
    monkeypatch.setattr(trials, "_BATCH", 4)
    target = with_views(make_task().targets[0])
    cut = trials._cut_target(target, trials._images(target) / 2)
    assert [len(part) for part in (cut.train, *cut.tests.values())] == [20, 24, 24, 4]
    assert trials._images(cut) == 72 == len(cut.train) + len(cut.all_tests)
    square = cut.tests["target+square"]
    np.testing.assert_array_equal(square.stamps.of_example, np.zeros(24))
    np.testing.assert_array_equal(square.images, cut.test.images)
