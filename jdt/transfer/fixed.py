"""Fixed-feature transfer: frozen features once, one convex head a model, all models of a block together."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from jdt import checks, config
from jdt.data import Dataset, as_shown
from jdt.devices import one_thread_of_blas, program_memory
from jdt.models import Variables
from jdt.sharding import MODELS, each_device, models_mesh, place, run_in_waves
from jdt.train import Ensemble, Recipe, Statistics, apply_in_batches
from jdt.transfer.head import Head, fit_head
from jdt.transfer.prototype import prototype_head, unit_rows
from jdt.types import Array, Float, Int

Solver = Literal["convex", "sgd", "prototype"]

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
      solver: `convex`; `sgd`: the head alone is trained by `recipe`; or `prototype`: the nearest class mean of
        features of length one, without any fitting: see `jdt.transfer.prototype_head`.
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
        if self.reads_features and self.bn == "adapt":
            raise checks.UserError(
                f"head bn is adapt, but a {self.solver} head is fitted on features that stay as they are: pass "
                "--head.solver sgd as well, or --head.bn frozen."
            )

    @property
    def reads_features(self) -> bool:
        """Whether heads are made of frozen features; else images are read anew and a recipe trains."""
        return self.solver != "sgd"


class Transferred(NamedTuple):
    """A block of models on one target.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      gradient_norm: float32 `[models]`, convergence of each head; 0 where nothing is fitted.
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
    rows: Int[np.ndarray, "models chosen"] | None = None,
) -> Transferred:
    """Transfer every model of a block to a target with its features frozen, under a convex head or class means.

    Args:
      ensemble: What the models share.
      variables: Of the source models, stacked on a leading models axis.
      train: Target training split.
      test: Target test split, with the same classes.
      settings: How the heads are fitted.
      features_of: Features of these models that are there already.
      rows: Training images of each model, as `jdt.transfer.drawn_rows` has them; all of them when None.

    Raises:
      UserError: If the settings let features drift.
    """
    settings.check()
    features_of = features_of or FrozenFeatures(ensemble, variables)
    features, labels = chosen_features(features_of.of(train), train, rows)
    test_features, num_classes = features_of.of(test), len(train.class_names)

    def one_wave(models: np.ndarray) -> Transferred:
        mine = [x if len(models) == len(x) else x[models] for x in (features, labels, test_features)]
        placed = place(mine, ensemble.num_devices, MODELS)
        return _fit_and_apply(ensemble, placed[0], placed[1], placed[2], num_classes, settings)

    with one_thread_of_blas():
        return jax.block_until_ready(run_in_waves(ensemble.waves(len(features)), len(features), one_wave))


def chosen_features(
    features: Float[Array | np.ndarray, "models examples features"],
    train: Dataset,
    rows: Int[np.ndarray, "models chosen"] | None,
) -> tuple[Any, Int[np.ndarray, "models chosen"]]:
    """Features and labels of each model's own training images: those of its rows, or all when None."""
    labels = np.asarray(train.labels)
    if rows is None:
        return features, np.broadcast_to(labels, (len(features), len(labels)))
    return own_rows(features, rows[:, :, None], axis=1), labels[rows]


def own_rows(array: Any, rows: Int[np.ndarray, "..."], axis: int) -> Any:
    """`take_along_axis` where the array is: one on the host is of several waves, more than a device may hold."""
    gather: Any = np.take_along_axis if isinstance(array, np.ndarray) else jnp.take_along_axis
    return gather(array, rows, axis=axis)


def fitted_heads(
    ensemble: Ensemble,
    features: Float[Array | np.ndarray, "models examples features"],
    labels: Int[np.ndarray, "models examples"],
    num_classes: int,
    settings: FixedFeature,
    *,
    intercept: bool = True,
) -> Head:
    """Fit one head a model on its own frozen features, and return the heads instead of what they say.

    Args:
      ensemble: What the models share.
      features: float32 `[models, examples, features]`.
      labels: int32 `[models, examples]`.
      num_classes: Classes, present or not.
      settings: How the heads are fitted; a solver that `reads_features`.
      intercept: Whether convex heads have a bias.
    """

    def one_wave(models: np.ndarray) -> Head:
        placed = place([features[models], labels[models]], ensemble.num_devices, MODELS)
        return _fit(ensemble, placed[0], placed[1], num_classes, settings, intercept)

    with one_thread_of_blas():
        return jax.block_until_ready(run_in_waves(ensemble.waves(len(features)), len(features), one_wave))


