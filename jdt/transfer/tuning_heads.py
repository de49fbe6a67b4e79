"""Tuned heads: the residual network of NMTune (arXiv 2309.17002) below a linear head, as plain arrays."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdt.transfer.nmtune_losses import matmul
from jdt.types import Array, Float, PRNGKey

_EPSILON = 1e-5  # BatchNorm's, as PyTorch's defaults.
_MOMENTUM = 0.1


class Residual(NamedTuple):
    """The network `Z = s * MLP(F) + F`: Linear D to rD, BatchNorm, ReLU, Linear rD to D.

    Attributes:
      scale: s, float32 `[features]`.
      in_weights: float32 `[features, hidden]`.
      in_bias: float32 `[hidden]`.
      gain: Of BatchNorm, float32 `[hidden]`.
      shift: Of BatchNorm, float32 `[hidden]`.
      out_weights: float32 `[hidden, features]`.
      out_bias: float32 `[features]`.
    """

    scale: Float[Array, "*models features"]
    in_weights: Float[Array, "*models features hidden"]
    in_bias: Float[Array, "*models hidden"]
    gain: Float[Array, "*models hidden"]
    shift: Float[Array, "*models hidden"]
    out_weights: Float[Array, "*models hidden features"]
    out_bias: Float[Array, "*models features"]


class HeadParams(NamedTuple):
    """What training changes.

    Attributes:
      weights: Of the linear head, float32 `[features, classes]`.
      bias: float32 `[classes]`.
      network: Below it; None for a linear probe.
    """

    weights: Float[Array, "*models features classes"]
    bias: Float[Array, "*models classes"]
    network: Residual | None


class Running(NamedTuple):
    """BatchNorm's statistics for inference.

    Attributes:
      mean: float32 `[hidden]`.
      variance: float32 `[hidden]`, of batches, unbiased.
    """

    mean: Float[Array, "*models hidden"]
    variance: Float[Array, "*models hidden"]


class TunedHead(NamedTuple):
    """A head that was tuned, or many of them on a leading models axis.

    Attributes:
      params: Parameters.
      running: BatchNorm's statistics; None for a linear probe.
    """

    params: HeadParams
    running: Running | None

    def features(self, frozen: Float[Array, "examples features"]) -> Float[Array, "examples features"]:
        """What the head of one model reads, in inference mode: Z, or for a linear probe the frozen features."""
        network = self.params.network
        if network is None or self.running is None:
            return frozen
        hidden = matmul(frozen, network.in_weights) + network.in_bias
        factor = network.gain * jax.lax.rsqrt(self.running.variance + _EPSILON)
        hidden = jax.nn.relu((hidden - self.running.mean) * factor + network.shift)
        return network.scale * (matmul(hidden, network.out_weights) + network.out_bias) + frozen

    def logits(self, read: Float[Array, "examples features"]) -> Float[Array, "examples classes"]:
        """Outputs of one model, from what `features` gives."""
        return matmul(read, self.params.weights) + self.params.bias


def initial_head(
    key: PRNGKey, width: int, num_classes: int, *, ratio: int | None, scale: float | Float[Array, ""]
) -> TunedHead:
    """Draw an untrained head.

    Weights of the linear head are Kaiming-uniform, within sqrt(6 / D), and its bias is zero; the network's layers
    start as PyTorch's `Linear` does, within 1 / sqrt(inputs).

    Args:
      key: Where the values come from; those of the linear head do not depend on whether there is a network.
      width: D, the number of features.
      num_classes: Outputs.
      ratio: Hidden units as a multiple of D; None for no network.
      scale: Initial value of s.
    """
    of_head, of_network = jax.random.split(key)
    weights = math.sqrt(6 / width) * _symmetric(of_head, (width, num_classes))
    bias = jnp.zeros(num_classes)
    if ratio is None:
        return TunedHead(HeadParams(weights, bias, None), None)
    hidden = ratio * width
    drawn = _symmetric(of_network, (2 * width + 2, hidden))
    network = Residual(
        scale=jnp.full(width, scale, jnp.float32),
        in_weights=drawn[:width] / math.sqrt(width),
        in_bias=drawn[-2] / math.sqrt(width),
        gain=jnp.ones(hidden),
        shift=jnp.zeros(hidden),
        out_weights=drawn[width : 2 * width].T / math.sqrt(hidden),
        out_bias=drawn[-1, :width] / math.sqrt(hidden),
    )
    return TunedHead(HeadParams(weights, bias, network), Running(jnp.zeros(hidden), jnp.ones(hidden)))


def _symmetric(key: PRNGKey, shape: tuple[int, ...]) -> Float[Array, "..."]:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def training_features(
    network: Residual, running: Running, frozen: Float[Array, "rows features"]
) -> tuple[Float[Array, "rows features"], Running]:
    """Z of a batch in training mode, with the batch's own statistics, and the running ones after it.

    BatchNorm takes the first layer's bias out again, so that its gradient is zero: it is left out of the sum, and
    rounding cannot move it. It shifts the running mean as it would.
    """
    hidden = matmul(frozen, network.in_weights)
    mean = hidden.mean(axis=0)
    centred = hidden - mean
    variance = jnp.square(centred).mean(axis=0)
    hidden = jax.nn.relu(centred * (network.gain * jax.lax.rsqrt(variance + _EPSILON)) + network.shift)
    tuned = network.scale * (matmul(hidden, network.out_weights) + network.out_bias) + frozen
    rows = len(frozen)
    moved = Running(
        running.mean + _MOMENTUM * (mean + network.in_bias - running.mean),
        running.variance + _MOMENTUM * (variance * (rows / (rows - 1)) - running.variance),
    )
    return tuned, moved
