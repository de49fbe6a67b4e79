import dataclasses
import shutil

import flax.serialization
import jax
import numpy as np
import pytest

import jdt
from jdt import config, models, pipeline, store, train, transfer
from jdt.checks import UserError

FULL = transfer.FullNetwork(train.Recipe(epochs=1, batch_size=8, learning_rate=0.05))
COLUMNS = {
    "fixed": ("margin", "confidence", "prediction", "accuracy", "train_accuracy", "gradient_norm"),
    "full": ("margin", "confidence", "prediction", "accuracy", "train_accuracy", "loss"),
}


@pytest.fixture(scope="module")
def task_of(make_task, network):
    old = make_task().targets[0]

    def renamed(data, labels_from):
        images = np.ascontiguousarray(np.asarray(data.images)[:, ::-1])
        return jdt.data.from_arrays(f"mirrored {labels_from}", images, data.labels, data.class_names)

    new = pipeline.TargetData("new/target", renamed(old.train, "train"), renamed(old.test, "test"))

    def of(num_models, targets=(old,)):
        task = make_task("fixed-size", num_models=num_models, block_size=2, targets=targets, module=network.module)
        return dataclasses.replace(task, modes=("fixed", "full"), full=FULL)

    return of, old, new


def opened(task, path, **more):
    plain = {name: config.to_plain(getattr(task, name)) for name in ("design", "recipe", "head", "full", "precision")}
    recipe = task.recipe
    provenance = {
        "plan": {"name": task.plan.name, "width": task.plan.width},
        "source_model": pipeline.describe_source_model("small_cnn", 4, (6, 6, 1), recipe.mean, recipe.std),
    }
    return store.create_or_open(
        path, config={**plain, "save_models": True, **more}, provenance=provenance, schema=task.schema()
    )  # fmt: skip


def trained(task, path):
    pipeline.train_missing_blocks(task, opened(task, path), save_models=True)
    return path


@pytest.fixture(scope="module")
def add(network):
    def to(path, target, **options):
        added = pipeline.added_target(jdt.open_run(path), target, network=network, **options)
        pipeline.transfer_missing_blocks(added, added.open({"output": "confidence"}))

    return to


def own_files(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and "transfers" not in file.parts}


@pytest.fixture(scope="module")
def kept(task_of, tmp_path_factory):
    of, _old, _ = task_of
    return trained(of(3), tmp_path_factory.mktemp("again") / "run")


@pytest.fixture
def run(kept, tmp_path):
    return shutil.copytree(kept, tmp_path / "copy")


def test_an_added_target_has_the_outputs_it_would_have_had(task_of, add, run, tmp_path, monkeypatch):
    of, old, new = task_of
    before, real = own_files(run), store.RunWriter.write_block

    def killed(self, block, arrays, record):
        if block == 1:
            raise KeyboardInterrupt
        real(self, block, arrays, record)

    with monkeypatch.context() as patch:
        patch.setattr(store.RunWriter, "write_block", killed)
        with pytest.raises(KeyboardInterrupt):
            add(run, new)
    with pytest.raises(UserError, match="1 of 3 complete models have not been transferred to new/target yet"):
        jdt.open_run(run).outputs("new/target")
    add(run, new)
    assert own_files(run) == before

    trained(of(4), run)  # The run grows by a model in its last block, and the target after it.
    assert jdt.open_run(run).added["new/target"].complete.tolist() == [0, 1, 2]
    add(run, new)
    alone = tmp_path / "from the start"
    pipeline.train_missing_blocks(of(4, (old, new)), opened(of(4, (old, new)), alone))
    there, due = jdt.open_run(run), jdt.open_run(alone)
    held = there.holding("new/target")
    for mode, columns in COLUMNS.items():
        for column in columns:
            name = f"targets/new/target/{mode}/{column}"
            np.testing.assert_array_equal(held.column(name), due.column(name), err_msg=name)
        random = pipeline.random_accuracy(held, "new/target", mode)
        np.testing.assert_array_equal(random, pipeline.random_accuracy(due, "new/target", mode))
        np.testing.assert_array_equal(
            there.outputs("new/target", mode, "margin", examples=slice(3, 5)),
            due.outputs("new/target", mode, "margin")[:, 3:5],
        )
        np.testing.assert_array_equal(
            there.metric("new/target", mode, "per_class_accuracy"), due.metric("new/target", mode, "per_class_accuracy")
        )
    np.testing.assert_array_equal(held.mask(), there.mask())
    np.testing.assert_array_equal(held.column("source/accuracy"), due.column("source/accuracy"))

    files = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    monkeypatch.setattr(pipeline.again, "transferred", None)  # Nothing is left to transfer.
    add(run, new)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == files


