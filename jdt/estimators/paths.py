"""LASSO and elastic-net paths of all targets on one Gram matrix: standardise, solve in tiles over devices."""

import concurrent.futures
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jdt import checks, exchange
from jdt.estimators.design import check_rows, require_models
from jdt.hosts import ALONE, Hosts
from jdt.linalg import matmul
from jdt.linalg.factored import Factored, Gram, factor, times
from jdt.linalg.lasso import MEANING, Blocks, Goal, Solved, follow_path, plan_blocks
from jdt.linalg.moments import Moments, pack, sum_moments, sum_over_hosts
from jdt.sharding import MODELS, SHARED, each_device
from jdt.types import Array, Bool, Float, Int, Masks, Outputs

TILE = {"cpu": 128}
"""Targets solved together, by backend: on a CPU as many as its level-two cache holds."""
TILE_ELSEWHERE = 4096
FEW_UNITS = 4096
"""Up to so many units the Gram matrix is formed, also where there are fewer models than half of them."""
MOST_UNITS = 16384
"""Above so many it never is: float64 and integers of it would take gigabytes."""
ROUND = 16
"""Targets of a tile are filled up to a multiple of this."""


@dataclasses.dataclass(frozen=True, eq=False)
class LassoPath:
    """Linear datamodels of every target along a path of penalties.

    Attributes:
      weights: float `[penalties, units, targets]`, for masks of zeros and ones.
      bias: float `[penalties, targets]`.
      penalties: float `[penalties, targets]`, falling.
      gap: float `[penalties, targets]`: primal minus dual objective over the null objective; the weights' objective is
        at most this far from the optimum.
      status: int `[penalties, targets]`: see `explain_status`.
    """

    weights: Float[np.ndarray, "penalties units targets"]
    bias: Float[np.ndarray, "penalties targets"]
    penalties: Float[np.ndarray, "penalties targets"]
    gap: Float[np.ndarray, "penalties targets"]
    status: Int[np.ndarray, "penalties targets"]


def explain_status(status: Int[np.ndarray, "..."]) -> dict[str, int]:
    """What status codes mean, and how many targets (or penalties) have each.

    >>> explain_status(np.array([0, 0, 1]))
    {'converged: the duality gap is proven': 2, 'the target does not vary between models: all weights are zero': 1}
    """
    return {MEANING[int(code)]: int(count) for code, count in zip(*np.unique(status, return_counts=True), strict=True)}


def lasso_path(
    masks: Masks,
    outputs: Outputs,
    num_penalties: int = 50,
    min_ratio: float = 1e-3,
    gap: float = 1e-5,
    *,
    l1_ratio: float = 1.0,
    max_sweeps: int = 10_000,
    hosts: Hosts = ALONE,
) -> LassoPath:
    """Fit linear datamodels of every target at every penalty, each with a proof of how good it is.

    Per target: minimise `(1/2m) |y - b - X w|^2 + penalty (l1_ratio |w|_1 + (1 - l1_ratio)/(2 s) |w|^2)`, X the masks
    standardised to unit variance, b unpenalised, s the standard deviation of y, so that the unit of y does not matter.
    Penalties fall geometrically from the least one that makes all weights zero. Weights are given back for masks of
    zeros and ones. Datamodels: arXiv 2202.00622, section 2; their published solver: `jdt.estimators.SagaParity`.

    Models may be spread over processes, so that none has them all: each sums its own, the sums are added, each follows
    the paths of a part of the targets, and all get the same arrays. They are those of one process within the gap; sums
    in another order differ by rounding.

    Args:
      masks: bool `[models, units]`.
      outputs: float `[models, targets]`, finite.
      num_penalties: Penalties a target.
      min_ratio: Smallest penalty over the largest.
      gap: Duality gap to prove, over the objective of zero weights. In float32 not much below 1e-6 can be reached.
      l1_ratio: 1 for the LASSO, less for the elastic net, above 0.
      max_sweeps: Sweeps over all units at one penalty, at most.
      hosts: The processes that the models are spread over, see `jdt.hosts.join(together=True)`; `masks` and `outputs`
        are then this process's models, any number of them, and the units and targets of all.

    Raises:
      UserError: If the inputs do not fit each other or an option is out of range; in all processes if in one.

    >>> masks = np.array([[True, False], [False, True], [True, True], [False, False]])
    >>> found = lasso_path(masks, masks[:, :1] * np.float32(2.0), num_penalties=3)
    >>> [[round(float(weight), 2) for weight in row] for row in found.weights[:, :, 0]]
    [[0.0, 0.0], [1.94, 0.0], [2.0, 0.0]]
    """
    check_options(num_penalties, min_ratio, gap, l1_ratio, max_sweeps)
    with exchange.in_step(hosts):
        masks, outputs = check_rows(masks, outputs, paired=False, least=2 if hosts.count == 1 else 0)
    problem = standardise(Rows.spread(masks, outputs, hosts))
    penalties = penalty_grid(problem, num_penalties, min_ratio, l1_ratio)
    # Multiples of what a tile is filled up to.
    width = ROUND * -(-penalties.shape[1] // (ROUND * hosts.count))
    mine = slice(hosts.index * width, (hosts.index + 1) * width)
    found: dict[str, np.ndarray] = {}
    with exchange.in_step(hosts):
        if hosts.index == 0 or penalties[:, mine].size:
            solver = Solver(l1_ratio, gap, max_sweeps)
            found = vars(solver.path(problem.of_targets(mine), penalties[:, mine], outputs.dtype))
    parts = [part for part in exchange.gather(found, hosts) if part]
    return LassoPath(**{name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]})


