"""How the engine drives a block: waves, memory, divergence, precision, what its programs are told; and recipes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from engine_examples import (
    CLASSES,
    PER_CLASS,
    RECIPE,
    assert_same,
    ensemble,
    leading,
    make_source,
    members_of,
    run,
)

from jdt import masks, train
from jdt.checks import UserError
from jdt.train import engine


@pytest.fixture(scope="module")
def source():
    return make_source()


def test_antithetic_partners_share_initialisation_and_nothing_of_their_data(source):
    design, ids = masks.Design("antithetic", seed=3), np.arange(4)
    initial = train.initial_variables(ensemble(), 3, design.randomness_id(ids))
    kernel = np.asarray(initial.params["conv0"]["kernel"])
    np.testing.assert_array_equal(kernel[0], kernel[1])
    assert (kernel[0] != kernel[2]).any()
    trained = np.asarray(run(source, design=design).variables.params["conv0"]["kernel"])
    assert (trained[0] != trained[1]).any()


def learn(source, precision="float32"):
    """Two models of all examples, long enough to know them."""
    recipe = dataclasses.replace(RECIPE, epochs=20, crop_pad=0, flip=False)
    made = ensemble("vmapped", recipe, precision=precision)
    trained = train.train(made, source, np.ones((2, CLASSES * PER_CLASS), bool), np.arange(2), seed=0)
    outputs = train.apply_in_batches(made, trained.variables, np.asarray(source.images), batch_size=40)
    accuracy = (np.asarray(outputs.logits.argmax(axis=-1)) == np.asarray(source.labels)).mean(axis=1)
    return trained, outputs, accuracy


@pytest.fixture(scope="module")
def learned(source):
    return learn(source)


def test_training_learns(learned):
    trained, _, accuracy = learned
    assert (accuracy > 0.9).all()
    assert trained.finite.all()
    assert trained.loss.max() < np.log(CLASSES) / 2


@pytest.mark.parametrize(("plan", "algorithm"), [("winograd", "sgd"), ("vmapped", "adamw")])
def test_learning_rates_and_lengths_share_a_program(source, plan, algorithm):
    short = dataclasses.replace(RECIPE, algorithm=algorithm, epochs=4, warmup_epochs=0, decay="step", decay_epochs=2)
    first = run(source, plan, recipe=short)
    programs = engine._run_steps, engine._initial_states, engine._draw_indices
    sizes = [program._cache_size() for program in programs]
    other = dataclasses.replace(short, epochs=5.3, warmup_epochs=2, decay="cosine", learning_rate=0.2, drop_last=True)
    second = run(source, plan, recipe=other)
    assert [program._cache_size() for program in programs] == sizes
    assert (first.loss != second.loss).all()
    made = ensemble(plan, other)
    assert made.num_steps != ensemble(plan, short).num_steps
    schedule = other.schedule(made.mean_subset_size)
    np.testing.assert_allclose(made.rates, [float(schedule(step)) for step in range(made.num_steps)], rtol=1e-5)


@pytest.mark.multidevice
def test_features_come_from_every_device(source):
    many, one = ensemble(num_devices=4), ensemble()
    variables = train.initial_variables(one, 0, np.arange(6))
    images = np.asarray(source.images)[:50]
    expected = train.apply_in_batches(one, variables, images, batch_size=20)
    assert_same(train.apply_in_batches(many, variables, images, batch_size=20), expected, rtol=1e-5, atol=1e-6)


def test_a_block_wider_than_the_plan_trains_in_waves(source):
    together = run(source, "vmapped")
    narrow = dataclasses.replace(ensemble("vmapped"), plan=dataclasses.replace(train.PLANS["vmapped"], width=2))
    design, ids, seen = masks.Design("fixed-size", seed=3), np.arange(3), []
    waves = train.train(
        narrow, source, members_of(design, ids), design.randomness_id(ids), seed=design.seed,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert_same(waves.variables, leading(3, together.variables), rtol=1e-4, atol=1e-5)
    assert seen == sorted(seen)
    assert seen[-1] == (2 * narrow.num_steps, 2 * narrow.num_steps)


def test_training_goes_on_from_given_variables(source):
    design, ids = masks.Design("fixed-size", seed=3), np.arange(3)
    fresh = train.initial_variables(ensemble(), design.seed, design.randomness_id(ids))
    kept = jax.tree.map(np.array, fresh)
    drawn = run(source, ids=ids)
    arguments = (ensemble(), source, members_of(design, ids), design.randomness_id(ids))
    given = train.train(*arguments, seed=design.seed, start=fresh)
    assert_same(given.variables, drawn.variables, rtol=0, atol=0)
    assert_same(fresh, kept, rtol=0, atol=0)  # Training donates its states, not the caller's arrays.


def test_bfloat16_keeps_parameters_statistics_and_outputs_in_float32(source, learned):
    trained, outputs, accuracy = learn(source, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(trained.variables)} == {np.dtype("float32")}
    assert {leaf.dtype for leaf in outputs} == {np.dtype("float32")}
    # Inference computes in float32: a value that bfloat16 cannot hold appears.
    assert (np.asarray(outputs.features) != np.asarray(outputs.features).astype(jnp.bfloat16)).any()
    assert (trained.loss != learned[0].loss).all(), "bfloat16 was not used at all"
    assert (accuracy > 0.9).all()


def test_a_plan_that_runs_out_of_memory_is_halved(source, monkeypatch):
    original, widths = engine._run_steps, []

    def scarce(wanted, states, *rest):
        widths.append(wanted.plan.width)
        if wanted.plan.width > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes.")
        return original(wanted, states, *rest)

    expected = run(source, "vmapped", ids=range(4))
    monkeypatch.setattr(engine, "_run_steps", scarce)
    wide = dataclasses.replace(train.PLANS["vmapped"], width=8)
    design, ids = masks.Design("fixed-size", seed=3), np.arange(4)
    arguments = (members_of(design, ids), design.randomness_id(ids))
    trained = train.train(dataclasses.replace(ensemble(), plan=wide), source, *arguments, seed=design.seed)
    assert list(dict.fromkeys(widths)) == [8, 4, 2]
    assert_same(trained.variables, expected.variables, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(engine, "_run_steps", lambda *_: scarce(dataclasses.replace(ensemble(), plan=wide), None))
    with pytest.raises(UserError, match=r"one model does not fit on the device.*123 bytes"):
        train.train(ensemble(), source, *arguments, seed=design.seed)


class Fragile(nn.Module):
    """Starts with an infinite parameter for about every second model."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="dense")(images.reshape(len(images), -1))
        crack = self.param("crack", lambda key: jnp.where(jax.random.bernoulli(key), jnp.inf, 0.0))
        return nn.Dense(self.num_classes, name="head")(features) + crack, features


