import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import estimators, masks, pipeline, store
from jdt.checks import UserError
from jdt.data import from_arrays
from jdt.hosts import Hosts

COLUMNS = ("margin", "confidence", "prediction", "accuracy", "gradient_norm")


def finish(task, writer):
    marked = pipeline.train_missing_blocks(task, writer, writer.missing_blocks())
    return store.open_run(writer.path), marked


def everything(run):
    names = ["mask", "source/accuracy", "source/loss", *(f"targets/target/fixed/{c}" for c in COLUMNS)]
    return {name: run.column(name) for name in names}


@pytest.mark.parametrize("kind", masks.KINDS)
def test_a_run_stores_what_its_design_says(make_task, open_writer, kind):
    task = make_task(kind, num_models=6)
    run, marked = finish(task, open_writer(task))
    assert marked == []
    columns = everything(run)
    np.testing.assert_array_equal(columns["mask"], masks.sample(task.design, np.arange(6), 4))
    labels = task.targets[0].test.labels
    right = columns["targets/target/fixed/prediction"] == labels
    np.testing.assert_allclose(columns["targets/target/fixed/accuracy"], right.mean(axis=1), rtol=1e-6)
    assert (columns["targets/target/fixed/gradient_norm"] <= 1e-5).all()
    assert len(np.unique(pipeline.random_accuracy(run, "target", "fixed"))) > 1  # Different untrained models.


def test_an_interrupted_run_resumes_to_the_same_bytes(make_task, open_writer):
    task = make_task(num_models=6)
    whole, _ = finish(task, open_writer(task, "whole"))
    writer = open_writer(task, "parts")
    pipeline.train_missing_blocks(task, writer, [1])
    again = open_writer(task, "parts")
    assert again.missing_blocks() == [0, 2]
    parts, _ = finish(task, again)
    for name, value in everything(whole).items():
        np.testing.assert_array_equal(everything(parts)[name], value, err_msg=name)


@pytest.mark.multidevice
def test_any_number_of_devices_gives_the_same_store(make_task, open_writer):
    alone = make_task("fixed-size", num_models=6, block_size=6)
    reference, _ = finish(alone, open_writer(alone, "1"))
    # The most there are, two of them filled up; other numbers are tested with the engine.
    task = make_task("fixed-size", num_models=6, block_size=6, num_devices=8)
    run, _ = finish(task, open_writer(task, "8"))
    for name, value in everything(reference).items():
        np.testing.assert_array_equal(everything(run)[name], value, err_msg=name)


def test_a_shorter_last_block_is_like_any_other(make_task, open_writer):
    task = make_task("fixed-size", num_models=5, block_size=2)
    longer = make_task("fixed-size", num_models=6, block_size=2)
    run, _ = finish(task, open_writer(task, "five"))
    other, _ = finish(longer, open_writer(longer, "six"))
    for name, value in everything(run).items():
        np.testing.assert_array_equal(value, everything(other)[name][:5], err_msg=name)


