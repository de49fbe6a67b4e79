"""CLIP: images and their captions are brought together, and what belongs to other examples of the batch apart.

An image tower (the network's features) and a text tower (`jdt.models.TextTransformer`) are projected to one space. The
loss is the symmetric cross-entropy of Radford et al. 2021, arXiv 2103.00020, section 2.3, with its learned temperature.
Examples of the batch with the same caption count as negatives of each other, as published.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdt import checks
from jdt.data import Dataset, filled, require_templates, texts, tokenize
from jdt.data.augment import normalise
from jdt.models import ModelOutput, TextTransformer
from jdt.train.loss import Forward
from jdt.train.recipe import Recipe
from jdt.train.source import SourceData, batch_images
from jdt.types import AnyArray, Array, Float, Int, PRNGKey

LARGEST_SCALE = math.log(100.0)
"""Of the logarithm of 1 / temperature: beyond it training becomes unstable (arXiv 2103.00020, section 2.5)."""

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class CLIPInputs(NamedTuple):
    """A batch: float32 images as the network reads them, and int32 tokens of their captions."""

    images: Float[Array, "batch height width channels"]
    tokens: Int[Array, "batch length"]


@dataclasses.dataclass(frozen=True)
class CLIP:
    """Contrastive training of images with their captions (arXiv 2103.00020; arXiv 2302.13602, section 3.1).

    The defaults of the towers are for thousands of small images; published are `embedding=1024, text_width=512,
    text_layers=12, text_heads=8`.

    Attributes:
      embedding: Width of the space that images and texts share.
      text_width: Numbers a token of the text tower.
      text_layers: Blocks of the text tower.
      text_heads: Heads of its attention; they share the width equally.
      max_bytes: Most bytes of a caption, and of a class name in a template.
      start_temperature: Of the loss, before it is learned.
      templates: What class names are put into, for captions and for telling classes apart without a head.
    """

    embedding: int = 128
    text_width: int = 64
    text_layers: int = 2
    text_heads: int = 4
    max_bytes: int = texts.MOST_BYTES
    start_temperature: float = 0.07
    templates: tuple[str, ...] = texts.TEMPLATES

    method: ClassVar[str] = "clip"
    top: ClassVar[str] = "objective"
    classifies: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("embedding", "text_width", "text_layers", "text_heads", "max_bytes"):
            checks.require_at_least(f"{name.replace('_', '-')} of CLIP", getattr(self, name), 1)
        if self.text_width % self.text_heads:
            raise checks.UserError(
                f"text-width of CLIP is {self.text_width}, which {self.text_heads} text-heads do not share equally: "
                "choose a multiple of them."
            )
        if not 1 / 100 <= self.start_temperature < math.inf:
            raise checks.UserError(
                f"start-temperature of CLIP is {self.start_temperature}, but must be 0.01, the least that is learned, "
                "or more."
            )
        require_templates(self.templates)

    @property
    def token_length(self) -> int:
        """Most tokens of a caption."""
        return self.max_bytes + texts.ENDS

    @property
    def tower(self) -> TextTransformer:
        """The text tower."""
        return TextTransformer(
            texts.VOCABULARY, texts.END, self.token_length, self.text_width, self.text_layers, self.text_heads
        )

    def check(self, recipe: Recipe, source: Dataset) -> None:
        """Raise a `UserError` where a recipe or a source does not go with it."""
        if recipe.label_smoothing or recipe.class_weights:
            raise checks.UserError(
                "the recipe smooths labels or weighs classes, but CLIP learns from captions and reads no label: leave "
                "--recipe.label-smoothing and --recipe.class-weights out."
            )
        if recipe.batch_size < 2:
            raise checks.UserError("batch-size is 1, but CLIP tells captions of a batch from one another: raise it.")
        if source.tokens is None:
            raise checks.UserError(
                f"CLIP learns from captions, but {source.name} has none: add them with jdt.data.with_captions."
            )
        if source.tokens.shape[1] > self.token_length:
            raise checks.UserError(
                f"captions of {source.name} have up to {source.tokens.shape[1] - texts.ENDS} bytes, but CLIP reads "
                f"{self.max_bytes}: pass the same max-bytes to both."
            )

    def init(self, key: PRNGKey, num_features: int) -> dict[str, Any]:
        """Draw the text tower, both projections and the temperature.

        Args:
          key: Of one model.
          num_features: Of the network.
        """
        keys = jax.random.split(key, 3)
        project = nn.initializers.lecun_normal()
        return {
            "text": self.tower.init(keys[0], jnp.zeros((1, self.token_length), jnp.int32))["params"],
            "text_projection": project(keys[1], (self.text_width, self.embedding), jnp.float32),
            "image_projection": project(keys[2], (num_features, self.embedding), jnp.float32),
            "scale": jnp.asarray(-math.log(self.start_temperature), jnp.float32),
        }

    def inputs(self, recipe: Recipe, source: SourceData, key: PRNGKey, batch: Int[Array, " batch"]) -> CLIPInputs:
        """What the loss reads of a batch: images as the network reads them, and captions.

        Args:
          recipe: Says how images are augmented and scaled.
          source: On the device, with tokens.
          key: For augmentation, of one model and step.
          batch: Rows of `source`.
        """
        images = normalise(batch_images(recipe, source, key, batch), recipe.mean, recipe.std)
        return CLIPInputs(images, jnp.asarray(source.tokens)[batch])

    def loss(self, forward: Forward, own: Any, inputs: Any, recipe: Recipe) -> tuple[Float[Array, ""], Any]:
        """Loss of one model on a batch, and the state that the pass changed.

        Args:
          forward: The network with the parameters that the gradient is asked for.
          own: Parameters of `init`.
          inputs: What `inputs` returned.
          recipe: Not read.
        """
        del recipe
        output, changed = forward(inputs.images)
        images = self.of_images(own, output.features)
        return contrastive_loss(images, self.of_texts(own, inputs.tokens), clamped(own["scale"])), changed

    def of_images(self, own: Any, features: Float[Array, "images features"]) -> Float[Array, "images embedding"]:
        """Unit vectors of images, of one model's features."""
        return unit(matmul(features, own["image_projection"]))

    def of_texts(self, own: Any, tokens: Int[AnyArray, "texts length"]) -> Float[Array, "texts embedding"]:
        """Unit vectors of texts under one model's text tower."""
        states: Any = self.tower.apply({"params": own["text"]}, jnp.asarray(tokens))
        return unit(matmul(states, own["text_projection"]))

    def class_logits(self, output: ModelOutput, own: Any, class_names: tuple[str, ...]) -> Any:
        """Logits `[models, examples, classes]` on the source's classes, of stacked models' outputs."""
        return vector_logits(self, own, output.features, class_vectors(self, own, class_names))


