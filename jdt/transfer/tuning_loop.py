"""Tuning on frozen features: the heads of many models at once, many steps in each call of one compiled program."""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jdt.checks import UserError
from jdt.devices import one_thread_of_blas
from jdt.keys import key_for
from jdt.sharding import MODELS, SHARED, each_device, place, run_in_waves
from jdt.transfer.nmtune_losses import Form, consistency, covariance_and_dominance, matmul
from jdt.transfer.tuning import Tuning
from jdt.transfer.tuning_heads import HeadParams, TunedHead, initial_head, training_features
from jdt.types import AnyArray, Array, Bool, Float, Int

_STEPS_PER_CALL = 512
"""Steps that one call of the program makes by itself, about: few enough that Ctrl-C is heard."""


class History(NamedTuple):
    """The loss and its parts, not weighted, in training: means over the steps of each pass.

    Attributes:
      loss: float32 `[models, passes]`.
      cross_entropy: float32 `[models, passes]`.
      consistency: L_MSE, float32 `[models, passes]`; 0 where it weighs nothing, as the next two.
      covariance: L_COV, float32 `[models, passes]`.
      dominance: L_SVD, float32 `[models, passes]`.
    """

    loss: Float[AnyArray, "*models passes"]
    cross_entropy: Float[AnyArray, "*models passes"]
    consistency: Float[AnyArray, "*models passes"]
    covariance: Float[AnyArray, "*models passes"]
    dominance: Float[AnyArray, "*models passes"]


class TunedHeads(NamedTuple):
    """Heads of many models.

    Attributes:
      head: On a leading models axis.
      history: Of training.
      finite: bool `[models]`: False marks a model whose loss or parameters became NaN or infinite, or whose features
        are.
      train_accuracy: float32 `[models]`, on the training features as they are.
    """

    head: TunedHead
    history: History
    finite: Bool[AnyArray, " models"]
    train_accuracy: Float[AnyArray, " models"]


@dataclasses.dataclass(frozen=True)
class Sharing:
    """How models share the devices.

    Attributes:
      num_devices: Devices of this process.
      waves: Rows of the models that are tuned at the same time, wave by wave: see `jdt.sharding.in_waves`.
      is_vmapped: Whether a device's models share each step, or follow one another.
    """

    num_devices: int
    waves: list[np.ndarray]
    is_vmapped: bool


def tune_heads(
    features: Float[AnyArray, "models examples features"],
    labels: Int[AnyArray, " examples"],
    views: Float[AnyArray, "models views examples features"] | None,
    settings: Tuning,
    *,
    num_classes: int,
    seed: int,
    target: int,
    randomness_ids: Int[np.ndarray, " models"],
    sharing: Sharing,
) -> TunedHeads:
    """Tune a head for every model on the same labels.

    A model's head depends on its features and views, the settings, and (seed, target, randomness id): not on the
    models beside it. Methods with a network draw the same initial values, batches and views.

    Args:
      features: float32, frozen, of the training images as they are.
      labels: int32, below `num_classes`.
      views: float32, frozen, of augmented views of the same images; None shows `features` in both views.
      settings: How to tune. Whether there are views is up to `views` alone.
      num_classes: Outputs.
      seed: Root seed.
      target: Number of the target, e.g. the CRC-32 of its name.
      randomness_ids: Ids from which initial values, batches and draws of views derive.
      sharing: How models share the devices.

    Raises:
      UserError: If the seed does not fit a key.
    """
    if not 0 <= seed < 1 << 32:  # A key has no room for more: what is above would be dropped in silence.
        raise UserError(f"the seed of tuning is {seed}, but must be 0 to {(1 << 32) - 1}: pass a smaller --seed.")
    program = _Program.of(settings, len(labels), num_classes, features.shape[-1])
    rates = _Rates(*(jnp.asarray(x, jnp.float32) for x in (settings.rate, settings.weight_decay, settings.weights)))
    views = views if settings.has_network else None
    root = jnp.asarray([seed, target], jnp.uint32)
    put = functools.partial(place, num_devices=sharing.num_devices)
    shared: Any = put(jnp.asarray(labels, jnp.int32), spec=SHARED)

    def one_wave(rows: np.ndarray) -> TunedHeads:
        frozen = [x if x is None or len(rows) == len(x) else x[rows] for x in (features, views)]
        mine, cut = put(frozen, spec=MODELS)
        ids = put(jnp.asarray(randomness_ids[rows], jnp.int32), spec=MODELS)
        on = _Devices(sharing.num_devices, sharing.is_vmapped)
        states, passes = _start(program.shape, on, root, ids, jnp.asarray(settings.scale, jnp.float32)), []
        for first in range(0, settings.epochs, program.passes_per_call):
            count = min(program.passes_per_call, settings.epochs - first)
            at = jnp.asarray([first, count, settings.epochs])
            states, curve = _run_passes(program, on, states, mine, cut, shared, at, rates)
            passes.append(jax.tree.map(lambda x, n=count: x[:, :n], curve))
        history = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *passes)
        head = TunedHead(states.params, states.running)
        accuracy, sound = _training_accuracy(on, head, mine, shared)
        return TunedHeads(head, history, sound & jnp.isfinite(history.loss).all(axis=1), accuracy)

    with one_thread_of_blas():
        return jax.block_until_ready(run_in_waves(sharing.waves, len(features), one_wave))