def check_options(num_penalties: int, min_ratio: float, gap: float, l1_ratio: float, max_sweeps: int) -> None:
    """Raise `UserError` unless a path can be drawn with these."""
    checks.require_at_least("num_penalties", num_penalties, 1)
    checks.require_fraction("min_ratio", min_ratio)
    checks.require_fraction("gap", gap)
    checks.require_at_least("max_sweeps", max_sweeps, 1)
    if not 0.0 < l1_ratio <= 1.0:
        raise checks.UserError(f"l1_ratio is {l1_ratio}, but it must lie above 0 and at most at 1 (1 is the LASSO).")


class Problem(NamedTuple):
    """A regression on standardised masks: everything in float64, on the host.

    Attributes:
      gram: X^T X / m, `[units, units]`, zero rows and columns for units that never vary; or factored.
      correlations: X^T y / m of targets scaled to mean square 1, `[units, targets]`; zero for constant targets.
      square: `[targets]` mean of y^2 so scaled: 1, or what it is on rows other than those that set the scale.
      unit_mean: `[units]`.
      unit_scale: `[units]`, 1 for units that never vary.
      target_mean: `[targets]`.
      target_scale: `[targets]`, 1 for constant targets.
      null: See `jdt.linalg.lasso.Blocks`.
    """

    gram: Float[np.ndarray, "units units"] | Factored
    correlations: Float[np.ndarray, "units targets"]
    square: Float[np.ndarray, " targets"]
    unit_mean: Float[np.ndarray, " units"]
    unit_scale: Float[np.ndarray, " units"]
    target_mean: Float[np.ndarray, " targets"]
    target_scale: Float[np.ndarray, " targets"]
    null: Float[np.ndarray, " units"] | None

    def of_targets(self, some: slice) -> "Problem":
        """The same of some of the targets."""
        return self._replace(
            correlations=self.correlations[:, some],
            square=self.square[some],
            target_mean=self.target_mean[some],
            target_scale=self.target_scale[some],
        )


