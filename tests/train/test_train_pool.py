import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import data, models, train
from jdt.checks import UserError

CLASSES, EXAMPLES, SHAPE = 4, 400, (8, 8, 1)
RECIPE = train.Recipe(epochs=6, batch_size=10, learning_rate=0.05, crop_pad=1)


class Dense(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = nn.Dense(16, name="dense")(images.reshape(len(images), -1))
        features = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.fixture(scope="module")
def dataset():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, CLASSES, EXAMPLES).astype(np.int32)
    images = draw.integers(0, 100, (EXAMPLES, *SHAPE)).astype(np.uint8)
    images[np.arange(EXAMPLES), labels, labels] = 255
    return data.from_arrays("dots", images, labels, list("abcd"))


@pytest.fixture(scope="module")
def members():
    half = np.arange(EXAMPLES) < EXAMPLES // 2
    return np.random.default_rng(1).permuted(np.tile(half, (3, 1)), axis=1)


def ensemble(recipe=RECIPE):
    network = models.Network(Dense(CLASSES))
    return train.Ensemble(network, recipe, train.PLANS["matmul"], SHAPE, EXAMPLES / 2, EXAMPLES // 2, num_devices=2)


def leaves(trained):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trained.variables)]


def test_a_pool_that_holds_everything_is_resident_training(dataset, members):
    resident = train.SourceData(jnp.asarray(dataset.images), jnp.asarray(dataset.labels))
    expected = train.train(ensemble(), resident, members, np.arange(3), seed=0)
    pooled = train.train(ensemble(), train.Pool(dataset, EXAMPLES), members, np.arange(3), seed=0)
    for ours, reference in zip(leaves(pooled), leaves(expected), strict=True):
        np.testing.assert_array_equal(ours, reference)
    np.testing.assert_array_equal(pooled.loss, expected.loss)


def test_a_pool_of_a_tenth_learns_as_well(dataset, members):
    pool = train.Pool(dataset, EXAMPLES // 10)
    assert pool.chunks_a_pass == 10
    longer = ensemble(dataclasses.replace(RECIPE, epochs=20, crop_pad=0))
    trained = train.train(longer, pool, members, np.arange(3), seed=0)
    assert trained.finite.all()
    logits = train.apply_in_batches(longer, trained.variables, dataset.images).logits
    assert ((np.asarray(logits).argmax(axis=-1) == dataset.labels).mean(axis=1) > 0.9).all()


def test_an_excluded_example_reaches_no_model_through_a_pool(dataset, members):
    recipe = dataclasses.replace(RECIPE, epochs=1)
    excluded = ~members[0]
    noise = np.random.default_rng(2).integers(0, 256, dataset.images.shape).astype(np.uint8)
    images = np.where(excluded[:, None, None, None], noise, dataset.images)
    other = data.from_arrays("noisy", images, dataset.labels, list("abcd"))
    before, after = (
        leaves(train.train(ensemble(recipe), train.Pool(each, 100), members, np.arange(3), seed=0))
        for each in (dataset, other)
    )
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    assert any((a[1] != b[1]).any() for a, b in zip(before, after, strict=True))


def test_chunks_of_one_shape_compile_one_program(dataset, members):
    pool = train.Pool(dataset, 70)  # Chunks of 67 and of 66.
    train.train(ensemble(), pool, members, np.arange(3), seed=0)
    size = train.engine._run_steps._cache_size()
    train.train(ensemble(), pool, members, np.arange(3), seed=1)
    assert train.engine._run_steps._cache_size() == size


@settings(max_examples=30, deadline=None)
@given(capacity=st.integers(1, 40), steps=st.integers(1, 60), per_pass=st.floats(0.5, 30.0), seed=st.integers(0, 3))
def test_the_stretches_cover_every_step_once_and_every_example_each_pass(capacity, steps, per_pass, seed):
    images = np.zeros((37, 2, 2, 1), np.uint8)
    pool = train.Pool(data.from_arrays("blank", images, np.arange(37, dtype=np.int32) % 2, ["a", "b"]), capacity)
    stretches = list(pool.stretches(steps, per_pass, seed))
    assert [s.first_step for s in stretches] == list(np.cumsum([0, *(s.num_steps for s in stretches)])[:-1])
    assert sum(s.num_steps for s in stretches) == steps
    assert all(1 <= len(s.rows) <= min(capacity, 37) for s in stretches)
    assert len({s.number for s in stretches}) == len(stretches)
    for _, one_pass in itertools.groupby(stretches, lambda s: s.number // pool.chunks_a_pass):
        rows = np.concatenate([s.rows for s in one_pass])
        assert len(np.unique(rows)) == len(rows)
    again = list(pool.stretches(steps, per_pass, seed))
    for one, other in zip(stretches, again, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)


def test_a_pool_too_small_for_a_batch_says_how_large_it_must_be(dataset):
    train.Pool(dataset, EXAMPLES // 10).check(smallest_subset=200, batch_size=10)
    with pytest.raises(UserError, match=r"holds 20 of 400 source images.*raise --memory-budget to \S+ GiB"):
        train.Pool(dataset, 20).check(smallest_subset=200, batch_size=10)


def test_a_model_without_examples_in_a_pool_is_refused(dataset):
    lonely = np.zeros((2, EXAMPLES), bool)
    lonely[:, 0] = True
    with pytest.raises(UserError, match="none of its examples in a pool of 40 out of 400"):
        train.train(ensemble(), train.Pool(dataset, 40), lonely, np.arange(2), seed=0)
