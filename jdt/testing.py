"""Conformance checks for what users bring.

>>> from jdt.models import SmallCNN
>>> check_model(SmallCNN(num_classes=10), image_shape=(8, 8, 1))
"""

import flax.linen as nn
import jax
import numpy as np

from jdt import checks
from jdt.models import Network, check_contract
from jdt.train import PLANS, Ensemble, Recipe, SourceData, train


def check_model(module: nn.Module, image_shape: tuple[int, int, int], num_classes: int | None = None) -> None:
    """Check a Flax module against the model contract, then train two of it for two steps.

    Args:
      module: `module(images, *, train) -> (logits, features)` with a last layer named `head`.
      image_shape: (height, width, channels).
      num_classes: Width of the logits; `module.num_classes` when None.

    Raises:
      UserError: Naming the clause that is broken.
    """
    classes = getattr(module, "num_classes", None) if num_classes is None else num_classes
    if not isinstance(classes, int):
        raise checks.UserError(f"model {type(module).__name__} has no num_classes: pass num_classes= to check_model.")
    network = Network(module)
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
            f"model {type(module).__name__} breaks the contract: trained under vmap its loss is {losses[1].tolist()}, "
            f"alone {losses[0].tolist()}; nothing in it may depend on the other models of a block."
        )
