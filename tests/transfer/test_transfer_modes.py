import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jdt import data, models, train, transfer
from jdt.checks import UserError
from jdt.transfer.full import tuned_ensemble

SHAPE, CLASSES, COUNT, MODELS = (4, 4, 1), 3, 24, np.arange(2)
RECIPE = train.Recipe(epochs=2, batch_size=8, learning_rate=0.05, warmup_epochs=0.2)


class Net(nn.Module):
    """One BatchNorm between two dense layers."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(5, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


def dataset(name, seed):
    draw = np.random.default_rng(seed)
    labels = (np.arange(COUNT) % CLASSES).astype(np.int32)
    return data.from_arrays(name, draw.integers(0, 256, (COUNT, *SHAPE)).astype(np.uint8), labels, list("abc"))


TRAIN, TEST = dataset("train", 1), dataset("test", 2)


@pytest.fixture(scope="module")
def ensemble():
    return train.Ensemble(models.Network(Net(7)), RECIPE, train.PLANS["matmul"], SHAPE, 24.0, 24)


@pytest.fixture(scope="module")
def source(ensemble):
    variables = train.initial_variables(ensemble, 0, MODELS)
    moved = jax.tree.map(lambda leaf: leaf + 0.25, variables.state)  # As if source training had moved them.
    return variables._replace(state=moved)


def tune(ensemble, source, settings, training=TRAIN):
    """Train on the target as transfer does, and keep the variables."""
    tuned = tuned_ensemble(ensemble, training, settings)
    fresh = train.initial_variables(tuned, 5, MODELS)
    start = models.Variables({**source.params, "head": fresh.params["head"]}, source.state)
    everything = np.ones((len(MODELS), len(training)), bool)
    images = train.SourceData(jnp.asarray(training.images), jnp.asarray(training.labels))
    return tuned, start, train.train(tuned, images, everything, MODELS, seed=5, start=start).variables


def assert_equal(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "settings", [transfer.FixedFeature(solver="sgd", recipe=RECIPE), transfer.FullNetwork(RECIPE, bn="frozen")]
)
def test_frozen_training_changes_what_it_should_and_no_statistics(ensemble, source, settings):
    _, start, after = tune(ensemble, source, settings)
    changed = {
        name: any((np.asarray(a) != np.asarray(b)).any() for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for name, pair in {name: (start.params[name], after.params[name]) for name in start.params}.items()
    }
    whole = isinstance(settings, transfer.FullNetwork)
    assert changed == {"dense": whole, "norm": whole, "head": True}
    assert_equal(after.state, start.state)


def test_the_switch_moves_statistics_and_no_weight_of_a_frozen_backbone(ensemble, source):
    before, changed = jax.tree.map(np.array, source), {}
    for bn in ("frozen", "adapt"):
        _, start, after = tune(ensemble, source, transfer.FixedFeature(solver="sgd", bn=bn, recipe=RECIPE))
        assert_equal(source, before)  # The source model itself stays, bit by bit.
        pairs = zip(jax.tree_util.tree_leaves_with_path(start), jax.tree.leaves(after), strict=True)
        changed[bn] = {
            jax.tree_util.keystr(path, simple=True, separator="/")
            for (path, old), new in pairs
            if (np.asarray(old) != np.asarray(new)).any()
        }
    # RECIPE decays weights and has momentum: neither reaches what is frozen.
    head = {"params/head/bias", "params/head/kernel"}
    assert changed["frozen"] == head
    assert changed["adapt"] == head | {"state/batch_stats/norm/mean", "state/batch_stats/norm/var"}


def test_statistics_drift_as_running_averages_of_the_batches(ensemble, source):
    # One batch of everything a step, so that its order does not matter.
    recipe = dataclasses.replace(RECIPE, batch_size=COUNT, epochs=4)
    settings = transfer.FixedFeature(solver="sgd", bn="adapt", recipe=recipe)
    tuned, start, after = tune(ensemble, source, settings)
    assert (tuned.batch_size, tuned.num_steps) == (COUNT, 4)
    for name in ("dense", "norm"):
        assert_equal(after.params[name], start.params[name])
    assert (np.asarray(after.params["head"]["kernel"]) != np.asarray(start.params["head"]["kernel"])).any()
    pixels = (np.asarray(TRAIN.images, np.float64).reshape(COUNT, -1) / 255 - RECIPE.mean[0]) / RECIPE.std[0]
    for model in MODELS:
        kernel, bias = (np.asarray(start.params["dense"][name][model], np.float64) for name in ("kernel", "bias"))
        hidden = pixels @ kernel + bias
        mean, var = (np.asarray(start.state["batch_stats"]["norm"][name][model]) for name in ("mean", "var"))
        for _ in range(4):
            mean, var = 0.9 * mean + 0.1 * hidden.mean(axis=0), 0.9 * var + 0.1 * hidden.var(axis=0)
        found = after.state["batch_stats"]["norm"]
        np.testing.assert_allclose(found["mean"][model], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["var"][model], var, rtol=1e-4, atol=1e-5)


class Pixels(nn.Module):
    """The image itself is its features."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = images.reshape(len(images), -1)
        return nn.Dense(self.num_classes, name="head")(features), features


