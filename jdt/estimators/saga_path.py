"""The penalty path of the published LASSO procedure: mini-batch SAGA for all targets at once, each at its own pace."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt.keys import key_for
from jdt.linalg import matmul
from jdt.types import Array, Bool, Float, Int

SMALLEST_WIDTH = 64
"""Targets a program holds at least: below it, dropping finished ones saves less than compiling another program."""


class Scaling(NamedTuple):
    """Mean and standard deviation of each unit's mask, over the rows that are fitted."""

    mean: Float[Array, " units"]
    deviation: Float[Array, " units"]


class Rules(NamedTuple):
    """The procedure's numbers, named as in `SagaParity`; `decay` is the factor from one penalty to the next."""

    learning_rate: float
    decay: float
    num_penalties: int
    min_penalties: int
    tolerance: float
    max_epochs: int
    seed: int
    phase: int


class State(NamedTuple):
    """Where every target stands; `stages` counts converged penalties, the leading 0 included."""

    weights: Float[Array, "units targets"]
    bias: Float[Array, " targets"]
    table: Float[Array, "rows targets"]
    weight_average: Float[Array, "units targets"]
    bias_average: Float[Array, " targets"]
    penalty: Float[Array, " targets"]
    stages: Int[Array, " targets"]
    live: Bool[Array, " targets"]
    last_error: Float[Array, " targets"]
    best_error: Float[Array, " targets"]
    best_penalty: Float[Array, " targets"]
    final_weights: Float[Array, "units targets"]
    final_bias: Float[Array, " targets"]


class Found(NamedTuple):
    """What a path ends with, one entry a target; weights belong to standardised masks.

    Attributes:
      weights: `[units, targets]` at the last penalty that was tried.
      bias: `[targets]`.
      best_penalty: `[targets]` with the least validation error among converged ones; 0 where nothing converged.
      stages: `[targets]` penalties that converged, the leading 0 included.
      unfinished: `[targets]` whether the path was still going when `max_epochs` were over.
      epochs: Passes over the rows.
    """

    weights: Float[np.ndarray, "units targets"]
    bias: Float[np.ndarray, " targets"]
    best_penalty: Float[np.ndarray, " targets"]
    stages: Int[np.ndarray, " targets"]
    unfinished: Bool[np.ndarray, " targets"]
    epochs: int


def scaling_of(masks: Bool[Array, "rows units"], dtype: np.dtype) -> Scaling:
    """Mean and standard deviation of 0/1 columns."""
    mean = masks.mean(axis=0, dtype=dtype)
    return Scaling(mean, jnp.sqrt(mean - mean**2))


def standardise(masks: Bool[Array, "rows units"], scaling: Scaling) -> Float[Array, "rows units"]:
    """Centre columns and divide by their deviation; constant columns become 0."""
    deviation = scaling.deviation
    return (masks - scaling.mean) * jnp.where(deviation > 0, 1.0 / jnp.where(deviation > 0, deviation, 1.0), 0.0)


