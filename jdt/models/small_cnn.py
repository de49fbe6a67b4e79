"""A small convolutional net that trains in seconds and whose features are worth transferring."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jdt.models.base import ModelOutput


def halve(x: Float[Array, "batch height width channels"]) -> Float[Array, "batch h w channels"]:
    """Max-pool 2x2 with stride 2; an odd last row or column forms windows of its own, and size 1 stays 1.

    A maximum of two halves, rows first: on CPUs its gradient is many times faster than that of a windowed reduction.
    """
    pad = [(0, size % 2) for size in x.shape[1:3]]
    x = jnp.pad(x, ((0, 0), *pad, (0, 0)), constant_values=-jnp.inf) if any(p for _, p in pad) else x
    batch, height, width, channels = x.shape
    rows = x.reshape(batch, height // 2, 2, width * channels)
    columns = jnp.maximum(rows[:, :, 0], rows[:, :, 1]).reshape(batch, height // 2, width // 2, 2, channels)
    return jnp.maximum(columns[:, :, :, 0], columns[:, :, :, 1])


class SmallCNN(nn.Module):
    """Four 3x3 convolutions (32-64-128-128) with BatchNorm, max pooling after the first three, global average pooling.

    Attributes:
      num_classes: Width of the logits.
      width: Channels of the first convolution; the others have 2, 4 and 4 times as many.
    """

    num_classes: int
    width: int = 32

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], *, train: bool) -> ModelOutput:
        """Return logits `[batch, classes]` and features `[batch, 4 * width]` of float images."""
        x = images
        for i, multiple in enumerate((1, 2, 4, 4)):
            x = nn.Conv(multiple * self.width, (3, 3), use_bias=False, name=f"conv{i}")(x)
            x = jax.nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x))
            x = halve(x) if i < 3 else x
        features = x.mean(axis=(1, 2))
        return ModelOutput(nn.Dense(self.num_classes, name="head")(features), features)
