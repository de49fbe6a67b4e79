"""SimCLR: its loss against NumPy, models beside others, checkpoints, and what it refuses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import data, models, train
from jdt.checks import UserError
from jdt.train import engine, planning, simclr

SHAPE = (8, 8, 3)
SIMCLR = train.SimCLR(temperature=0.2, width=8, augmentation=data.Augmentation(crop_scale=(0.3, 1.0)))
RECIPE = train.Recipe(epochs=2, batch_size=8, learning_rate=0.01, algorithm="adamw")


class Net(nn.Module):
    """One BatchNorm behind a dense layer: compiles soon."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(8, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


def source():
    return train.SourceData(*map(jnp.asarray, (
        np.random.default_rng(0).integers(0, 256, (48, *SHAPE), np.uint8), np.zeros(48, np.int32))))  # fmt: skip


def ensemble(plan="matmul", **kwargs):
    chosen = train.PLANS[plan]
    chosen = dataclasses.replace(chosen, steps_per_call=min(4, chosen.steps_per_call), width=min(2, chosen.width))
    return train.Ensemble(models.Network(Net(4)), RECIPE, chosen, SHAPE, 24.0, 24, **{"objective": SIMCLR, **kwargs})


def members(count=3):
    return np.stack([np.random.default_rng(m).permutation(48) < 24 + m for m in range(count)])


def trained(plan="matmul", rows=slice(None), checkpoints=None, progress=None, **kwargs):
    return train.train(ensemble(plan, **kwargs), source(), members()[rows], np.arange(3)[rows], seed=1,
                       checkpoints=checkpoints, progress=progress)  # fmt: skip


@pytest.fixture(scope="module")
def plainly():
    """Three models, one after the other."""
    return trained()


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def numpy_nt_xent(a, b, temperature):
    """One anchor after the other, in double precision: its partner against all other views but itself."""
    views = np.concatenate([a, b]).astype(np.float64)
    views /= np.linalg.norm(views, axis=1, keepdims=True)
    count, losses = len(a), []
    for i, view in enumerate(views):
        partner = (i + count) % (2 * count)
        others = [np.exp(view @ views[j] / temperature) for j in range(2 * count) if j != i]
        losses.append(np.log(np.sum(others)) - view @ views[partner] / temperature)
    return np.mean(losses)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_the_loss_and_its_gradient_are_those_of_numpy(temperature):
    draw = np.random.default_rng(0)
    a, b, step_a, step_b = draw.normal(size=(4, 9, 5))
    want = numpy_nt_xent(a, b, temperature)
    single = jax.jit(simclr.nt_xent, static_argnums=2)(jnp.float32(a), jnp.float32(b), temperature)
    assert abs(float(single) / want - 1) < 1e-6
    with jax.enable_x64(True):
        value = jax.jit(jax.value_and_grad(simclr.nt_xent, (0, 1)), static_argnums=2)
        loss, gradients = value(jnp.asarray(a), jnp.asarray(b), temperature)
        assert abs(float(loss) - want) < 1e-12
        small = 1e-5
        ahead, behind = (numpy_nt_xent(a + s * step_a, b + s * step_b, temperature) for s in (small, -small))
        slope = float(jnp.vdot(gradients[0], step_a) + jnp.vdot(gradients[1], step_b))
        assert abs(slope - (ahead - behind) / (2 * small)) < 1e-8


def test_the_objective_is_that_loss_of_two_views_of_each_image_in_one_pass():
    model, batch, key = ensemble(), jnp.arange(8), jax.random.key(5)
    variables = jax.jit(model.init, static_argnums=(0, 1))(0, 0)

    def views_of(objective):
        return jax.jit(lambda: objective.inputs(RECIPE, source(), key, batch))()

    @jax.jit
    def found(variables, views):
        own = variables.params["objective"]
        loss = SIMCLR.loss(lambda x: model.train_apply(variables, x, key), own, views, RECIPE)
        return model.train_apply(variables, views, key), loss

    (output, changed), (loss, state) = found(variables, views_of(SIMCLR))
    hidden, out = (variables.params["objective"][name] for name in ("hidden", "out"))
    projections = np.maximum(np.asarray(output.features) @ hidden["kernel"] + hidden["bias"], 0) @ out["kernel"]
    assert abs(float(loss) - numpy_nt_xent(projections[:8], projections[8:], 0.2)) < 1e-5
    for one, other in zip(leaves(state), leaves(changed), strict=True):
        np.testing.assert_array_equal(one, other)
    off = data.Augmentation((1.0, 1.0), False, jitter_probability=0, grey_probability=0, blur_probability=0)
    plain = dataclasses.replace(SIMCLR, augmentation=off)
    first, second = np.split(views_of(plain), 2)
    np.testing.assert_array_equal(first, second)
    first, second = np.split(views_of(dataclasses.replace(plain, shuffled_pairs=True)), 2)
    np.testing.assert_array_equal(np.roll(first, 1, axis=0), second)