def apply_heads(
    head: TunedHead, features: Float[AnyArray, "models examples features"], sharing: Sharing
) -> tuple[Float[AnyArray, "models examples classes"], Float[AnyArray, "models examples features"]]:
    """Logits of every model on its own features, and what its head reads.

    Args:
      head: On a leading models axis.
      features: float32, frozen.
      sharing: How models share the devices.
    """

    def one_wave(rows: np.ndarray) -> tuple[Array, Array]:
        mine = [x if len(rows) == len(features) else jax.tree.map(lambda leaf: leaf[rows], x) for x in (head, features)]
        placed = place(mine, sharing.num_devices, MODELS)
        return _apply_all(_Devices(sharing.num_devices, sharing.is_vmapped), *placed)

    return run_in_waves(sharing.waves, len(features), one_wave)


class _State(NamedTuple):
    params: HeadParams
    running: Any
    optimizer: optax.OptState
    key: Any  # Of batches and views; stays as it is.


class _Rates(NamedTuple):
    """Numbers that a program takes as they come: another value compiles nothing."""

    learning: Float[Array, ""]
    decay: Float[Array, ""]
    weights: Float[Array, " terms"]


@dataclasses.dataclass(frozen=True)
class _Devices:
    count: int
    is_vmapped: bool

    def each(self, one: Any, per_model: int, num_shared: int) -> Any:
        """Run `one(models' part, shared...)` for every model: `per_model` arguments have a models axis."""

        def on_device(*arguments: Any) -> Any:
            mine, shared = arguments[:per_model], arguments[per_model:]

            def of_one(own: tuple) -> Any:
                return one(*own, *shared)

            # On CPUs one model after the other keeps its parameters in cache (benchmarks/NOTES.md).
            return jax.vmap(of_one)(mine) if self.is_vmapped else jax.lax.map(of_one, mine)

        return each_device(on_device, self.count, (MODELS,) * per_model + (SHARED,) * num_shared, MODELS)