@pytest.mark.parametrize("plan", ["winograd", "vmapped"])
def test_a_model_that_diverges_is_marked_and_the_others_go_on(source, plan):
    trained = run(source, plan, ids=range(8), module=Fragile(CLASSES))
    initial = train.initial_variables(ensemble(module=Fragile(CLASSES)), 3, np.arange(8))
    sound = np.isfinite(np.asarray(initial.params["crack"]))
    assert 0 < sound.sum() < 8
    np.testing.assert_array_equal(trained.finite, sound)
    assert np.isfinite(trained.loss[sound]).all()


def test_the_batch_shrinks_to_the_smallest_subset():
    small = dataclasses.replace(ensemble(), smallest_subset=5)
    assert small.batch_size == 5
    assert small.num_steps == round(RECIPE.epochs * small.mean_subset_size / 5)


def test_an_empty_subset_is_refused(source):
    with pytest.raises(ValueError, match="row 1 of `members` is empty"):
        train.train(ensemble(), source, np.array([[True] * 96, [False] * 96]), np.arange(2), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch-size is 0"),
        ({"learning_rate": -1.0}, "learning-rate is -1.0"),
        ({"decay": "steep"}, "unknown decay 'steep'; known: linear, cosine, step"),
        ({"crop_pad": -1}, "crop-pad is -1"),
    ],
)
def test_bad_recipes_are_refused(change, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # As in users' programs.
    with pytest.raises(UserError, match=message):
        dataclasses.replace(RECIPE, **change)


def test_the_linear_schedule_is_the_published_triangle():
    # arXiv 2207.05739, section 3.2: interp(t; [0, p I, E I] -> [0, 1, 0]) with E epochs of I steps, peak epoch p.
    recipe = train.Recipe(epochs=16, batch_size=10, learning_rate=0.5, warmup_epochs=2)
    schedule, steps = recipe.schedule(mean_subset_size=100), np.arange(160)
    expected = 0.5 * np.interp(steps, [0, 20, 160], [0, 1, 0])
    np.testing.assert_allclose([float(schedule(t)) for t in steps], expected, atol=1e-6)


def test_weight_decay_and_momentum_are_those_of_the_papers():
    recipe = train.Recipe(epochs=1, batch_size=1, learning_rate=0.1, warmup_epochs=0, weight_decay=0.01)
    optimizer = recipe.optimizer(recipe.schedule(mean_subset_size=10))
    p, v = 2.0, 0.0
    state, params = optimizer.init(jnp.asarray(p)), jnp.asarray(p)
    for step, gradient in enumerate([1.0, -0.5, 0.25]):
        updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        params = params + updates
        v = 0.9 * v + gradient + 0.01 * p
        p -= 0.1 * (1 - step / 10) * v
        np.testing.assert_allclose(params, p, rtol=1e-5)
