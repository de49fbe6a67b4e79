"""The solvers of the LASSO benchmark, each at its public interface, all on one problem.

Peers get standardised float64 masks and centred outputs for nothing; their Gram matrices count. jdt starts from bool
masks and float32 outputs. Tolerances are chosen so that each stops at the gap asked for, not below it.
"""

# pyright: reportMissingImports=false

import concurrent.futures
import functools
import importlib.util
from typing import Any

import jax
import numpy as np
from lasso_problem import Array, Problem, Solution, judge, unstandardised
from sklearn.linear_model import LassoCV, lasso_path

import jdt
import jdt.devices
from jdt.estimators import SagaParity


class Solver:
    """One solver and the problem it is given.

    Attributes:
      slow: Whether by default it gets the first targets only.
      selects: Whether it chooses one penalty a target, by a hold-out, instead of returning the path.
      package: What has to be installed.
    """

    slow = False
    selects = False
    package = "sklearn"

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def tune(self) -> None:
        """Choose what the solver leaves to its user, after its first call; not timed."""

    def solve(self) -> Any:
        """Solve every target: what is timed."""
        raise NotImplementedError

    def read(self, raw: Any) -> Solution:
        """Bring what `solve` returned into one form; not timed."""
        raise NotImplementedError


class PerTarget(Solver):
    """A solver of one target at a time, which returns `[units, penalties]` for standardised masks."""

    def solve_one(self, target: int) -> Array:
        """Weights of one target."""
        raise NotImplementedError

    def solve(self) -> list[Array]:
        """One target after another."""
        return [self.solve_one(target) for target in range(self.problem.y.shape[1])]

    def read(self, raw: list[Array]) -> Solution:
        """Stack and unstandardise."""
        return unstandardised(self.problem, np.stack(raw, axis=-1).transpose(1, 0, 2), self.problem.penalties)


class ScikitLearn(PerTarget):
    """`lasso_path` with precomputed Gram matrix and correlations: coordinate descent with gap-safe screening.

    It stops where the duality gap of m times the objective is below tol y'y (`_cd_fast.pyx`); the null objective of
    that scale is y'y / 2, so tol is half the relative gap. It looks at the gap only once no weight changes by more than
    tol times the largest in a pass, and therefore often ends below. Called as documented, it checks and copies X anew
    for every target; the row `scikit-learn-unchecked` is without that.
    """

    dtype, check_input = np.float64, True

    def solve(self) -> list[Array]:
        """Gram matrix first, then one target after another."""
        self.x, self.y = (np.asfortranarray(part, self.dtype) for part in (self.problem.x, self.problem.y))
        self.gram, self.correlations = self.x.T @ self.x, self.y.T @ self.x
        return self.solve_all(self.problem.y.shape[1])

    def solve_all(self, count: int) -> list[Array]:
        """All targets, in this thread."""
        return [self.solve_one(target) for target in range(count)]

    def solve_one(self, target: int) -> Array:
        """The path of one target."""
        # Annotated as strings only, where arrays are documented.
        alphas: Any = self.problem.penalties[:, target].astype(self.dtype)
        gram: Any = self.gram
        return lasso_path(
            self.x, self.y[:, target], alphas=alphas, precompute=gram, Xy=self.correlations[target],
            tol=self.problem.gap / 2, max_iter=100_000, check_input=self.check_input,
        )[1]  # fmt: skip


class ScikitLearnUnchecked(ScikitLearn):
    """The same with its input checks off: the inner loop alone."""

    check_input = False


class ScikitLearnFloat32(ScikitLearnUnchecked):
    """Unchecked, in float32."""

    dtype = np.float32


class ScikitLearnThreads(ScikitLearnUnchecked):
    """Unchecked, with a thread a core: its inner loop holds no lock."""

    def solve_all(self, count: int) -> list[Array]:
        """All targets, shared out to threads."""
        with concurrent.futures.ThreadPoolExecutor(jdt.devices.usable_cores()) as pool:
            return list(pool.map(self.solve_one, range(count)))


class ScikitLearnCV(PerTarget):
    """`LassoCV` with Gram matrix and one split, the last tenth held out: path, choice, and refit on all rows."""

    slow = selects = True

    def solve_one(self, target: int) -> Array:
        """Chosen penalty, then the weights at it, in one column."""
        rows = np.arange(len(self.problem.y))
        train = len(rows) - round(0.1 * len(rows))
        penalties: Any = self.problem.penalties[:, target]  # Annotated as a number or string only.
        model = LassoCV(
            alphas=penalties, precompute="auto", tol=self.problem.gap / 2, max_iter=100_000,
            cv=[(rows[:train], rows[train:])],
        ).fit(self.problem.x, self.problem.y[:, target])  # fmt: skip
        return np.concatenate([[model.alpha_], model.coef_])[:, None]

    def read(self, raw: list[Array]) -> Solution:
        """Take penalties and weights apart."""
        columns = np.stack(raw, axis=-1).transpose(1, 0, 2)
        return unstandardised(self.problem, columns[:, 1:], columns[:, 0])


