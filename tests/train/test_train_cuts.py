"""Random-resized crops and a changing resolution: cut on the host while a streamed source is trained on."""

import dataclasses
import io
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jdt import config, data, masks, models, pipeline, plant, train, transfer
from jdt.checks import UserError
from jdt.data.source import Record, Source

CLASSES, EXAMPLES, SIDE, IDS, SEED = 3, 48, 12, np.arange(3), 1
RECIPE = train.Recipe(
    epochs=3, batch_size=4, learning_rate=0.02, warmup_epochs=0, flip=True,
    random_resized=True, resolution=((0, 8), (2, 10)),
)  # fmt: skip


class Pooled(nn.Module):
    """Sees images of any size, and compiles fast."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.relu(nn.Dense(6, name="pixels")(images)).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


class Placed(nn.Module):
    """Has a parameter for every place of the image, as a vision transformer does."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = (images + self.param("places", nn.initializers.zeros, images.shape[1:])).mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


def streamed():
    """JPEGs of several sizes; red, green or blue prevails."""
    raws, draw = [], np.random.default_rng(0)
    for i in range(EXAMPLES):
        pixels = draw.integers(0, 120, (14 + i % 5, 20 - i % 7, 3)).astype(np.uint8)
        pixels[..., i % CLASSES] += 100
        raws.append(io.BytesIO())
        Image.fromarray(pixels).save(raws[-1], "JPEG")
    source = Source(
        "jpegs", tuple("rgb"), EXAMPLES, {}, lambda: "RGB",
        lambda rows: [Record(f"jpeg {i}", raws[i].getvalue(), i % CLASSES) for i in rows],
    )  # fmt: skip
    images = data.StreamedImages(source, "RGB", SIDE, (EXAMPLES, SIDE, SIDE, 3))
    return data.Dataset("jpegs", images, np.arange(EXAMPLES, dtype=np.int32) % CLASSES, tuple("rgb"), "of jpegs")


@pytest.fixture(scope="module")
def source():
    return streamed()


@pytest.fixture(scope="module")
def members():
    half = np.arange(EXAMPLES) < EXAMPLES // 2
    return np.random.default_rng(1).permuted(np.tile(half, (len(IDS), 1)), axis=1)


