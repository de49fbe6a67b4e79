"""The ensemble engine: trains the models of a block together and applies them together.

Shard outside, vectorise inside: nothing here communicates between models, and a model's randomness depends on its
randomness id and the step alone, so a model is the same in any block, on any device, beside any others.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from jdt import checks, config
from jdt.data.augment import normalise
from jdt.data.chunks import Request, read_chunks
from jdt.data.images import ImageArray
from jdt.data.views import Look, crop_key
from jdt.keys import key_for
from jdt.models import ModelOutput, Network, Variables
from jdt.sharding import MODELS, SHARED, each_device, in_waves, place, run_in_waves
from jdt.train.batches import batch_indices, passes_touched
from jdt.train.checkpoint import Checkpoints, WaveCheckpoints
from jdt.train.layout import batch_last
from jdt.train.objectives import OWN, SUPERVISED, Objective, described, of_network
from jdt.train.plan import Plan
from jdt.train.pool import Pool, Stretch
from jdt.train.recipe import Recipe
from jdt.train.source import SourceData, chunk
from jdt.types import Array, Bool, Float, Int, UInt8

Progress = Callable[[int, int], None]
"""Called with (steps done, steps in all)."""

Precision = Literal["float32", "bfloat16"]
"""What training computes in; parameters, statistics, losses and everything in inference are float32 in either case."""

Statistics = Literal["adapt", "frozen"]
"""Whether training uses the statistics of its batches, and moves the stored ones, or leaves them as they are."""

_STEPS_OF_MODELS = PartitionSpec(None, "models")


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
      image_shape: (height, width, channels) in inference, and in training unless the recipe says otherwise.
      mean_subset_size: Source images of the average subset; sets the number of steps.
      smallest_subset: Fewest source images that a subset is expected to hold.
      precision: What training computes in.
      num_devices: Devices of this process that share each block.
      trainable: What training changes: `all` parameters, or the `head` alone.
      statistics: `adapt` trains in training mode; `frozen` in inference mode, where BatchNorm keeps its stored
        statistics and dropout is off.
      objective: What training is for. One other than `Supervised` leaves the head as it was drawn, may keep parameters
        of its own in `params["objective"]`, and where the `head` alone trains, trains these instead.
    """

    network: Network
    recipe: Recipe
    plan: Plan
    image_shape: tuple[int, int, int]
    mean_subset_size: float
    smallest_subset: int
    precision: Precision = "float32"
    num_devices: int = 1
    trainable: Literal["all", "head"] = "all"
    statistics: Statistics = "adapt"
    objective: Objective = SUPERVISED

    @property
    def batch_size(self) -> int:
        """Images a step: the recipe's, or the smallest subset where that is less."""
        return min(self.recipe.batch_size, self.smallest_subset)

    @property
    def num_steps(self) -> int:
        """Optimiser steps of every model."""
        return self._recipe.num_steps(self.mean_subset_size)

    @property
    def training_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the largest images in training."""
        return self.recipe.image_shapes(self.image_shape)[0]

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(first step, side in pixels) of the images in training."""
        return self._recipe.sizes(self.mean_subset_size, self.image_shape[0])

    @property
    def steps_per_call(self) -> int:
        """Steps that one call of the program has room for.

        The plan's, and for a shorter training the next power of two, so that trainings of many lengths share a program.
        """
        return min(self.plan.steps_per_call, 1 << (self.num_steps - 1).bit_length())

    @property
    def rates(self) -> Float[np.ndarray, " steps"]:
        """Learning rate of every step, float32."""
        return _rates(self._recipe, self.mean_subset_size)

    @property
    def program(self) -> "Ensemble":
        """The same for all ensembles that one compiled training program serves.

        What a program is told at every call is left out: learning rates, and so everything that schedules them.
        """
        of_schedule = ("epochs", "batch_size", "learning_rate", "warmup_epochs", "decay", "decay_epochs", "drop_last",
                       "warmup_steps", "warmup_cap", "resolution", "random_resized", "crop_scale")  # fmt: skip
        same = {name: getattr(_PLAIN, name) for name in of_schedule}
        recipe = dataclasses.replace(self.recipe, **same)
        return dataclasses.replace(self, recipe=recipe, mean_subset_size=1.0, smallest_subset=1)

    @property
    def _recipe(self) -> Recipe:
        return dataclasses.replace(self.recipe, batch_size=self.batch_size)

    def train_apply(self, variables: Variables, images: Array, key: Array) -> tuple[ModelOutput, Any]:
        """Forward pass in training mode, in the precision and with the convolutions that were chosen.

        Parameters and images are cast on the way in, outputs and the changed state (BatchNorm's statistics) back to
        the dtypes they came in. What belongs to the objective is left out.
        """
        variables = self.of_network(variables)
        if self.precision == "float32":
            return self._rewritten(self._training_pass)(variables, images, key)
        half = jnp.dtype(self.precision)

        def lower(leaf: Array) -> Array:
            return leaf.astype(half) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

        lowered = variables._replace(params=jax.tree.map(lower, variables.params))
        output, changed = self._rewritten(self._training_pass)(lowered, lower(images), key)
        output = ModelOutput(*(array.astype(jnp.float32) for array in output))
        return output, jax.tree.map(lambda new, old: new.astype(old.dtype), changed, dict(variables.state))

    def apply(self, variables: Variables, images: Array) -> ModelOutput:
        """Forward pass in inference mode, always in float32: outputs never carry the rounding of a faster format."""
        return self._rewritten(self.network.apply)(self.of_network(variables), images)

    def trained(self, params: Any) -> Any:
        """The part of the parameters that training changes."""
        top = self.objective.top
        if self.trainable == "head":
            return params[top]
        return params if top == "head" else {name: part for name, part in params.items() if name != "head"}

    def with_trained(self, params: Any, part: Any) -> Any:
        """The parameters with that part in its place; the others are the same arrays."""
        top = self.objective.top
        if self.trainable == "head":
            return {**params, top: part}
        return part if top == "head" else {**params, **part}

    def init(self, seed: int | Array, randomness_id: int | Array) -> Variables:
        """Draw the untrained variables of one model, those of the objective with them.

        Raises:
          UserError: If the objective has parameters of its own and the network a layer of that name.
        """
        variables = self.network.init(key_for(seed, "init", randomness_id), self.image_shape)
        if self.objective == SUPERVISED:
            return variables
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        width = jax.eval_shape(self.network.apply, variables, images).features.shape[-1]
        own = self.objective.init(key_for(seed, OWN, randomness_id), width)
        if not own:
            return variables
        if OWN in variables.params:
            raise checks.UserError(
                f"model {self.network.name} has a layer named {OWN!r}, where {self.objective.method} keeps parameters "
                "of its own: rename the layer."
            )
        return Variables({**variables.params, OWN: own}, variables.state)

    def of_network(self, variables: Variables) -> Variables:
        """Variables without what belongs to the objective, as transfer and saved models have them."""
        return variables if self.objective.top == "head" else of_network(variables)

    def _training_pass(self, variables: Variables, images: Array, key: Array) -> tuple[ModelOutput, Any]:
        if self.statistics == "adapt":
            return self.network.train_apply(variables, images, key)
        return self.network.apply(variables, images), dict(variables.state)

    def _rewritten(self, apply: Callable[..., Any]) -> Callable[..., Any]:
        way = self.plan.convolution
        return apply if way == "native" else batch_last(apply, way)

    def waves(self, num_models: int) -> list[np.ndarray]:
        """Rows of the models that train at the same time, wave by wave: see `jdt.sharding.in_waves`."""
        return in_waves(num_models, self.num_devices, self.plan.width)


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