def test_a_model_is_the_same_in_any_company():
    """Beside another model, in the other place of two."""
    first, second = trained("vmapped", slice(0, 2)), trained("vmapped", slice(1, 3))
    for one, other in zip(leaves(first.variables), leaves(second.variables), strict=True):
        np.testing.assert_array_equal(one[1], other[0])
    assert first.finite.all()


def test_nothing_of_one_model_reaches_another_on_any_number_of_devices(plainly):
    """Other images for models 0 and 2, and other devices, leave model 1's bits as they are."""
    mine = members()[1]
    pixels = jnp.where(jnp.asarray(mine)[:, None, None, None], source().images, 255 - source().images)
    after = train.train(ensemble(num_devices=3), source()._replace(images=pixels), members(), np.arange(3), seed=1)
    for one, other in zip(leaves(plainly.variables), leaves(after.variables), strict=True):
        np.testing.assert_array_equal(one[1], other[1])
    assert plainly.loss[0] != after.loss[0]


def test_the_head_stays_and_the_projection_learns_and_transfer_sees_neither(plainly):
    model = ensemble()
    start = train.initial_variables(model, 1, np.arange(3))
    done = plainly.variables
    for name, stays in (("head", True), ("objective", False), ("dense", False)):
        pairs = zip(leaves(start.params[name]), leaves(done.params[name]), strict=True)
        moved = [not np.array_equal(before, after) for before, after in pairs]
        assert not any(moved) if stays else all(moved)
    assert "objective" not in model.of_network(done).params
    images = np.asarray(source().images)
    with_own, without = (train.apply_in_batches(model, v, images).features for v in (done, model.of_network(done)))
    np.testing.assert_array_equal(with_own, without)
    frozen = trained(trainable="head", statistics="frozen").variables
    np.testing.assert_array_equal(frozen.params["dense"]["kernel"], start.params["dense"]["kernel"])
    assert not np.array_equal(frozen.params["objective"]["out"]["kernel"], start.params["objective"]["out"]["kernel"])


def test_training_goes_on_from_a_checkpoint_to_the_same_bits(plainly, tmp_path):
    keep, seen = train.Checkpoints(tmp_path / "unfinished", "one", 0.0), []

    def interrupt(done, total):
        keep.wait()
        if done >= 10:  # Of 18: within the second of three waves.
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(checkpoints=keep, progress=interrupt)
    keep = train.Checkpoints(tmp_path / "unfinished", "one", 0.0)
    resumed = trained(checkpoints=keep, progress=lambda done, _: seen.append(done))
    assert seen[0] > 0
    for one, other in zip(leaves(plainly.variables), leaves(resumed.variables), strict=True):
        np.testing.assert_array_equal(one, other)
    settings = [
        engine._settings(ensemble(objective=o), source(), members(), np.arange(3), 1, None)
        for o in (train.SUPERVISED, SIMCLR, dataclasses.replace(SIMCLR, temperature=0.3))
    ]
    assert "objective" not in settings[0]
    assert settings[1]["objective"] != settings[2]["objective"]


def test_its_program_is_timed_and_measured():
    assert planning.time_plan(ensemble(), 48).seconds_per_step > 0
    assert planning.memory_needed(ensemble(), 48) > planning.memory_needed(ensemble(objective=train.SUPERVISED), 48)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: train.SimCLR(temperature=0.0), "temperature is 0.0, but must be positive"),
        (lambda images: SIMCLR.check(train.Recipe(batch_size=1), images), "batch-size is 1"),
        (lambda images: SIMCLR.check(train.Recipe(flip=True), images), "the recipe sets flip, but SimCLR has its own"),
    ],
)
def test_what_it_cannot_do_is_refused(make, message):
    images = data.from_arrays("some", np.zeros((4, *SHAPE), np.uint8), np.arange(4, dtype=np.int32) % 2, ("a", "b"))
    with pytest.raises(UserError, match=message):
        make(images)
