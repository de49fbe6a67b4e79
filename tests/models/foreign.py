"""Models that were not written with jdt in mind: this file imports Flax alone."""

import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from flax import nnx


class Backbone(nn.Module):
    """Features alone; BatchNorm, dropout, and a collection of its own that counts steps."""

    width: int = 6

    @nn.compact
    def __call__(self, x, train: bool = True):
        steps = self.variable("counters", "steps", lambda: jnp.zeros((), jnp.int32))
        if train and not self.is_initializing():
            steps.value = steps.value + 1
        x = nn.Conv(self.width, (3, 3), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.3, deterministic=not train)(x)
        return x.mean(axis=(1, 2))


class Normalised(nn.Module):
    """LayerNorm and GroupNorm, told its mode by a field; ends in a dense layer under an activation, so in features."""

    deterministic: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.GroupNorm(num_groups=2)(nn.Conv(4, (3, 3))(x))
        x = nn.LayerNorm()(nn.Dropout(0.5, deterministic=self.deterministic)(x).mean(axis=(1, 2)))
        return jnp.tanh(nn.Dense(5)(x))


class Classifier(nn.Module):
    """As published networks are: fields without defaults, one a list, one a class; logits of one dense layer."""

    stage_sizes: Sequence[int]
    block: Any
    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train: bool = True):
        for i, size in enumerate(self.stage_sizes):
            for _ in range(size):
                x = self.block(4 * 2**i, use_running_average=not train)(x)
        x = nn.Dense(self.num_classes, dtype=self.dtype)(jnp.mean(x, axis=(1, 2)))
        return jnp.asarray(x, self.dtype)


class Block(nn.Module):
    width: int
    use_running_average: bool

    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.BatchNorm(use_running_average=self.use_running_average)(nn.Conv(self.width, (3, 3))(x)))
        return y + x if x.shape == y.shape else y


small_classifier = functools.partial(Classifier, stage_sizes=[1, 2], block=Block)


class TenDigits(nn.Module):
    """Knows no mode, and no number of classes but ten."""

    @nn.compact
    def __call__(self, x):
        x = nn.avg_pool(nn.relu(nn.Conv(4, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(7)(x.reshape((x.shape[0], -1))))
        return nn.Dense(10)(x)


class Dictionary(nn.Module):
    """Several features to choose from."""

    @nn.compact
    def __call__(self, images, *, training):
        maps = nn.BatchNorm(use_running_average=not training)(nn.Conv(3, (3, 3))(images))
        return {"maps": maps, "pooled": maps.mean(axis=(1, 2)), "deep": nn.Dense(9)(nn.relu(maps.max(axis=(1, 2))))}


class NnxClassifier(nnx.Module):
    """BatchNorm, dropout and a list of layers; the last of them gives the logits."""

    def __init__(self, channels: int = 1, *, num_classes: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(channels, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.3, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, num_classes, rngs=rngs)])

    def __call__(self, x):
        x = self.dropout(nnx.relu(self.norm(self.conv(x)))).mean(axis=(1, 2))
        return self.layers[1](nnx.relu(self.layers[0](x)))


class NnxAtCall(nnx.Module):
    """Random streams at the call; fixed to ten classes."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.3)
        self.linear = nnx.Linear(4, 10, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        return self.linear(self.dropout(self.conv(x), rngs=rngs).mean(axis=(1, 2)))


class NnxPair(nnx.Module):
    """Logits and features, of a layer named head."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4, num_classes, rngs=rngs)

    def __call__(self, x):
        features = nnx.relu(self.conv(x)).mean(axis=(1, 2))
        return self.head(features), features


class LinenTwin(nn.Module):
    """The same network as `NnxTwin`, with variables of the same names."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
        return nn.relu(nn.Dense(6, name="dense")(x.mean(axis=(1, 2))))


class NnxTwin(nnx.Module):
    """The same network as `LinenTwin`."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dense = nnx.Linear(4, 6, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return nnx.relu(self.dense(x.mean(axis=(1, 2))))
