"""Ridge: a linear datamodel of all units at once, its penalty chosen per target by leave-one-out."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt.estimators.design import check_rows, is_relative, mean_over_models
from jdt.estimators.influences import Influences
from jdt.linalg import Spectrum, matmul, thin_spectrum
from jdt.types import Array, Float, Int, Masks, Outputs


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Linear datamodels with an L2 penalty: the other units' effects are explained instead of left in the noise.

    Per target: minimise `|y - b - X w|^2 + penalty |w|^2`, b unpenalised, X the 0/1 masks. The penalty is the one of
    `penalties` (in units of the mean nonzero eigenvalue of the Gram matrix) with the least exact leave-one-model-out
    error. On antithetic pairs the rows are within-pair differences, which hold all that a mask and its complement
    say about w, and leaving one out leaves out the pair.

    The largest candidate keeps about a quarter of an unshrunken weight. Larger ones change no ranking, since random
    subsets make the Gram matrix nearly a multiple of the identity, but where leave-one-out picks them by chance the
    interval closes around zero and misses real effects (docs/decisions/0003-ridge-penalty-grid.md).

    Attributes:
      penalties: Candidates, in units of the mean nonzero eigenvalue.
    """

    penalties: tuple[float, ...] = tuple(float(p) for p in np.logspace(-3, 0.5, 15))
    name = "ridge"

    def fit(self, masks: Masks, outputs: Outputs, *, paired: bool = False) -> Influences:
        """Estimate the influence of every unit on every target.

        `standard_error` is Wahba's (1983) Bayesian one, sigma^2 diag (X^T X + penalty)^-1: it includes shrinkage, and
        intervals made from it hold the true effects at the nominal rate on average over units. `z` divides by the
        sampling deviation alone. With fewer models than units residuals overstate sigma^2 where effects are strong, and
        intervals are wider than they need be.

        Args:
          masks: bool `[models, units]`.
          outputs: float `[models, targets]`, finite (see `finite_models`).
          paired: Whether rows 2i and 2i+1 are an antithetic pair.

        Returns:
          Influences; `info` holds `penalty` and `leave_one_out_mse` `[targets]` and `r_squared` `[targets]`, the
          share of variance between models that is predicted with the model (or pair) left out.

        Raises:
          UserError: If the inputs do not fit each other.
        """
        masks, outputs = check_rows(masks, outputs, paired=paired)
        if paired:
            rows = masks[0::2].astype(outputs.dtype) - masks[1::2].astype(outputs.dtype)
            values = outputs[0::2] - outputs[1::2]
        else:
            rows = masks - masks.mean(axis=0, dtype=outputs.dtype)
            values = outputs - mean_over_models(outputs)
        relative = is_relative(masks)
        solution = _solve(
            jnp.asarray(rows), jnp.asarray(values), jnp.asarray(self.penalties, outputs.dtype),
            has_intercept=not paired, relative=relative,
        )  # fmt: skip
        influence, error, sampling = (np.asarray(x) for x in (solution.weights, solution.error, solution.sampling))
        constant = np.asarray(masks.all(axis=0) | ~masks.any(axis=0))
        error = np.where(constant[:, None], np.inf, error)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where((sampling > 0) & ~constant[:, None], influence / sampling, 0.0)
        info: dict[str, Any] = {
            "relative": relative,
            "paired": paired,
            "penalty": np.asarray(solution.penalty),
            "leave_one_out_mse": np.asarray(solution.left_out),
            "r_squared": np.asarray(solution.r_squared),
        }
        return Influences(
            influence=influence,
            standard_error=error,
            z=z.astype(influence.dtype),
            degrees_of_freedom=np.full(masks.shape[1], float(solution.degrees), influence.dtype),
            intercept=mean_over_models(outputs) - masks.mean(axis=0, dtype=outputs.dtype) @ influence,
            unit_names=tuple(str(u) for u in range(masks.shape[1])),
            target_names=tuple(str(t) for t in range(outputs.shape[1])),
            estimator=self.name,
            num_models=len(masks),
            info=info,
        )