_PLAIN = Recipe()


@functools.lru_cache(maxsize=16)
def _rates(recipe: Recipe, mean_subset_size: float) -> Float[np.ndarray, " steps"]:
    """Compiled: step by step they are rounded otherwise, and models would not be those of earlier runs to the bit."""
    steps = jnp.arange(recipe.num_steps(mean_subset_size))
    return np.asarray(jax.jit(jax.vmap(recipe.schedule(mean_subset_size)))(steps), np.float32)


def initial_variables(ensemble: Ensemble, seed: int | Array, randomness_ids: Int[np.ndarray, " models"]) -> Variables:
    """Draw the untrained variables of every model, stacked on a leading models axis."""
    ids, alike = np.asarray(randomness_ids), _without_training(ensemble)
    return run_in_waves(
        ensemble.waves(len(ids)), len(ids), lambda rows: _initial_states(alike, jnp.asarray(seed), ids[rows])[0]
    )


def _without_training(ensemble: Ensemble) -> Ensemble:
    """The same for all ensembles that differ in training alone, so that one program serves all settings of a grid."""
    recipe = dataclasses.replace(_PLAIN, mean=ensemble.recipe.mean, std=ensemble.recipe.std)
    return dataclasses.replace(
        ensemble, recipe=recipe, mean_subset_size=1.0, smallest_subset=1, precision="float32", trainable="all",
        statistics="adapt",
    )  # fmt: skip


