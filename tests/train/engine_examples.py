"""Sources, networks and runs for tests of the engine."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdt import masks, models, train

SHAPE, CLASSES, PER_CLASS = (8, 8, 1), 4, 24
RECIPE = train.Recipe(epochs=3, batch_size=16, learning_rate=0.05, crop_pad=1, flip=True)


class TwoLayers(nn.Module):
    """`SmallCNN` cut short: half of the programs' time to compile."""

    num_classes: int

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = images
        for i, width in enumerate((4, 8)):
            x = nn.Conv(width, (3, 3), use_bias=False, name=f"conv{i}")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME")
        features = x.mean(axis=(1, 2))
        return nn.Dense(self.num_classes, name="head")(features), features


def make_source():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), PER_CLASS)
    images = rng.integers(0, 100, (len(labels), *SHAPE)).astype(np.uint8)
    images[np.arange(len(labels)), labels, labels] = 255
    return train.SourceData(jnp.asarray(images), jnp.asarray(labels))


def ensemble(plan="matmul", recipe=RECIPE, module=None, **kwargs):
    network = models.Network(TwoLayers(CLASSES) if module is None else module)
    half = CLASSES * PER_CLASS / 2
    return train.Ensemble(network, recipe, train.PLANS[plan], SHAPE, half, int(half), **kwargs)


def members_of(design, ids):
    units = masks.by_class(np.repeat(np.arange(CLASSES), PER_CLASS), [str(c) for c in range(CLASSES)])
    return units.members(masks.sample(design, ids, CLASSES))


def run(source, plan="matmul", ids=range(4), design=None, **kwargs):
    design, ids = design or masks.Design("fixed-size", seed=3), np.asarray(ids)
    members = members_of(design, ids)
    return train.train(ensemble(plan, **kwargs), source, members, design.randomness_id(ids), seed=design.seed)


def leading(count, stacked):
    return jax.tree.map(lambda leaf: leaf[:count], stacked)


def assert_same(one, other, **tolerance):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)