class Celer(PerTarget):
    """`celer_path` with pruning, its estimator's default. Its tol is multiplied by y'y / m: half the relative gap."""

    slow = True
    package = "celer"

    def solve_one(self, target: int) -> Array:
        """The path of one target."""
        from celer.homotopy import celer_path

        problem = self.problem
        return celer_path(
            problem.x, problem.y[:, target], "lasso", alphas=problem.penalties[:, target], tol=problem.gap / 2,
            prune=True, max_iter=1000,
        )[1]  # fmt: skip


class Skglm(PerTarget):
    """skglm's path with AndersonCD: working sets and Anderson acceleration.

    It stops by the largest violation of the optimality conditions, not by a gap. `tune` picks the loosest tolerance of
    two a decade, in units of the target's largest penalty, that certifies the gap on the first targets.
    """

    slow = True
    package = "skglm"
    tolerance = 1e-4

    def tune(self) -> None:
        """Loosen the tolerance as far as the gap allows."""
        few = self.problem.first(3)
        for tolerance in 10.0 ** np.arange(-2, -9, -0.5):
            trial = Skglm(few)
            trial.tolerance = self.tolerance = float(tolerance)
            if judge(few, trial.read(trial.solve())).gap.max() <= self.problem.gap:
                return

    def solve_one(self, target: int) -> Array:
        """The path of one target."""
        from skglm.datafits import Quadratic
        from skglm.penalties import L1
        from skglm.solvers import AndersonCD

        penalties = self.problem.penalties[:, target]
        solver = AndersonCD(tol=self.tolerance * penalties[0], fit_intercept=False, max_iter=1000)
        return solver.path(self.problem.x, self.problem.y[:, target], Quadratic(), L1(penalties[0]), penalties)[1]


class Jdt(Solver):
    """`jdt.lasso_path`."""

    package = "jdt"

    def solve(self) -> Any:
        """All targets at once."""
        problem = self.problem
        path = jdt.lasso_path(
            problem.masks, problem.outputs, num_penalties=len(problem.penalties), min_ratio=problem.min_ratio,
            gap=problem.gap,
        )  # fmt: skip
        return jax.block_until_ready((path.weights, path.bias, path.penalties))

    def read(self, raw: Any) -> Solution:
        """As returned."""
        return Solution(*(np.asarray(part) for part in raw))


class JdtEstimator(Solver):
    """An estimator of jdt that chooses a penalty for each target."""

    selects = True
    package = "jdt"

    def __init__(self, problem: Problem, estimator: Any) -> None:
        super().__init__(problem)
        self.estimator = estimator

    def solve(self) -> Any:
        """All targets at once."""
        return self.estimator.fit(self.problem.masks, self.problem.outputs)

    def read(self, raw: Any) -> Solution:
        """Influences at the penalty that was chosen."""
        return Solution(raw.influence[None], raw.intercept[None], np.asarray(raw.info["penalty"], np.float64)[None])


def _select(problem: Problem) -> Solver:
    choose = jdt.Lasso(
        select=jdt.HoldOut(0.1), num_penalties=len(problem.penalties), min_ratio=problem.min_ratio, gap=problem.gap
    )
    return JdtEstimator(problem, choose)


def _saga(problem: Problem) -> Solver:
    return JdtEstimator(problem, SagaParity(num_penalties=len(problem.penalties), min_ratio=problem.min_ratio))


SOLVERS: dict[str, Any] = {
    "jdt": Jdt,
    "jdt-select": _select,
    "jdt-saga-parity": _saga,
    "scikit-learn": ScikitLearn,
    "scikit-learn-unchecked": ScikitLearnUnchecked,
    "scikit-learn-float32": ScikitLearnFloat32,
    "scikit-learn-threads": ScikitLearnThreads,
    "scikit-learn-cv": ScikitLearnCV,
    "celer": Celer,
    "skglm": Skglm,
}
"""Name -> what makes a `Solver` of a problem."""


@functools.cache
def missing(name: str) -> str | None:
    """What keeps a solver from running here, or None."""
    package = getattr(SOLVERS[name], "package", "jdt")
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    return None