def test_a_head_that_is_trained_long_enough_is_the_convex_one_at_equal_penalty():
    # Pixels of +1 and -1 in equal number are standardised features, and their negatives keep the bias near 0.
    signs = np.random.default_rng(3).integers(0, 2, (60, 6)) * 2 - 1
    features = np.concatenate([signs, -signs])
    labels = ((features @ np.array([2, -1, 1, 0, 0, 0]) + np.random.default_rng(4).normal(0, 2, 120)) > 0).astype(
        np.int32
    )
    images = ((features + 1) * 127.5).astype(np.uint8).reshape(120, 2, 3, 1)
    training = data.from_arrays("signs", images, labels, ["no", "yes"])
    decay, count = 0.03, len(labels)
    recipe = train.Recipe(
        epochs=300, batch_size=count, learning_rate=0.5, warmup_epochs=1, weight_decay=decay, mean=(0.5,), std=(0.5,)
    )
    ensemble = train.Ensemble(models.Network(Pixels(2)), recipe, train.PLANS["matmul"], (2, 3, 1), 120.0, 120)
    source = train.initial_variables(ensemble, 0, MODELS)
    settings = transfer.FixedFeature(solver="sgd", recipe=recipe)
    convex = transfer.transfer_fixed(
        ensemble, source, training, training, transfer.FixedFeature(inverse_penalty=1 / (count * decay))
    )
    stepwise = transfer.transfer_full(
        ensemble, source, training, training, settings, target="signs", randomness_ids=MODELS, seed=0
    )

    def objective(logits):
        logits = np.asarray(logits, np.float64)
        losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(count), labels]
        weights = np.linalg.lstsq(np.c_[features, np.ones(count)], logits, rcond=None)[0][:-1]
        return losses.mean() + decay / 2 * (weights**2).sum()

    best = [objective(logits) for logits in convex.logits]
    assert max(best) < 0.6 < objective(np.zeros((count, 2)))
    np.testing.assert_allclose([objective(logits) for logits in stepwise.logits], best, atol=1e-4)
    np.testing.assert_allclose(jax.nn.softmax(stepwise.logits), jax.nn.softmax(convex.logits), atol=0.02)
    # Train and test are the same images here, so both ways must report the accuracy of their own outputs.
    for found in (convex, stepwise):
        right = (np.asarray(found.logits).argmax(axis=-1) == labels).mean(axis=1)
        np.testing.assert_allclose(found.train_accuracy, right, atol=1e-6)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match=r"bn is adapt.*--head.solver sgd.*--head.bn frozen"):
        transfer.FixedFeature(bn="adapt").check()


def test_classes_are_weighted_as_their_weights_say(ensemble):
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(6, 2)), jnp.float32)
    labels = jnp.array([0, 0, 0, 0, 1, 1])
    from jdt.train.loss import cross_entropy

    losses = np.array([float(cross_entropy(logits[i : i + 1], labels[i : i + 1], 0.0)) for i in range(6)])
    weights = np.array([0.25, 0.75])[np.asarray(labels)]
    found = float(cross_entropy(logits, labels, 0.0, (0.25, 0.75)))
    assert found == pytest.approx(float((weights * losses).sum() / weights.sum()), rel=1e-5)
    settings = transfer.FullNetwork(dataclasses.replace(RECIPE, class_weights=(1.0, 2.0)))
    with pytest.raises(UserError, match="class-weights are 2 numbers, but train has 3 classes"):
        tuned_ensemble(ensemble, TRAIN, settings)
