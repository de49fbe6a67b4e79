"""Stamps and versions of examples in training: where a pattern ends up, and what twins have in common."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jdt import data, models, plant, train
from jdt.data.augment import random_crop_flip
from jdt.train.batches import batch_indices, passes_touched

SHAPE, CLASSES, EXAMPLES = (8, 8, 1), 4, 96
MOVING = train.Recipe(epochs=2, batch_size=8, learning_rate=0.05, crop_pad=2, flip=True)
STILL = dataclasses.replace(MOVING, crop_pad=0, flip=False)
SQUARE = plant.Square(colour=(255, 255, 255)).stamp(SHAPE)


class Dense(nn.Module):
    """Compiles in no time."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        features = nn.relu(nn.Dense(8, name="dense")(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes, name="head")(features), features


@pytest.fixture(scope="module")
def plain():
    draw = np.random.default_rng(0)
    images = draw.integers(0, 200, (EXAMPLES, *SHAPE)).astype(np.uint8)
    return data.from_arrays("noise", images, np.arange(EXAMPLES) % CLASSES, list("abcd"))


def carried(plain):
    return plant.carriers(np.asarray(plain.labels), [1, 2], 0.7)


@pytest.fixture(scope="module")
def stamped(plain):
    which = np.where(carried(plain), 0, data.NO_STAMP).astype(np.int32)
    return data.with_stamps(plain, data.Stamps(SQUARE.gain, SQUARE.shift, which))


def versions(plain, stamp=SQUARE):
    """A pool in which some examples are there twice, and its clean and its stamped arm."""
    made = plant.with_versions(plain, {"square": (carried(plain), stamp)}, seed=0)
    return made.data, np.stack([made.rows["clean"], made.rows["square"]])


def pool_of(draw, count):
    """Which example each of a pool is a version of, one to three of each; and where its first version is."""
    of = np.repeat(np.arange(count), draw.permutation(np.arange(count) % 3 + 1))
    return of, np.searchsorted(of, of).astype(np.int32)


def fit(source, members, ids, recipe=MOVING, plan="vmapped", num_devices=1):
    network = models.Network(Dense(CLASSES))
    few = dataclasses.replace(train.PLANS[plan], steps_per_call=4)
    sizes = members.sum(axis=1)
    ensemble = train.Ensemble(
        network, recipe, few, SHAPE, float(sizes.max()), int(sizes.min()), num_devices=num_devices
    )
    source = jax.tree.map(jnp.asarray, train.source_data(source)) if isinstance(source, data.Dataset) else source
    return train.train(ensemble, source, members, np.asarray(ids), seed=3)


