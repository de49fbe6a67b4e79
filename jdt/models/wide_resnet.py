"""Wide residual networks for small images: a short net whose width is the thing to vary."""

import functools

import flax.linen as nn

from jdt import checks
from jdt.models.base import ModelOutput
from jdt.models.resnet import conv
from jdt.types import Array, Float


class PreActivationBlock(nn.Module):
    """BatchNorm, ReLU and a 3x3 convolution, twice, beside a shortcut: a 1x1 convolution where the channels change.

    The shortcut's convolution takes what the first BatchNorm and ReLU give, as in the authors' code.

    Attributes:
      channels: Of the output.
      stride: Of the first convolution and of the shortcut.
    """

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch h w {self.channels}"]:
        """Return activations `[batch, h, w, channels]`, before BatchNorm and ReLU."""
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        active = nn.relu(norm(name="norm1")(x))
        y = conv(self.channels, 3, self.stride, name="conv1")(active)
        y = conv(self.channels, 3, name="conv2")(nn.relu(norm(name="norm2")(y)))
        if x.shape != y.shape:
            x = conv(self.channels, 1, self.stride, name="shortcut")(active)
        return x + y


class WideResNet(nn.Module):
    """WideResNet-depth-widen: three stages of 16, 32 and 64 times `widen` channels; by default 2.7 million parameters.

    The first layer keeps the resolution and each later stage halves it: for images of 32x32 the feature maps are 32, 16
    and 8 wide. No dropout, the paper's default.

    Source: Zagoruyko and Komodakis 2016, arXiv 1605.07146, table 1.

    Attributes:
      num_classes: Width of the logits.
      widen: Channels in multiples of the plain network's, k in the paper's WRN-16-k.
      depth: Convolutions on the longest way: 6 n + 4 for n blocks a stage.
    """

    num_classes: int
    widen: int = 4
    depth: int = 16

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], *, train: bool) -> ModelOutput:
        """Return logits `[batch, classes]` and features `[batch, 64 * widen]` of float images.

        Raises:
          UserError: If the depth is not 6 n + 4.
        """
        blocks, rest = divmod(self.depth - 4, 6)
        if blocks < 1 or rest:
            raise checks.UserError(f"WideResNet depth must be 6 n + 4 (10, 16, 22, 28, ...), got {self.depth}.")
        x = conv(16, 3, name="stem")(images)
        for stage in (1, 2, 3):
            for i in range(1, blocks + 1):
                stride = 2 if stage > 1 and i == 1 else 1
                block = PreActivationBlock(8 * 2**stage * self.widen, stride, name=f"stage{stage}block{i}")
                x = block(x, train=train)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        features = x.mean(axis=(1, 2))
        return ModelOutput(nn.Dense(self.num_classes, name="head")(features), features)
