"""Residual networks: the datamodels' ResNet-9, ResNet-18 and ResNet-50."""

import functools
import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jdt import checks
from jdt.models.base import ModelOutput
from jdt.types import Array, Float

FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's normal initialisation from the number of outputs, as ResNets have it (He et al. 2015, arXiv 1502.01852)."""


def conv(channels: int, side: int, stride: int = 1, *, name: str) -> nn.Conv:
    """A square convolution without bias that keeps the resolution, but for its stride."""
    window = (side, side)
    return nn.Conv(channels, window, stride, padding=side // 2, use_bias=False, kernel_init=FAN_OUT, name=name)


class ConvNorm(nn.Module):
    """Convolution without bias, BatchNorm, ReLU.

    Attributes:
      channels: Of the output.
      kernel: Height and width of the kernel.
      stride: Rows and columns from one window to the next.
      padding: Zeros on each side.
    """

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch h w {self.channels}"]:
        """Return activations `[batch, h, w, channels]`, none of them negative."""
        window = (self.kernel, self.kernel)
        x = nn.Conv(self.channels, window, self.stride, padding=self.padding, use_bias=False, name="conv")(x)
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))


class ResNet9(nn.Module):
    """The nine-layer CIFAR network of datamodels, 2.3 million parameters.

    Eight convolutions with BatchNorm and ReLU, two residual pairs among them, global max pooling, and a linear head
    without bias whose output is multiplied by 0.2. For images of 32x32 the feature maps are 32, 16, 8 and 6 wide.
    Images need 11 pixels a side: the last convolution is 3x3 without padding, at a quarter of the resolution.

    Source: Ilyas et al. 2022, arXiv 2202.00622, and the CIFAR recipe of FFCV (Leclerc et al. 2022).

    Attributes:
      num_classes: Width of the logits.
    """

    num_classes: int

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], *, train: bool) -> ModelOutput:
        """Return logits `[batch, classes]` and features `[batch, 128]` of float images.

        Raises:
          UserError: If the images are smaller than 11x11.
        """
        if min(images.shape[1:3]) < 11:
            raise checks.UserError(f"resnet9 needs images of at least 11x11, got {images.shape[1]}x{images.shape[2]}.")
        x = ConvNorm(64, name="stem")(images, train=train)
        x = ConvNorm(128, kernel=5, stride=2, padding=2, name="down1")(x, train=train)
        x = x + self._pair("pair1", x, train)
        x = ConvNorm(256, name="down2")(x, train=train)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x + self._pair("pair2", x, train)
        x = ConvNorm(128, padding=0, name="last")(x, train=train)
        features = x.max(axis=(1, 2))
        return ModelOutput(0.2 * nn.Dense(self.num_classes, use_bias=False, name="head")(features), features)

    def _pair(self, name: str, x: Array, train: bool) -> Array:
        for half in "ab":
            x = ConvNorm(x.shape[-1], name=f"{name}{half}")(x, train=train)
        return x


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with BatchNorm beside a shortcut; a 1x1 convolution where the shapes of the two differ.

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
        """Return activations `[batch, h, w, channels]`."""
        return _residual(x, ((self.channels, 3, self.stride), (self.channels, 3, 1)), train)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with BatchNorm beside a shortcut, the last one to four times the channels.

    The stride is on the 3x3 convolution, where the paper has it on the first 1x1: "v1.5", torchvision's and everyone's
    since, because it looks at every position of its input.

    Attributes:
      channels: Of the first two convolutions; the output has four times as many.
      stride: Of the 3x3 convolution and of the shortcut.
    """

    channels: int
    stride: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch h w {4*self.channels}"]:
        """Return activations `[batch, h, w, 4 * channels]`."""
        c = self.channels
        return _residual(x, ((c, 1, 1), (c, 3, self.stride), (4 * c, 1, 1)), train)


def _residual(x: Array, layers: Sequence[tuple[int, int, int]], train: bool) -> Array:
    """A block of convolutions (channels, side of the kernel, stride); called inside a compact method."""
    norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
    y = x
    for i, (channels, side, stride) in enumerate(layers, start=1):
        y = nn.relu(y) if i > 1 else y
        y = norm(name=f"norm{i}")(conv(channels, side, stride, name=f"conv{i}")(y))
    if x.shape != y.shape:
        stride = math.prod(stride for _, _, stride in layers)
        x = norm(name="norm_shortcut")(conv(y.shape[-1], 1, stride, name="shortcut")(x))
    return nn.relu(x + y)


class ResNet18(nn.Module):
    """ResNet-18: eight basic blocks of 64, 128, 256 and 512 channels, global average pooling, 11 million parameters.

    With `small_stem` the first layer is a 3x3 convolution at full resolution, as usual for CIFAR; without, it is
    ImageNet's: 7x7 with stride 2, then 3x3 max pooling with stride 2.

    Source: He et al. 2015, arXiv 1512.03385, table 1; strides and initialisation as in torchvision.

    Attributes:
      num_classes: Width of the logits.
      small_stem: Whether to keep the resolution in the first layer; None: for images of at most 64 rows.
    """

    num_classes: int
    small_stem: bool | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], *, train: bool) -> ModelOutput:
        """Return logits `[batch, classes]` and features `[batch, 512]` of float images."""
        features = _stages(_stem(images, self.small_stem, train), BasicBlock, (2, 2, 2, 2), train)
        return ModelOutput(nn.Dense(self.num_classes, name="head")(features), features)


class ResNet50(nn.Module):
    """ResNet-50: 3, 4, 6 and 3 bottleneck blocks, up to 2048 channels, global average pooling, 26 million parameters.

    Source: He et al. 2015, arXiv 1512.03385, table 1; strides and initialisation as in torchvision.

    Attributes:
      num_classes: Width of the logits.
      small_stem: Whether to keep the resolution in the first layer, as in `ResNet18`.
    """

    num_classes: int
    small_stem: bool | None = None

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], *, train: bool) -> ModelOutput:
        """Return logits `[batch, classes]` and features `[batch, 2048]` of float images."""
        features = _stages(_stem(images, self.small_stem, train), Bottleneck, (3, 4, 6, 3), train)
        return ModelOutput(nn.Dense(self.num_classes, name="head")(features), features)


def _stem(images: Array, small: bool | None, train: bool) -> Array:
    """First layer, 64 channels: at full resolution where `small`, else at a quarter of it."""
    small = images.shape[1] <= 64 if small is None else small
    x = conv(64, 3, name="stem")(images) if small else conv(64, 7, stride=2, name="stem")(images)
    x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
    margins: Any = ((1, 1), (1, 1))  # Flax annotates padding as a name only.
    return x if small else nn.max_pool(x, (3, 3), strides=(2, 2), padding=margins)


def _stages(x: Array, block: Callable[..., nn.Module], depths: Sequence[int], train: bool) -> Array:
    """Blocks `stage1a`, `stage1b` ...: the first of every stage but the first halves the resolution. Global mean."""
    for stage, depth in enumerate(depths, start=1):
        for i, letter in enumerate(string.ascii_lowercase[:depth]):
            stride = 2 if stage > 1 and i == 0 else 1
            x = block(channels=32 * 2**stage, stride=stride, name=f"stage{stage}{letter}")(x, train=train)
    return jnp.mean(x, axis=(1, 2))
