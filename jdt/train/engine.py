"""The ensemble engine: trains the models of a block together and applies them together.

Shard outside, vectorise inside: nothing here communicates between models, and a model's randomness depends on its
randomness id and the step alone, so a model is the same in any block.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, UInt8

from jdt.data.augment import normalise, random_crop_flip
from jdt.keys import key_for
from jdt.models import ModelOutput, Network, Variables
from jdt.train.batches import batch_indices, passes_touched
from jdt.train.conv import with_matmul_convolutions
from jdt.train.loss import cross_entropy
from jdt.train.plan import Plan
from jdt.train.recipe import Recipe

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""


class SourceData(NamedTuple):
    """A source dataset on the device: images uint8 `[examples, height, width, channels]`, labels int32 `[examples]`."""

    images: UInt8[Array, "examples height width channels"]
    labels: Int[Array, " examples"]


class TrainState(NamedTuple):
    """What a training step changes: variables and the optimiser's state."""

    variables: Variables
    optimizer: optax.OptState


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """What all models of a run share; hashable, so that one compiled program serves every block.

    Attributes:
      network: The source model.
      recipe: How it is trained.
      plan: How a block shares the device.
      image_shape: (height, width, channels).
      mean_subset_size: Source images of the average subset; sets the number of steps.
      smallest_subset: Fewest source images that a subset is expected to hold.
    """

    network: Network
    recipe: Recipe
    plan: Plan
    image_shape: tuple[int, int, int]
    mean_subset_size: float
    smallest_subset: int

    @property
    def batch_size(self) -> int:
        """Images a step: the recipe's, or the smallest subset where that is less."""
        return min(self.recipe.batch_size, self.smallest_subset)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of every model."""
        return self._recipe.num_steps(self.mean_subset_size)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The recipe's optimiser at this run's number of steps."""
        return self._recipe.optimizer(self.mean_subset_size)

    @property
    def _recipe(self) -> Recipe:
        return dataclasses.replace(self.recipe, batch_size=self.batch_size)

    def train_apply(self, variables: Variables, images: Array, key: Array) -> tuple[ModelOutput, Any]:
        """Forward pass in training mode, with convolutions as the plan wants them."""
        apply = self.network.train_apply
        return (with_matmul_convolutions(apply) if self.plan.matmul_convolutions else apply)(variables, images, key)

    def apply(self, variables: Variables, images: Array) -> ModelOutput:
        """Forward pass in inference mode, with convolutions as the plan wants them."""
        apply = self.network.apply
        return (with_matmul_convolutions(apply) if self.plan.matmul_convolutions else apply)(variables, images)


class Trained(NamedTuple):
    """A trained block.

    Attributes:
      variables: Of every model, stacked on a leading models axis.
      loss: float32 `[models]`, mean training loss of the last epoch.
      finite: bool `[models]`: False marks a model whose loss or parameters became NaN or infinite.
    """

    variables: Variables
    loss: Float[np.ndarray, " models"]
    finite: Bool[np.ndarray, " models"]


@functools.partial(jax.jit, static_argnames="ensemble")
def initial_variables(ensemble: Ensemble, seed: Array, randomness_ids: Int[Array, " models"]) -> Variables:
    """Draw the untrained variables of every model, stacked on a leading models axis."""
    return jax.vmap(lambda i: ensemble.network.init(key_for(seed, "init", i), ensemble.image_shape))(randomness_ids)


def train(
    ensemble: Ensemble,
    source: SourceData,
    members: Bool[np.ndarray, "models examples"],
    randomness_ids: Int[np.ndarray, " models"],
    *,
    seed: int,
    progress: Progress | None = None,
) -> Trained:
    """Train one source model a row of `members`, side by side.

    Args:
      ensemble: What the models share.
      source: Source images and labels, on the device.
      members: Row m says which source examples model m may see; nothing else of `source` reaches it.
      randomness_ids: `[models]`; model m draws from `key_for(seed, purpose, randomness_ids[m])`.
      seed: Root seed of the study.
      progress: Called now and then with (steps done, steps in all).

    Returns:
      The trained variables, losses, and which models stayed finite.

    Raises:
      ValueError: If a row of `members` is empty.
    """
    if not members.any(axis=1).all():
        raise ValueError(f"row {int(members.any(axis=1).argmin())} of `members` is empty: a model needs an example.")
    seed_array, ids, members_array = jnp.asarray(seed), jnp.asarray(randomness_ids), jnp.asarray(members)
    variables = initial_variables(ensemble, seed_array, ids)
    states = _split(ensemble, len(ids), TrainState(variables, jax.vmap(ensemble.optimizer.init)(variables.params)))
    losses = []
    size = min(ensemble.plan.steps_per_call, ensemble.num_steps)
    for first, count in _chunks(ensemble.num_steps, size):
        indices = batch_indices(
            seed_array, ids, members_array, jnp.asarray(first),
            num_steps=size, batch_size=ensemble.batch_size,
            num_passes=passes_touched(size, ensemble.batch_size, ensemble.smallest_subset),
        )  # fmt: skip
        states, chunk = _run_steps(
            ensemble, states, source, indices, jnp.asarray(count), seed_array, ids, jnp.asarray(first)
        )
        chunk = chunk[:count]
        losses.append(np.asarray(chunk))
        if progress is not None:
            progress(first + count, ensemble.num_steps)
    curve = np.concatenate(losses)
    stacked = _join(ensemble, states).variables
    last_epoch = max(1, round(ensemble.num_steps / ensemble.recipe.epochs))
    finite = np.isfinite(curve).all(axis=0) & np.asarray(_all_finite(stacked))
    return Trained(stacked, curve[-last_epoch:].mean(axis=0), finite)


