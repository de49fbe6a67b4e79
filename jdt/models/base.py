"""The model contract: any Flax Linen module that returns logits and features, and holds a layer named `head`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.types import Array, Float, PRNGKey


class ModelOutput(NamedTuple):
    """What a model returns: a plain `(logits, features)` tuple does as well.

    Attributes:
      logits: float `[batch, classes]`.
      features: float `[batch, features]`, the input of `head`.
    """

    logits: Float[Array, "batch classes"]
    features: Float[Array, "batch features"]


class Variables(NamedTuple):
    """A model's arrays.

    Attributes:
      params: What the optimiser changes.
      state: The other collections, e.g. `{"batch_stats": ...}`; changed by training, read in inference.
    """

    params: Any
    state: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
    """A Linen module seen as pure functions of its variables; hashable, so it can be a static argument of `jax.jit`.

    Attributes:
      module: A module with `__call__(images, *, train: bool) -> (logits, features)`.
    """

    module: nn.Module

    def with_classes(self, num_classes: int) -> "Network":
        """The same network with another number of classes.

        Raises:
          UserError: If the module has no field `num_classes`.
        """
        if not hasattr(self.module, "num_classes"):
            raise checks.UserError(
                f"model {type(self.module).__name__} breaks the contract: it has no field num_classes, which sets the "
                "width of its head, so it cannot be given a target's classes."
            )
        return Network(self.module.clone(num_classes=num_classes))

    def init(self, key: PRNGKey, image_shape: tuple[int, int, int]) -> Variables:
        """Draw fresh variables.

        The forward pass that Flax needs to learn the shapes runs in inference mode, so that statistics start at
        their initial values and not at those of a blank image.
        """
        params_key, dropout_key = jax.random.split(key)
        blank = jnp.zeros((1, *image_shape), jnp.float32)
        variables = dict(self.module.init({"params": params_key, "dropout": dropout_key}, blank, train=False))
        return Variables(variables.pop("params"), variables)

    def train_apply(
        self, variables: Variables, images: Float[Array, "batch height width channels"], key: PRNGKey
    ) -> tuple[ModelOutput, Mapping[str, Any]]:
        """Forward pass in training mode: outputs and the changed state."""
        output, state = self.module.apply(
            {"params": variables.params, **variables.state},
            images,
            train=True,
            mutable=list(variables.state) or ["batch_stats"],
            rngs={"dropout": key},
        )
        return ModelOutput(*output), state

    def apply(self, variables: Variables, images: Float[Array, "batch height width channels"]) -> ModelOutput:
        """Forward pass in inference mode: each row depends on its own image alone."""
        output: Any = self.module.apply({"params": variables.params, **variables.state}, images, train=False)
        return ModelOutput(*output)


def check_contract(network: Network, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Check a model against the contract before any time is spent on training it.

    Args:
      network: The model.
      image_shape: (height, width, channels) of one image.
      num_classes: Width that the logits must have.

    Raises:
      UserError: Naming the clause that is broken and the shape or value that broke it.
    """
    name = type(network.module).__name__
    images = jax.ShapeDtypeStruct((4, *image_shape), jnp.float32)
    try:
        variables = jax.eval_shape(lambda key: network.init(key, image_shape), jax.random.key(0))
        trained, state = jax.eval_shape(network.train_apply, variables, images, jax.random.key(0))
        inferred = jax.eval_shape(network.apply, variables, images)
    except Exception as error:
        # A user's module can fail in any way at all; the reader needs the clause and the first line of the cause.
        raise checks.UserError(
            f"model {name} breaks the contract: `module(images, train=...)` on images {images.shape} must return "
            f"(logits, features), but raised {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        ) from error
    if "head" not in variables.params:
        raise checks.UserError(
            f"model {name} breaks the contract: no layer is named 'head' (found: "
            f"{', '.join(sorted(variables.params))}); name the last layer with nn.Dense(num_classes, name='head')."
        )
    for mode, output in (("training", trained), ("inference", inferred)):
        if output.logits.shape != (4, num_classes):
            raise checks.UserError(
                f"model {name} breaks the contract: logits have shape {output.logits.shape} in {mode}, "
                f"expected (batch, classes) = (4, {num_classes})."
            )
        if output.features.ndim != 2 or output.features.shape[0] != 4:
            raise checks.UserError(
                f"model {name} breaks the contract: features have shape {output.features.shape} in {mode}, "
                "expected (batch, features): pool or flatten the spatial axes."
            )
    if jax.tree.structure(state) != jax.tree.structure(variables.state) and jax.tree.leaves(variables.state):
        raise checks.UserError(f"model {name} breaks the contract: training changes the structure of its state.")
    alone, together = _first_features(network, image_shape)
    if not np.allclose(alone, together, rtol=1e-3, atol=1e-4):
        raise checks.UserError(
            f"model {name} breaks the contract: with train=False the features of an image change with the rest of "
            "its batch; use stored statistics in inference (nn.BatchNorm(use_running_average=not train))."
        )


@functools.partial(jax.jit, static_argnames=("network", "image_shape"))
def _first_features(
    network: Network, image_shape: tuple[int, int, int]
) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
    """Features of one image in inference, by itself and beside three others."""
    images = jax.random.normal(jax.random.key(1), (4, *image_shape))
    variables = network.init(jax.random.key(0), image_shape)
    return network.apply(variables, images[:1]).features[0], network.apply(variables, images).features[0]
