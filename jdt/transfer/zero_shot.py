"""Zero-shot transfer: a text tower says what each class of a target looks like, from its name alone.

A head of names is worth nothing where the names are in another order than the labels (arXiv 2302.13602, section 5.2 of
its specification: labels renumbered by sorting, names from another file, accuracy at chance). So a head carries the
names that it is made of, and can be applied only by saying what the labels are called, which is compared.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.data import Dataset, require_templates
from jdt.keys import key_for
from jdt.models import Variables
from jdt.sharding import run_in_waves
from jdt.train import CLIP, OWN, Ensemble, class_vectors, vector_logits
from jdt.transfer.fixed import FrozenFeatures, chosen_features
from jdt.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """How classes of a target are told apart by the source models' text tower, without any training.

    Attributes:
      templates: What class names are put into; those of the models' training where there are none.
      permuted: A seed: every class then gets the text of another one, as a control that must do no better than chance.
        None for the names as they are.
    """

    templates: tuple[str, ...] = ()
    permuted: int | None = None

    def __post_init__(self) -> None:
        if self.templates:
            require_templates(self.templates)


class ZeroShotTransferred(NamedTuple):
    """A block of models on one target.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      train_accuracy: float32 `[models]`, on the training images, which nothing was fitted to.
    """

    logits: Float[Array | np.ndarray, "models examples classes"]
    train_accuracy: Float[Array | np.ndarray, " models"]


@dataclasses.dataclass(frozen=True, eq=False)
class TextHead:
    """Heads of a block of models, made of class names.

    Attributes:
      objective: What the models were trained for.
      own: Its parameters, stacked on a leading models axis.
      vectors: float32 `[models, classes, embedding]`, one unit vector a class.
      names: Of the classes, in the order of the vectors.
    """

    objective: CLIP
    own: Mapping[str, Any]
    vectors: Float[Array | np.ndarray, "models classes embedding"]
    names: tuple[str, ...]

    def logits(
        self, features: Float[Array | np.ndarray, "models examples features"], class_names: Sequence[str]
    ) -> Float[Array, "models examples classes"]:
        """Logits on features of images, whose labels are called `class_names`.

        Raises:
          UserError: If the labels have other names than the head, or the same ones in another order.
        """
        require_aligned(self.names, class_names)
        return vector_logits(self.objective, self.own, features, self.vectors)

    def permuted(self, seed: int) -> "TextHead":
        """The control: heads that say of every class what another one looks like, under the names as they were."""
        other = derangement(len(self.names), seed)
        return dataclasses.replace(self, vectors=jnp.asarray(self.vectors)[:, other])


def text_head(
    objective: Any, variables: Variables, class_names: Sequence[str], templates: Sequence[str] = ()
) -> TextHead:
    """Make heads of class names under the text towers of a block of models.

    Args:
      objective: What the models were trained for.
      variables: Of the models, stacked on a leading models axis.
      class_names: In label order.
      templates: What the names are put into; the objective's where there are none.

    Raises:
      UserError: If the models have no text tower, or two classes have the same text.
    """
    require_text_tower(objective)
    if OWN not in variables.params:
        raise checks.UserError(
            "zero-shot transfer needs the text tower that the models were trained with, but these models are kept "
            "without it: transfer them in the run that trains them."
        )
    own = variables.params[OWN]
    return TextHead(objective, own, class_vectors(objective, own, class_names, templates), tuple(class_names))


def require_text_tower(objective: Any, mode: str = "") -> None:
    """Raise unless models that are trained for an objective have a text tower.

    Args:
      objective: One of `jdt.train`'s.
      mode: Name of the transfer mode that needs it.
    """
    if not isinstance(objective, CLIP):
        of = f"transfer mode {mode!r} is zero-shot, which" if mode else "zero-shot transfer"
        raise checks.UserError(
            f"{of} needs a text tower, but models trained for {type(objective).__name__} have none: train them for "
            "CLIP, or leave the mode out."
        )


def require_aligned(head_names: Sequence[str], class_names: Sequence[str]) -> None:
    """Raise unless the classes of a head are those that the labels are called, in the same order.

    Args:
      head_names: What the head was made of.
      class_names: Of the data set, in label order.

    Raises:
      UserError: Naming the first class that differs.

    >>> require_aligned(["cat", "dog"], ["dog", "cat"])
    Traceback (most recent call last):
      ...
    jdt.checks.UserError: class 0 of the head is 'cat', but label 0 is called 'dog'; 2 of 2 differ, and the names are \
