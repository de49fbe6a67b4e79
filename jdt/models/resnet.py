"""Residual networks: the datamodels' ResNet-9 and ResNet-18."""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jdt import checks
from jdt.models.base import ModelOutput
from jdt.types import Array, Float

FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""He's normal initialisation from the number of outputs, as ResNets have it (He et al. 2015, arXiv 1502.01852)."""


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
        conv = functools.partial(nn.Conv, self.channels, use_bias=False, kernel_init=FAN_OUT)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.relu(norm(name="norm1")(conv((3, 3), self.stride, padding=1, name="conv1")(x)))
        y = norm(name="norm2")(conv((3, 3), padding=1, name="conv2")(y))
        if x.shape != y.shape:
            x = norm(name="norm_shortcut")(conv((1, 1), self.stride, padding=0, name="shortcut")(x))
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
        small = images.shape[1] <= 64 if self.small_stem is None else self.small_stem
        kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        x = nn.Conv(
            64, (kernel, kernel), stride, padding=padding, use_bias=False, kernel_init=FAN_OUT, name="stem"
        )(images)  # fmt: skip
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x))
        if not small:
            margins: Any = ((1, 1), (1, 1))  # Flax annotates padding as a name only.
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=margins)
        for stage, channels in enumerate((64, 128, 256, 512), start=1):
            x = BasicBlock(channels, stride=1 if stage == 1 else 2, name=f"stage{stage}a")(x, train=train)
            x = BasicBlock(channels, name=f"stage{stage}b")(x, train=train)
        features = jnp.mean(x, axis=(1, 2))
        return ModelOutput(nn.Dense(self.num_classes, name="head")(features), features)
