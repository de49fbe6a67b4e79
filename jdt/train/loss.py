"""Training losses."""

import jax
import optax

from jdt.types import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"], smoothing: float
) -> Float[Array, ""]:
    """Mean cross-entropy of integer labels, with label smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7)."""
    if smoothing == 0.0:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets).mean()
