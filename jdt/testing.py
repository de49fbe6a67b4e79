"""Conformance checks for what users bring.

>>> from jdt.models import SmallCNN
>>> check_model(SmallCNN(num_classes=10), image_shape=(8, 8, 1))
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jdt import checks
from jdt.models import Network, build, check_contract
from jdt.train import PLANS, Ensemble, Recipe, SourceData, train


def check_model(
    model: nn.Module | Network | Callable[..., Any],
    image_shape: tuple[int, int, int],
    num_classes: int | None = None,
    *,
    features: str | None = None,
    **arguments: Any,
) -> None:
    """Check a Flax model against the model contract (docs/add_a_model.md), then train two of it for two steps.

    Args:
      model: A Linen module, or what `--model` names: a Linen or NNX class, or a function that builds a module.
      image_shape: (height, width, channels).
      num_classes: Width of the logits; the module's own `num_classes` when None.
      features: Where the features are, as `--features` has it.
      **arguments: What the class is called with, as `--model-args` has it.

    Raises:
      UserError: Naming the clause that is broken, and the shape or value that broke it.
    """
    network = _network(model, num_classes, features, arguments)
    classes = network.num_classes
    if classes is None:
        raise checks.UserError(f"model {network.name} has no num_classes: pass num_classes= to check_model.")
    check_contract(network, image_shape, classes)
    rng = np.random.default_rng(0)
    source = SourceData(
        jax.numpy.asarray(rng.integers(0, 256, (16, *image_shape), np.uint8)),
        jax.numpy.asarray(rng.integers(0, classes, 16, np.int32)),
    )
    members = np.ones((2, 16), bool)
    ids = np.arange(2)
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=0.01)
    losses = [
        train(Ensemble(network, recipe, plan, image_shape, 16.0, 16), source, members, ids, seed=0).loss
        for plan in (PLANS["matmul"], PLANS["vmapped"])
    ]
    if not np.allclose(*losses, rtol=1e-3):
        raise checks.UserError(
            f"model {network.name} breaks the contract: trained under vmap its loss is {losses[1].tolist()}, "
            f"alone {losses[0].tolist()}; nothing in it may depend on the other models of a block."
        )


def _network(model: Any, num_classes: int | None, features: str | None, arguments: dict[str, Any]) -> Network:
    if isinstance(model, Network):
        return model
    if not isinstance(model, nn.Module):
        if num_classes is None:
            raise checks.UserError("check_model was given a class: pass num_classes= as well.")
        return build(model, num_classes, arguments=arguments, features=features)
    if arguments:
        raise checks.UserError("check_model was given a module and arguments for its class: pass the class itself.")
    return Network(model, num_classes or getattr(model, "num_classes", None), features)