def contrastive_loss(
    images: Float[Array, "batch embedding"], texts: Float[Array, "batch embedding"], scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Mean over both directions of the cross-entropy that finds an image's text, and a text's image, in the batch.

    `z = exp(scale) * images @ texts.T`, then `(CE(z, i -> i) + CE(z.T, i -> i)) / 2` (arXiv 2103.00020, figure 3).

    Args:
      images: Unit vectors.
      texts: Unit vectors of their captions.
      scale: Logarithm of 1 / temperature.
    """
    logits = jnp.exp(scale) * matmul(images, texts.T)
    own = jnp.arange(len(images))
    of_images, of_texts = (optax.softmax_cross_entropy_with_integer_labels(z, own).mean() for z in (logits, logits.T))
    return (of_images + of_texts) / 2


def unit(vectors: Float[Array, "*rows embedding"]) -> Float[Array, "*rows embedding"]:
    """Vectors at length 1; one of length 0 stays."""
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(axis=-1, keepdims=True), 1e-12))


@jax.custom_vjp
def clamped(scale: Float[Array, ""]) -> Float[Array, ""]:
    """The scale, or `LARGEST_SCALE` where that is less; from there no gradient pushes it on, but back it may go."""
    return jnp.minimum(scale, LARGEST_SCALE)


def _clamped_forward(scale: Array) -> tuple[Array, Array]:
    return clamped(scale), scale


def _clamped_backward(scale: Array, gradient: Array) -> tuple[Array]:
    return (jnp.where((scale >= LARGEST_SCALE) & (gradient < 0), 0.0, gradient),)


clamped.defvjp(_clamped_forward, _clamped_backward)


def class_vectors(
    objective: CLIP, own: Mapping[str, Any], class_names: Sequence[str], templates: Sequence[str] = ()
) -> Float[Array, "models classes embedding"]:
    """Unit vectors that stand for classes, of their names alone.

    Of each class the mean of the unit vectors of its name in every template, at length 1 again (arXiv 2103.00020,
    section 3.1.4).

    Args:
      objective: What the models were trained for.
      own: Its parameters, stacked on a leading models axis.
      class_names: In the order that the vectors shall have.
      templates: The objective's where there are none.

    Raises:
      UserError: If two classes have the same text, whole or in the bytes that CLIP reads.
    """
    prompts = [filled(tuple(templates) or objective.templates, name) for name in class_names]
    every = [text for of_class in prompts for text in of_class]
    longest = max(len(text.encode("utf-8", "replace")) for text in every)
    tokens = tokenize(every, min(longest, objective.max_bytes) + texts.ENDS)
    tokens = tokens.reshape(len(class_names), len(prompts[0]), -1)
    first: dict[bytes, str] = {}
    for name, row in zip(class_names, tokens, strict=True):
        other = first.setdefault(row.tobytes(), name)
        if other is not name:
            raise checks.UserError(
                f"classes {other!r} and {name!r} have the same text in the {objective.max_bytes} bytes that CLIP "
                "reads: raise max-bytes, shorten the templates, or rename one."
            )
    return _class_vectors(objective, own, jnp.asarray(tokens))


@functools.partial(jax.jit, static_argnames="objective")
def _class_vectors(objective: CLIP, own: Any, tokens: Int[Array, "classes templates length"]) -> Any:
    def one(own: Any) -> Array:
        vectors = objective.of_texts(own, tokens.reshape(-1, tokens.shape[-1]))
        return unit(vectors.reshape(*tokens.shape[:2], -1).mean(axis=1))

    return jax.lax.map(one, own)  # One model after the other: the bits do not depend on how many there are.


@functools.partial(jax.jit, static_argnames="objective")
def vector_logits(
    objective: CLIP,
    own: Mapping[str, Any],
    features: Float[Array | np.ndarray, "models examples features"],
    vectors: Float[Array | np.ndarray, "models classes embedding"],
) -> Float[Array, "models examples classes"]:
    """Logits of classes that have unit vectors: their similarity to images over the temperature.

    Args:
      objective: What the models were trained for.
      own: Its parameters, stacked on a leading models axis.
      features: Of the network on images.
      vectors: Of `class_vectors`.
    """

    def one(model: tuple[Any, Array, Array]) -> Array:
        own, mine, classes = model
        return jnp.exp(clamped(own["scale"])) * matmul(objective.of_images(own, mine), classes.T)

    return jax.lax.map(one, (own, jnp.asarray(features), jnp.asarray(vectors)))
