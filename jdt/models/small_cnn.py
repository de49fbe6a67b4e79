"""A small convolutional net that trains in seconds and whose features are worth transferring."""

import flax.linen as nn

from jdt.models.base import ModelOutput
from jdt.types import Array, Float


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
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{i}")(x))
            x = nn.max_pool(x, (2, 2), (2, 2), "SAME") if i < 3 else x
        features = x.mean(axis=(1, 2))
        return ModelOutput(nn.Dense(self.num_classes, name="head")(features), features)