def assert_same(one, other, rtol=0.0):
    for a, b in zip(jax.tree.leaves(one.variables), jax.tree.leaves(other.variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(one.loss, other.loss, rtol=rtol)


def test_flips_and_crops_never_move_the_square(stamped):
    source = jax.tree.map(jnp.asarray, train.source_data(stamped))
    batch = jnp.arange(EXAMPLES)[::-1]

    @jax.jit
    @jax.vmap
    def both(key):
        augmented = random_crop_flip(key, source.images[batch], pad=2, flip=True)
        return train.batch_images(MOVING, source, key, batch), augmented

    seen, without = map(np.asarray, both(jax.random.split(jax.random.key(0), 20)))
    marked = carried(stamped)[::-1]
    assert (seen[:, marked, :2, :2] == 255).all()
    np.testing.assert_array_equal(seen[:, ~marked], without[:, ~marked])
    outside = np.ones(SHAPE, bool)
    outside[:2, :2] = False
    np.testing.assert_array_equal(seen[..., outside], without[..., outside])
    assert len({images.tobytes() for images in without}) == 20


def test_data_without_stamps_are_trained_on_by_the_program_of_before(plain):
    source, key = jax.tree.map(jnp.asarray, train.source_data(plain)), jax.random.key(0)
    assert (source.stamps, source.version_of, len(jax.tree.leaves(source))) == (None, None, 2)
    batch = jnp.arange(8)
    now = jax.make_jaxpr(lambda *args: train.batch_images(MOVING, *args))(source, key, batch)
    before = jax.make_jaxpr(lambda s, k, b: random_crop_flip(k, s.images[b], pad=2, flip=True))(source, key, batch)
    assert str(now) == str(before)


@pytest.mark.multidevice
@pytest.mark.parametrize("plan", ["vmapped", "matmul"])
def test_stamps_are_learned_as_if_they_were_in_the_pixels_on_any_number_of_devices(plain, stamped, plan):
    def trained(source, num_devices=1):
        return fit(source, np.ones((2, EXAMPLES), bool), range(2), STILL, plan, num_devices)

    one = trained(stamped)
    # A device that has fewer models may order sums otherwise.
    assert_same(one, trained(stamped, 2), rtol=0.0 if plan == "matmul" else 1e-5)
    assert_same(one, trained(data.as_shown(stamped)), rtol=1e-5)
    nobody = stamped.stamps._replace(of_example=np.full(EXAMPLES, data.NO_STAMP, np.int32))
    clean = trained(plain)
    assert_same(trained(data.with_stamps(plain, nobody)), clean, rtol=1e-5)
    assert np.abs(one.loss - clean.loss).max() > 1e-3


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(0, 20))
def test_twins_see_the_same_examples_in_the_same_places(seed, first):
    draw = np.random.default_rng(seed)
    of, version_of = pool_of(draw, 30)
    held, last = draw.random(30) < 0.7, np.unique(of[::-1], return_index=True)[1]
    held[:8] = True
    twin, other = np.zeros((2, len(of)), bool)
    twin[np.unique(version_of)[held]] = True  # First versions.
    other[(len(of) - 1 - last)[held]] = True  # Last ones.
    drawn = batch_indices(
        jnp.asarray(seed), jnp.asarray([5, 5, 6]), jnp.asarray(np.stack([twin, other, other])), jnp.asarray(first),
        jnp.asarray(0), jnp.asarray(version_of), num_steps=12, batch_size=4, num_passes=passes_touched(12, 4, 8),
    )  # fmt: skip
    examples = of[np.asarray(drawn)]
    np.testing.assert_array_equal(examples[:, 0], examples[:, 1])
    assert (examples[:, 0] != examples[:, 2]).any()
    assert twin[np.asarray(drawn)[:, 0]].all()
    assert other[np.asarray(drawn)[:, 1]].all()


@pytest.mark.parametrize("capacity", [None, 400, 60])
def test_twins_differ_in_their_pixels_alone(plain, capacity):
    # A stamp that changes no pixel: what is left is the place in the pool.
    blank = dataclasses.replace(SQUARE, gain=np.full_like(SQUARE.gain, 255), shift=np.zeros_like(SQUARE.shift))
    ids = [7, 7]

    def trained(stamp):
        pool, members = versions(plain, stamp)
        source = pool if capacity is None else train.Pool(pool, capacity)
        return fit(source, members, ids)

    alike, real = trained(blank), trained(SQUARE)
    for leaf in jax.tree.leaves(alike.variables):
        np.testing.assert_array_equal(leaf[0], leaf[1])
    assert any((np.asarray(leaf[0]) != np.asarray(leaf[1])).any() for leaf in jax.tree.leaves(real.variables))
    clean = jax.tree.map(lambda leaf: leaf[:1], real.variables)
    assert_same(real._replace(variables=clean), alike._replace(variables=clean, loss=real.loss))
    if capacity == 400:  # One chunk.
        pool, members = versions(plain)
        assert_same(real, fit(pool, members, ids))


def test_chunks_keep_stamps_with_their_examples_and_versions_together(plain):
    pool, members = versions(plain)
    chunks = train.Pool(pool, 40)
    assert chunks.chunks_a_pass > 2
    shown, seen = np.asarray(data.as_shown(pool).images), []
    once = dataclasses.replace(STILL, epochs=1)
    ensemble = train.Ensemble(models.Network(Dense(CLASSES)), once, train.PLANS["vmapped"], SHAPE, 96.0, 96)
    show = jax.jit(lambda source: train.batch_images(STILL, source, jax.random.key(0), jnp.arange(chunks.chunk_size)))
    for part in train.engine._parts(ensemble, chunks, members, 0, 0):
        here = np.asarray(part.members).any(axis=0)
        images = np.asarray(show(part.source))[here]
        rows = [int(np.flatnonzero((shown == image).all(axis=(1, 2, 3)))[0]) for image in images]
        seen += rows
        np.testing.assert_array_equal(np.asarray(part.source.labels)[here], pool.labels[rows])
        firsts, first_here = pool.version_of[rows], np.asarray(part.source.version_of)[here]
        assert len(set(zip(firsts.tolist(), first_here.tolist(), strict=True))) == len(set(firsts.tolist()))
        inside = np.asarray(part.members)[:, here]
        np.testing.assert_array_equal(*(np.unique(firsts[one]) for one in inside))  # Twins have the same examples.
    assert sorted(seen) == list(range(len(pool)))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(6, 60))
def test_chunks_hold_all_versions_of_an_example_and_not_too_many(seed, capacity):
    of, version_of = pool_of(np.random.default_rng(seed), 40)
    made = data.from_arrays("blank", np.zeros((len(of), 2, 2, 1), np.uint8), of % 2, ["a", "b"])
    pool = train.Pool(dataclasses.replace(made, version_of=version_of), capacity)
    chunks = [stretch.rows for stretch in pool.stretches(pool.chunks_a_pass, pool.chunks_a_pass, 0)]
    assert len(chunks) == pool.chunks_a_pass
    assert sorted(np.concatenate(chunks)) == list(range(len(of)))
    assert max(map(len, chunks)) <= pool.chunk_size <= capacity
    assert len(np.concatenate([np.unique(of[rows]) for rows in chunks])) == 40
