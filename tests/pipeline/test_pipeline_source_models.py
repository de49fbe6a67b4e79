import json
import shutil

import flax.linen as nn
import jax
import numpy as np
import pytest

import jdt
from jdt import models, pipeline, store
from jdt.checks import UserError
from jdt.pipeline import saving
from jdt.train import orbax_bytes

SHAPE = (6, 6, 1)


def described(task, spec="small_cnn"):
    return pipeline.describe_source_model(spec, 4, SHAPE, task.recipe.mean, task.recipe.std)


def opened(task, path, spec="small_cnn"):
    config, provenance = (
        {"design": {"kind": task.design.kind}, "save_models": True},
        {"source_model": described(task, spec)},
    )
    return store.create_or_open(path, config=config, provenance=provenance, schema=task.schema())


def train(task, path, **options):
    pipeline.train_missing_blocks(task, writer := opened(task, path), save_models=True, **options)
    return writer


def contents(path):
    """The bytes of every model, by the models' folder without its token."""
    found = {}
    for block in sorted((path / "checkpoints").iterdir()):
        for part in block.iterdir():
            found[f"{block.name}/{part.name.rsplit('-', 1)[0]}"] = b"".join(
                file.read_bytes() for file in sorted((part / "bytes/c").iterdir())
            )
    return found


@pytest.fixture(scope="module")
def small(make_task, network):
    return make_task("fixed-size", num_models=4, block_size=2, module=network.module)


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    return train(small, tmp_path_factory.mktemp("saved") / "run").path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def test_a_source_model_is_the_one_whose_accuracy_is_recorded(small, finished, network):
    found = jdt.open_run(finished)
    accuracy, labels = found.column("source/accuracy"), np.asarray(small.source_test.labels)
    for number in (3, 0):
        model = found.source_model(number, network=network)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(model.variables))
        output = model.apply(small.source_test.images)
        right, kept = output.logits.argmax(axis=1) == labels, found.mask()[number][labels]
        assert np.mean(right[kept]) == pytest.approx(accuracy[number])
        by_hand = (small.source_test.images / np.float32(255) - np.float32(0.5)) / np.float32(0.25)
        variables = {"params": model.variables.params, **model.variables.state}
        np.testing.assert_allclose(
            model.module.apply(variables, jax.numpy.asarray(by_hand), train=False)[1], output.features, atol=1e-5
        )
    (folder,) = (finished / "checkpoints/000001").iterdir()
    (part,) = store.parts_of(found.records()[1])
    row = orbax_bytes.restore(orbax_bytes.epath.Path(folder), part.num_bytes)  # Orbax reads what Orbax wrote.
    np.testing.assert_array_equal(row[part.bytes_per_model :], store.read_models(finished, 1, part, range(3, 4))[0])


def test_a_kill_between_models_and_record_costs_the_block_alone(small, finished, tmp_path, monkeypatch):
    path = tmp_path / "run"

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.RunWriter, "write_block", killed)
        with pytest.raises(KeyboardInterrupt):
            train(small, path)
    assert jdt.open_run(path).complete.tolist() == []
    assert len(list((path / "checkpoints/000000").iterdir())) == 1
    (path / "checkpoints/000000/0-1-0123456789abcdef.orbax-checkpoint-tmp").mkdir()  # Killed earlier, inside Orbax.
    train(small, path)
    assert contents(path) == contents(finished)
    assert store.check_run(path).is_sound

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(orbax_bytes, "save", full)
    with pytest.raises(UserError, match=r"No space left on device.*every recorded block is safe"):
        train(small, tmp_path / "full")
    assert jdt.open_run(tmp_path / "full").complete.tolist() == []


def test_two_workers_on_one_block_leave_the_models_of_one(small, finished, tmp_path, monkeypatch):
    path, real = tmp_path / "run", store.RunWriter.write_block
    slower = opened(small, path)

    def overtaken(self, block, arrays, record):
        if self is slower:
            train(small, path)
        real(self, block, arrays, record)

    monkeypatch.setattr(store.RunWriter, "write_block", overtaken)
    pipeline.train_missing_blocks(small, slower, [0], save_models=True)
    assert contents(path) == contents(finished)
    assert store.check_run(path).is_sound