class Fragile(nn.Module):
    """Starts with an infinite parameter for about every third pair."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        crack = self.param("crack", lambda key: jnp.where(jax.random.bernoulli(key, 0.3), jnp.inf, 0.0))
        return nn.Dense(self.num_classes, name="head")(features) + crack, features


@pytest.mark.parametrize(
    ("kind", "names"), [("fixed-size", ["difference"]), ("antithetic", ["ridge", "difference"])], ids=str
)
def test_diverged_models_are_marked_and_left_out(make_task, open_writer, kind, names):
    task = make_task(kind, num_models=16, module=Fragile(4))
    run, marked = finish(task, open_writer(task))
    assert 0 < len(marked) < 16
    blank = np.isnan(run.column("targets/target/fixed/margin")).all(axis=1)
    np.testing.assert_array_equal(np.flatnonzero(blank), marked)
    assert (run.column("targets/target/fixed/prediction")[blank] == -1).all()
    findings, left_out = pipeline.estimate_target(
        run,
        "target",
        "fixed",
        output="confidence",
        class_images={},
        estimators=estimators.named(names),
    )
    assert list(left_out) == marked  # Partners share their initialisation, so pairs crack together.
    assert list(findings.estimators) == names
    for one in findings.estimators.values():
        assert one.classes.num_models == 16 - len(marked)
        assert np.isfinite(one.classes.influence).all()


def test_source_accuracy_counts_kept_classes_only(make_task, open_writer):
    task = make_task("fixed-size", num_models=2, epochs=30)
    run, _ = finish(task, open_writer(task))
    # A model has never seen the classes left out of its subset: over all classes it could not exceed one half.
    assert (run.column("source/accuracy") > 0.6).all()


def test_tasks_that_cannot_work_are_refused(make_task):
    with pytest.raises(UserError, match="num-models is 7, which is odd"):
        make_task("antithetic", num_models=7)
    with pytest.raises(UserError, match="num-models is 1"):
        make_task("fixed-size", num_models=1)
    with pytest.raises(UserError, match="block-size is 3, which is odd"):
        make_task("antithetic", block_size=3)
    target = make_task().targets[0]
    with pytest.raises(UserError, match="name each target once"):
        make_task(targets=(target, target))
    wide = dataclasses.replace(target.test, images=np.zeros((48, 9, 9, 1), np.uint8))
    with pytest.raises(UserError, match=r"images of shape \(9, 9, 1\).*--image-size"):
        make_task(targets=(pipeline.TargetData("wide", dataclasses.replace(target.train), wide),))


def test_a_target_that_is_tested_on_its_training_images_is_refused_unless_allowed(make_task):
    target = make_task().targets[0]
    shared = dataclasses.replace(
        target.test, images=np.concatenate([target.test.images[:46], target.train.images[3:5]])
    )
    leaking = pipeline.TargetData("leaking", target.train, shared)
    with pytest.raises(
        UserError, match=r"'leaking': 2 of its 48 test .* test image 46 is training image 3.*--allow-ov"
    ):
        make_task(targets=(target, leaking))
    task = dataclasses.replace(make_task(), targets=(target, leaking), allow_overlap=True)
    assert [bool(each.overlap_words()) for each in task.targets] == [False, True]


@pytest.mark.parametrize(("plan", "before", "after"), [("native", 6, 10), ("matmul", 6, 12)])
def test_a_run_that_grows_trains_the_new_models_alone(make_task, open_writer, monkeypatch, plan, before, after):
    small, large = (make_task(num_models=n, block_size=4, plan=plan) for n in (before, after))
    finish(small, open_writer(small, "grown"))
    trained, real = [], pipeline.blocks.train

    def recording(ensemble, source, members, randomness_ids, **options):
        trained.extend(randomness_ids)
        return real(ensemble, source, members, randomness_ids, **options)

    monkeypatch.setattr(pipeline.blocks, "train", recording)
    grown, _ = finish(large, open_writer(large, "grown"))
    assert trained == [pair for pair in range(before // 2, after // 2) for _ in range(2)]
    fresh, _ = finish(large, open_writer(large, "fresh"))
    for name, value in everything(fresh).items():
        np.testing.assert_array_equal(everything(grown)[name], value, err_msg=name)
    assert grown.records()[1]["randomness_ids"] == fresh.records()[1]["randomness_ids"]


def test_processes_that_share_a_run_make_the_run_of_one(make_task, open_writer):
    task = make_task(num_models=10)
    alone, _ = finish(task, open_writer(task, "alone"))
    writers = [open_writer(task, "shared") for _ in range(3)]
    told = []
    for index in (2, 0):  # The second trains what is left when the first has stopped early, and relieves the third.
        pipeline.train_missing_blocks(
            task, writers[index], hosts=Hosts(index, 3), progress=told.append,
            enough=(lambda done: done >= 2) if index == 2 else None,
        )  # fmt: skip
    assert writers[0].num_complete == 8
    assert writers[1].unrecorded_blocks() == [1]  # Taken to be in the hands of its owner,
    pipeline.train_missing_blocks(task, writers[1], hosts=Hosts(1, 3), progress=told.append)  # who does it.
    shared = store.open_run(writers[0].path)
    for name, value in everything(alone).items():
        np.testing.assert_array_equal(everything(shared)[name], value, err_msg=name)
    assert told == sorted(told)
    assert told[-1] == 10
    for writer in writers:
        writer.unrecorded_blocks()
    assert [writer.claim_report() for writer in writers] == [True, False, False]
    writers[0].reported()
    assert not (writers[0].path / "reporter.json").exists()


class FourOnly(nn.Module):
    """Returns logits of its own, of four classes whatever the target has."""

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = images.reshape(len(images), -1)
        return nn.Dense(4, name="head")(features), features


@pytest.mark.parametrize(("solver", "modes"), [("sgd", ("fixed",)), ("convex", ("full",))])
def test_a_head_that_cannot_have_the_targets_classes_is_refused(make_task, solver, modes):
    task = make_task(module=FourOnly())  # A convex head is solved for, whatever the network's own has.
    data = from_arrays("two", np.arange(8 * 36, dtype=np.uint8).reshape(8, 6, 6, 1), np.arange(8) % 2, ["a", "b"])
    two = (pipeline.TargetData("two", data, data),)
    dataclasses.replace(task, targets=two, allow_overlap=True)
    with pytest.raises(UserError, match=r"logits have shape \(4, 4\) in inference, expected .* \(4, 2\)"):
        dataclasses.replace(
            task, targets=two, allow_overlap=True, modes=modes, head=dataclasses.replace(task.head, solver=solver)
        )
