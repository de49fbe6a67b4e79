"""Smaller targets: some training images of every class, nested, so that a larger one holds all of a smaller one."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jdt.checks import UserError, require_at_least
from jdt.keys import key_for
from jdt.types import Array, Int, Int32


@dataclasses.dataclass(frozen=True)
class Draw:
    """A few-shot draw of which every model has its own: see `drawn_rows`.

    Attributes:
      shots: Training images of each class.
      number: Which of several draws; each has images of its own.
    """

    shots: int
    number: int = 0

    def __post_init__(self) -> None:
        require_at_least("shots", self.shots, 1)
        require_at_least("draw number", self.number, 0)

    @property
    def suffix(self) -> str:
        """What is appended to a target's name, e.g. `@5shot.0`."""
        return f"@{self.shots}shot.{self.number}"


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
    require_shots(labels, num_classes, k, class_names)
    return _first_of_each_class(labels, lambda _: k, seed)


def drawn_rows(
    labels: Int[np.ndarray, " examples"],
    num_classes: int,
    k: int,
    *,
    seed: int,
    randomness_ids: Int[np.ndarray, " models"],
    number: int = 0,
    class_names: Sequence[str] | None = None,
) -> Int32[np.ndarray, "models chosen"]:
    """Choose k examples of every class for every model, without replacement (arXiv 2302.13602, spec. 3.2).

    What a model draws depends on the seed, its randomness id, the number of the draw and the labels alone: not on the
    models beside it. It is nested: of one seed, id and number a larger k holds all of a smaller one. (The published
    draws of several k are independent, and with replacement where a class is smaller than k.)

    Args:
      labels: Classes of the *training* split, `[examples]`.
      num_classes: Number of classes.
      k: Examples of each.
      seed: Root seed of the study.
      randomness_ids: `[models]` ids.
      number: Which of several draws.
      class_names: Names for the message; numbers when None.

    Returns:
      int32 `[models, num_classes * k]`: class by class, and within one ascending.

    Raises:
      UserError: If k is below 1 or a class has fewer examples, naming it and how many it has.

    >>> rows = drawn_rows(np.array([0, 1, 1, 0, 1, 0]), 2, 2, seed=0, randomness_ids=np.arange(3))
    >>> rows.shape, np.array([0, 1, 1, 0, 1, 0])[rows[0]].tolist()
    ((3, 4), [0, 0, 1, 1])
    """
    require_shots(labels, num_classes, k, class_names)
    ids, labels = np.asarray(randomness_ids), np.asarray(labels)
    draws = np.asarray(_draws(jnp.asarray(seed), jnp.asarray(ids), jnp.asarray(number), len(labels)))
    members = [np.flatnonzero(labels == label) for label in range(num_classes)]
    chosen = []
    for one in members:
        order = np.argsort(draws[:, one], axis=1, kind="stable")
        chosen.append(np.sort(one[order[:, :k]], axis=1))
    return np.concatenate(chosen, axis=1).astype(np.int32)


@functools.partial(jax.jit, static_argnames="count")
def _draws(seed: Array, ids: Array, number: Array, count: int) -> Array:
    return jax.vmap(lambda i: jax.random.bits(key_for(seed, "shots", i, number), (count,), jnp.uint32))(ids)


def require_shots(
    labels: Int[np.ndarray, " examples"], num_classes: int, k: int, class_names: Sequence[str] | None = None
) -> None:
    """Raise where k is below 1 or a class has fewer examples.

    Raises:
      UserError: Naming the smallest class and its size.
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
