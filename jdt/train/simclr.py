"""SimCLR: a model learns to tell two random views of one image from views of the others of its batch.

Chen et al. 2020, arXiv 2002.05709; the loss as in the published code of arXiv 2302.13602.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jdt import checks
from jdt.data.augment import normalise
from jdt.data.augmentation import Augmentation, augmented
from jdt.data.base import Dataset
from jdt.data.stamps import stamp_batch
from jdt.models import ModelOutput
from jdt.train.loss import Forward
from jdt.train.recipe import Recipe
from jdt.train.source import SourceData
from jdt.types import Array, Float, Int, PRNGKey

_UNREAD = ("crop_pad", "flip", "random_resized", "label_smoothing", "class_weights")  # Of the recipe.


@dataclasses.dataclass(frozen=True)
class SimCLR:
    """Contrastive learning of images without labels.

    Both views of a batch go through the network together, so that BatchNorm's statistics are over both. Features go
    through a projection head with one hidden layer of ReLUs and no BatchNorm, so that all statistics are the network's
    own; the head is left behind with the training. The network's classification head stays as it was drawn.

    Attributes:
      temperature: Cosine similarities are divided by it.
      hidden: Width of the projection's hidden layer; 0 makes it as wide as the features.
      width: Width of the projection.
      augmentation: How views are made. The recipe's own augmentation must be off.
      shuffled_pairs: A control: the second view is of another image of the batch, so that there is nothing to learn
        from pairs but what all images have in common.
    """

    temperature: float = 0.1
    hidden: int = 0
    width: int = 128
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    shuffled_pairs: bool = False

    method: ClassVar[str] = "simclr"
    top: ClassVar[str] = "objective"
    classifies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.require_at_least("hidden", self.hidden, 0)
        checks.require_at_least("width", self.width, 1)
        if not self.temperature > 0:
            raise checks.UserError(f"temperature is {self.temperature}, but must be positive: for example 0.1.")

    @property
    def token_length(self) -> int:
        """It reads no text."""
        return 0

    def check(self, recipe: Recipe, source: Dataset) -> None:
        """Raise a `UserError` where a recipe or a source does not go with it."""
        self.augmentation.check(source.name, source.image_shape[2])
        if recipe.batch_size < 2:
            raise checks.UserError("batch-size is 1, but SimCLR tells images of a batch from one another: raise it.")
        unread = [name for name in _UNREAD if getattr(recipe, name)]
        if unread:
            raise checks.UserError(
                f"the recipe sets {' and '.join(unread)}, but SimCLR has its own augmentation and reads no labels: "
                "leave it out of the recipe."
            )

    def init(self, key: PRNGKey, num_features: int) -> dict[str, Any]:
        """Draw the projection head: kernels as Flax's dense layers have them, the hidden layer's bias zero.

        Args:
          key: Of one model.
          num_features: Of the network.
        """
        hidden, draw = self.hidden or num_features, jax.nn.initializers.lecun_normal()
        of_hidden, of_out = jax.random.split(key)
        return {
            "hidden": {"kernel": draw(of_hidden, (num_features, hidden)), "bias": jnp.zeros(hidden)},
            "out": {"kernel": draw(of_out, (hidden, self.width))},
        }

    def inputs(
        self, recipe: Recipe, source: SourceData, key: PRNGKey, batch: Int[Array, " batch"]
    ) -> Float[Array, "views height width channels"]:
        """First views of the batch, then second ones, as the network reads them; stamps are put on both.

        Args:
          recipe: Says how images are scaled.
          source: On the device.
          key: Of one model and step.
          batch: Rows of `source`.
        """
        # Members come in a fresh random order, so the next of the batch is any other image (or, of a source with fewer
        # images than a batch has, now and then the same).
        of_second = jnp.roll(batch, 1) if self.shuffled_pairs else batch
        rows = jnp.concatenate([batch, of_second])
        views = augmented(key, source.images[rows], self.augmentation)
        if source.stamps is not None:
            views = stamp_batch(views, source.stamps, rows)
        return normalise(views, recipe.mean, recipe.std)

    def loss(
        self, forward: Forward, own: Any, inputs: Float[Array, "views height width channels"], recipe: Recipe
    ) -> tuple[Float[Array, ""], Any]:
        """NT-Xent of one model on a batch, and the state that the pass changed.

        Args:
          forward: The network with the parameters that the gradient is asked for.
          own: The projection head.
          inputs: First views, then second ones.
          recipe: Not read.
        """
        del recipe
        output, changed = forward(inputs)
        first, second = jnp.split(projected(own, output.features), 2)
        return nt_xent(first, second, self.temperature), changed

    def class_logits(self, output: ModelOutput, own: Any, class_names: tuple[str, ...]) -> Any:
        """It knows no classes.

        Raises:
          UserError: Always.
        """
        del output, own, class_names
        raise checks.UserError("models that SimCLR trained know no classes: transfer them.")


def projected(own: Any, features: Float[Array, "batch features"]) -> Float[Array, "batch width"]:
    """Features through the projection head."""
    hidden = jax.nn.relu(features @ own["hidden"]["kernel"] + own["hidden"]["bias"])
    return hidden @ own["out"]["kernel"]


def nt_xent(
    first: Float[Array, "batch width"], second: Float[Array, "batch width"], temperature: float
) -> Float[Array, ""]:
    """Mean cross-entropy of finding each view's partner among all other views of the batch (NT-Xent).

    With unit vectors a and b: the mean of CE([a b' / t, a a' / t without the diagonal], own row) and of the same with a
    and b exchanged.

    Args:
      first: Projections of one view of each image, of any length.
      second: Of the other, in the same order.
      temperature: t.
    """
    a, b = unit(first), unit(second)

    def similarity(x: Array, y: Array) -> Array:
        return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST) / temperature

    itself, across = jnp.eye(len(a), dtype=bool), similarity(a, b)

    def found(to_partner: Array, own_side: Array) -> Array:
        others = jnp.concatenate([to_partner, jnp.where(itself, -jnp.inf, own_side)], axis=1)
        return jnp.mean(jax.nn.logsumexp(others, axis=1) - jnp.diagonal(to_partner))

    return (found(across, similarity(a, a)) + found(across.T, similarity(b, b))) / 2


def unit(vectors: Float[Array, "batch width"]) -> Float[Array, "batch width"]:
    """Vectors scaled to length one; zero stays zero."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))