def apply_in_batches(
    ensemble: Ensemble,
    variables: Variables,
    images: UInt8[np.ndarray, "examples height width channels"],
    *,
    batch_size: int = 500,
) -> ModelOutput:
    """Apply every model of a block to all images, in inference mode.

    Args:
      ensemble: What the models share.
      variables: Stacked on a leading models axis.
      images: uint8 `[examples, height, width, channels]`.
      batch_size: Images a call of the compiled program; the last call is padded to it.

    Returns:
      float32 logits `[models, examples, classes]` and features `[models, examples, features]`.
    """
    outputs = []
    for first, count in _chunks(len(images), batch_size):
        batch = np.asarray(images[first : first + count])
        batch = np.pad(batch, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)))
        outputs.append(jax.tree.map(lambda x, n=count: x[:, :n], _apply_all(ensemble, variables, batch)))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *outputs)


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, size):
        yield first, min(size, total - first)


@functools.partial(jax.jit, static_argnames="ensemble", donate_argnames="states")
def _run_steps(
    ensemble: Ensemble,
    states: Any,
    source: SourceData,
    indices: Int[Array, "steps models batch"],
    count: Int[Array, ""],
    seed: Array,
    randomness_ids: Int[Array, " models"],
    first_step: Array,
) -> tuple[Any, Float[Array, "steps models"]]:
    """Run the first `count` of these steps: the count is traced, so that a shorter last call compiles nothing."""

    def step(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        states, losses = carry
        one = functools.partial(_train_step, ensemble, source, seed, first_step + i)
        if ensemble.plan.layout == "vmapped":
            states, loss = jax.vmap(one)(states, indices[i], randomness_ids)
        else:
            done = [one(state, indices[i, m], randomness_ids[m]) for m, state in enumerate(states)]
            states, loss = tuple(state for state, _ in done), jnp.stack([loss for _, loss in done])
        return states, losses.at[i].set(loss)

    carry = (states, jnp.zeros(indices.shape[:2], jnp.float32))
    if len(indices) == 1:  # Outside of a loop, where a CPU's native convolutions are fast.
        return step(jnp.asarray(0), carry)
    return jax.lax.fori_loop(0, count, step, carry)


def _train_step(
    ensemble: Ensemble,
    source: SourceData,
    seed: Array,
    number: Array,
    state: TrainState,
    batch: Int[Array, " batch"],
    randomness_id: Array,
) -> tuple[TrainState, Float[Array, ""]]:
    recipe = ensemble.recipe
    images = random_crop_flip(
        key_for(seed, "augment", randomness_id, number), source.images[batch], pad=recipe.crop_pad, flip=recipe.flip
    )
    images = normalise(images, recipe.mean, recipe.std)
    labels, variables = source.labels[batch], state.variables
    dropout_key = key_for(seed, "dropout", randomness_id, number)

    def loss_of(params: Any) -> tuple[Float[Array, ""], Any]:
        output, changed = ensemble.train_apply(Variables(params, variables.state), images, dropout_key)
        return cross_entropy(output.logits, labels, recipe.label_smoothing), changed

    (loss, changed), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables.params)
    updates, optimizer = ensemble.optimizer.update(gradient, state.optimizer, variables.params)
    params = optax.apply_updates(variables.params, updates)
    return TrainState(Variables(params, {**variables.state, **changed}), optimizer), loss


@functools.partial(jax.jit, static_argnames="ensemble")
def _apply_all(
    ensemble: Ensemble, variables: Variables, images: UInt8[Array, "batch height width channels"]
) -> ModelOutput:
    inputs = normalise(images, ensemble.recipe.mean, ensemble.recipe.std)
    if ensemble.plan.layout == "vmapped":
        return jax.vmap(ensemble.apply, in_axes=(0, None))(variables, inputs)
    num_models = len(jax.tree.leaves(variables)[0])
    outputs = [ensemble.apply(one, inputs) for one in _split(ensemble, num_models, variables)]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)


@jax.jit
def _all_finite(variables: Variables) -> Bool[Array, " models"]:
    def rows(leaf: Array) -> Array:
        return jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim)))

    return functools.reduce(jnp.logical_and, [rows(leaf) for leaf in jax.tree.leaves(variables)])


def _split(ensemble: Ensemble, num_models: int, stacked: Any) -> Any:
    if ensemble.plan.layout == "vmapped":
        return stacked
    return tuple(jax.tree.map(lambda leaf, m=m: leaf[m], stacked) for m in range(num_models))


def _join(ensemble: Ensemble, states: Any) -> Any:
    if ensemble.plan.layout == "vmapped":
        return states
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