def head_memory_needed(
    ensemble: Ensemble, train: Dataset, test: Dataset, settings: FixedFeature, num_examples: int | None = None
) -> int:
    """Bytes that fitting the heads of a whole wave takes on each device, features included. Compiles the program.

    Args:
      ensemble: What the models share.
      train: Target training split.
      test: Target test split, with the same classes.
      settings: How the heads are fitted.
      num_examples: Training images of each model; the whole split when None.
    """
    mesh, models = models_mesh(ensemble.num_devices), ensemble.num_devices * ensemble.plan.width
    images = jax.ShapeDtypeStruct((1, *ensemble.image_shape), jnp.float32)
    variables = ensemble.network.shapes(ensemble.image_shape)
    width = jax.eval_shape(ensemble.network.apply, variables, images).features.shape[-1]

    def features(examples: int) -> Any:
        shape = (models, examples, width)
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, MODELS))

    count = len(train) if num_examples is None else num_examples
    labels: Any = jax.ShapeDtypeStruct((models, count), jnp.int32, sharding=NamedSharding(mesh, MODELS))
    program = _fit_and_apply.lower(
        ensemble, features(count), labels, features(len(test)), len(train.class_names), settings
    )
    return program_memory(program.compile())


@functools.partial(jax.jit, static_argnames=("ensemble", "num_classes", "settings"))
def _fit_and_apply(
    ensemble: Ensemble,
    features: Float[Array, "models train features"],
    labels: Int[Array, "models train"],
    test_features: Float[Array, "models examples features"],
    num_classes: int,
    settings: FixedFeature,
) -> Transferred:
    def one(inputs: tuple[Array, Array, Array]) -> Transferred:
        head, logits = _head_of(inputs[0], inputs[1], num_classes, settings)
        right = logits(inputs[0]).argmax(axis=-1) == inputs[1]
        return Transferred(logits(inputs[2]), head.gradient_norm, right.mean())

    return _each_model(ensemble, one, (features, labels, test_features))


@functools.partial(jax.jit, static_argnames=("ensemble", "num_classes", "settings", "intercept"))
def _fit(
    ensemble: Ensemble,
    features: Float[Array, "models train features"],
    labels: Int[Array, "models train"],
    num_classes: int,
    settings: FixedFeature,
    intercept: bool,
) -> Head:
    def one(inputs: tuple[Array, Array]) -> Head:
        return _head_of(inputs[0], inputs[1], num_classes, settings, intercept)[0]

    return _each_model(ensemble, one, (features, labels))


def _each_model(ensemble: Ensemble, one: Callable[[Any], Any], inputs: tuple[Array, ...]) -> Any:
    def on_device(*inputs: Array) -> Any:
        # On CPUs one model after the other keeps its features in cache; elsewhere the solves share each call.
        together = jax.vmap(one) if ensemble.plan.layout == "vmapped" else functools.partial(jax.lax.map, one)
        return together(inputs)

    return each_device(on_device, ensemble.num_devices, (MODELS,) * len(inputs), MODELS)(*inputs)


def _head_of(
    features: Float[Array, "examples features"],
    labels: Int[Array, " examples"],
    num_classes: int,
    settings: FixedFeature,
    intercept: bool = True,
) -> tuple[Head, Callable[[Array], Array]]:
    """The head of one model, and what it makes of features."""
    if settings.solver == "prototype":
        head = prototype_head(features, labels, num_classes=num_classes)
        return head, lambda read: head.logits(unit_rows(read))
    head = fit_head(
        features, labels, num_classes=num_classes,
        inverse_penalty=settings.inverse_penalty,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
        intercept=intercept,
    )  # fmt: skip
    return head, head.logits
