"""The published linear probe of arXiv 2302.13602 on arrays, with its two mistakes as switches (its spec, section 5).

What a number of that code would have been on a user's own features, and what it should have been. Nothing else in jdt
trains on test images or leaves any of them out; here it happens only where it is asked for by name.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt.checks import UserError, require_at_least
from jdt.keys import key_for
from jdt.types import Float, Int

_BETAS, _EPSILON, _CLIP, _DECAY = (0.9, 0.999), 1e-8, 1.0, 0.1


class ProbeAccuracies(NamedTuple):
    """What a linear probe reaches.

    Attributes:
      train: float64 `[epochs]`, after each pass, on the images of the training split that it was given.
      test: float64 `[epochs]`, after each pass, on the images that it was tested on.
      num_tested: How many these are.
    """

    train: Float[np.ndarray, " epochs"]
    test: Float[np.ndarray, " epochs"]
    num_tested: int

    @property
    def last(self) -> float:
        """Test accuracy after the last pass: what jdt would report."""
        return float(self.test[-1])

    @property
    def best(self) -> float:
        """The best test accuracy of all passes, as published: chosen by the test images themselves."""
        return float(self.test.max())


def published_probe(
    train: tuple[Float[np.ndarray, "train features"], Int[np.ndarray, " train"]],
    test: tuple[Float[np.ndarray, "test features"], Int[np.ndarray, " test"]],
    *,
    shots: int | None = None,
    epochs: int = 128,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    warmup_steps: int | None = None,
    seed: int = 0,
    trains_on_test: bool = False,
    thins_test: bool = False,
) -> ProbeAccuracies:
    """Train a linear head on frozen features by AdamW, from zeros, as arXiv 2302.13602 (spec 3.2) does.

    Weight decay is 0.1, gradients are clipped to length 1, and the rate rises linearly and then falls to zero along a
    cosine over all steps that are taken. The head has as many outputs as there are classes in the two splits.

    Args:
      train: Features and classes of the training split.
      test: Of the test split.
      shots: Training images of each class that are drawn; all of them when None.
      epochs: Passes.
      batch_size: Examples a step; the last batch of a pass may be smaller.
      learning_rate: At its highest.
      warmup_steps: Steps until then. When None, 500 or a tenth of all steps, whatever is less; the published 500 is
        longer than the whole training of many few-shot cells.
      seed: Of the draws and of the order of examples.
      trains_on_test: Parity with the published code: after the first pass the variable that holds the training images
        holds those of the evaluation, so that all later passes fit the test images (spec 5.1).
      thins_test: Parity with the published code: the test split is thinned to `shots` images of each class, too, with
        replacement where a class has fewer (spec 5.3).

    Returns:
      Accuracies after each pass.

    Raises:
      UserError: If the arrays do not fit together, a training class has fewer images than `shots`, or the test split
        is to be thinned to no number.

    >>> x, y = np.eye(4).repeat(3, axis=0), np.arange(4).repeat(3)
    >>> found = published_probe((x, y), (x, y), shots=2, epochs=9)
    >>> found.last, found.num_tested
    (1.0, 12)
    """
    given = [(np.asarray(x, np.float64), np.asarray(y)) for x, y in (train, test)]
    for x, y in given:
        if x.ndim != 2 or y.shape != x.shape[:1] or not len(y) or x.shape[1] != given[0][0].shape[1] or y.min() < 0:
            raise UserError(
                f"features are {list(x.shape)} and labels {list(y.shape)}, but a probe needs [examples, features], as "
                "many features in both splits, and a class of each example, from 0 on."
            )
    for name, value in (("epochs", epochs), ("batch_size", batch_size), ("shots", 1 if shots is None else shots)):
        require_at_least(name, value, 1)
    if thins_test and shots is None:
        raise UserError("thins_test leaves as many test images of each class as there are shots: pass shots as well.")
    num_classes = 1 + int(max(y.max() for _, y in given))
    (x, y), tested = given
    if shots is not None:
        sizes = np.bincount(y, minlength=num_classes)
        if (small := np.flatnonzero(sizes < shots)).size:
            raise UserError(
                f"shots is {shots}, but class {small[0]} has {sizes[small[0]]} training images: pass fewer."
            )
        rows = _shots_of(y, shots, seed, 0)
        x, y = x[rows], y[rows]
    if thins_test:
        assert shots is not None  # Refused above.
        rows = _shots_of(tested[1], shots, seed, 1)
        tested = tested[0][rows], tested[1][rows]

    def shown(epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Batches of one pass; those of an evaluation are in order."""
        if trains_on_test and epoch > 0:
            (features, labels), order = tested, np.arange(len(tested[1]))
        else:
            (features, labels), order = (x, y), _order(seed, epoch + 2, len(y))
        parts = (order[first : first + batch_size] for first in range(0, len(order), batch_size))
        return [(features[part], labels[part]) for part in parts]

    num_steps = sum(len(shown(epoch)) for epoch in range(epochs))
    head = _Head(x.shape[1], num_classes)
    warmup = min(500, num_steps // 10) if warmup_steps is None else warmup_steps
    right: list[tuple[float, float]] = []
    for epoch in range(epochs):
        for features, labels in shown(epoch):
            head.step(features, labels, learning_rate * _share_of_rate(head.steps, num_steps, warmup))
        right.append((head.accuracy(x, y), head.accuracy(*tested)))
    of_train, of_test = np.array(right).T
    return ProbeAccuracies(of_train, of_test, len(tested[1]))


class _Head:
    """A linear head that AdamW trains, one batch at a time."""

    def __init__(self, width: int, num_classes: int) -> None:
        self.params = np.zeros((width + 1, num_classes))  # The last row is the bias.
        self._first, self._second, self.steps = np.zeros_like(self.params), np.zeros_like(self.params), 0

    def logits(self, features: np.ndarray) -> np.ndarray:
        return features @ self.params[:-1] + self.params[-1]

    def accuracy(self, features: np.ndarray, labels: np.ndarray) -> float:
        return float((self.logits(features).argmax(axis=1) == labels).mean())

    def step(self, features: np.ndarray, labels: np.ndarray, rate: float) -> None:
        logits = self.logits(features)
        wrong = np.exp(logits - logits.max(axis=1, keepdims=True))
        wrong /= wrong.sum(axis=1, keepdims=True)
        wrong[np.arange(len(labels)), labels] -= 1
        wrong /= len(labels)
        gradient = np.concatenate([features.T @ wrong, wrong.sum(axis=0, keepdims=True)])
        gradient *= min(1.0, _CLIP / max(float(np.linalg.norm(gradient)), 1e-12))
        self.steps += 1
        self._first += (1 - _BETAS[0]) * (gradient - self._first)
        self._second += (1 - _BETAS[1]) * (gradient**2 - self._second)
        first, second = self._first / (1 - _BETAS[0] ** self.steps), self._second / (1 - _BETAS[1] ** self.steps)
        self.params -= rate * (first / (np.sqrt(second) + _EPSILON) + _DECAY * self.params)


def _share_of_rate(step: int, num_steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + np.cos(np.pi * (step - warmup) / max(num_steps - warmup, 1)))


def _order(seed: int, purpose: int, count: int) -> Int[np.ndarray, " count"]:
    draws = jax.random.bits(key_for(seed, "published probe", purpose), (count,), jnp.uint32)
    return np.argsort(np.asarray(draws), kind="stable")


def _shots_of(labels: Int[np.ndarray, " examples"], shots: int, seed: int, split: int) -> Int[np.ndarray, " chosen"]:
    """As many of each class that there is: without replacement, and again from the first where it has fewer."""
    order = _order(seed, split, len(labels))
    each = (order[labels[order] == label] for label in np.unique(labels))
    return np.sort(np.concatenate([np.resize(one, shots) for one in each]))
