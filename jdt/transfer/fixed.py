"""Fixed-feature transfer: frozen features once, one convex head a model, all models of a block together."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdt.data import Dataset
from jdt.models import Variables
from jdt.train import Ensemble, apply_in_batches
from jdt.transfer.head import fit_head
from jdt.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class FixedFeature:
    """How a head is fitted on frozen features.

    BatchNorm runs in inference mode, so features do not drift towards the target (the published code lets them:
    arXiv 2207.05739, its `src/models.py`).

    Attributes:
      inverse_penalty: scikit-learn's C of the L2 penalty on standardised features.
      tolerance: Largest entry of the gradient at which the solver stops.
      max_iterations: Solver steps at most.
    """

    inverse_penalty: float = 1.0
    tolerance: float = 1e-6
    max_iterations: int = 300


class Transferred(NamedTuple):
    """A block of models on one target.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      gradient_norm: float32 `[models]`, convergence of each head.
    """

    logits: Float[Array, "models examples classes"]
    gradient_norm: Float[Array, " models"]


def transfer_fixed(
    ensemble: Ensemble, variables: Variables, train: Dataset, test: Dataset, settings: FixedFeature
) -> Transferred:
    """Transfer every model of a block to a target with its features frozen.

    Args:
      ensemble: What the models share.
      variables: Of the source models, stacked on a leading models axis.
      train: Target training split.
      test: Target test split, with the same classes.
      settings: How the heads are fitted.
    """
    features = apply_in_batches(ensemble, variables, train.images).features
    test_features = apply_in_batches(ensemble, variables, test.images).features
    # On CPUs one model after the other keeps its features in cache; elsewhere the models' solves share each call.
    one_by_one = ensemble.plan.layout == "unrolled"
    return _fit_and_apply(
        features, jnp.asarray(train.labels), test_features, len(train.class_names), settings, one_by_one
    )


@functools.partial(jax.jit, static_argnames=("num_classes", "settings", "one_by_one"))
def _fit_and_apply(
    features: Float[Array, "models train features"],
    labels: Int[Array, " train"],
    test_features: Float[Array, "models examples features"],
    num_classes: int,
    settings: FixedFeature,
    one_by_one: bool,
) -> Transferred:
    def one(inputs: tuple[Array, Array]) -> Transferred:
        head = fit_head(
            inputs[0], labels, num_classes=num_classes,
            inverse_penalty=settings.inverse_penalty,
            tolerance=settings.tolerance,
            max_iterations=settings.max_iterations,
        )  # fmt: skip
        return Transferred(head.logits(inputs[1]), head.gradient_norm)

    inputs = (features, test_features)
    return jax.lax.map(one, inputs) if one_by_one else jax.vmap(one)(inputs)
