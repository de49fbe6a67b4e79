"""LASSO and elastic-net paths of many targets that share one Gram matrix, each with a duality gap as its proof.

Per target, with correlations c = X^T y / m and Gram matrix G = X^T X / m, minimise over w

    1/2 w^T G w - c^T w + l1 |w|_1 + l2/2 |w|^2,    y scaled so that |y|^2 / m = 1.

All targets go down their paths together, none further than a penalty ahead of the last. At each penalty the start is
the line through the last two solutions (a path is piecewise linear, so between changes of the support the line is the
solution). Then come proximal gradient steps, or where the Gram matrix is less well conditioned sweeps of block
coordinate descent, matrix products between blocks and proximal steps inside them, every two sweeps followed by one step
of Anderson acceleration. A target is left alone as soon as its gap is proven. Why so, and what was slower:
benchmarks/NOTES.md.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from jdt.linalg.factored import Factored, Gram, largest_eigenvalue, times
from jdt.linalg.spectrum import matmul
from jdt.types import Array, Bool, Float, Int

CONVERGED, CONSTANT, STALLED, LIMIT = range(4)
MEANING = {
    CONVERGED: "converged: the duality gap is proven",
    CONSTANT: "the target does not vary between models: all weights are zero",
    STALLED: "the gap stopped shrinking: rounding in this precision, or a nearly singular design",
    LIMIT: "the sweeps ran out before the gap was proven",
}
"""What each status code says."""

PATIENCE = {"float32": 500, "float64": 2000}
"""Sweeps without a tenth off the gap before a penalty counts as stalled: in float32 rounding is likelier."""
AIM = {"float32": 0.6, "float64": 0.1}
"""What is aimed at, over what was asked: less for what rounds off on the way back, and in float64, which is for those
who want exact objectives, a tenth, for a sweep or two."""
MANY_SWEEPS = 30
"""Sweeps at one penalty after which moves along the null direction are made exactly."""
KKT_RESIDUAL = 1e-4
"""Largest KKT residual that is left, of standardised masks and targets: where weights are small a gap allows more."""
PROVEN = 0.8
"""What a proof from the weights alone must reach, over what was asked: sweeps go on from a gradient that they carry
along, and rounding parts the two."""
LAST_PUSH = 10
"""Sweeps without a tenth off the gap after which what was asked will do."""
SUMMED = 64
"""Units whose products are summed at a time in a proof: gradients at small penalties are a thousandth of what they are
the difference of, so that rounding in sums over all units would hide a gap of 1e-5 (benchmarks/NOTES.md)."""

NARROW = 6.0
"""Ratio of extreme eigenvalues up to which one block is used (measured: benchmarks/NOTES.md)."""

LANCZOS_STEPS = 30

Keep: TypeAlias = Callable[[Any, Int[Array, ""], "Solved"], Any]
"""Takes what was kept so far, the number of the penalty and its solutions; returns what is kept."""


class Solved(NamedTuple):
    """Solutions at one penalty (or with a leading penalties axis, at all), on the device or back on the host.

    Attributes:
      weights: float `[units, targets]`.
      gap: float `[targets]`: primal minus dual objective over the null objective 1/2.
      status: int32 `[targets]`, see `MEANING`.
    """

    weights: Any
    gap: Any
    status: Any


class Blocks(NamedTuple):
    """How coordinates are divided for sweeps.

    Attributes:
      steps: `[blocks]` length of a proximal gradient step inside each block.
      null: `[units]` a direction v with G v = 0 and positive entries, or None. Subsets of one size have one: the fit
        stays the same along it and only the penalty decides, so that plain descent hardly moves.
      null_step: Step length of all coordinates together, for moves along `null`.
    """

    steps: Any  # Float[Array, " blocks"], of numpy or JAX; so are the others
    null: Any
    null_step: Any


class Goal(NamedTuple):
    """When a target is done at a penalty: told to the program, so that runs that ask for more or less share one.

    Attributes:
      gap: Proven for each target and penalty, over the null objective.
      aim: What sweeps aim at, see `AIM`.
      proof: What a proof must reach, see `PROVEN`.
      weight: What makes a KKT residual count as a gap, see `KKT_RESIDUAL`.
      max_sweeps: Limit for one penalty.
    """

    gap: Any  # Scalars of numpy or JAX, of the problem's dtype.
    aim: Any
    proof: Any
    weight: Any
    max_sweeps: Any

    @classmethod
    def of(cls, gap: float, max_sweeps: int, dtype: Any) -> "Goal":
        """The goal of a problem in one precision."""
        values = (gap, AIM[np.dtype(dtype).name] * gap, PROVEN * gap, gap / KKT_RESIDUAL)
        wanted, aim, proof, weight = (np.asarray(value, dtype) for value in values)
        return cls(wanted, aim, proof, weight, np.asarray(min(max_sweeps, 2**31 - 1), np.int32))


def plan_blocks(
    gram: Float[np.ndarray, "units units"] | Factored,
    *,
    null: Float[np.ndarray, " units"] | None,
    block_size: int = 256,
) -> Blocks:
    """Divide the coordinates in blocks and find each block's step length.

    Where the spectrum of the Gram matrix is narrow there is one block: a proximal gradient step on all coordinates is
    then as good as a sweep, and cheaper. Otherwise there are blocks of `block_size`, at least four. A factored Gram
    matrix has no blocks to take out.

    Args:
      gram: Unit diagonal (or zero, for constant units), float64.
      null: See `Blocks`.
      block_size: Coordinates a block, at most.
    """
    if isinstance(gram, Factored):
        step = np.array(_step(0.0, 1.05 * largest_eigenvalue(gram)))
        return Blocks(step[None], None, step)
    # Lifts the null direction out of the way.
    lifted = gram if null is None else gram + np.outer(null, null) / (null @ null)
    least, largest = _extremes(lifted)
    narrow = largest <= NARROW * least
    num_blocks = 1 if narrow else min(len(gram), max(4, -(-len(gram) // block_size)))
    steps = [
        _step(*((least, largest) if narrow else _extremes(gram[first:last, first:last])))
        for first, last in _edges(len(gram), num_blocks)
    ]
    return Blocks(np.array(steps), null, np.array(_step(least, largest)))


def _step(least: float, largest: float) -> float:
    # Contracts the outermost directions equally; below 2 / largest, so that no step raises the objective.
    return 2.0 / (max(least, 0.1 * largest) + largest) if largest > 0 else 1.0


def _extremes(matrix: Float[np.ndarray, "units units"]) -> tuple[float, float]:
    """Least and largest eigenvalue: exact for small matrices, within a few per cent by Lanczos for others."""
    if len(matrix) <= 64:
        values = np.linalg.eigvalsh(matrix)
        return float(values[0]), float(values[-1])
    vector = np.random.default_rng(0).normal(size=len(matrix))
    basis, diagonal, beside = np.zeros((LANCZOS_STEPS, len(matrix))), [], []
    for i in range(LANCZOS_STEPS):
        length = float(np.linalg.norm(vector))
        if length < 1e-10:  # All directions that the start has a share in are found.
            break
        basis[i] = vector / length
        beside.append(length)
        vector = matrix @ basis[i]
        diagonal.append(float(vector @ basis[i]))
        for _ in range(2):  # Once more for what rounding left of the earlier directions.
            vector = vector - (basis[: i + 1] @ vector) @ basis[: i + 1]
    values = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[1:], 1) + np.diag(beside[1:], -1))
    return 0.95 * float(values[0]), 1.02 * float(values[-1])


def follow_path(
    gram: Gram,
    blocks: Blocks,
    correlations: Float[Array, "units targets"],
    penalties: Float[Array, "penalties targets"],
    keep: Keep,
    kept: Any,
    *,
    goal: Goal,
    l1_ratio: float,
    inner: int = 2,
) -> Any:
    """Solve at every penalty in turn and hand each solution to `keep`.

    Args:
      gram: X^T X / m.
      blocks: From `plan_blocks`.
      correlations: X^T y / m of targets scaled to |y|^2 / m = 1 (all zero: a constant target).
      penalties: Falling along the first axis.
      keep: Called as `kept = keep(kept, k, solved)` for each penalty k.
      kept: What it starts from.
      goal: When a target is done at a penalty.
      l1_ratio: l1 = penalty * l1_ratio, l2 = penalty * (1 - l1_ratio). Static.
      inner: Proximal steps inside a block a sweep.

    Returns:
      `kept` after the last penalty.
    """
    varies = jnp.abs(correlations).max(axis=0) > 0
    rows = [] if isinstance(gram, Factored) or len(blocks.steps) == 1 else _cut(gram, len(blocks.steps))
    descent = _Descent(gram, rows, blocks, correlations, penalties, goal, l1_ratio, inner)

    def at_penalty(carry: tuple[_Walk, Any], k: Int[Array, ""]) -> tuple[tuple[_Walk, Any], None]:
        walk, kept = descent.pass_penalty(carry[0], k), carry[1]
        found = walk.last
        proven = _gap(found.w, found.g, correlations, *descent.limits(k))
        status = jnp.where(proven <= goal.gap, CONVERGED, jnp.where(found.sweeps >= goal.max_sweeps, LIMIT, STALLED))
        status = jnp.where(varies, status, CONSTANT).astype(jnp.int32)
        return (walk, keep(kept, k, Solved(found.w, jnp.where(varies, proven, 0.0), status))), None

    return lax.scan(at_penalty, (descent.start(), kept), jnp.arange(len(penalties), dtype=jnp.int32))[0][-1]


class _Point(NamedTuple):
    """Where every target is at a penalty.

    Attributes:
      w: `[units, targets]`.
      g: `[units, targets]` c - G w, within the rounding of the sweeps since the last proof.
      distance: `[targets]` from the solution, see `_Descent.distance`; infinite before the first sweep.
      best: `[targets]` distance when last a tenth was taken off it.
      since: `[targets]` sweeps since then.
      sweeps: `[targets]` in all.
      done: `[targets]` whether they are over. Kept, because XLA would decide it anew for every unit.
    """

    w: Float[Array, "units targets"]
    g: Float[Array, "units targets"]
    distance: Float[Array, " targets"]
    best: Float[Array, " targets"]
    since: Int[Array, " targets"]
    sweeps: Int[Array, " targets"]
    done: Bool[Array, " targets"]


class _Walk(NamedTuple):
    """Targets on their way down the path.

    Attributes:
      stage: `[targets]` number of the penalty that `now` is at.
      now: Where targets are.
      last: Where they were when they left the penalty before.
    """

    stage: Int[Array, " targets"]
    now: _Point
    last: _Point


class _Descent(NamedTuple):
    """What stays the same all the way, see `follow_path`; `rows` is empty where all units are one block."""

    gram: Gram
    rows: "list[_Rows]"
    blocks: Blocks
    c: Float[Array, "units targets"]
    penalties: Float[Array, "penalties targets"]
    goal: Goal
    l1_ratio: float
    inner: int

    @property
    def accelerated(self) -> bool:
        return bool(self.rows) or isinstance(self.gram, Factored)

    @property
    def patience(self) -> int:
        return PATIENCE[self.c.dtype.name]

    def start(self) -> _Walk:
        """At the first penalty, from weights of zero, which may well be the solution."""
        w, count = jnp.zeros_like(self.c), jnp.zeros(self.c.shape[1], jnp.int32)
        far = self.distance(w, self.c, *self.limits(jnp.zeros((), jnp.int32)))
        at = self.judge(_Point(w, self.c, far, far, count, count, count > 0), self.goal.aim)
        return _Walk(count, at, at)

    def pass_penalty(self, walk: _Walk, k: Int[Array, ""]) -> _Walk:
        """Bring all targets past penalty k: `last` is there then, with g from the weights alone."""

        def attempt(s: _Walk) -> _Walk:
            s = lax.while_loop(lambda s: ((s.stage == k) & ~s.now.done).any(), lambda s: self.advance(s, k), s)
            s = self.go_on(s, k)
            if not self.accelerated:
                return s  # Every sweep has made g from the weights alone.
            g = self.gradient(s.last.w)
            # Rounding that added up in g is taken out of what the next penalty began with, too.
            now = s.now._replace(g=s.now.g + (1.0 + self.ahead(k)) * (g - s.last.g))
            found = self.distance(s.last.w, g, *self.limits(k))
            last = self.judge(s.last._replace(g=g, distance=found), self.goal.proof)
            return _Walk(jnp.where(last.done, s.stage, k), _where(last.done, now, last), last)

        return lax.while_loop(lambda s: (s.stage == k).any(), attempt, walk)

    def go_on(self, s: _Walk, k: Int[Array, ""]) -> _Walk:
        """Start targets that are done with penalty k at the next, on the line through their last two solutions."""
        ready, ahead = (s.stage == k) & s.now.done, self.ahead(k)
        w, g = (here + ahead * (here - before) for here, before in zip(s.now[:2], s.last[:2], strict=True))
        far, count = jnp.full_like(s.now.distance, jnp.inf), jnp.zeros_like(s.now.sweeps)
        start = _Point(w, g, far, far, count, count, count > 0)
        return _Walk(s.stage + ready, _where(ready, start, s.now), _where(ready, s.now, s.last))

    def advance(self, s: _Walk, k: Int[Array, ""]) -> _Walk:
        """A sweep for the targets that are not done, two where they are accelerated."""
        if self.rows:
            # While others need sweeps at penalty k, targets that are done with it get theirs at the next for nothing.
            s = self.go_on(s, k)
        at, swept = s.now, 1 + self.accelerated
        moving = ~at.done & (s.stage <= jnp.minimum(k + 1, len(self.penalties) - 1))
        l1, l2 = self.limits(s.stage if self.rows else k)
        tries = jnp.where(jnp.where(moving, at.sweeps, 0).max() < MANY_SWEEPS, 0, 16)
        w, g = self.sweep(at.w, at.g, l1, l2, tries)
        if self.accelerated:
            w2, g2 = self.sweep(w, g, l1, l2, tries)
            # Without acceleration every sweep lowers the objective: a penalty that takes long is sure to converge.
            share = jnp.where(at.sweeps < self.patience, _share(w - at.w, w2 - w), 0.0)
            w, g = w2 - share * (w2 - w), g2 - share * (g2 - g)
        found = self.distance(w, g, l1, l2)
        better = found < 0.9 * at.best
        best, since = jnp.where(better, found, at.best), jnp.where(better, 0, at.since + swept)
        new = self.judge(_Point(w, g, found, best, since, at.sweeps + swept, at.done), self.goal.aim)
        return s._replace(now=_where(moving, new, at))

    def sweep(self, w: Array, g: Array, l1: Array, l2: Array | None, tries: Array) -> tuple[Array, Array]:
        blocks = self.blocks
        if blocks.null is not None and l2 is None:
            w = _shift(w, g, blocks.null, blocks.null_step, l1, tries)
        if self.rows:
            return _sweep(self.rows, blocks.steps, w, g, l1, l2, self.inner)
        w = _proximal(w + blocks.steps[0] * g, blocks.steps[0], l1, l2)
        return w, self.c - times(self.gram, w)

    def gradient(self, w: Array) -> Array:
        """The gradient c - G w from the weights alone, in short sums where the Gram matrix is formed."""
        if isinstance(self.gram, Factored):
            return self.c - times(self.gram, w)
        g = self.c
        for first, last in _edges(len(w), -(-len(w) // SUMMED)):
            g = g - matmul(self.gram[:, first:last], w[first:last])
        return g

    def judge(self, at: _Point, near: Array) -> _Point:
        """Whether sweeps are over: as near as that, or without success."""
        limit = jnp.where(at.distance <= self.goal.gap, LAST_PUSH, self.patience)
        over = (at.sweeps >= self.goal.max_sweeps) | (at.since >= limit)
        return at._replace(done=(at.distance <= near) | over)

    def distance(self, w: Array, g: Array, l1: Array, l2: Array | None) -> Float[Array, " targets"]:
        """The gap, or where the KKT residual is further from its limit, as far as that."""
        return jnp.maximum(_gap(w, g, self.c, l1, l2), _residual(w, g, l1, l2) * self.goal.weight)

    def limits(self, stage: Int[Array, "*targets"]) -> tuple[Array, Array | None]:
        """Both penalties, l1 and l2 or None, at one stage, or of each target at its own."""
        k = jnp.minimum(stage, len(self.penalties) - 1)
        at = jnp.take_along_axis(self.penalties, jnp.atleast_2d(k), axis=0, mode="promise_in_bounds")[0]
        return at * self.l1_ratio, at * (1.0 - self.l1_ratio) if self.l1_ratio < 1.0 else None

    def ahead(self, k: Int[Array, ""]) -> Float[Array, " targets"]:
        """How far it is from penalty k to the next, over how far it was from the one before."""
        before, here, after = (self.penalties[jnp.clip(k + i, 0, len(self.penalties) - 1)] for i in (-1, 0, 1))
        return jnp.where(before > here, (here - after) / jnp.where(before > here, before - here, 1.0), 0.0)


def _where(which: Bool[Array, " targets"], new: _Point, old: _Point) -> _Point:
    return _Point(*(jnp.where(which, a, b) for a, b in zip(new, old, strict=True)))


def _share(first: Float[Array, "units targets"], second: Float[Array, "units targets"]) -> Float[Array, " targets"]:
    """How much of the second change to take back, so that what the two changes have in common cancels.

    Anderson acceleration of depth one, restarted every two sweeps (Walker & Ni, 2011). Gradients are linear in the
    weights, so that the combination of two sweeps costs no product.
    """
    difference = second - first
    size = (difference**2).sum(axis=0)
    return jnp.clip((difference * second).sum(axis=0) / jnp.where(size > 0, size, 1.0), -2.0, 0.5)


class _Rows(NamedTuple):
    """Rows of the Gram matrix that one block meets, cut once: a slice inside the loop is copied at every sweep."""

    first: int
    last: int
    before: Array  # Columns of the blocks before it
    own: Array
    after: Array  # Its own columns and those of the blocks behind it


def _cut(gram: Array, num_blocks: int) -> list[_Rows]:
    return [_Rows(a, b, gram[a:b, :a], gram[a:b, a:b], gram[a:b, a:]) for a, b in _edges(len(gram), num_blocks)]


def _edges(size: int, num_blocks: int) -> list[tuple[int, int]]:
    return list(itertools.pairwise(round(i * size / num_blocks) for i in range(num_blocks + 1)))


def _sweep(
    rows: list[_Rows], steps: Array, w: Array, g: Array, l1: Array, l2: Array | None, inner: int
) -> tuple[Array, Array]:
    """Update one block after another, each from the gradient that the ones before it leave."""
    changes: list[Array] = []
    entering: list[Array] = []
    for row, step in zip(rows, steps, strict=True):
        now, before = g[row.first : row.last], w[row.first : row.last]
        if row.first:
            now = now - matmul(row.before, jnp.concatenate(changes))
        entering.append(now)
        u = before
        for i in range(inner):
            new = _proximal(u + step * now, step, l1, l2)
            if i < inner - 1:
                now = now - matmul(row.own, new - u)
            u = new
        changes.append(u - before)
    change = jnp.concatenate(changes)
    leaving = [now - matmul(row.after, change[row.first :]) for row, now in zip(rows, entering, strict=True)]
    return w + change, jnp.concatenate(leaving)


def _proximal(u: Array, step: Array, l1: Array, l2: Array | None) -> Array:
    soft = u - jnp.clip(u, -step * l1, step * l1)
    return soft if l2 is None else soft / (1.0 + step * l2)


def _shift(w: Array, g: Array, null: Array, step: Array, l1: Array, tries: Array) -> Array:
    """Move along a direction that leaves the fit alone, to where a proximal step would stay level along it.

    The proximal map of min_t |z - t v|_1 is a soft threshold about t v with sum_i v_i clip(u_i - t v_i, +-l) = 0, the
    location that Huber's loss gives. While sweeps follow, one step of Newton's is enough: with `tries` 0 no more is
    done. But Newton's can swing to and fro for ever. Each of the tries is therefore Newton's where it at least halves
    the sum, and else one so short that the sum keeps its sign.
    """
    u, v, limit = w + step * g, null[:, None], step * l1
    largest = (v**2).max()

    def newton(t: Array) -> tuple[Array, Array]:
        at = u - t * v
        now = (v * jnp.clip(at, -limit, limit)).sum(axis=0)
        return now, t + now / jnp.maximum((v**2 * (jnp.abs(at) < limit)).sum(axis=0), largest)

    def closer(_: Any, t: Array) -> Array:
        now, far = newton(t)
        safe = t + now / jnp.maximum((v**2 * ((u - t * v) * jnp.sign(now) > -limit)).sum(axis=0), largest)
        then = (v * jnp.clip(u - far * v, -limit, limit)).sum(axis=0)
        return jnp.where(jnp.abs(then) <= 0.5 * jnp.abs(now), far, safe)

    none = jnp.zeros_like(l1)
    return w - lax.fori_loop(0, tries, closer, jnp.where(tries > 0, none, newton(none)[1])) * v


def _residual(w: Array, g: Array, l1: Array, l2: Array | None) -> Float[Array, " targets"]:
    """Largest entry of the least subgradient: how far each weight is from its optimality (KKT) condition."""
    g = g if l2 is None else g - l2 * w
    return jnp.where(w == 0, jnp.abs(g) - l1, jnp.abs(g - l1 * jnp.sign(w))).max(axis=0)


def _gap(w: Array, g: Array, c: Array, l1: Array, l2: Array | None) -> Float[Array, " targets"]:
    """Primal minus dual objective over the null objective, the dual point being the residual, scaled to be feasible.

    The l2 term counts as further rows sqrt(l2) I of X with zero outputs (Zou & Hastie, 2005, section 2.2).
    """
    fitted = (c * w).sum(axis=0)
    residual = 1.0 - fitted - (w * g).sum(axis=0)
    if l2 is not None:
        residual, g = residual + l2 * (w * w).sum(axis=0), g - l2 * w
    residual = jnp.maximum(residual, 1e-30)
    feasible = l1 / jnp.maximum(jnp.maximum(g.max(axis=0), -g.min(axis=0)), 1e-3 * l1)
    scale = jnp.where(l1 > 0, jnp.minimum(feasible, 1.0), 0.0)
    primal = 0.5 * residual + l1 * jnp.abs(w).sum(axis=0)
    dual = scale * (1.0 - fitted) - 0.5 * scale**2 * residual
    return jnp.where(l1 > 0, jnp.maximum(primal - dual, 0.0) / 0.5, 0.0)
