"""A small text transformer: tokens and places, causal blocks that normalise first, features where the text ends."""

import flax.linen as nn
import jax.numpy as jnp

from jdt.models.vit import NORM, EncoderBlock
from jdt.types import Array, Float, Int


class TextTransformer(nn.Module):
    """A transformer whose tokens see only those before them, so that padding behind the end changes nothing.

    The text tower of Radford et al. 2021, arXiv 2103.00020, section 2.4, at any size. Dense layers start as Flax's do
    (deviation 1 / sqrt(inputs)): at a width this small those of 0.02 would make all texts alike for long.

    Attributes:
      vocabulary: Number of tokens.
      end: The token that ends a text.
      length: Most tokens of a text.
      width: Numbers a token.
      layers: Blocks.
      heads: Heads of each attention; they share the width equally.
    """

    vocabulary: int
    end: int
    length: int
    width: int
    layers: int
    heads: int

    @nn.compact
    def __call__(self, tokens: Int[Array, "texts tokens"]) -> Float[Array, "texts width"]:
        """Return the state of the first end token of each text; texts may be shorter than `length`."""
        narrow, usual = nn.initializers.normal(0.02), nn.initializers.lecun_normal()
        places = self.param("positions", nn.initializers.normal(0.01), (self.length, self.width))
        x = nn.Embed(self.vocabulary, self.width, embedding_init=narrow, name="tokens")(tokens)
        x = x + places[: tokens.shape[1]]
        for i in range(1, self.layers + 1):
            x = EncoderBlock(self.heads, 4 * self.width, causal=True, kernel_init=usual, name=f"block{i}")(x)
        at = jnp.argmax(tokens == self.end, axis=1)
        return NORM(name="norm")(jnp.take_along_axis(x, at[:, None, None], axis=1)[:, 0])