def train(
    ensemble: Ensemble,
    source: SourceData | Pool,
    members: Bool[np.ndarray, "models examples"],
    randomness_ids: Int[np.ndarray, " models"],
    *,
    seed: int,
    start: Variables | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Train one model a row of `members`, as many side by side as the plan says on each device.

    Args:
      ensemble: What the models share.
      source: Images and labels, placed on the devices unless they are there already; or a pool, which brings a chunk
        of them at a time.
      members: Row m says which source examples model m may see; nothing else of `source` reaches it.
      randomness_ids: `[models]`; model m draws from `key_for(seed, purpose, randomness_ids[m])`.
      seed: Root seed of the study.
      start: Variables to start from, stacked on a leading models axis, instead of freshly drawn ones.
      progress: Called now and then with (steps done, steps in all), of all models together.
      checkpoints: Where this block's training is saved now and then, and goes on from, to the same bits, if it was
        interrupted. The caller discards them when the block is safe.

    Returns:
      The trained variables, losses, and which models stayed finite.

    Raises:
      ValueError: If a row of `members` is empty.
      UserError: If the device has too little memory for one model, or the recipe cuts images and they are no pool.
    """
    if ensemble.recipe.is_cut and not isinstance(source, Pool):
        raise checks.UserError(
            "random-resized crops and changing resolutions are cut from stored images while they are read: pass a pool "
            "of a streamed dataset (--streamed)."
        )
    if not members.any(axis=1).all():
        raise ValueError(f"row {int(members.any(axis=1).argmin())} of `members` is empty: a model needs an example.")
    if not isinstance(source, Pool):
        source = place(source, ensemble.num_devices, SHARED)
    waves = ensemble.waves(len(members))
    total, finished = ensemble.num_steps * len(waves), 0

    def one_wave(rows: np.ndarray) -> _Wave:
        nonlocal finished
        before, finished = finished, finished + ensemble.num_steps
        tell = None if progress is None else _shifted(progress, before, total)
        mine = None if start is None else jax.tree.map(lambda leaf: leaf[rows], start)
        saved = None
        if checkpoints is not None:
            settings = _settings(ensemble, source, members[rows], randomness_ids[rows], seed, mine)
            saved = checkpoints.of_wave(before // ensemble.num_steps, settings, last=finished == total)
        return _train_wave(ensemble, source, members[rows], randomness_ids[rows], seed, mine, tell, saved)

    try:
        wave = run_in_waves(waves, len(members), one_wave)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        if ensemble.plan.width == 1:
            raise checks.UserError(
                f"one model does not fit on the device ({str(error).splitlines()[0]}): make the batch, the images or "
                "the model smaller, or use --precision bfloat16."
            ) from error
        plan = dataclasses.replace(ensemble.plan, width=ensemble.plan.width // 2)
        narrower = dataclasses.replace(ensemble, plan=plan)
        return train(
            narrower, source, members, randomness_ids,
            seed=seed, start=start, progress=progress, checkpoints=checkpoints,
        )  # fmt: skip
    finally:
        if checkpoints is not None:
            checkpoints.wait()
    curve, last_epoch = np.asarray(wave.losses), max(1, round(ensemble.num_steps / ensemble.recipe.epochs))
    finite = np.isfinite(curve).all(axis=1) & np.asarray(wave.finite)
    return Trained(wave.variables, mean_of_last(curve, last_epoch), finite)


def mean_of_last(curve: Float[np.ndarray, "models steps"], num_steps: int) -> Float[np.ndarray, " models"]:
    """Mean of the last steps of each model, to the same bits however the rows lie in memory.

    NumPy sums rows in another order than columns, and which of them are contiguous depends on the number of waves.

    >>> curve = np.random.default_rng(0).random((172, 2)).astype(np.float32)
    >>> bool((mean_of_last(curve.T, 172) == mean_of_last(np.ascontiguousarray(curve.T), 172)).all())
    True
    """
    return np.ascontiguousarray(curve[:, -num_steps:]).mean(axis=1)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, total)


class _Wave(NamedTuple):
    variables: Variables
    losses: np.ndarray  # [models, steps]
    finite: Array


def _train_wave(
    ensemble: Ensemble,
    source: SourceData | Pool,
    members: Bool[np.ndarray, "models examples"],
    randomness_ids: Int[np.ndarray, " models"],
    seed: int,
    start: Variables | None,
    progress: Progress | None,
    checkpoints: WaveCheckpoints | None,
) -> _Wave:
    ids, root = place(jnp.asarray(randomness_ids), ensemble.num_devices, MODELS), jnp.asarray(seed)
    done, losses = 0, []
    restored = None if checkpoints is None else checkpoints.restore(_shapes_of(ensemble, root, ids, start))
    if restored is None:
        states = _fresh_states(ensemble, root, ids, start)
    else:
        done, (arrays, curve) = restored
        # A copy, since training donates its states and the device may look at the host's memory.
        states = jax.tree.map(jnp.copy, place(arrays, ensemble.num_devices, MODELS))
        losses.append(curve)
        if progress is not None:
            progress(done, ensemble.num_steps)
        if done == ensemble.num_steps:
            return _Wave(states, curve.T, _all_finite(states))
    size, rates, program = ensemble.steps_per_call, ensemble.rates, ensemble.program
    for part in _parts(ensemble, source, members, seed, done):
        passes = passes_touched(size, ensemble.batch_size, part.smallest_subset)
        for first, count in _chunks(part.num_steps, size):
            at = part.first_step + first
            if at < done:  # What was saved is the state between two calls: this one is behind it.
                continue
            indices = _draw_indices(
                root, ids, part.members, part.source.version_of, jnp.asarray(first), jnp.asarray(part.first_pass),
                num_devices=ensemble.num_devices, batch_size=ensemble.batch_size, num_steps=size, num_passes=passes,
            )  # fmt: skip
            now = np.pad(rates[at : at + count], (0, size - count))
            states, curve = _run_steps(
                program, states, part.source, indices, now, jnp.asarray(count), root, ids, jnp.asarray(at)
            )
            losses.append(curve[:count])
            if len(losses) > 1:  # One call behind: the device never waits for the host.
                losses[-2] = np.asarray(losses[-2])
            if checkpoints is not None and at + count < ensemble.num_steps and checkpoints.due():
                checkpoints.save(at + count, (states, _joined(losses)))
            if progress is not None:
                progress(at, ensemble.num_steps)
    curves = _joined(losses)
    if checkpoints is not None:
        checkpoints.finish(ensemble.num_steps, (states.variables, curves))
    if progress is not None:
        progress(ensemble.num_steps, ensemble.num_steps)
    return _Wave(states.variables, curves.T, _all_finite(states.variables))


def _joined(losses: list[Any]) -> np.ndarray:
    """Loss of every step so far: [steps, models]."""
    return np.concatenate([np.asarray(curve) for curve in losses])


def _fresh_states(
    ensemble: Ensemble, seed: Array, randomness_ids: Int[Array, " models"], start: Variables | None
) -> TrainState:
    if start is None:
        return TrainState(*_initial_states(ensemble.program, seed, randomness_ids))
    # A copy, since training donates its states.
    copied: Variables = jax.tree.map(jnp.copy, place(start, ensemble.num_devices, MODELS))
    return TrainState(copied, _initial_optimizers(ensemble.program, copied.params))


def _shapes_of(
    ensemble: Ensemble, seed: Array, randomness_ids: Int[Array, " models"], start: Variables | None
) -> Callable[[int], Any]:
    """Shapes and dtypes of what is saved after so many steps: the states, of which a finished wave keeps variables."""

    def shapes(step: int) -> Any:
        states = jax.eval_shape(functools.partial(_fresh_states, ensemble), seed, randomness_ids, start)
        losses = jax.ShapeDtypeStruct((step, len(randomness_ids)), jnp.float32)
        return (states.variables if step == ensemble.num_steps else states), losses

    return shapes


def _settings(
    ensemble: Ensemble,
    source: SourceData | Pool,
    members: Bool[np.ndarray, "models examples"],
    randomness_ids: Int[np.ndarray, " models"],
    seed: int,
    start: Variables | None,
) -> dict[str, Any]:
    """What the bits of a wave depend on, as plain JSON: all but the pixels and labels themselves."""
    device, hashed = jax.local_devices()[0], hashlib.sha256()
    for array in (np.packbits(members, axis=1), *jax.device_get(jax.tree.leaves(start))):
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return {
        "network": re.sub(r" at 0x[0-9a-f]+", "", repr(ensemble.network)),  # Functions' addresses change.
        "recipe": config.to_plain(ensemble.recipe),
        "plan": config.to_plain(ensemble.plan),
        "precision": ensemble.precision,
        "steps": [ensemble.num_steps, ensemble.mean_subset_size, ensemble.smallest_subset],
        "examples": [members.shape[1], *ensemble.image_shape],
        "pool": source.capacity if isinstance(source, Pool) else None,
        "members_and_start": hashed.hexdigest(),
        "randomness_ids": randomness_ids.tolist(),
        "seed": int(seed),
        "device": [device.platform, device.device_kind, ensemble.num_devices],
        "jax": jax.__version__,
        **({} if ensemble.trainable == "all" else {"trainable": ensemble.trainable}),
        **({} if ensemble.statistics == "adapt" else {"statistics": ensemble.statistics}),
        **({} if ensemble.objective == SUPERVISED else {"objective": described(ensemble.objective)}),
    }


class _Part(NamedTuple):
    """Steps on data that are on the device together."""

    source: SourceData
    members: Array  # bool [models, examples]
    smallest_subset: int
    first_step: int
    num_steps: int
    first_pass: int


def _parts(
    ensemble: Ensemble, source: SourceData | Pool, members: Bool[np.ndarray, "models examples"], seed: int, done: int
) -> Iterator[_Part]:
    """Parts of the training in order, without those that lie within the first `done` steps."""
    if not isinstance(source, Pool):
        eligible = place(members, ensemble.num_devices, MODELS)
        yield _Part(source, eligible, ensemble.smallest_subset, 0, ensemble.num_steps, 0)
        return
    recipe = ensemble._recipe if ensemble.recipe.is_cut else ensemble.recipe  # A resolution's epochs are passes.
    steps_per_pass = recipe.steps_per_epoch(ensemble.mean_subset_size)
    every = source.stretches(
        ensemble.num_steps, steps_per_pass, seed,
        sizes=ensemble.sizes if recipe.is_cut else (), renewed=recipe.random_resized,
    )  # fmt: skip
    left = itertools.dropwhile(lambda stretch: stretch.first_step + stretch.num_steps <= done, every)
    stretches, ahead = itertools.tee(left)
    size, whole = source.chunk_size, len(source.dataset)
    with contextlib.closing(read_chunks(source.dataset, (_request(recipe, seed, s) for s in ahead))) as chunks:
        for stretch, (images, labels) in zip(stretches, chunks, strict=True):
            missing = size - len(labels)  # Chunks differ by one example at most; one shape means one program.
            here = np.pad(members[:, stretch.rows], ((0, 0), (0, missing)))
            if not here.any(axis=1).all():
                raise checks.UserError(
                    f"a model has none of its examples in a pool of {size:,} out of {whole:,}: raise --memory-budget."
                )
            if missing:  # Else no copy: a chunk may be a good part of the host's memory.
                images, labels = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0))), np.pad(labels, (0, missing))
            data = chunk(source.dataset, stretch.rows, images, labels)
            # Half of what is expected holds for nearly every draw, and so compiles once.
            smallest = ensemble.smallest_subset if size == whole else ensemble.smallest_subset * size // (2 * whole)
            if here.sum(axis=1).min() < smallest:
                smallest = 1
            yield _Part(
                place(data, ensemble.num_devices, SHARED),
                place(here, ensemble.num_devices, MODELS),
                max(1, smallest),
                stretch.first_step,
                stretch.num_steps,
                (stretch.number << 16) + (stretch.part << 12),  # More passes than anyone makes over one chunk.
            )


def _request(recipe: Recipe, seed: int, stretch: Stretch) -> Request:
    """What to read for a stretch: rows as the dataset shows them, or how else."""
    if stretch.size is None:
        return stretch.rows
    view = recipe.view
    return stretch.rows, Look(stretch.size, view, crop_key(seed, stretch.pass_number) if view else 0)


def apply_in_batches(
    ensemble: Ensemble,
    variables: Variables,
    images: ImageArray,
    *,
    batch_size: int = 500,
) -> ModelOutput:
    """Apply every model of a block to all images, in inference mode: one pass over the images a wave of models.

    Args:
      ensemble: What the models share.
      variables: Stacked on a leading models axis.
      images: uint8 `[examples, height, width, channels]`.
      batch_size: Images a call of the compiled program; the last call is padded to it.

    Returns:
      float32 logits `[models, examples, classes]` and features `[models, examples, features]`.
    """
    num_models, alike = len(jax.tree.leaves(variables)[0]), _without_training(ensemble)

    def one_wave(rows: np.ndarray) -> ModelOutput:
        mine = variables if len(rows) == num_models else jax.tree.map(lambda leaf: leaf[rows], variables)
        mine = place(mine, ensemble.num_devices, MODELS)
        outputs = []
        for first, count in _chunks(len(images), batch_size):
            batch = np.asarray(images[first : first + count])
            batch = np.pad(batch, ((0, batch_size - count), (0, 0), (0, 0), (0, 0)))
            outputs.append(jax.tree.map(lambda x, n=count: x[:, :n], _apply_all(alike, mine, batch)))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *outputs)

    return run_in_waves(ensemble.waves(num_models), num_models, one_wave)


def _chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, size):
        yield first, min(size, total - first)


@functools.partial(jax.jit, static_argnames="ensemble")
def _initial_states(
    ensemble: Ensemble, seed: Array, randomness_ids: Int[Array, " models"]
) -> tuple[Variables, optax.OptState]:
    def on_device(seed: Array, ids: Array) -> tuple[Variables, optax.OptState]:
        variables = jax.vmap(lambda i: ensemble.init(seed, i))(ids)
        return variables, jax.vmap(_optimizer(ensemble, 0.0).init)(ensemble.trained(variables.params))

    return each_device(on_device, ensemble.num_devices, (SHARED, MODELS), MODELS)(seed, randomness_ids)


@functools.partial(jax.jit, static_argnames="ensemble")
def _initial_optimizers(ensemble: Ensemble, params: Any) -> optax.OptState:
    part = ensemble.trained(params)
    return each_device(jax.vmap(_optimizer(ensemble, 0.0).init), ensemble.num_devices, MODELS, MODELS)(part)


def _optimizer(ensemble: Ensemble, rate: float | Array) -> optax.GradientTransformation:
    """The recipe's optimiser at the learning rate of one step."""
    return ensemble.recipe.optimizer(lambda _: rate)


@functools.partial(jax.jit, static_argnames=("num_devices", "batch_size", "num_steps", "num_passes"))
def _draw_indices(
    seed: Array,
    ids: Array,
    members: Array,
    version_of: Array | None,
    first_step: Array,
    first_pass: Array,
    *,
    num_devices: int,
    batch_size: int,
    num_steps: int,
    num_passes: int,
) -> Int[Array, "steps models batch"]:
    draw = functools.partial(batch_indices, num_steps=num_steps, batch_size=batch_size, num_passes=num_passes)
    specs = (SHARED, MODELS, MODELS, SHARED, SHARED, SHARED)
    on_devices = each_device(draw, num_devices, specs, _STEPS_OF_MODELS)
    return on_devices(seed, ids, members, first_step, first_pass, version_of)


@functools.partial(jax.jit, static_argnames="ensemble", donate_argnames="states")
def _run_steps(
    ensemble: Ensemble,
    states: TrainState,
    source: SourceData,
    indices: Int[Array, "steps models batch"],
    rates: Float[Array | np.ndarray, " steps"],
    count: Int[Array, ""],
    seed: Array,
    randomness_ids: Int[Array, " models"],
    first_step: Array,
) -> tuple[TrainState, Float[Array, "steps models"]]:
    """Run the first `count` of these steps, each at its learning rate.

    Both are traced: a shorter last call compiles nothing, nor does another point of a grid of learning rates.
    """
    specs = (MODELS, SHARED, _STEPS_OF_MODELS, SHARED, SHARED, SHARED, MODELS, SHARED)
    on_device = functools.partial(_steps_on_device, ensemble)
    run = each_device(on_device, ensemble.num_devices, specs, (MODELS, _STEPS_OF_MODELS))
    return run(states, source, indices, rates, count, seed, randomness_ids, first_step)


def _steps_on_device(
    ensemble: Ensemble,
    stacked: TrainState,
    source: SourceData,
    indices: Int[Array, "steps models batch"],
    rates: Float[Array, " steps"],
    count: Int[Array, ""],
    seed: Array,
    randomness_ids: Int[Array, " models"],
    first_step: Array,
) -> tuple[TrainState, Float[Array, "steps models"]]:
    def step(i: Array, carry: tuple[Any, Array]) -> tuple[Any, Array]:
        states, losses = carry
        one = functools.partial(_train_step, ensemble, source, seed, first_step + i, rates[i])
        if ensemble.plan.layout == "vmapped":
            states, loss = jax.vmap(one)(states, indices[i], randomness_ids)
        else:
            done = [one(state, indices[i, m], randomness_ids[m]) for m, state in enumerate(states)]
            states, loss = tuple(state for state, _ in done), jnp.stack([loss for _, loss in done])
        return states, losses.at[i].set(loss)

    carry = (_split(ensemble, len(randomness_ids), stacked), jnp.zeros(indices.shape[:2], jnp.float32))
    if len(indices) == 1:  # Outside of a loop, where a CPU's native convolutions are fast.
        states, losses = step(jnp.asarray(0), carry)
    else:
        states, losses = jax.lax.fori_loop(0, count, step, carry)
    return _join(ensemble, states), losses


def _train_step(
    ensemble: Ensemble,
    source: SourceData,
    seed: Array,
    number: Array,
    rate: Float[Array, ""],
    state: TrainState,
    batch: Int[Array, " batch"],
    randomness_id: Array,
) -> tuple[TrainState, Float[Array, ""]]:
    recipe, objective, variables = ensemble.recipe, ensemble.objective, state.variables
    inputs: Any = objective.inputs(recipe, source, key_for(seed, "augment", randomness_id, number), batch)
    dropout_key = key_for(seed, "dropout", randomness_id, number)

    part = ensemble.trained(variables.params)

    def loss_of(part: Any) -> tuple[Float[Array, ""], Any]:
        params = ensemble.with_trained(variables.params, part)

        def forward(images: Array) -> tuple[ModelOutput, Any]:
            return ensemble.train_apply(Variables(params, variables.state), images, dropout_key)

        return objective.loss(forward, params.get(OWN), inputs, recipe)

    (loss, changed), gradient = jax.value_and_grad(loss_of, has_aux=True)(part)
    updates, optimizer = _optimizer(ensemble, rate).update(gradient, state.optimizer, part)
    params = ensemble.with_trained(variables.params, optax.apply_updates(part, updates))
    return TrainState(Variables(params, {**variables.state, **changed}), optimizer), loss


@functools.partial(jax.jit, static_argnames="ensemble")
def _apply_all(
    ensemble: Ensemble, variables: Variables, images: UInt8[Array, "batch height width channels"]
) -> ModelOutput:
    def on_device(stacked: Variables, images: Array) -> ModelOutput:
        inputs = normalise(images, ensemble.recipe.mean, ensemble.recipe.std)
        if ensemble.plan.layout == "vmapped":
            return jax.vmap(ensemble.apply, in_axes=(0, None))(stacked, inputs)
        num_models = len(jax.tree.leaves(stacked)[0])
        outputs = [ensemble.apply(one, inputs) for one in _split(ensemble, num_models, stacked)]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *outputs)

    return each_device(on_device, ensemble.num_devices, (MODELS, SHARED), MODELS)(variables, images)


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