@dataclasses.dataclass(frozen=True)
class _Program:
    """What a compiled program depends on."""

    has_network: bool
    form: Form
    is_on: tuple[bool, bool, bool]
    num_dominant: int
    batch_size: int
    steps_per_pass: int
    passes_per_call: int
    num_classes: int
    width: int
    ratio: int

    @property
    def shape(self) -> tuple[int, int, int | None]:
        """All that a head's first values depend on: features, classes and ratio, which a linear probe has not."""
        return self.width, self.num_classes, self.ratio if self.has_network else None

    @classmethod
    def of(cls, settings: Tuning, num_examples: int, num_classes: int, width: int) -> "_Program":
        batch_size = min(settings.batch_size, num_examples)
        steps = num_examples // batch_size
        # A term that weighs nothing is not computed: 0 times its gradient could be NaN, and the methods are then equal.
        on = tuple(weight > 0 for weight in settings.weights)
        return cls(
            settings.has_network, settings.form if any(on) else "paper", (on[0], on[1], on[2]),
            settings.dominant if on[2] else 1, batch_size, steps,
            max(1, _STEPS_PER_CALL // steps), num_classes, width, settings.ratio,
        )  # fmt: skip


def _optimizer(rates: _Rates, num_steps: Array | int) -> optax.GradientTransformation:
    def schedule(step: Any) -> Any:
        return rates.learning * 0.5 * (1 + jnp.cos(math.pi * step / num_steps))

    return optax.adamw(schedule, weight_decay=rates.decay)


@functools.partial(jax.jit, static_argnames=("shape", "on"))
def _start(
    shape: tuple[int, int, int | None], on: _Devices, root: Array, ids: Int[Array, " models"], scale: Array
) -> _State:
    width, num_classes, ratio = shape

    def one(randomness_id: Array, root: Array, scale: Array) -> _State:
        of_head, of_passes = jax.random.split(key_for(root[0], "tuning", root[1], randomness_id))
        head = initial_head(of_head, width, num_classes, ratio=ratio, scale=scale)
        blank = _Rates(scale, scale, jnp.zeros(3))  # The state of AdamW is zeros, whatever its rates.
        params: Any = head.params
        return _State(params, head.running, _optimizer(blank, 1).init(params), of_passes)

    return on.each(one, 1, 2)(ids, root, scale)


@functools.partial(jax.jit, static_argnames=("program", "on"), donate_argnames="states")
def _run_passes(
    program: _Program,
    on: _Devices,
    states: _State,
    features: Float[Array, "models examples features"],
    views: Float[Array, "models views examples features"] | None,
    labels: Int[Array, " examples"],
    at: Int[Array, "3"],
    rates: _Rates,
) -> tuple[_State, History]:
    """Some passes of every model: `at` holds the first one, how many, and how many there are in all."""

    def one(
        state: _State, frozen: Array, cut: Array | None, labels: Array, at: Array, rates: _Rates
    ) -> tuple[_State, History]:
        optimizer = _optimizer(rates, at[2] * program.steps_per_pass)

        def one_pass(nth: Array, carry: tuple[_State, History]) -> tuple[_State, History]:
            order, shown = _draw_pass(program, jax.random.fold_in(carry[0].key, at[0] + nth), len(labels), cut)

            def step(i: Array, carry: tuple[_State, History]) -> tuple[_State, History]:
                state, sums = carry
                chosen = jax.lax.dynamic_slice_in_dim(order, i * program.batch_size, program.batch_size)
                batch = frozen[chosen]
                if program.has_network:
                    twice = jnp.concatenate([chosen, chosen])
                    batch = frozen[twice] if cut is None else cut[shown[i], twice]
                state, terms = _step(program, optimizer, rates, state, batch, labels[chosen])
                return state, jax.tree.map(jnp.add, sums, terms)

            state, curve = carry
            zero = History(*[jnp.zeros(())] * len(History._fields))
            state, sums = jax.lax.fori_loop(0, program.steps_per_pass, step, (state, zero))
            mean = jax.tree.map(lambda x: x / program.steps_per_pass, sums)
            return state, jax.tree.map(lambda all_passes, x: all_passes.at[nth].set(x), curve, mean)

        blank = History(*[jnp.zeros(program.passes_per_call)] * len(History._fields))
        return jax.lax.fori_loop(0, at[1], one_pass, (state, blank))

    return on.each(one, 3, 3)(states, features, views, labels, at, rates)


def _draw_pass(
    program: _Program, key: Any, num_examples: int, views: Float[Array, "views examples features"] | None
) -> tuple[Int[Array, " examples"], Int[Array, "steps rows"]]:
    """The order of the examples in one pass, and which view each row of each batch shows: two, drawn independently."""
    rows = 2 * program.batch_size
    num_draws = num_examples + (0 if views is None else program.steps_per_pass * rows)
    draws = jax.random.bits(key, (num_draws,), jnp.uint32)
    order = jnp.argsort(draws[:num_examples]).astype(jnp.int32)
    if views is None:
        return order, jnp.zeros((program.steps_per_pass, rows), jnp.int32)
    # A remainder of 32 bits favours no view by more than one part in 2^32 / views.
    return order, (draws[num_examples:] % len(views)).astype(jnp.int32).reshape(-1, rows)


def _step(
    program: _Program,
    optimizer: optax.GradientTransformation,
    rates: _Rates,
    state: _State,
    batch: Float[Array, "rows features"],
    labels: Int[Array, " batch"],
) -> tuple[_State, History]:
    def loss(params: HeadParams) -> tuple[Array, tuple[Any, History]]:
        running, read, zero = state.running, batch, jnp.zeros(())
        if params.network is not None:
            read, running = training_features(params.network, state.running, batch)
        logits = matmul(read, params.weights) + params.bias
        repeated = jnp.tile(labels, len(batch) // len(labels))
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, repeated).mean()
        near = consistency(batch, read, program.form) if program.is_on[0] else zero
        covariance = dominance = zero
        if any(program.is_on[1:]):
            covariance, dominance = covariance_and_dominance(read, program.num_dominant, program.is_on[1:])
        total = entropy
        for weight, term, is_on in zip(rates.weights, (near, covariance, dominance), program.is_on, strict=True):
            total = total + weight * term if is_on else total
        return total, (running, History(total, entropy, near, covariance, dominance))

    params: Any = state.params
    gradient, (running, terms) = jax.grad(loss, has_aux=True)(params)
    updates, moved = optimizer.update(gradient, state.optimizer, params)
    params = optax.apply_updates(params, updates)
    return _State(params, running, moved, state.key), terms


@functools.partial(jax.jit, static_argnames="on")
def _training_accuracy(
    on: _Devices, head: TunedHead, features: Float[Array, "models examples features"], labels: Int[Array, " examples"]
) -> tuple[Float[Array, " models"], Bool[Array, " models"]]:
    def one(head: TunedHead, frozen: Array, labels: Array) -> tuple[Array, Array]:
        right = head.logits(head.features(frozen)).argmax(axis=-1) == labels
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((head, frozen))]).all()
        return right.mean(), sound

    return on.each(one, 2, 1)(head, features, labels)


@functools.partial(jax.jit, static_argnames="on")
def _apply_all(
    on: _Devices, head: TunedHead, features: Float[Array, "models examples features"]
) -> tuple[Float[Array, "models examples classes"], Float[Array, "models examples features"]]:
    def one(head: TunedHead, frozen: Array) -> tuple[Array, Array]:
        read = head.features(frozen)
        return head.logits(read), read

    return on.each(one, 2, 0)(head, features)
