"""LASSO: sparse linear datamodels, the penalty of each target chosen on models that the fit has not seen."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from jdt import checks
from jdt.estimators.design import check_rows
from jdt.estimators.influences import Influences, build_influences
from jdt.estimators.paths import Rows, Solver, check_options, penalty_grid, standardise, standardise_by
from jdt.types import Bool, Float, Masks, Outputs

GAP_TO_CHOOSE_BY = 1e-4
"""Held-out errors are taken at solutions proven this far at least; only the penalty chosen is solved to `gap`."""


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Choose penalties on a random share of the models, once.

    Attributes:
      share: Held out, strictly between 0 and 1.
      seed: Of the draw.
    """

    share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        checks.require_fraction("share", self.share)

    def parts(self, count: int) -> tuple[list[np.ndarray], int]:
        """Divide `count` rows; only the first `held` parts are held out, one at a time."""
        order = np.random.default_rng(self.seed).permutation(count)
        held = min(max(1, round(self.share * count)), count - 1)
        return [np.sort(order[:held]), np.sort(order[held:])], 1


@dataclasses.dataclass(frozen=True)
class KFold:
    """Choose penalties by cross-validation: every model is held out once.

    Attributes:
      folds: Parts of the models, at least 2; no more than there are models (or pairs) are used.
      seed: Of the division.
    """

    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        checks.require_at_least("folds", self.folds, 2)

    def parts(self, count: int) -> tuple[list[np.ndarray], int]:
        """Divide `count` rows; each of the first `held` parts, here all, is held out in turn."""
        order = np.random.default_rng(self.seed).permutation(count)
        folds = min(self.folds, count)
        return [np.sort(part) for part in np.array_split(order, folds)], folds


@dataclasses.dataclass(frozen=True)
class Lasso:
    """Linear datamodels with an L1 penalty (arXiv 2202.00622, section 2), or an elastic net.

    Per target the objective of `lasso_path`, along the penalties of its path; the penalty with the least error on
    held-out models is chosen and, unless `refit` is off, fitted once more on all models. On antithetic pairs rows are
    within-pair differences, without intercept, and a pair is held out whole. LASSO says which units matter; it has no
    standard errors, and its weights are shrunk towards zero.

    Attributes:
      select: `HoldOut` or `KFold`: how held-out models are drawn.
      num_penalties: Penalties a target.
      min_ratio: Smallest penalty over the largest; None takes 1e-3, or 1e-2 where there are fewer than twice as many
        models (or pairs) as units: smaller penalties then fit noise, at length.
      l1_ratio: 1 for the LASSO, less for the elastic net, above 0.
      gap: Duality gap to prove, over the objective of zero weights.
      max_sweeps: Sweeps over all units at one penalty, at most.
      refit: Fit the chosen penalty on all models. Off, the weights are those of the models not held out, as the
        penalty was judged; only with `HoldOut`.
    """

    select: HoldOut | KFold = KFold()
    num_penalties: int = 50
    min_ratio: float | None = None
    l1_ratio: float = 1.0
    gap: float = 1e-5
    max_sweeps: int = 10_000
    refit: bool = True
    name = "lasso"

    def __post_init__(self) -> None:
        min_ratio = 1e-3 if self.min_ratio is None else self.min_ratio
        check_options(self.num_penalties, min_ratio, self.gap, self.l1_ratio, self.max_sweeps)
        if not self.refit and isinstance(self.select, KFold):
            raise checks.UserError(
                "refit=False keeps the weights of one fit, but KFold makes several: use select=HoldOut(0.1), or refit."
            )

    def fit(self, masks: Masks, outputs: Outputs, *, paired: bool = False) -> Influences:
        """Estimate the influence of every unit on every target.

        Args:
          masks: bool `[models, units]`.
          outputs: float `[models, targets]`, finite (see `finite_models`).
          paired: Whether rows 2i and 2i+1 are an antithetic pair.

        Returns:
          Influences without standard errors; `info` holds, each `[targets]`, `penalty`, `held_out_mse`, `r_squared`
          (share of the held-out variance that is predicted), `gap`, `status` (see `explain_status`) and `num_nonzero`.

        Raises:
          UserError: If the inputs do not fit each other.
        """
        masks, outputs = check_rows(masks, outputs, paired=paired)
        rows, values = (masks[0::2], outputs[0::2] - outputs[1::2]) if paired else (masks, outputs)
        parts, held = self.select.parts(len(rows)) if len(rows) > 1 else ([np.arange(1)], 0)
        samples = [Rows.of(rows[part], values[part]) for part in parts]
        problem = standardise(Rows.joined(samples), signs=paired)
        min_ratio = self.min_ratio or (1e-3 if len(rows) >= 2 * masks.shape[1] else 1e-2)
        penalties = penalty_grid(problem, self.num_penalties, min_ratio, self.l1_ratio)
        solver = Solver(self.l1_ratio, self.gap, self.max_sweeps)
        judged = Solver(self.l1_ratio, max(self.gap, GAP_TO_CHOOSE_BY), self.max_sweeps)
        errors, null_error = self._held_out_errors(judged, samples, held, penalties, paired, outputs.dtype)
        chosen = errors.argmin(axis=0)
        fitted = problem if self.refit else standardise(Rows.joined(samples[held:]), signs=paired)
        found = solver.at(fitted, penalties, chosen, outputs.dtype)
        influence = found.weights * (0.5 if paired else 1.0)  # A sign moves by 2 where a mask moves by 1.
        least = errors.min(axis=0)
        return build_influences(
            self.name, masks, outputs, influence.astype(outputs.dtype), paired=paired,
            info={
                "penalty": np.take_along_axis(penalties, chosen[None], axis=0)[0].astype(outputs.dtype),
                "held_out_mse": least.astype(outputs.dtype),
                "r_squared": _explained(least, null_error).astype(outputs.dtype),
                "gap": found.gap,
                "status": found.status,
                "num_nonzero": (influence != 0).sum(axis=0),
            },
        )  # fmt: skip

    def _held_out_errors(
        self,
        solver: Solver,
        samples: Sequence[Rows],
        held: int,
        penalties: np.ndarray,
        paired: bool,
        dtype: np.dtype,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean squared error on held-out rows `[penalties, targets]`, and that of zero weights `[targets]`."""
        errors, null_error = np.zeros(penalties.shape), np.zeros(penalties.shape[1])
        total = sum(sample.moments.count for sample in samples[:held])
        for i in range(held):
            problem = standardise(Rows.joined([*samples[:i], *samples[i + 1 :]]), signs=paired)
            held_out = standardise_by(problem, samples[i])
            share = samples[i].moments.count / total
            errors += share * solver.errors(problem, penalties, held_out, dtype)
            null_error += share * held_out.square * problem.target_scale**2
        return errors, null_error


def _explained(
    error: Float[np.ndarray, " targets"], null_error: Float[np.ndarray, " targets"]
) -> Float[np.ndarray, " targets"]:
    varies: Bool[np.ndarray, " targets"] = null_error > 0
    return np.where(varies, 1.0 - error / np.where(varies, null_error, 1.0), 0.0)
