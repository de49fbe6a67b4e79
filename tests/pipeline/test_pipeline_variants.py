import dataclasses

import flax.linen as nn
import numpy as np
import pytest

from jdt import DifferenceOfMeans, data, pipeline, store, train, transfer
from jdt.checks import UserError
from jdt.pipeline import measuring
from jdt.pipeline import trial as trials


class Dense(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


HEAD, FULL = transfer.FixedFeature(), transfer.FullNetwork()


def made(target, *, modes=("fixed",), head=HEAD, full=FULL, seed=5, **asked):
    return pipeline.variants(target, **asked, head=head, full=full, modes=modes, seed=seed)


@pytest.fixture
def target(make_task):
    return make_task(module=Dense(4)).targets[0]  # Four classes with ten training images each.


def test_sizes_and_decays_multiply_and_leave_the_test_split_whole(target):
    asked = {"shots": (2, 5), "fractions": (0.25, 1.0), "weight_decays": (1e-4, 0.001)}
    found = {one.name: one for one in made(target, **asked)}
    sizes = {"target@2shot": 8, "target@5shot": 20, "target@25%": 8, "target": 40}
    assert list(found) == [f"{name}@wd{decay}" for name in sizes for decay in ("0.0001", "0.001")]
    for one in found.values():
        assert one.test is target.test
        assert one.root_name == "target"
        assert not one.overlap_words()
        size = sizes[one.name.rpartition("@wd")[0]]
        assert len(one.train) == size
        assert one.full.recipe == dataclasses.replace(FULL.recipe, weight_decay=float(one.name.rpartition("@wd")[2]))
        assert one.head.inverse_penalty == pytest.approx(1 / (size * one.full.recipe.weight_decay))
    few, some = (found[f"target@{k}shot@wd0.001"].train for k in (2, 5))
    assert {image.tobytes() for image in few.images} <= {image.tobytes() for image in some.images}
    assert len({one.train.fingerprint for one in found.values()}) == 3  # A quarter of ten images rounds to two.
    assert len({store.safe_name(name) for name in found}) == len(found)


def test_a_target_stays_itself_where_nothing_is_asked_for(target):
    assert made(target) == (target,)
    assert made(target, fractions=(1.0,)) == (target,)


def test_a_variant_keeps_what_its_target_overlaps_in(target):
    test = dataclasses.replace(target.test, images=np.concatenate([target.test.images[1:], target.train.images[:1]]))
    leaking = dataclasses.replace(target, test=test)
    (few,) = made(leaking, shots=(10,))
    assert len(few.overlap) == 1


def test_what_cannot_be_is_refused(target):
    with pytest.raises(UserError, match="target 'target': shots is 11, but class 'a' has 10 training images"):
        made(target, shots=(11,))
    with pytest.raises(UserError, match=r"weight decay is 0.0, but it must be positive: without one a convex head"):
        made(target, weight_decays=(0.0,))
    assert made(target, weight_decays=(0.0,), modes=("full",))[0].full.recipe.weight_decay == 0
    with pytest.raises(UserError, match=r"a weight decay is -1.0, but it must be positive."):
        made(target, weight_decays=(-1.0,), modes=("full",))


def test_a_variant_is_planned_trained_and_stored_as_a_target_of_its_own(make_task, tmp_path, monkeypatch):
    recipe = train.Recipe(epochs=2, batch_size=16, learning_rate=0.05, warmup_epochs=0.2)
    head = transfer.FixedFeature(solver="sgd", bn="adapt", recipe=recipe)
    task = make_task(num_models=2, module=Dense(4))
    task = dataclasses.replace(task, targets=made(task.targets[0], head=head, shots=(2,)), head=head)
    tuned = task.tuning(task.targets[0], "fixed")
    assert (tuned.batch_size, tuned.trainable) == (8, "head")  # The whole of a target that is smaller than a batch.
    choice = train.Choice(task.plan, "asked for", (train.Timing("matmul", 1, 1e-3, 1.0),))
    trial = trials.plan_trial(task, choice, 1e4)
    assert trial.how()["target@2shot, fixed"] == "all 2 steps, all 56 images"
    trials.Rounds(trial, tmp_path / "run")()
    run = store.open_run(tmp_path / "run")
    assert run.outputs("target@2shot").shape == (2, 48)
    for metric in ("accuracy", "train_accuracy", "per_class_accuracy"):
        found = run.metric("target@2shot", name=metric)
        assert ((found >= 0) & (found <= 1)).all()
    assert np.isfinite(run.column("targets/target@2shot/fixed/loss")).all()

    monkeypatch.setattr(
        measuring, "memory_needed", lambda ensemble, _: {"all": 10_000, "head": 100}[ensemble.trainable]
    )
    source = len(task.source) * (36 + 4)
    assert measuring._memory(task) == {"training": 10_000, "training heads": source + 100}


def test_old_runs_go_on_without_what_they_do_not_hold(make_task, open_writer):
    task = make_task(num_models=4, module=Dense(4))
    before = dataclasses.replace(task.schema(), train_accuracy=False)
    made_before = store.create_or_open(open_writer(task, "new").path.parent / "old", config={"design": {"kind": "x"}},
                                       provenance={}, schema=before)  # fmt: skip
    writer = store.create_or_open(
        made_before.path, config={"design": {"kind": "x"}}, provenance={}, schema=task.schema()
    )
    pipeline.train_missing_blocks(task, writer)
    run = store.open_run(writer.path)
    assert len(run.complete) == 4
    assert "targets/target/fixed/train_accuracy" not in run.layout.columns()


def test_findings_tell_training_accuracy_and_auroc_of_two_uneven_classes(make_task, open_writer):
    task = make_task(num_models=6, module=Dense(4))
    whole = task.targets[0]

    def two(part, sizes):
        rows = np.concatenate([np.flatnonzero(part.labels == c)[:n] for c, n in enumerate(sizes)])
        return data.from_arrays(part.name, part.images[rows], part.labels[rows], ["a", "b"])

    target = pipeline.TargetData("two", two(whole.train, (8, 8)), two(whole.test, (12, 6)))
    task = dataclasses.replace(task, targets=(target,))
    writer = open_writer(task)
    pipeline.train_missing_blocks(task, writer)
    run = store.open_run(writer.path)
    found, _ = pipeline.estimate_target(run, "two", "fixed", output="confidence", class_images={},
                                        estimators=(DifferenceOfMeans(),))  # fmt: skip
    np.testing.assert_array_equal(found.train_accuracy, run.metric("two", name="train_accuracy"))
    assert set(found.metrics) == {"auroc", "per_class_accuracy"}
    assert found.metrics["auroc"].value == pytest.approx(run.metric("two", name="auroc").mean())
    summary = pipeline.summary_of([found], {})
    assert {f"two/fixed/{name}" for name in ("train_accuracy", "auroc", "per_class_accuracy")} <= set(summary)
