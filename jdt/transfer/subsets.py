"""Smaller targets: some training images of every class, nested, so that a larger one holds all of a smaller one."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdt.checks import UserError, require_at_least
from jdt.keys import key_for
from jdt.types import Int


def few_shot(
    labels: Int[np.ndarray, " examples"],
    num_classes: int,
    k: int,
    *,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> Int[np.ndarray, " chosen"]:
    """Choose k examples of every class without replacement (arXiv 2302.13602, section 3.2 of its specification).

    For one seed the choice is nested: that of a larger k holds that of a smaller one, and a fraction that leaves k or
    more of every class holds it, too. It depends on the seed and the labels alone. Only ever choose among *training*
    images: the published code also thinned the test splits of some targets.

    Args:
      labels: Classes, `[examples]`.
      num_classes: Number of classes.
      k: Examples of each.
      seed: Root seed of the study.
      class_names: Names for the message; numbers when None.

    Returns:
      int32 `[num_classes * k]`, ascending.

    Raises:
      UserError: If k is below 1 or a class has fewer examples.

    >>> labels = np.array([0, 1, 1, 0, 1, 0])
    >>> np.bincount(labels[few_shot(labels, 2, 2, seed=0)]).tolist()
    [2, 2]
    """
    require_at_least("shots", k, 1)
    sizes = np.bincount(labels, minlength=num_classes)
    if sizes.min() < k:
        smallest = int(sizes.argmin())
        name = smallest if class_names is None else class_names[smallest]
        raise UserError(
            f"shots is {k}, but class {name!r} has {sizes[smallest]} training images, the fewest of all classes: pass "
            f"at most {sizes[smallest]}, or leave classes without images out of the target."
        )
    return _first_of_each_class(labels, lambda _: k, seed)


def target_fraction(labels: Int[np.ndarray, " examples"], fraction: float, *, seed: int) -> Int[np.ndarray, " chosen"]:
    """Choose a fraction of the examples of every class without replacement, at least one of each that has any.

    Nested like `few_shot`, and with it.

    Args:
      labels: Classes, `[examples]`.
      fraction: Above 0, at most 1; each class keeps this share of its own examples, rounded.
      seed: Root seed of the study.

    Returns:
      int32 `[chosen]`, ascending.

    Raises:
      UserError: If the fraction is none.

    >>> target_fraction(np.array([0, 0, 0, 0, 1]), 0.5, seed=0).shape
    (3,)
    """
    if not 0 < fraction <= 1:
        raise UserError(
            f"a target fraction is {fraction}, but it must be above 0 and at most 1: pass for example 0.25."
        )
    return _first_of_each_class(labels, lambda size: np.maximum(1, np.round(fraction * size)).astype(int), seed)


def _first_of_each_class(
    labels: Int[np.ndarray, " examples"], wanted: Callable[[np.ndarray], int | np.ndarray], seed: int
) -> Int[np.ndarray, " chosen"]:
    """The first `wanted(size)` members of each class of `size`, in one random order for all questions."""
    draws = np.asarray(jax.random.bits(key_for(seed, "target subset"), (len(labels),), jnp.uint32))
    order = np.lexsort((draws, labels))
    classes, first, size = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, size)
    return np.sort(order[rank < np.repeat(np.broadcast_to(wanted(size), classes.shape), size)]).astype(np.int32)