class Rows(NamedTuple):
    """Some models: their sums, and their masks where the Gram matrix is too large to be formed.

    Attributes:
      moments: Of the masks and targets.
      masks: bool `[models, units]`, or None.
    """

    moments: Moments
    masks: Bool[np.ndarray, "models units"] | None

    @classmethod
    def of(
        cls,
        masks: Bool[np.ndarray, "models units"],
        values: Float[np.ndarray, "models targets"],
        *,
        among: int | None = None,
    ) -> "Rows":
        """Sum on all devices; `among` so many models in all, which decides whether the Gram matrix is formed."""
        models, units = masks.shape
        formed = units <= MOST_UNITS and units <= max(2 * (models if among is None else among), FEW_UNITS)
        moments = sum_moments(masks, values, num_devices=len(jax.local_devices()), with_pairs=formed)
        return cls(moments, None if formed else masks)

    @classmethod
    def spread(
        cls, masks: Bool[np.ndarray, "models units"], values: Float[np.ndarray, "models targets"], hosts: Hosts
    ) -> "Rows":
        """The models of all processes: their sums, and where they are needed their masks, an eighth of a byte an entry.

        Raises:
          UserError: If processes differ in units or targets, or there are too few models in all.
        """
        shapes = {"shape": np.array([*masks.shape, values.shape[1]])}
        sizes = np.stack([part["shape"] for part in exchange.gather(shapes, hosts)])
        if (sizes[:, 1:] != sizes[0, 1:]).any():
            raise checks.UserError(
                f"processes have {sizes[:, 1].tolist()} units and {sizes[:, 2].tolist()} targets, but must differ in "
                "models only: give each the same columns."
            )
        count = int(sizes[:, 0].sum())
        require_models(count)
        with exchange.in_step(hosts):
            own = cls.of(masks, values, among=count)
        if hosts.count == 1:
            return own
        if own.masks is None:
            return cls(sum_over_hosts(own.moments), None)
        bits = np.concatenate([part["bits"] for part in exchange.gather({"bits": pack(own.masks)}, hosts)])
        everyone = np.unpackbits(bits, axis=1, count=masks.shape[1]).astype(bool)
        return cls(sum_over_hosts(own.moments), everyone)

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """All models of some parts."""
        moments = functools.reduce(Moments.__add__, (part.moments for part in parts))
        masks = [part.masks for part in parts if part.masks is not None]
        return cls(moments, np.concatenate(masks) if masks else None)


def standardise(rows: Rows, *, signs: bool = False) -> Problem:
    """Centre and scale masks and targets by their own moments.

    Args:
      rows: Models; pairs when `signs`, with their first masks and the differences within pairs.
      signs: Masks become signs +-1, nothing is centred: a mask and its complement differ by its signs.
    """
    moments = rows.moments
    m, units, targets = moments.count, len(moments.kept), len(moments.total)
    if signs:
        mean, scale, level = np.full(units, 0.5), np.full(units, 0.5), np.zeros(targets)
        alive = np.ones(units, bool)
    else:
        mean, level = moments.kept / m, moments.total / m
        deviation = np.sqrt(mean * (1.0 - mean))
        alive = deviation > 0
        scale = np.where(alive, deviation, 1.0)
    spread = np.sqrt(np.maximum(moments.square / m - level**2, 0.0))
    # Below the rounding of a mean square, a target is constant.
    varies = spread > 1e-7 * np.sqrt(moments.square / m)
    empty = np.empty((0, 0))
    like = Problem(empty, empty, empty[0:0].ravel(), mean, scale, level, np.where(varies, spread, 1.0), None)
    problem = standardise_by(like, rows)
    # Subsets of one size never vary sum_k scale_k x_k.
    gram = problem.gram
    flat = not isinstance(gram, Factored) and bool(np.abs(gram @ scale).max() <= 1e-9 * scale.sum())
    return problem._replace(
        correlations=np.where(alive[:, None] & varies, problem.correlations, 0.0),
        null=scale / scale.mean() if flat else None,
    )


def standardise_by(like: Problem, rows: Rows) -> Problem:
    """Centre and scale other models by the means and scales of `like`."""
    moments = rows.moments
    m, mean, level = moments.count, like.unit_mean, like.target_mean
    cross = moments.cross / m - np.outer(moments.kept / m, level) - np.outer(mean, moments.total / m - level)
    square = (moments.square - 2 * level * moments.total) / m + level**2
    return like._replace(
        gram=_standard_gram(like, rows),
        correlations=cross / np.outer(like.unit_scale, like.target_scale),
        square=square / like.target_scale**2,
    )


def _standard_gram(like: Problem, rows: Rows) -> Float[np.ndarray, "units units"] | Factored:
    moments, mean = rows.moments, like.unit_mean
    if moments.pairs is None or rows.masks is not None:
        if rows.masks is None:
            raise ValueError("Moments without pairs need their masks.")
        return factor(rows.masks, mean, like.unit_scale)
    shift = moments.kept / moments.count - mean
    gram = moments.pairs / moments.count - np.outer(mean, mean) - np.outer(mean, shift) - np.outer(shift, mean)
    return gram / np.outer(like.unit_scale, like.unit_scale)


