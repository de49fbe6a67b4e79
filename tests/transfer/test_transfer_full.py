import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from jdt import data, models, train, transfer

CLASSES, SHAPE = 3, (8, 8, 1)
IDS = np.arange(3)


def dots(name, classes, seed, count=60):
    draw = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.int32)
    images = draw.integers(0, 100, (count, *SHAPE)).astype(np.uint8)
    images[np.arange(count), labels, 2 * labels] = 255
    return data.from_arrays(name, images, labels, [str(c) for c in range(classes)])


class Layered(nn.Module):
    """A network with statistics that compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(16, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.fixture(scope="module")
def ensemble():
    network = models.Network(Layered(5))
    recipe = train.Recipe(epochs=2, batch_size=8, learning_rate=0.05)
    return train.Ensemble(network, recipe, train.PLANS["matmul"], SHAPE, 30.0, 30, num_devices=2)


@pytest.fixture(scope="module")
def variables(ensemble):
    return train.initial_variables(ensemble, 0, IDS)


def tuned(ensemble, variables, *, epochs=12.0, rate=0.05, ids=IDS, **changes):
    settings = transfer.FullNetwork(
        train.Recipe(epochs=epochs, batch_size=10, learning_rate=rate, warmup_epochs=0.2, weight_decay=0.0)
    )
    splits = {"training": dots("train", CLASSES, 1), "test": dots("test", CLASSES, 2), **changes}
    return transfer.transfer_full(
        ensemble, variables, **splits, settings=settings, target="dots", randomness_ids=ids, seed=0
    )


def test_fine_tuning_learns_the_target(ensemble, variables):
    found = tuned(ensemble, variables)
    assert found.logits.shape == (3, 60, CLASSES)
    assert found.finite.all()
    assert ((np.asarray(found.logits).argmax(axis=-1) == dots("test", CLASSES, 2).labels).mean(axis=1) > 0.9).all()


def test_it_starts_from_the_source_network_under_a_new_head(ensemble, variables):
    before = jax.tree.map(np.array, variables)
    found = tuned(ensemble, variables, epochs=0.1, rate=1e-30)  # One step that changes no parameter.
    other = jax.tree.map(lambda leaf: leaf + 0.1, variables)
    assert (np.asarray(found.logits) != np.asarray(tuned(ensemble, other, epochs=0.1, rate=1e-30).logits)).any()
    turned = variables._replace(params={**variables.params, "head": jax.tree.map(np.zeros_like, before.params["head"])})
    same = tuned(ensemble, turned, epochs=0.1, rate=1e-30)  # The source's head plays no part.
    np.testing.assert_array_equal(np.asarray(found.logits), np.asarray(same.logits))
    for ours, kept in zip(jax.tree.leaves(variables), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(ours, kept)


def test_a_model_is_fine_tuned_alike_alone_and_in_company(ensemble, variables):
    together = tuned(ensemble, variables, epochs=1)
    alone = tuned(ensemble, jax.tree.map(lambda leaf: leaf[1:2], variables), epochs=1, ids=IDS[1:2])
    np.testing.assert_array_equal(np.asarray(together.logits)[1:2], np.asarray(alone.logits))


def test_pixels_are_scaled_as_in_source_training(ensemble, variables):
    recipe = dataclasses.replace(ensemble.recipe, mean=(0.1,), std=(2.0,))
    other = dataclasses.replace(ensemble, recipe=recipe)
    assert (
        np.asarray(tuned(other, variables, epochs=0.1).logits)
        != np.asarray(tuned(ensemble, variables, epochs=0.1).logits)
    ).any()