def test_the_models_of_a_block_that_grew_stay_where_they_are(make_task, tmp_path, network):
    few, more = (make_task("fixed-size", num_models=n, block_size=4, module=network.module) for n in (2, 4))
    before = list((train(few, tmp_path / "run").path / "checkpoints/000000").iterdir())
    train(more, tmp_path / "run")
    assert {*before} < {*(tmp_path / "run/checkpoints/000000").iterdir()}
    train(more, tmp_path / "fresh")
    grown, fresh = (jdt.open_run(tmp_path / name) for name in ("run", "fresh"))
    for number in range(4):
        one, other = (some.source_model(number, network=network).variables for some in (grown, fresh))
        jax.tree.map(np.testing.assert_array_equal, one, other)
    assert store.check_run(tmp_path / "run").complete == 4


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    ("file", "damage", "reason", "at_start"),
    [
        ("bytes/c/0", flip, "the bytes of model 3 are not those", False),
        ("bytes/c/0", cut, "bytes/c/0 has", True),
        ("bytes/c/0", lambda path: path.unlink(), "1 files are due in bytes/c", True),
        ("bytes/c/0", lambda path: (path.unlink(), path.symlink_to("nowhere")), "bytes/c/0 is missing", True),
        ("bytes/c", lambda path: (shutil.rmtree(path), path.touch()), "1 files are due in bytes/c", True),
        ("", shutil.rmtree, "leaves.json is missing", True),
        ("bytes/zarr.json", cut, "zarr.json is not as it was written", True),
        ("leaves.json", flip, "leaves.json is not the one", True),
    ],
)
def test_damage_is_found_named_and_trained_again(small, finished, run, network, file, damage, reason, at_start):
    (folder,) = (run / "checkpoints/000001").iterdir()
    damage(folder / file)
    with pytest.raises(UserError, match=f"{reason}.*verify --run .* --repair"):
        jdt.open_run(run).source_model(3, network=network)
    jdt.open_run(run).source_model(1, network=network)
    (fault,) = store.check_run(run).faults
    assert reason in fault.reason
    assert opened(small, shutil.copytree(run, run.with_name("resumed"), symlinks=True)).missing_blocks() == (
        [1] if at_start else []
    )
    store.check_run(run, repair=True)
    assert opened(small, run).missing_blocks() == [1]
    if damage is flip:
        train(small, run)
        assert contents(run) == contents(finished)


def edited(run, change):
    """Change a block's record, or run.json, as somebody would who makes up the digests as well."""
    path = run / ("run.json" if change.__name__ == "spec" else "blocks/000001.json")
    saved = json.loads(path.read_text())
    change(saved)
    saved.pop("digest")
    path.write_text(json.dumps(store.records.sealed(saved)))


def upwards(saved):
    saved["source_models"][0]["folder"] = "../../elsewhere"


def enormous(saved):
    saved["source_models"][0]["bytes_per_model"] = 1 << 60


def others(saved):
    saved["source_models"][0]["models"] = [0, 2]


def a_number(saved):
    saved["source_models"] = 3


@pytest.mark.parametrize("change", [upwards, enormous, others, a_number])
def test_records_of_models_that_jdt_never_writes_are_damage(run, change):
    edited(run, change)
    with pytest.raises(UserError, match=r"000001.json is damaged: source_models"):
        jdt.open_run(run)
    assert len(store.check_run(run).faults) == 1


def test_code_that_a_run_names_is_not_imported_unasked(run, network, monkeypatch):
    def spec(saved):
        saved["provenance"]["source_model"]["spec"] = "this_module_would_run:Net"

    edited(run, spec)
    found = jdt.open_run(run)
    store.check_run(run)
    with pytest.raises(UserError, match="importing that would run its code: pass trust=True"):
        found.source_model(0)
    with pytest.raises(UserError, match="unknown model 'this_module_would_run:Net'"):
        found.source_model(0, trust=True)
    found.source_model(0, network=network)


def test_what_cannot_be_had_is_refused_in_one_line(small, run, network, tmp_path):
    found = jdt.open_run(run)
    with pytest.raises(UserError, match=r"model is 17, but .* has models 0 to 3"):
        found.source_model(17)
    # The test's network is another than the one of the zoo that its run.json speaks of.
    with pytest.raises(UserError, match=r"params/conv0/kernel is absent there, and float32\[3, 3, 1, 32\] here"):
        found.source_model(0)
    (run / "blocks/000001.json").unlink()
    with pytest.raises(UserError, match=r"model 2 of .* is not complete"):
        jdt.open_run(run).source_model(2)
    pipeline.train_missing_blocks(small, opened(small, tmp_path / "plain"), [0])
    with pytest.raises(UserError, match="keeps no source models: it was made without --save-models"):
        jdt.open_run(tmp_path / "plain").source_model(0)
    with pytest.raises(UserError, match=r"images have shape \(8, 8, 1\)"):
        jdt.open_run(run).source_model(0, network=network).apply(np.zeros((1, 8, 8, 1), np.uint8))


class KeepsAKey(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        self.variable("keys", "own", lambda: jax.random.key(0))
        features = images.reshape(len(images), -1)
        return nn.Dense(self.num_classes, name="head")(features), features


def test_what_could_not_be_kept_is_refused_before_training(network, tmp_path, monkeypatch):
    monkeypatch.setattr(saving.importlib.util, "find_spec", lambda _: None)
    saving.require_savable(tmp_path, network, SHAPE)
    with pytest.raises(UserError, match="needs gcsfs: pip install gcsfs, or use a local --out"):
        saving.require_savable(store.run_path("gs://bucket/run"), network, SHAPE)
    with pytest.raises(UserError, match=r"cannot keep state/keys/own of the model: it is of type key<fry>"):
        saving.require_savable(tmp_path, models.Network(KeepsAKey(4)), SHAPE)


def test_overwriting_a_run_removes_its_models(small, run):
    config = json.loads((run / "run.json").read_text())["config"]
    store.create_or_open(run, config=config, provenance={}, schema=small.schema(), overwrite=True)
    assert not (run / "checkpoints").exists()