def penalty_grid(
    problem: Problem, num_penalties: int, min_ratio: float, l1_ratio: float
) -> Float[np.ndarray, "penalties targets"]:
    """Penalties of each target in its own unit, falling geometrically from the least that makes all weights zero."""
    steps = np.linspace(0.0, 1.0, num_penalties) if num_penalties > 1 else np.zeros(1)
    largest = np.abs(problem.correlations).max(axis=0) / l1_ratio * problem.target_scale
    return largest * (min_ratio**steps)[:, None]


@dataclasses.dataclass(frozen=True)
class Solver:
    """Follows the paths of a problem; what of them is kept is what the method says.

    Attributes:
      l1_ratio: See `lasso_path`; so are the rest.
      gap: Ditto.
      max_sweeps: Ditto.
    """

    l1_ratio: float
    gap: float
    max_sweeps: int

    def path(self, problem: Problem, penalties: Float[np.ndarray, "penalties targets"], dtype: Any) -> LassoPath:
        """Everything, with weights for masks of zeros and ones."""
        each = (_in_units(problem), problem.target_mean[None])
        found, bias = self._run(problem, penalties, _ALL, (problem.unit_mean,), each, dtype)
        return LassoPath(found.weights, bias, penalties.astype(dtype), found.gap, found.status)

    def errors(
        self, problem: Problem, penalties: Float[np.ndarray, "penalties targets"], held_out: Problem, dtype: Any
    ) -> Float[np.ndarray, "penalties targets"]:
        """Mean squared error on held-out rows, standardised by `problem`, in the square of the targets' unit."""
        each = (held_out.correlations, held_out.square[None], np.zeros((1, penalties.shape[1]), np.int32))
        found, _ = self._run(problem, penalties, _JUDGED, (np.array(True), held_out.gram), each, dtype)
        return np.maximum(found, 0.0) * problem.target_scale**2

    def at(
        self,
        problem: Problem,
        penalties: Float[np.ndarray, "penalties targets"],
        chosen: Int[np.ndarray, " targets"],
        dtype: Any,
    ) -> Solved:
        """Weights for masks of zeros and ones, gap and status at one penalty of each target, given by its number."""
        each = (problem.correlations, problem.square[None], chosen[None].astype(np.int32))
        _, found = self._run(problem, penalties, _JUDGED, (np.array(False), problem.gram), each, dtype)
        return found._replace(weights=found.weights * _in_units(problem).astype(dtype))

    def _run(
        self, problem: Problem, penalties: np.ndarray, keeper: "_Keeper", shared: tuple[Any, ...],
        each: tuple[np.ndarray, ...], dtype: Any,
    ) -> Any:  # fmt: skip
        """Follow the paths in tiles of targets, divided over devices; `each` has targets along its last axis."""
        num_targets = penalties.shape[1]
        num_devices = len(jax.local_devices())
        widest = TILE.get(jax.local_devices()[0].platform, TILE_ELSEWHERE)
        num_tiles = num_devices * -(-num_targets // (num_devices * widest))
        # Multiples of one width, so that few targets more or less need no other program.
        width = ROUND * -(-num_targets // (num_tiles * ROUND))

        def tiled(x: np.ndarray) -> np.ndarray:  # [..., targets] -> [tiles, ..., width], filled up with zeros
            x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, num_tiles * width - num_targets)])
            return np.moveaxis(x.reshape(*x.shape[:-1], num_tiles, width), -2, 0)

        def joined(x: Array) -> np.ndarray:
            found = np.empty((*x.shape[1:-1], num_targets), x.dtype)

            def put(shard: jax.Shard) -> None:
                for i, tile in enumerate(np.asarray(shard.data), shard.index[0].start or 0):
                    found[..., i * width : (i + 1) * width] = tile[..., : max(0, num_targets - i * width)]

            # Part by part: as one array it would be copied once more, and of a long path there are gigabytes.
            list(threads.map(put, x.addressable_shards))
            return found

        gram = problem.gram
        if isinstance(gram, Factored):
            gram = jax.tree.map(lambda x: x.astype(dtype) if x.dtype == np.float64 else x, gram)
        blocks = plan_blocks(gram, null=problem.null)
        in_scale = penalties / problem.target_scale
        arrays = jax.tree.map(
            lambda x: x.astype(dtype) if x.dtype == np.float64 else x,
            (gram, blocks, shared, tuple(map(tiled, (problem.correlations, in_scale, *each)))),
        )
        goal = Goal.of(self.gap, self.max_sweeps, dtype)
        with concurrent.futures.ThreadPoolExecutor(num_devices) as threads:
            found = _compiled(keeper, num_devices, self.l1_ratio)(goal, *arrays)
            return jax.tree.map(joined, found)


