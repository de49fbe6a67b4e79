"""A small vision transformer: patches, a class token, learned positions, blocks that normalise first."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from jdt import checks
from jdt.models.base import ModelOutput
from jdt.types import Array, Float

NARROW = nn.initializers.truncated_normal(0.02)
"""Initialisation of positions, tokens and dense layers, as DeiT has it."""
NORM = functools.partial(nn.LayerNorm, epsilon=1e-6)


class Attention(nn.Module):
    """Every token asks all tokens of its image, in several heads.

    Attributes:
      heads: Parts of the width, each with weights of its own.
      causal: Whether a token asks only itself and those before it.
      kernel_init: Initialisation of the dense layers.
    """

    heads: int
    causal: bool = False
    kernel_init: nn.initializers.Initializer = NARROW

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Return what the tokens learn from each other."""
        *shape, width = tokens.shape
        # One product for queries, keys and values.
        joined = nn.Dense(3 * width, kernel_init=self.kernel_init, name="query_key_value")(tokens)
        queries, keys, values = jnp.unstack(joined.reshape(*shape, 3, self.heads, -1), axis=2)
        mixed = jax.nn.dot_product_attention(queries, keys, values, is_causal=self.causal, implementation="xla")
        return nn.Dense(width, kernel_init=self.kernel_init, name="out")(mixed.reshape(tokens.shape))


class EncoderBlock(nn.Module):
    """Attention, then a perceptron of one hidden layer for each token, both behind LayerNorm and beside a shortcut.

    Attributes:
      heads: Of the attention.
      hidden: Width of the hidden layer.
      causal: Whether a token learns only from itself and those before it.
      kernel_init: Initialisation of the dense layers.
    """

    heads: int
    hidden: int
    causal: bool = False
    kernel_init: nn.initializers.Initializer = NARROW

    @nn.compact
    def __call__(self, tokens: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """Return the tokens after both steps."""
        attention = Attention(self.heads, self.causal, self.kernel_init, name="attention")
        tokens = tokens + attention(NORM(name="norm1")(tokens))
        inside = nn.Dense(self.hidden, kernel_init=self.kernel_init, name="mlp1")(NORM(name="norm2")(tokens))
        inside = nn.gelu(inside, approximate=False)
        return tokens + nn.Dense(tokens.shape[-1], kernel_init=self.kernel_init, name="mlp2")(inside)


class VisionTransformer(nn.Module):
    """A vision transformer of DeiT-Ti's width and depth, 5.4 million parameters, with patches for small images.

    Images are cut into square patches, each a token beside one that stands for the class, whose last state is the
    features. Positions are learned, so that a trained model takes images of its own size alone. No dropout and no
    stochastic depth. DeiT-Ti/16 is `patch=16` on images of 224x224.

    Source: Dosovitskiy et al. 2020, arXiv 2010.11929, section 3.1; sizes and initialisation of Touvron et al. 2020,
    arXiv 2012.12877, table 1.

    Attributes:
      num_classes: Width of the logits.
      patch: Side of a patch in pixels.
      width: Numbers a token.
      depth: Blocks.
      heads: Heads of each attention; they share the width equally.
      mlp_ratio: Width of the hidden layers in multiples of `width`.
    """

    num_classes: int
    patch: int = 4
    width: int = 192
    depth: int = 12
    heads: int = 3
    mlp_ratio: float = 4.0

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width channels"], *, train: bool) -> ModelOutput:
        """Return logits `[batch, classes]` and features `[batch, width]` of float images; `train` changes nothing.

        Raises:
          UserError: If the patches do not fill the images, or the heads do not share the width.
        """
        del train
        batch, high, wide, _ = images.shape
        if high % self.patch or wide % self.patch:
            raise checks.UserError(
                f"a vision transformer cuts images into patches of {self.patch}x{self.patch} and these have "
                f"{high}x{wide} pixels: choose an image size that is a multiple of the patch, or another patch."
            )
        if self.width % self.heads:
            raise checks.UserError(f"{self.heads} heads do not share a width of {self.width}: choose a divisor of it.")
        side = (self.patch, self.patch)
        patches = nn.Conv(self.width, side, side, padding="VALID", name="patches")(images)
        patches = patches.reshape(batch, -1, self.width)
        token = jnp.broadcast_to(self.param("token", NARROW, (1, 1, self.width)), (batch, 1, self.width))
        tokens = jnp.concatenate([token, patches], axis=1)
        tokens = tokens + self.param("positions", NARROW, (1, *tokens.shape[1:]))
        for i in range(1, self.depth + 1):
            tokens = EncoderBlock(self.heads, round(self.mlp_ratio * self.width), name=f"block{i}")(tokens)
        features = NORM(name="norm")(tokens[:, 0])
        return ModelOutput(nn.Dense(self.num_classes, kernel_init=NARROW, name="head")(features), features)
