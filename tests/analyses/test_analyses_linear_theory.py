"""What fine-tuning cannot reach stays: the linear theory against plain gradient descent and against the engine."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import analyses, data, models, train, transfer
from jdt.transfer.full import tuned_ensemble

SHAPE, PIXELS, CLASSES, MODELS = (5, 5, 1), 25, 3, np.arange(2)
MEAN, STD = 0.4, 0.3
RECIPE = train.Recipe(epochs=15, batch_size=6, learning_rate=0.05, warmup_epochs=2, momentum=0.0, weight_decay=0.0)


def descended(start, inputs, targets, *, steps, decay=0.0):
    """Plain gradient descent on mean squares with decay decoupled from the gradient, and its step."""
    rate = len(inputs) / np.linalg.norm(inputs, 2) ** 2
    weights = start.copy()
    for _ in range(steps):
        gradient = inputs.T @ (inputs @ weights - targets) / len(inputs)
        weights = (1 - rate * decay) * weights - rate * gradient
    return weights, rate


def regression(examples, features=12):
    draw = np.random.default_rng(examples)
    return draw.normal(size=features), draw.normal(size=(examples, features)), draw.normal(size=examples)


@pytest.mark.parametrize("repeated", [False, True])
def test_descent_ends_at_the_least_change_and_keeps_what_is_orthogonal(repeated):
    start, inputs, targets = regression(5)
    if repeated:  # More examples than features, but of a lower rank: what counts is the space that they span.
        inputs, targets = np.tile(inputs, (4, 1)), np.tile(targets, 4)
    end, _ = descended(start, inputs, targets, steps=4000)
    np.testing.assert_allclose(end, analyses.least_change(start, inputs, targets), atol=1e-9)
    np.testing.assert_allclose(inputs @ end, targets, atol=1e-9)
    kept = analyses.kept_part(start, inputs)
    assert np.linalg.norm(kept) > 0.5
    np.testing.assert_allclose(inputs @ kept, 0, atol=1e-12)
    np.testing.assert_allclose(analyses.kept_part(end, inputs), kept, atol=1e-6)


def test_decay_shrinks_what_is_kept_step_by_step():
    start, inputs, targets = regression(5)
    kept, steps, decay = analyses.kept_part(start, inputs), 60, 0.05
    end, rate = descended(start, inputs, targets, steps=steps, decay=decay)
    left = analyses.kept_after([(rate, decay)] * steps)
    assert left == pytest.approx((1 - rate * decay) ** steps)
    assert 0.1 < left < 0.9
    np.testing.assert_allclose(analyses.kept_part(end, inputs), left * kept, atol=1e-6)


@pytest.mark.parametrize("examples", [12, 30])
def test_nothing_is_kept_where_the_inputs_have_full_column_rank(examples):
    start, inputs, targets = regression(examples)
    assert (analyses.kept_part(start, inputs) == 0).all()
    solution = np.linalg.lstsq(inputs, targets, rcond=None)[0]
    for begin in (start, -start):  # Wherever it starts.
        np.testing.assert_allclose(analyses.least_change(begin, inputs, targets), solution, atol=1e-9)
    if examples > 12:
        np.testing.assert_allclose(descended(start, inputs, targets, steps=4000)[0], solution, atol=1e-9)


class Linear(nn.Module):
    """Pixels, a linear map, and a head on it."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.Dense(4, name="hidden")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.fixture(scope="module")
def ensemble():
    recipe = dataclasses.replace(RECIPE, mean=(MEAN,), std=(STD,))
    return train.Ensemble(models.Network(Linear(5)), recipe, train.PLANS["matmul"], SHAPE, 12.0, 12)


def target(count):
    draw = np.random.default_rng(count)
    images = draw.integers(0, 256, (count, *SHAPE)).astype(np.uint8)
    return data.from_arrays("target", images, (np.arange(count) % CLASSES).astype(np.int32), list("abc"))


def fine_tuned(ensemble, training, settings):
    """The hidden kernels before and after, the parameters after, and the learning rate of each step."""
    tuned = tuned_ensemble(ensemble, training, settings)
    source = train.initial_variables(ensemble, 0, MODELS)
    fresh = train.initial_variables(tuned, 5, MODELS)
    start = models.Variables({**source.params, "head": fresh.params["head"]}, source.state)
    images = train.SourceData(jnp.asarray(training.images), jnp.asarray(training.labels))
    everything = np.ones((len(MODELS), len(training)), bool)
    before = jax.tree.map(np.array, start.params)
    after = train.train(tuned, images, everything, MODELS, seed=5, start=start).variables.params
    schedule = tuned.recipe.schedule(tuned.mean_subset_size)
    return before, jax.tree.map(np.array, after), [float(schedule(step)) for step in range(tuned.num_steps)]


def seen(training):
    """Target images as networks see them, in float64."""
    return (np.asarray(training.images, np.float64).reshape(len(training), -1) / 255 - MEAN) / STD


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_the_engine_keeps_what_the_target_does_not_show(ensemble, decay):
    training = target(12)
    settings = transfer.FullNetwork(dataclasses.replace(RECIPE, weight_decay=decay))
    before, after, rates = fine_tuned(ensemble, training, settings)
    left = analyses.kept_after((rate, decay) for rate in rates)
    assert (left == 1) if decay == 0 else (0.5 < left < 0.95)
    for model in MODELS:
        old, new = (params["hidden"]["kernel"][model] for params in (before, after))
        kept = analyses.kept_part(old, seen(training))
        size = np.linalg.norm(kept)
        assert size > 0.5 * np.linalg.norm(old)
        assert np.linalg.norm(analyses.kept_part(new, seen(training)) - left * kept) < 1e-6 * size
        assert np.linalg.norm(new - old) > 0.1 * np.linalg.norm(old)  # The rest was trained.


def test_the_engine_keeps_nothing_where_the_target_shows_every_direction(ensemble):
    few, many = target(12), target(90)
    assert (analyses.kept_part(np.eye(PIXELS), seen(many)) == 0).all()
    before, after, _ = fine_tuned(ensemble, many, transfer.FullNetwork(RECIPE))
    for model in MODELS:  # Neither do the directions stay that fewer images would leave alone.
        old, new = (analyses.kept_part(params["hidden"]["kernel"][model], seen(few)) for params in (before, after))
        assert np.linalg.norm(new - old) > 0.05 * np.linalg.norm(old)


def test_decay_of_a_head_leaves_frozen_features_as_sensitive_to_a_pattern_as_they_were(ensemble):
    training, pattern = target(12), np.zeros(PIXELS, np.float32)
    pattern[[0, 1, 5, 6]] = 1
    heads = {}
    for decay in (0.0, 1.0):
        recipe = dataclasses.replace(RECIPE, weight_decay=decay)
        before, after, _ = fine_tuned(ensemble, training, transfer.FixedFeature(solver="sgd", recipe=recipe))
        for model in MODELS:
            old, new = (pattern @ params["hidden"]["kernel"][model] for params in (before, after))
            np.testing.assert_array_equal(new, old)
        for old, new in zip(*(jax.tree.leaves(params["hidden"]) for params in (before, after)), strict=True):
            np.testing.assert_array_equal(new, old)
        heads[decay] = np.linalg.norm(after["head"]["kernel"])
    assert heads[1.0] < 0.8 * heads[0.0]