class _Given(NamedTuple):
    """What a keeper needs besides the solutions: the same for all targets, and a tile's own."""

    shared: tuple[Any, ...]
    each: tuple[Array, ...]


class _Keeper(NamedTuple):
    """What to keep of the solutions: `start` makes room for them, `keep` puts one penalty's there."""

    start: Callable[[Float[Array, "penalties targets"], Solved], Any]
    keep: Callable[[Any, Int[Array, ""], Solved, "_Given"], Any]


def _start_all(penalties: Array, one: Solved) -> tuple[Solved, Array]:
    return jax.tree.map(lambda x: jnp.zeros((len(penalties), *x.shape), x.dtype), one), jnp.zeros_like(penalties)


def _keep_all(kept: tuple[Solved, Array], k: Array, solved: Solved, given: _Given) -> tuple[Solved, Array]:
    in_units, target_mean = given.each
    weights = solved.weights * in_units
    bias = target_mean[0] - matmul(given.shared[0], weights)
    stacked = jax.tree.map(lambda all_, one: all_.at[k].set(one), kept[0], solved._replace(weights=weights))
    return stacked, kept[1].at[k].set(bias)


def _keep_judged(kept: tuple[Array, Solved], k: Array, solved: Solved, given: _Given) -> tuple[Array, Solved]:
    """Errors while penalties are judged, afterwards solutions at the chosen ones: one program, as it compiles long."""
    (judging, gram), (correlations, square, chosen) = given

    def error(errors: Array, best: Solved) -> tuple[Array, Solved]:
        w = solved.weights
        return errors.at[k].set(square[0] + ((times(gram, w) - 2 * correlations) * w).sum(axis=0)), best

    def choose(errors: Array, best: Solved) -> tuple[Array, Solved]:
        return errors, jax.tree.map(lambda old, new: jnp.where(chosen[0] == k, new, old), best, solved)

    return lax.cond(judging, error, choose, *kept)


_ALL = _Keeper(_start_all, _keep_all)
_JUDGED = _Keeper(lambda penalties, one: (jnp.zeros_like(penalties), one), _keep_judged)


def _in_units(problem: Problem) -> Float[np.ndarray, "units targets"]:
    """What turns weights of standardised masks and targets into weights of masks, in the targets' unit."""
    return problem.target_scale / problem.unit_scale[:, None]


@functools.lru_cache
def _compiled(keeper: _Keeper, num_devices: int, l1_ratio: float) -> Any:
    def on_device(goal: Goal, gram: Gram, blocks: Blocks, shared: tuple[Any, ...], tiles: tuple[Array, ...]) -> Any:
        def tile(arrays: tuple[Array, ...]) -> Any:
            correlations, penalties, *each = arrays
            nothing = Solved(
                jnp.zeros_like(correlations), jnp.zeros_like(penalties[0]), jnp.zeros(penalties.shape[1], jnp.int32)
            )
            return follow_path(
                gram, blocks, correlations, penalties,
                lambda kept, k, solved: keeper.keep(kept, k, solved, _Given(shared, tuple(each))),
                keeper.start(penalties, nothing),
                goal=goal, l1_ratio=l1_ratio,
            )  # fmt: skip

        return lax.map(tile, tiles)

    return jax.jit(each_device(on_device, num_devices, (SHARED, SHARED, SHARED, SHARED, MODELS), MODELS))
