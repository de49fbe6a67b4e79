"""Training losses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jdt.models import ModelOutput
from jdt.types import Array, Float, Int

Forward = Callable[[Array], tuple[ModelOutput, Any]]
"""The network in training on float32 images `[batch, height, width, channels]`: outputs, and the changed state."""


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, " batch"],
    smoothing: float,
    class_weights: tuple[float, ...] = (),
) -> Float[Array, ""]:
    """Mean cross-entropy of integer labels, with label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7).

    With weights of classes it is a weighted mean over examples, each with the weight of its class.
    """
    if class_weights:
        weights = jnp.asarray(class_weights, logits.dtype)[labels]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(weights * losses) / jnp.sum(weights)
    if smoothing == 0.0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()
