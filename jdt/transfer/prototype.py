"""Nearest class means: a head without any fitting, which works from one example a class on."""

import math

import jax.numpy as jnp

from jdt.transfer.head import Head, matmul
from jdt.types import Array, Float, Int

_AT_MEAN = 0.9
"""Confidence in its class of an image at the class's mean: see `prototype_head`."""


def unit_rows(features: Float[Array, "*rows features"]) -> Float[Array, "*rows features"]:
    """Scale every row to length one; a row of zeros stays as it is."""
    length = jnp.linalg.norm(features, axis=-1, keepdims=True)
    return features / jnp.where(length > 0, length, 1.0)


def prototype_head(
    features: Float[Array, "examples features"], labels: Int[Array, " examples"], *, num_classes: int
) -> Head:
    """Make the head whose logits are cosines to class means of features of length one, times one scale.

    Nothing is fitted, so there is no spread of a class to tell the scale from, and with one example a class there is
    none at all. The scale comes from how far classes are apart: an image that lies at the mean of its class, all other
    means at their average distance, is given the confidence 0.9. Of which class an image is said to be, the scale says
    nothing.

    Args:
      features: float32 `[examples, features]`.
      labels: int32 `[examples]`.
      num_classes: Number of classes. One without examples is as far from every image as can be.

    Returns:
      The head, for features of length one (`unit_rows`); its `gradient_norm` and `iterations` are zero.

    >>> head = prototype_head(jnp.array([[2.0, 0.0], [0.0, 5.0]]), jnp.array([0, 1]), num_classes=2)
    >>> head.logits(unit_rows(jnp.array([[3.0, 1.0], [1.0, 3.0]]))).argmax(axis=1).tolist()
    [0, 1]
    """
    member = (labels[:, None] == jnp.arange(num_classes)).astype(features.dtype)
    means = unit_rows(matmul(member.T, unit_rows(features)))
    there = member.sum(axis=0) > 0
    pairs = there[:, None] & there & ~jnp.eye(num_classes, dtype=bool)
    apart = jnp.sum(jnp.where(pairs, 1.0 - matmul(means, means.T), 0.0)) / jnp.maximum(pairs.sum(), 1)
    gap = math.log(_AT_MEAN / (1 - _AT_MEAN) * max(num_classes - 1, 1))
    scale = gap / jnp.maximum(apart, 1e-6)  # Classes that cannot be told apart at all have equal logits, times this.
    zero = jnp.zeros((), features.dtype)
    return Head(scale * means.T, jnp.where(there, zero, -scale), zero, jnp.zeros((), jnp.int32))
