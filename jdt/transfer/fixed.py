"""Fixed-feature transfer: frozen features once, one convex head a model, all models of a block together."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jdt import checks, config
from jdt.data import Dataset, as_shown
from jdt.devices import one_thread_of_blas, program_memory
from jdt.models import Variables
from jdt.sharding import MODELS, SHARED, each_device, models_mesh, place, run_in_waves
from jdt.train import Ensemble, Recipe, Statistics, apply_in_batches
from jdt.transfer.head import fit_head
from jdt.types import Array, Float, Int

Solver = Literal["convex", "sgd"]

TUNING = Recipe(epochs=10, batch_size=64, learning_rate=0.02, warmup_epochs=2)
"""How training on a target goes where nothing else is asked for."""


@dataclasses.dataclass(frozen=True)
class FixedFeature:
    """How a head is fitted on frozen features.

    By default the head is the optimum of a convex problem, and BatchNorm runs in inference mode, so that features do
    not drift towards the target. The published code (arXiv 2207.05739, `src/trainer.py`, `src/models.py`) trains the
    head by the recipe of full-network transfer, with the network in training mode: that is `sgd` with `adapt`.

    Attributes:
      inverse_penalty: scikit-learn's C of the L2 penalty on standardised features, of the convex head.
      tolerance: Largest entry of the gradient at which the convex solver stops.
      max_iterations: Steps of the convex solver at most.
      solver: `convex`, or `sgd`: the head alone is trained by `recipe`.
      bn: `frozen` computes features in inference mode; `adapt`, with `sgd` alone, trains in training mode: BatchNorm
        uses the statistics of the batch, its stored ones move to the target, and outputs are computed with those.
      recipe: Of `sgd`. Pixels are scaled as in source training, whatever it says.
    """

    inverse_penalty: float = 1.0
    tolerance: float = 1e-6
    max_iterations: int = 300
    solver: Solver = dataclasses.field(default="convex", metadata=config.LATER)
    bn: Statistics = dataclasses.field(default="frozen", metadata=config.LATER)
    recipe: Recipe = dataclasses.field(default_factory=lambda: TUNING, metadata=config.LATER)

    def check(self) -> None:
        """Raise where the settings contradict each other."""
        checks.require_known("head solver", self.solver, get_args(Solver))
        checks.require_known("head bn", self.bn, get_args(Statistics))
        if (self.solver, self.bn) == ("convex", "adapt"):
            raise checks.UserError(
                "head bn is adapt, but a convex head is fitted on features that stay as they are: pass --head.solver "
                "sgd as well, or --head.bn frozen."
            )


class Transferred(NamedTuple):
    """A block of models on one target.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      gradient_norm: float32 `[models]`, convergence of each head.
      train_accuracy: float32 `[models]`, on the training images.
    """

    logits: Float[Array | np.ndarray, "models examples classes"]
    gradient_norm: Float[Array | np.ndarray, " models"]
    train_accuracy: Float[Array | np.ndarray, " models"]


class FrozenFeatures:
    """Features of a block of models on datasets, computed once for all targets that share a dataset.

    Args:
      ensemble: What the models share.
      variables: Of the source models, stacked on a leading models axis.
      uses: How often each dataset will be asked for, by fingerprint: features are kept until the last time, and not at
        all where there is only one.
    """

    def __init__(self, ensemble: Ensemble, variables: Variables, uses: Mapping[str, int] | None = None) -> None:
        self._ensemble, self._variables, self._left = ensemble, variables, dict(uses or {})
        self._kept: dict[str, Any] = {}

    def expect(self, fingerprints: Iterable[str]) -> None:
        """Say that each of these datasets will be asked for once more."""
        for name in fingerprints:
            self._left[name] = self._left.get(name, 0) + 1

    def of(self, data: Dataset) -> Any:
        """float32 `[models, examples, features]` on a dataset, as its images are shown without augmentation."""
        name = data.fingerprint
        found = self._kept.pop(name, None)
        if found is None:
            found = apply_in_batches(self._ensemble, self._variables, as_shown(data).images).features
        self._left[name] = self._left.get(name, 1) - 1
        if self._left[name] > 0:
            self._kept[name] = found
        return found


def transfer_fixed(
    ensemble: Ensemble,
    variables: Variables,
    train: Dataset,
    test: Dataset,
    settings: FixedFeature,
    features_of: FrozenFeatures | None = None,
) -> Transferred:
    """Transfer every model of a block to a target with its features frozen, under a convex head.

    Args:
      ensemble: What the models share.
      variables: Of the source models, stacked on a leading models axis.
      train: Target training split.
      test: Target test split, with the same classes.
      settings: How the heads are fitted.
      features_of: Features of these models that are there already.

    Raises:
      UserError: If the settings let features drift.
    """
    settings.check()
    features_of = features_of or FrozenFeatures(ensemble, variables)
    features, test_features = features_of.of(train), features_of.of(test)
    labels, num_classes = jnp.asarray(train.labels), len(train.class_names)

    def one_wave(rows: np.ndarray) -> Transferred:
        mine = [x if len(rows) == len(x) else x[rows] for x in (features, test_features)]
        placed = place(mine, ensemble.num_devices, MODELS)
        return _fit_and_apply(ensemble, placed[0], labels, placed[1], num_classes, settings)

    with one_thread_of_blas():
        return jax.block_until_ready(run_in_waves(ensemble.waves(len(features)), len(features), one_wave))


def head_memory_needed(ensemble: Ensemble, train: Dataset, test: Dataset, settings: FixedFeature) -> int:
    """Bytes that fitting the heads of a whole wave takes on each device, features included. Compiles the program.

    Args:
      ensemble: What the models share.
      train: Target training split.
      test: Target test split, with the same classes.
      settings: How the heads are fitted.
    """
    mesh, models = models_mesh(ensemble.num_devices), ensemble.num_devices * ensemble.plan.width
    images = jax.ShapeDtypeStruct((1, *ensemble.image_shape), jnp.float32)
    variables = ensemble.network.shapes(ensemble.image_shape)
    width = jax.eval_shape(ensemble.network.apply, variables, images).features.shape[-1]

    def features(examples: int) -> Any:
        shape = (models, examples, width)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, MODELS))

    labels: Any = jax.ShapeDtypeStruct((len(train),), jnp.int32)
    program = _fit_and_apply.lower(
        ensemble, features(len(train)), labels, features(len(test)), len(train.class_names), settings
    )
    return program_memory(program.compile())


@functools.partial(jax.jit, static_argnames=("ensemble", "num_classes", "settings"))
def _fit_and_apply(
    ensemble: Ensemble,
    features: Float[Array, "models train features"],
    labels: Int[Array, " train"],
    test_features: Float[Array, "models examples features"],
    num_classes: int,
    settings: FixedFeature,
) -> Transferred:
    def on_device(features: Array, labels: Array, test_features: Array) -> Transferred:
        def one(inputs: tuple[Array, Array]) -> Transferred:
            head = fit_head(
                inputs[0], labels, num_classes=num_classes,
                inverse_penalty=settings.inverse_penalty,
                tolerance=settings.tolerance,
                max_iterations=settings.max_iterations,
            )  # fmt: skip
            right = head.logits(inputs[0]).argmax(axis=-1) == labels
            return Transferred(head.logits(inputs[1]), head.gradient_norm, right.mean())

        # On CPUs one model after the other keeps its features in cache; elsewhere the solves share each call.
        together = jax.vmap(one) if ensemble.plan.layout == "vmapped" else functools.partial(jax.lax.map, one)
        return together((features, test_features))

    specs = (MODELS, SHARED, MODELS)
    return each_device(on_device, ensemble.num_devices, specs, MODELS)(features, labels, test_features)