class _Solution(NamedTuple):
    weights: Float[Array, "units targets"]
    error: Float[Array, "units targets"]
    sampling: Float[Array, "units targets"]
    penalty: Float[Array, " targets"]
    left_out: Float[Array, " targets"]
    r_squared: Float[Array, " targets"]
    degrees: Float[Array, ""]


def left_out_residuals(
    spectrum: Spectrum, values: Float[Array, "rows targets"], penalty: Float[Array, ""], *, has_intercept: bool
) -> Float[Array, "rows targets"]:
    """Residual of each row when it is left out, exactly, without refitting: r_i / (1 - h_ii).

    Args:
      spectrum: Of the rows (centred when there is an intercept).
      values: Outputs (centred when there is an intercept).
      penalty: One penalty for all targets.
      has_intercept: Whether an intercept was removed by centring; it adds 1 / rows to every leverage.
    """
    shrink = spectrum.values / (spectrum.values + penalty)
    fitted = matmul(spectrum.left * shrink, matmul(spectrum.left.T, values))
    leverage = matmul(spectrum.left**2, shrink) + (1.0 / len(values) if has_intercept else 0.0)
    return (values - fitted) / jnp.maximum(1.0 - leverage, 1e-6)[:, None]


@jax.jit(static_argnames=("has_intercept", "relative"))
def _solve(
    rows: Float[Array, "rows units"],
    values: Float[Array, "rows targets"],
    penalties: Float[Array, " penalties"],
    *,
    has_intercept: bool,
    relative: bool,
) -> _Solution:
    count, num_units = rows.shape
    spectrum = thin_spectrum(rows)
    scale = spectrum.values.sum() / jnp.maximum((spectrum.values > 0).sum(), 1)
    grid = penalties * jnp.where(scale > 0, scale, 1.0)  # Equal masks have no eigenvalue to measure by.
    errors = jax.lax.map(
        lambda p: (left_out_residuals(spectrum, values, p, has_intercept=has_intercept) ** 2).mean(axis=0), grid
    )
    best: Int[Array, " targets"] = errors.argmin(axis=0)
    penalty, left_out = grid[best], errors.min(axis=0)

    projected = matmul(spectrum.left.T, values)  # [rank, targets]
    eigen = spectrum.values[:, None]
    kept = eigen / (eigen + penalty)  # [rank, targets]
    root = jnp.sqrt(eigen)
    weights = matmul(spectrum.right, root / (eigen + penalty) * projected)
    # The residual sum is sigma^2 times a sum of squares: `outside` of them whole, one a direction of the masks times
    # `left`. A floor under their number would make noise significant where few models leave less than one.
    left = jnp.where(eigen > 0, (1.0 - kept) ** 2, 0.0)  # [rank, targets]
    outside = jnp.maximum(count - has_intercept - (spectrum.values > 0).sum(), 0)
    beyond = jnp.maximum((values**2).sum(axis=0) - (projected**2).sum(axis=0), 0.0)
    residual = jnp.where(outside > 0, beyond, 0.0) + (projected**2 * left).sum(axis=0)
    number = outside + left.sum(axis=0)
    variance = residual / number  # [targets]
    degrees = number**2 / (outside + (left**2).sum(axis=0))  # Of the chi-squared with equal mean and variance.

    squared = spectrum.right**2
    sampling = variance * matmul(squared, eigen / (eigen + penalty) ** 2)
    # Directions that no model varies keep their prior variance. Subsets of one size never vary the mean of the units,
    # which is no part of a relative influence.
    unseen = jnp.maximum(1.0 - squared.sum(axis=1) - (1.0 / num_units if relative else 0.0), 0.0)
    unseen = jnp.where(unseen < 1e-4, 0.0, unseen)[:, None]
    alive = jnp.where(eigen > 0, 1.0 / (eigen + penalty), 0.0)
    bayesian = variance * (matmul(squared, alive) + unseen / penalty)
    total = (values**2).mean(axis=0)
    r_squared = jnp.where(total > 0, 1.0 - left_out / jnp.where(total > 0, total, 1.0), 0.0)
    return _Solution(weights, jnp.sqrt(bayesian), jnp.sqrt(sampling), penalty, left_out, r_squared, degrees.min())