def test_readers_find_an_added_target(task_of, add, run):
    _, old, new = task_of
    add(run, new, modes=("fixed",))
    found = jdt.open_run(run)
    assert list(found.targets) == ["target", "new/target"]
    np.testing.assert_array_equal(found.targets["new/target"].labels, new.test.labels)
    assert found.layout.num_examples.keys() == {"target"}
    difference = next(one for one in jdt.estimators.TABLE if one.name == "difference")
    pipeline.estimate_target(found, "new/target", "fixed", output="margin", class_images={}, estimators=[difference])
    rows = pipeline.usable_rows(found, "new/target", "fixed")
    influences = jdt.load_influences(run, target="new/target", output="margin", estimator="difference")
    np.testing.assert_allclose(influences.influence, difference.fit(rows.masks, rows.outputs["margin"]).influence, 1e-5)
    assert (run / "transfers/new_target/influences").is_dir()
    with pytest.raises(UserError, match="unknown target 'nwe'; known: target, new/target"):
        found.outputs("nwe")
    with pytest.raises(UserError, match="unknown mode 'full'; known: fixed"):
        found.outputs("new/target", "full")

    chunk = next(file for file in (run / "transfers/new_target/store.zarr/targets").rglob("c/1/*") if file.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-2])
    (fault,) = store.check_run(run, repair=True).faults
    assert fault.file == "transfers/new_target/blocks/000001.json"
    assert store.check_run(run).is_sound
    add(run, new, modes=("fixed",))
    assert jdt.open_run(run).outputs("new/target").shape == (3, len(new.test))
    (run / "transfers/new_target/run.json").write_text("{}")
    assert jdt.open_run(run).outputs("target").shape == (3, len(old.test))  # Damage of one does not spread.
    (fault,) = store.check_run(run).faults
    assert fault.file == "transfers/new_target/run.json"


def test_what_cannot_be_added_is_refused(task_of, add, run, tmp_path):
    of, old, new = task_of
    with pytest.raises(UserError, match="has had the target 'target' from the start"):
        add(run, old)
    wide = jdt.data.from_arrays("wide", np.zeros((4, 9, 9, 1), np.uint8), np.arange(4, dtype=np.int32), list("abcd"))
    with pytest.raises(UserError, match=r"wide has images of shape \(9, 9, 1\).*\(6, 6, 1\).*--image-size"):
        add(run, pipeline.TargetData("wide", wide, wide))
    other = dataclasses.replace(FULL, recipe=dataclasses.replace(FULL.recipe, epochs=2))
    with pytest.raises(UserError, match="other settings are asked for"):
        add(run, new, full=other)
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / "transfers").symlink_to(outside)
    with pytest.raises(UserError, match=r"symbolic link to .*, outside the run"):
        add(run, new)
    assert list(outside.iterdir()) == []
    (run / "transfers").unlink()
    add(run, new, modes=("fixed",))
    with pytest.raises(UserError, match=r"another config: .*transfer"):
        add(run, new, modes=("fixed", "full"))
    config = {**jdt.open_run(run).config, "seed": 1}
    twin = store.create_or_open(tmp_path / "twin", config=config, provenance={}, schema=of(3).schema()).path
    shutil.copytree(run / "transfers", twin / "transfers")
    with pytest.raises(UserError, match="is no target that was added to this run"):
        _ = jdt.open_run(twin).targets
    with pytest.raises(UserError, match="does not say what its models are"):
        add(twin, new)


def test_models_that_start_from_a_file_start_there_under_heads_of_their_own(make_task, task_of, network, tmp_path):
    _, _, new = task_of
    like, draw = jax.eval_shape(lambda key: network.init(key, (6, 6, 1)), jax.random.key(0)), np.random.default_rng(0)
    given = jax.tree.map(lambda leaf: np.abs(draw.normal(size=leaf.shape)).astype(np.float32), like)
    (tmp_path / "given.msgpack").write_bytes(
        flax.serialization.to_bytes({"params": given.params, **given.state})
    )  # fmt: skip
    start = models.load_variables(tmp_path / "given.msgpack", network, (6, 6, 1), head=False)
    still = make_task("fixed-size", num_models=2, block_size=2, module=network.module, learning_rate=1e-30)
    task, path = dataclasses.replace(still, start=start, baseline_models=2), tmp_path / "run"
    writer = opened(task, path, start_from=models.variables_digest(start))
    pipeline.train_missing_blocks(task, writer, save_models=True)
    one, other = (jdt.open_run(path).source_model(i, network=network).variables for i in range(2))
    for name in ("dense", "norm"):
        jax.tree.map(np.testing.assert_array_equal, one.params[name], given.params[name])
    assert (one.params["head"]["kernel"] != other.params["head"]["kernel"]).all()
    assert (one.state["batch_stats"]["norm"]["mean"] != given.state["batch_stats"]["norm"]["mean"]).all()
    # Features of the file, not random ones, are what training has to improve on.
    assert len(set(pipeline.random_accuracy(jdt.open_run(path), "target", "fixed"))) == 1
    with pytest.raises(UserError, match="started from a file: pass it as --start-from"):
        pipeline.added_target(jdt.open_run(path), new, network=network)
    options = {"network": network, "start_from": tmp_path / "given.msgpack"}
    added = pipeline.added_target(jdt.open_run(path), new, **options)
    assert added.start is not None
    assert added.baseline_models == 2