def batches_of(
    rules: Rules, epoch: Int[Array, ""] | int, num_rows: int, num_batches: int
) -> Int[Array, "batches batch"]:
    """Row numbers of every batch of an epoch, in random order; `num_rows` stands where a batch is one row short.

    Rows are dealt like cards, so that sizes differ by one at most.
    """
    order = jax.random.permutation(key_for(rules.seed, "saga", rules.phase, epoch), num_rows)
    size = -(-num_rows // num_batches)
    return jnp.pad(order, (0, num_batches * size - num_rows), constant_values=num_rows).reshape(size, num_batches).T


def _step(
    batch: Int[Array, " batch"],
    masks: Bool[Array, "rows units"],
    outputs: Float[Array, "rows targets"],
    scaling: Scaling,
    rules: Rules,
    state: State,
) -> State:
    there = batch < len(masks)
    size = there.sum().astype(outputs.dtype)
    x = standardise(masks.at[batch].get(mode="fill", fill_value=False), scaling)
    y = outputs.at[batch].get(mode="fill", fill_value=0)
    residual = jnp.where(there[:, None], matmul(x, state.weights) + state.bias - y, 0)
    change = residual - state.table.at[batch].get(mode="fill", fill_value=0)
    weight_step = matmul(x.T, change) / size + state.weight_average
    bias_step = change.sum(axis=0) / size + state.bias_average
    share = size / len(masks)
    moved = state.weights - rules.learning_rate * weight_step
    shrunk = jnp.maximum(jnp.abs(moved) - rules.learning_rate * state.penalty, 0)
    return state._replace(
        weights=jnp.sign(moved) * shrunk,
        bias=state.bias - rules.learning_rate * bias_step,
        table=state.table.at[batch].set(residual, mode="drop"),
        weight_average=(1 - share) * state.weight_average + share * weight_step,
        bias_average=(1 - share) * state.bias_average + share * bias_step,
    )


def _check(
    state: State,
    change: Float[Array, "units targets"],
    start: Float[Array, " targets"],
    validation: tuple[Bool[Array, "held units"], Float[Array, "held targets"]],
    scaling: Scaling,
    rules: Rules,
) -> State:
    """Move converged targets on to their next penalty, or to their end."""
    done = ((change * scaling.deviation[:, None]) ** 2).max(axis=0) < rules.tolerance
    done &= state.live
    stages = state.stages + done
    finished = stages == rules.num_penalties + 1
    last, best_error, best_penalty = state.last_error, state.best_error, state.best_penalty
    held_masks, held_outputs = validation
    if len(held_masks):
        predicted = matmul(standardise(held_masks, scaling), state.weights) + state.bias
        error = ((predicted - held_outputs) ** 2).mean(axis=0)
        worse = (error > last) & (stages >= rules.min_penalties) & ((state.weights != 0).sum(axis=0) > 1)
        finished |= worse & done
        better = (error <= best_error) & done
        best_error, best_penalty = jnp.where(better, error, best_error), jnp.where(better, state.penalty, best_penalty)
        last = jnp.where(done, error, last)
    finished &= done
    next_penalty = jnp.where(stages == 1, start, state.penalty * rules.decay)
    return state._replace(
        penalty=jnp.where(done & ~finished, next_penalty, state.penalty),
        stages=stages,
        live=state.live & ~finished,
        last_error=last,
        best_error=best_error,
        best_penalty=best_penalty,
        final_weights=jnp.where(finished, state.weights, state.final_weights),
        final_bias=jnp.where(finished, state.bias, state.final_bias),
    )


@functools.partial(jax.jit, static_argnames=("num_batches", "check_every", "enough"), donate_argnames="state")
def _advance(
    masks: Bool[Array, "rows units"],
    outputs: Float[Array, "rows targets"],
    validation: tuple[Bool[Array, "held units"], Float[Array, "held targets"]],
    start: Float[Array, " targets"],
    scaling: Scaling,
    rules: Rules,
    state: State,
    epoch: Int[Array, ""],
    *,
    num_batches: int,
    check_every: int,
    enough: int,
) -> tuple[State, Int[Array, ""]]:
    """Go on until no more than `enough` targets are live, epochs are used up or weights have become infinite."""

    def one_epoch(i: Array, carry: tuple[State, Array]) -> tuple[State, Array]:
        state, epoch = carry
        order = batches_of(rules, epoch + i, len(masks), num_batches)

        def one_step(state: State, batch: Array) -> tuple[State, None]:
            return _step(batch, masks, outputs, scaling, rules, state), None

        return jax.lax.scan(one_step, state, order)[0], epoch

    def one_round(carry: tuple[State, Array]) -> tuple[State, Array]:
        state, epoch = jax.lax.fori_loop(0, check_every - 1, one_epoch, carry)
        before = state.weights  # Convergence is judged by the last epoch before the check.
        state, epoch = one_epoch(jnp.asarray(check_every - 1, epoch.dtype), (state, epoch))
        return _check(state, state.weights - before, start, validation, scaling, rules), epoch + check_every

    def goes_on(carry: tuple[State, Array]) -> Array:
        state, epoch = carry
        return (state.live.sum() > enough) & (epoch < rules.max_epochs) & jnp.isfinite(state.bias).all()

    return jax.lax.while_loop(goes_on, one_round, (state, epoch))


def solve_path(
    masks: Bool[Array, "rows units"],
    outputs: Float[Array, "rows targets"],
    validation: tuple[Bool[Array, "held units"], Float[Array, "held targets"]],
    weights: Float[Array, "units targets"],
    bias: Float[Array, " targets"],
    start: Float[Array, " targets"],
    rules: Rules,
    *,
    num_batches: int,
    check_every: int,
) -> Found:
    """Follow every target from penalty 0 over `start` down, until its validation error rises or penalties run out.

    Args:
      masks: Rows that are fitted.
      outputs: Of the same rows.
      validation: Masks and outputs that judge penalties; no rows mean that all `num_penalties` are tried.
      weights: Where to start, for standardised masks.
      bias: Where to start.
      start: The first penalty above 0, a target.
      rules: The procedure's numbers.
      num_batches: Batches an epoch.
      check_every: Epochs between two looks at convergence.

    Returns:
      Weights of standardised masks. They are infinite or NaN where `learning_rate` is too high.
    """
    num_targets, dtype = outputs.shape[1], outputs.dtype
    scaling = scaling_of(masks, dtype)
    columns = jnp.arange(num_targets)
    # Arrays that start equal must not be one buffer, since the state is donated.
    zeros = lambda: jnp.zeros(num_targets, dtype)  # noqa: E731
    state = State(
        jnp.array(weights), jnp.array(bias), jnp.zeros_like(outputs), jnp.zeros_like(weights), zeros(), zeros(),
        jnp.zeros(num_targets, jnp.int32), jnp.ones(num_targets, bool), jnp.full(num_targets, jnp.inf, dtype),
        jnp.full(num_targets, jnp.inf, dtype), zeros(), jnp.zeros_like(weights), zeros(),
    )  # fmt: skip
    epoch = jnp.asarray(0, jnp.int32)
    found = Found(
        np.array(weights), np.array(bias), np.zeros(num_targets, dtype), np.zeros(num_targets, np.int32),
        np.ones(num_targets, bool), 0,
    )  # fmt: skip
    while True:
        width = len(columns)
        state, epoch = _advance(
            masks, outputs[:, columns], (validation[0], validation[1][:, columns]), start[columns], scaling, rules,
            state, epoch, num_batches=num_batches, check_every=check_every,
            enough=width // 2 if width >= 2 * SMALLEST_WIDTH else 0,
        )  # fmt: skip
        live = np.asarray(state.live)
        here = np.asarray(columns)
        found.weights[:, here] = np.where(live, state.weights, state.final_weights)
        found.bias[here] = np.where(live, state.bias, state.final_bias)
        found.best_penalty[here], found.stages[here] = np.asarray(state.best_penalty), np.asarray(state.stages)
        found.unfinished[here] = live
        if not live.any() or int(epoch) >= rules.max_epochs or not np.isfinite(found.bias).all():
            return found._replace(epochs=int(epoch))
        # The published solver leaves finished targets out; here the width halves, so that few programs are compiled.
        keep = jnp.asarray(np.argsort(~live, kind="stable")[: max((width + 1) // 2, SMALLEST_WIDTH)])
        columns, state = columns[keep], State(*(leaf[..., keep] for leaf in state))
