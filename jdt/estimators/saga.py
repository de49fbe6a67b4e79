"""`saga-parity`: the LASSO procedure that datamodels were published with, for comparison."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.estimators.design import check_rows
from jdt.estimators.influences import Influences, build_influences
from jdt.estimators.saga_path import Found, Rules, scaling_of, solve_path
from jdt.linalg import matmul
from jdt.types import Array, Bool, Float, Masks, Outputs

STATUS = {
    0: "converged, by the procedure's own criterion",
    1: "the path was cut off by max_epochs: the penalty is the best of those that converged before",
    2: "the refit was cut off by max_epochs",
    3: "both path and refit were cut off by max_epochs",
}
"""What the codes in `info["status"]` mean."""


@dataclasses.dataclass(frozen=True)
class SagaParity:
    """The published LASSO procedure, step by step, so that its influences and its time can be compared.

    Per target it minimises `(1/2m)|y - b - X w|^2 + penalty |w|_1`, b unpenalised and X standardised, as MadryLab's
    `fast_l1` does it for `datamodels` (arXiv 2202.00622; `fast_l1/regressor.py` and
    `datamodels/regression/compute_datamodels.py`):

    1. The last `hold_out` of the rows in stored order are validation; the others are fitted.
    2. Penalties: 0 first, then `start = max_k |sum_i x_ik (y_i - mean y)| / m`, then `min_ratio^(1/num_penalties)`
       times the one before.
    3. Mini-batch SAGA with a table of residuals, rows in random order every epoch, weights soft-thresholded by
       `learning_rate * penalty`.
    4. A penalty has converged when no weight, squared and times its mask's variance, changed by `tolerance` in the
       epoch before a look, once in `check_every` epochs.
    5. A target's path ends when a converged penalty has a higher validation error than the one before, at least
       `min_penalties` have converged and more than one weight is not 0; or after `num_penalties`.
    6. The best converged penalty is fitted again on all rows, from the weights at the path's end, by way of penalty 0.

    `jdt.Lasso` is the one to use: this procedure is slow, and its answer depends on when it stops. What is wrong with
    it is kept, for parity:

    - penalty 0 comes first, is a candidate, and counts among `min_penalties`;
    - `start` is taken from masks that are not standardised, so that at half of the units kept it is half of the
      penalty where weights leave 0;
    - the criterion of step 4 multiplies weights of standardised masks by the variance of the masks once more, and says
      little about the distance to the optimum, less the lower the learning rate;
    - the hold-out follows the stored order, and may part an antithetic pair; `paired` changes nothing.

    What differs: weights and intercept are returned for masks as they are (the original leaves them standardised);
    `max_epochs` ends what the original would repeat for ever; batches that do not divide the rows are dealt so that
    sizes differ by one at most, each counted with its own size (the original stops; where they divide, nothing
    differs); and targets do not touch each other. In the original, a target that is moved into the place of a finished
    one is also moved on to its next penalty, converged or not.

    Attributes:
      hold_out: Fraction of the rows that choose the penalty.
      num_penalties: Length of the path, without the leading 0.
      min_ratio: Smallest penalty over `start`, nearly: the grid stops one step short of it, as published.
      learning_rate: Of SAGA. Above about a third of `1 / (1 + sqrt(units / batch_size))^2` it diverges.
      batch_size: Rows a step.
      check_every: Epochs between two looks at convergence.
      tolerance: Of step 4.
      min_penalties: Of step 5.
      max_epochs: Passes over the rows, for path and refit each.
      seed: Of the order of rows.

    >>> masks = np.random.default_rng(0).random((400, 3)) < 0.5
    >>> found = SagaParity(batch_size=40, tolerance=1e-9).fit(masks, masks @ np.array([[1.0], [0.0], [-2.0]]) + 3)
    >>> found.influence[:, 0].round(1).tolist(), float(found.intercept[0].round(1))
    ([1.0, 0.0, -2.0], 3.0)
    """

    hold_out: float = 0.1
    num_penalties: int = 50
    min_ratio: float = 1e-5
    learning_rate: float = 0.01
    batch_size: int = 256
    check_every: int = 2
    tolerance: float = 1e-5
    min_penalties: int = 10
    max_epochs: int = 20_000
    seed: int = 0
    name = "saga-parity"

    def fit(self, masks: Masks, outputs: Outputs, *, paired: bool = False) -> Influences:
        """Estimate the influence of every unit on every target.

        Args:
          masks: bool `[models, units]`.
          outputs: float `[models, targets]`, finite (see `finite_models`).
          paired: Whether rows 2i and 2i+1 are complements: checked, and not used, as published.

        Returns:
          Influences without standard errors. `info` holds, `[targets]` each: `penalty`, `status` (see `STATUS`) and
          `penalties_tried` (converged ones, the leading 0 included); and `path_epochs` and `refit_epochs`.

        Raises:
          UserError: If the inputs do not fit each other, a setting is out of range, or SAGA diverges.
        """
        masks, outputs = check_rows(masks, outputs, paired=paired)
        self._check_settings()
        num_models, held = len(masks), max(1, round(self.hold_out * len(masks)))
        train = num_models - held
        if train < 2:
            raise checks.UserError(
                f"hold_out is {self.hold_out} of {num_models} models, which leaves {train} to fit, but 2 are needed: "
                "lower it or train more models."
            )
        x, y = jnp.asarray(masks), jnp.asarray(outputs)
        start = jnp.abs(matmul(x[:train].T.astype(y.dtype), y[:train] - y[:train].mean(axis=0))).max(axis=0) / train
        zeros = jnp.zeros((masks.shape[1], outputs.shape[1]), y.dtype)
        path = self._solve(x[:train], y[:train], (x[train:], y[train:]), zeros, zeros[0], start, phase=0)
        refit = self._solve(
            x, y, (x[:0], y[:0]), jnp.asarray(path.weights), jnp.asarray(path.bias), jnp.asarray(path.best_penalty),
            phase=1,
        )  # fmt: skip
        mean, deviation = (np.asarray(part) for part in scaling_of(x, y.dtype))
        influence = refit.weights / np.where(deviation > 0, deviation, 1)[:, None]
        found = build_influences(
            self.name, masks, outputs, influence, paired=paired,
            info={
                "penalty": path.best_penalty,
                "status": path.unfinished.astype(np.int32) + 2 * refit.unfinished.astype(np.int32),
                "penalties_tried": path.stages,
                "path_epochs": path.epochs,
                "refit_epochs": refit.epochs,
            },
        )  # fmt: skip
        return dataclasses.replace(found, intercept=refit.bias - mean @ influence)

    def _check_settings(self) -> None:
        checks.require_fraction("hold_out", self.hold_out)
        checks.require_fraction("min_ratio", self.min_ratio)
        for name in ("num_penalties", "batch_size", "check_every", "max_epochs"):
            checks.require_at_least(name, getattr(self, name), 1)
        for name in ("learning_rate", "tolerance"):
            if not 0 < getattr(self, name) < math.inf:
                raise checks.UserError(f"{name} is {getattr(self, name)}, but it must be a positive number.")

    def _solve(
        self,
        masks: Bool[Array, "rows units"],
        outputs: Float[Array, "rows targets"],
        validation: tuple[Bool[Array, "held units"], Float[Array, "held targets"]],
        weights: Float[Array, "units targets"],
        bias: Float[Array, " targets"],
        start: Float[Array, " targets"],
        *,
        phase: int,
    ) -> Found:
        is_path = phase == 0
        rules = Rules(
            self.learning_rate, self.min_ratio ** (1 / self.num_penalties), self.num_penalties if is_path else 1,
            self.min_penalties, self.tolerance, self.max_epochs, self.seed, phase,
        )  # fmt: skip
        found = solve_path(
            masks, outputs, validation, weights, bias, start, rules,
            num_batches=math.ceil(len(masks) / self.batch_size), check_every=self.check_every,
        )  # fmt: skip
        if not (np.isfinite(found.weights).all() and np.isfinite(found.bias).all()):
            safe = 1 / (3 * (1 + math.sqrt(masks.shape[1] / min(self.batch_size, len(masks)))) ** 2)
            raise checks.UserError(
                f"learning_rate is {self.learning_rate}, and with it SAGA's weights became infinite: pass about "
                f"{safe:.1g}, or larger batches."
            )
        return found