def ensemble(recipe=RECIPE, module=None, plan="native", num_devices=1):
    few = dataclasses.replace(train.PLANS[plan], steps_per_call=2)
    network = models.Network(module or Pooled(CLASSES))
    shape = (SIDE, SIDE, 3)
    return train.Ensemble(network, recipe, few, shape, EXAMPLES / 2, EXAMPLES // 2, num_devices=num_devices)


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_is_the_same_alone_in_company_and_after_an_interruption(source, members, tmp_path):
    pool = train.Pool(source, 20)  # Three chunks a pass.
    together = train.train(ensemble(num_devices=2), pool, members, IDS, seed=SEED)
    assert together.finite.all()
    alone = train.train(ensemble(), pool, members[1:2], IDS[1:2], seed=SEED)
    assert_same(jax.tree.map(lambda leaf: leaf[1:2], together.variables), alone.variables)

    told = itertools.count()
    checkpoints = train.Checkpoints(tmp_path / "block", "study", 0.0)

    def end(*_):
        checkpoints.wait()
        if next(told) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train.train(ensemble(), pool, members[1:2], IDS[1:2], seed=SEED, progress=end, checkpoints=checkpoints)
    seen = []
    resumed = train.train(
        ensemble(), pool, members[1:2], IDS[1:2], seed=SEED, checkpoints=train.Checkpoints(tmp_path / "block", "study"),
        progress=lambda done, _: seen.append(done),
    )  # fmt: skip
    assert seen[0] > 0
    assert_same(alone.variables, resumed.variables)


def test_every_size_compiles_once_and_learns(source, members):
    longer = dataclasses.replace(RECIPE, epochs=12, resolution=((0, 6), (9, 7)), learning_rate=0.1)
    wanted, before = ensemble(longer), train.engine._run_steps._cache_size()
    trained = train.train(wanted, train.Pool(source, 20), members, IDS, seed=SEED)
    after = train.engine._run_steps._cache_size()
    assert after <= before + 4  # Two sizes; calls of two steps and the last, where one is left.
    train.train(wanted, train.Pool(source, 20), members, IDS, seed=2)
    assert train.engine._run_steps._cache_size() == after
    logits = np.asarray(train.apply_in_batches(wanted, trained.variables, source.images).logits)
    assert (logits.argmax(axis=-1) == source.labels).mean() > 0.8  # At a size that no step has seen.


def test_images_of_each_stretch_have_the_size_of_its_epoch(source):
    for capacity, renewed in ((EXAMPLES, True), (20, True), (20, False)):
        stretches = list(
            train.Pool(source, capacity).stretches(18, 6.0, SEED, sizes=((0, 8), (12, 10)), renewed=renewed)
        )
        assert [s.size for s in stretches] == [8 if s.first_step < 12 else 10 for s in stretches]
        assert [s.pass_number for s in stretches] == [s.first_step // 6 for s in stretches]
        assert sum(s.num_steps for s in stretches) == 18
    # A boundary within a chunk's steps cuts them in two.
    parts = list(train.Pool(source, EXAMPLES).stretches(6, 6.0, SEED, sizes=((0, 8), (4, 10)), renewed=False))
    assert [(s.first_step, s.num_steps, s.size, s.part) for s in parts] == [(0, 4, 8, 0), (4, 2, 10, 1)]


def test_crops_are_new_in_every_pass_even_where_the_pool_holds_all(source, members, monkeypatch):
    seen = []
    show = data.StreamedImages.looked_at
    monkeypatch.setattr(data.StreamedImages, "looked_at", lambda *args: (seen.append(args[1]), show(*args))[1])
    train.train(ensemble(), train.Pool(source, EXAMPLES), members[:1], IDS[:1], seed=SEED)
    assert len({look.key for look in seen}) == 3
    assert {look.size for look in seen} == {8, 10}


def test_versions_of_an_example_are_cropped_alike(source):
    who = np.arange(EXAMPLES) % 5 == 0
    pool = plant.with_versions(source, {"square": (who, plant.Square().stamp((SIDE, SIDE, 3)))}, seed=0).data
    look = data.Look(8, RECIPE.view, data.crop_key(SEED, 0))
    ((images, _),) = data.read_chunks(pool, [(np.arange(len(pool)), look)])
    np.testing.assert_array_equal(images, images[pool.version_of])
    ((alone, _),) = data.read_chunks(dataclasses.replace(pool, version_of=None), [(np.arange(len(pool)), look)])
    assert (images != alone).any()


def make_task(source, recipe=RECIPE, module=None, **kwargs):
    target = pipeline.TargetData("target", source, source)
    return pipeline.Task(
        source=source, source_test=None,
        units=masks.by_class(np.asarray(source.labels), source.class_names), targets=(target,),
        design=masks.Design("fixed-size", 2 / 3, seed=0), num_models=4, block_size=2,
        network=models.Network(module or Pooled(CLASSES)), recipe=recipe, plan=train.PLANS["native"],
        head=transfer.FixedFeature(), allow_overlap=True, **kwargs,
    )  # fmt: skip


def test_a_task_pools_what_is_cut_and_refuses_what_cannot_be(source):
    task = make_task(source)
    assert task.pool is not None
    assert task.pool.capacity == EXAMPLES
    assert task.ensemble.training_shape == (10, 10, 3)
    memory = EXAMPLES * 10 * 10 * 3 / 2**30
    assert pipeline.pool_size(source, memory, RECIPE) is None
    assert pipeline.pool_size(source, memory * 0.99, RECIPE) == 47
    with pytest.raises(UserError, match=r"Placed has parameters that depend on the size of the images \(params/places"):
        make_task(source, module=Placed(CLASSES))
    make_task(source, dataclasses.replace(RECIPE, resolution=((0, SIDE),)), Placed(CLASSES))
    decoded = data.from_arrays("decoded", np.asarray(source.images), source.labels, source.class_names)
    with pytest.raises(UserError, match="decoded already: load it streamed"):
        make_task(decoded)
    with pytest.raises(UserError, match="pass a pool of a streamed dataset"):
        train.train(ensemble(), train.SourceData(decoded.images, decoded.labels), np.ones((1, EXAMPLES), bool), IDS[:1],
                    seed=0)  # fmt: skip
    grey = data.from_arrays("grey", decoded.images[..., :1], source.labels, source.class_names)
    with pytest.raises(UserError, match="--image-channels 3 to read grey"):
        dataclasses.replace(task, targets=(pipeline.TargetData("grey", grey, grey),))


def test_a_pattern_of_one_size_goes_with_crops_and_not_with_a_changing_resolution(source):
    stamp = plant.Square().stamp((SIDE, SIDE, 3))
    stamped = plant.stamped_view(source, stamp, seed=0)
    with pytest.raises(UserError, match="is streamed, and carries stamps that need its pixels"):
        data.as_shown(stamped)
    still = make_task(source, dataclasses.replace(RECIPE, resolution=()))
    dataclasses.replace(still, source=stamped)
    with pytest.raises(UserError, match=r"jpegs\+square carries a pattern of the size of its images, but the recipe's"):
        dataclasses.replace(make_task(source), source=stamped)
    ((images, labels),) = data.read_chunks(stamped, [(np.arange(9), data.Look(SIDE, RECIPE.view, 1))])
    chunk = jax.tree.map(jnp.asarray, train.source.chunk(stamped, np.arange(9), images, labels))
    show = jax.jit(lambda chunk: train.batch_images(still.recipe, chunk, jax.random.key(0), jnp.arange(9)))
    seen = show(chunk)
    assert (np.asarray(seen)[:, :3, :3] == [255, 255, 0]).all()


def test_fine_tuning_reads_crops_of_the_streamed_split(source):
    wanted = dataclasses.replace(RECIPE, epochs=1, resolution=())
    block = ensemble(dataclasses.replace(RECIPE, resolution=(), random_resized=False))
    start = train.initial_variables(block, SEED, IDS)
    decoded = data.from_arrays("decoded", np.asarray(source.images), source.labels, source.class_names)
    settings = {"target": "t", "randomness_ids": IDS, "seed": SEED}
    cut = transfer.transfer_full(block, start, source, decoded, transfer.FullNetwork(wanted), **settings)
    whole = transfer.FullNetwork(dataclasses.replace(wanted, random_resized=False))
    still = transfer.transfer_full(block, start, decoded, decoded, whole, **settings)
    assert cut.finite.all()
    assert (np.asarray(cut.loss) != np.asarray(still.loss)).all()


def test_a_recipe_without_cuts_is_plainly_what_it_was():
    plain = config.to_plain(train.Recipe())
    assert plain.keys().isdisjoint({"random_resized", "crop_scale", "resolution"})
    assert config.to_plain(RECIPE)["resolution"] == [[0, 8], [2, 10]]
    for bad in (((1, 8),), ((0, 8), (0, 9)), ((0, 0),)):
        with pytest.raises(UserError, match="must be pairs of a first epoch and a side"):
            train.Recipe(resolution=bad)
    with pytest.raises(UserError, match="crop-scale is"):
        train.Recipe(crop_scale=(0.5, 2.0))


def test_what_is_left_out_of_a_trial_goes_at_the_pace_of_its_size():
    from jdt.pipeline import trial

    told = [(0.0, 0), (1.0, 2), (2.0, 4), (6.0, 6)]
    pace = trial.Pace(8, 80, 1, told, sizes=((0, 8), (4, 10)), left_out={8: 36, 10: 36})
    assert pace.rest() == pytest.approx(36 * 0.5 + 36 * 2.0)
    cut = trial._cut_recipe(RECIPE, ensemble(), 1)
    small = ensemble(cut)
    assert small.num_steps < ensemble().num_steps
    assert min(trial._steps_by_size(small).values()) >= 4  # Two calls of two steps.
