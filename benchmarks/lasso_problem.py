"""The LASSO problem that every solver of a benchmark gets, and the one judge of what they return."""

import dataclasses
from typing import Any, NamedTuple, cast

import numpy as np
from sklearn.linear_model import lasso_path

from jdt.masks import Design, DesignKind, sample

Array = np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """Per target and penalty: minimise (1/2m)|y - b - X w|^2 + penalty |w|_1, X the masks at unit variance.

    Attributes:
      masks: bool `[models, units]`.
      outputs: float32 `[models, targets]`.
      mean: float64 `[units]` of the masks.
      deviation: float64 `[units]` of the masks; 1 for constant columns.
      x: float64 `[models, units]`, standardised masks, columns contiguous.
      y: float64 `[models, targets]`, centred outputs, columns contiguous.
      penalties: float64 `[penalties, targets]`, descending.
      gap: Duality gap over null objective that solvers are asked for.
      min_ratio: Smallest penalty over the largest.
    """

    masks: Array
    outputs: Array
    mean: Array
    deviation: Array
    x: Array
    y: Array
    penalties: Array
    gap: float
    min_ratio: float

    def first(self, count: int) -> "Problem":
        """The problem of the first targets alone."""
        return self.at(np.arange(count))

    def at(self, targets: Array) -> "Problem":
        """The problem of these targets alone."""
        return dataclasses.replace(
            self, outputs=self.outputs[:, targets], y=np.asfortranarray(self.y[:, targets]),
            penalties=self.penalties[:, targets],
        )  # fmt: skip


class Solution(NamedTuple):
    """Weights and biases for masks as they are, with the penalties that they belong to.

    Attributes:
      weights: float `[penalties, units, targets]`.
      bias: float `[penalties, targets]`.
      penalties: float64 `[penalties, targets]`.
    """

    weights: Array
    bias: Array
    penalties: Array


class Judgement(NamedTuple):
    """Objective and certified gap (over the null objective), float64 `[penalties, targets]` each."""

    objective: Array
    gap: Array


def make_problem(
    models: int, units: int, targets: int, *, design: DesignKind = "bernoulli", num_penalties: int = 50,
    min_ratio: float = 1e-3, gap: float = 1e-5, share: float = 0.1, noise: float = 1.0, seed: int = 0,
) -> Problem:  # fmt: skip
    """Plant normal effects of a share of the units on every target, and add normal noise."""
    rng = np.random.default_rng(seed)
    masks = sample(Design(design, seed=seed), np.arange(models), units)
    effects = rng.normal(size=(units, targets)) * (rng.random((units, targets)) < share)
    outputs = masks @ effects + rng.normal(size=targets) + noise * rng.normal(size=(models, targets))
    return problem_of(masks, outputs.astype(np.float32), num_penalties=num_penalties, min_ratio=min_ratio, gap=gap)


def problem_of(masks: Array, outputs: Array, *, num_penalties: int, min_ratio: float, gap: float) -> Problem:
    """Standardise masks, centre outputs and lay out the penalties."""
    mean, deviation = masks.mean(axis=0), masks.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1.0)
    x = np.asfortranarray((masks - mean) / deviation)
    y = np.asfortranarray(outputs.astype(np.float64) - outputs.mean(axis=0, dtype=np.float64))
    largest = np.abs(x.T @ y).max(axis=0) / len(x)
    return Problem(
        masks, outputs, mean, deviation, x, y, np.geomspace(1, min_ratio, num_penalties)[:, None] * largest, gap,
        min_ratio,
    )  # fmt: skip


def unstandardised(problem: Problem, weights: Array, penalties: Array) -> Solution:
    """The solution whose weights `[penalties, units, targets]` belong to standardised masks and centred outputs."""
    weights = weights / problem.deviation[:, None]
    level = problem.outputs.mean(axis=0, dtype=np.float64)
    return Solution(weights, level - np.einsum("u,put->pt", problem.mean, weights), penalties)


def judge(problem: Problem, solution: Solution) -> Judgement:
    """Objective, and its distance from the dual objective at the rescaled residual, from the weights alone.

    The residual r = y - b - M w of the returned weights and bias is centred and scaled until no unit correlates with it
    by more than the penalty: s = min(1, penalty / max|X'r|/m). Then D = (|y|^2 - |y - s r|^2) / 2m bounds every
    objective from below, and P - D proves how far w is from the optimum at most (nothing at penalty 0, where D is 0).
    """
    models = len(problem.y)
    null = (problem.y**2).sum(axis=0) / (2 * models)
    scale = np.where(null > 0, null, 1.0)
    outputs, masks = problem.outputs.astype(np.float64), problem.masks.astype(np.float64)
    objectives, gaps = [], []
    for weights, bias, penalty in zip(*solution, strict=True):
        weights = weights.astype(np.float64)
        residual = outputs - bias - masks @ weights
        size = np.abs(weights * problem.deviation[:, None]).sum(axis=0)
        primal = (residual**2).sum(axis=0) / (2 * models) + penalty * size
        residual -= residual.mean(axis=0)
        largest = np.abs(problem.x.T @ residual).max(axis=0) / models
        shrink = np.minimum(1.0, penalty / np.where(largest > 0, largest, 1.0))
        dual = null - ((problem.y - shrink * residual) ** 2).sum(axis=0) / (2 * models)
        objectives.append(primal)
        gaps.append((primal - dual) / scale)
    return Judgement(np.stack(objectives), np.stack(gaps))


def reference_objective(problem: Problem, penalties: Array) -> Array:
    """Objectives `[penalties, targets]` of scikit-learn at tol 1e-10 in float64: a duality gap of 2e-10 of the null."""
    gram, correlations = problem.x.T @ problem.x, problem.y.T @ problem.x
    # Its annotations have strings only where it takes arrays as well.
    options: dict[str, Any] = {"precompute": gram, "tol": 1e-10, "max_iter": 1_000_000, "check_input": False}
    weights = [
        lasso_path(problem.x, problem.y[:, t], **options, Xy=correlations[t], alphas=cast(Any, penalties[:, t]))[1]
        for t in range(problem.y.shape[1])
    ]
    stacked = np.stack(weights, axis=-1).transpose(1, 0, 2)
    return judge(problem, unstandardised(problem, stacked, penalties)).objective


def objective_difference(objective: Array, reference: Array) -> float:
    """Largest excess over the best objective that is known, relative to it."""
    best = np.minimum(objective, reference)
    return float(((objective - best) / np.where(best > 0, best, 1.0)).max())