the same in another order: make the head of the class names in label order.
    """
    pairs = list(zip(head_names, class_names, strict=False))
    wrong = [number for number, (one, other) in enumerate(pairs) if one != other]
    if wrong:
        number = wrong[0]
        same = ", and the names are the same in another order" if sorted(head_names) == sorted(class_names) else ""
        raise checks.UserError(
            f"class {number} of the head is {head_names[number]!r}, but label {number} is called "
            f"{class_names[number]!r}; {len(wrong)} of {len(pairs)} differ{same}: make the head of the class names in "
            "label order."
        )
    if len(head_names) != len(class_names):
        longer, what = max((head_names, "the head"), (class_names, "the label list"), key=lambda pair: len(pair[0]))
        raise checks.UserError(
            f"the head has {len(head_names)} classes and the labels {len(class_names)}: {what} alone names "
            f"{longer[len(pairs)]!r}; make the head of the class names in label order."
        )


def derangement(count: int, seed: int) -> Int[np.ndarray, " count"]:
    """A permutation that leaves nothing in its place: one cycle through all, drawn from the seed alone.

    Raises:
      UserError: If there is one thing, or none: it has no other place.

    >>> other = derangement(5, seed=0)
    >>> sorted(other.tolist()), bool((other == np.arange(5)).any())
    ([0, 1, 2, 3, 4], False)
    """
    checks.require_at_least("number of classes whose names are permuted", count, 2)
    cycle = np.asarray(jax.random.permutation(key_for(seed, "derangement", count), count))
    other = np.empty(count, np.int64)
    other[cycle] = np.roll(cycle, 1)
    return other


def transfer_zero_shot(
    ensemble: Ensemble,
    variables: Variables,
    train: Dataset,
    test: Dataset,
    settings: ZeroShot,
    features_of: FrozenFeatures | None = None,
    rows: Int[np.ndarray, "models chosen"] | None = None,
) -> ZeroShotTransferred:
    """Tell the classes of a target apart by their names under the text tower of every model of a block.

    Args:
      ensemble: What the models share.
      variables: Of the source models, stacked on a leading models axis, with the parameters of their objective.
      train: Target training split: nothing is fitted to it.
      test: Target test split, with the same classes.
      settings: Templates, or the control.
      features_of: Features of these models that are there already.
      rows: Training images of each model that its training accuracy is of; all of them when None.

    Raises:
      UserError: If the models have no text tower, two classes have the same text, or the splits call their labels
        differently.
    """
    features_of = features_of or FrozenFeatures(ensemble, variables)
    features, labels = chosen_features(features_of.of(train), train, rows)
    arrays = variables, features, labels, features_of.of(test)

    def one_wave(models: np.ndarray) -> ZeroShotTransferred:
        some = arrays if len(models) == len(labels) else jax.tree.map(lambda leaf: leaf[models], arrays)
        mine, trained_on, classes, tested_on = some
        head = text_head(ensemble.objective, mine, train.class_names, settings.templates)
        if settings.permuted is not None:
            head = head.permuted(settings.permuted)
        right = head.logits(trained_on, train.class_names).argmax(axis=-1) == jnp.asarray(classes)
        return ZeroShotTransferred(head.logits(tested_on, test.class_names), right.mean(axis=-1))

    return run_in_waves(ensemble.waves(len(labels)), len(labels), one_wave)
