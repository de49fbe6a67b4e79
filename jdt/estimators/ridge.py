"""Ridge: a linear datamodel of all units at once, its penalty chosen per target by leave-one-out."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.estimators.design import check_rows, constant_units, is_relative, mean_over_models
from jdt.estimators.influences import Influences, build_influences
from jdt.estimators.variance import independent_targets, variance_components
from jdt.linalg import Spectrum, matmul, thin_spectrum
from jdt.types import Array, Bool, Float, Int, Masks, Outputs


@dataclasses.dataclass(frozen=True)
class Ridge:
    """Linear datamodels with an L2 penalty: the other units' effects are explained instead of left in the noise.

    Per target: minimise `|y - b - X w|^2 + penalty |w|^2`, b unpenalised, X the 0/1 masks. The penalty is the one of
    `penalties` (in units of the mean nonzero eigenvalue of the Gram matrix) with the least exact leave-one-model-out
    error (Allen 1974; Golub, Heath & Wahba 1979). On antithetic pairs the rows are within-pair differences, which hold
    all that a mask and its complement say about w, and leaving one out leaves out the pair. One factorisation, of the
    smaller of `X X^T` and `X^T X`, serves all penalties and targets.

    The largest candidate halves an unshrunken weight. Larger ones change rankings hardly at all, since random subsets
    make the Gram matrix nearly a multiple of the identity, but a weight near zero has an error that depends only on how
    large true effects are, which few targets cannot tell (docs/decisions/0007-ridge-intervals.md).

    Attributes:
      penalties: Candidates, positive, in units of the mean nonzero eigenvalue.
    """

    penalties: tuple[float, ...] = tuple(float(p) for p in np.logspace(-3, 0, 13))
    name = "ridge"

    def __post_init__(self) -> None:
        """Check the candidates.

        Raises:
          UserError: If there are none, or one is not positive.
        """
        if not self.penalties or not all(0 < p < float("inf") for p in self.penalties):
            raise checks.UserError(
                f"penalties is {self.penalties}, expected positive numbers: for least squares a small one, e.g. 1e-6."
            )

    def fit(self, masks: Masks, outputs: Outputs, *, paired: bool = False) -> Influences:
        """Estimate the influence of every unit on every target.

        `standard_error` is the root of the expected squared error of a weight (Hoerl & Kennard 1970), sampling noise
        and shrinkage: with right singular vectors v_d and eigenvalues e_d,

            sum_d v_d^2 (noise e_d + effect penalty^2) / (e_d + penalty)^2 + effect (1 - sum_d v_d^2).

        The variances `noise` and `effect` come from `variance_components`, whatever the penalty, and share what all
        targets of the call say: intervals hold true effects at the nominal rate on average over units. Influences and
        `z` depend on a target's own outputs only; `z` divides by the sampling deviation with the residual variance.

        Args:
          masks: bool `[models, units]`.
          outputs: float `[models, targets]`, finite (see `finite_models`).
          paired: Whether rows 2i and 2i+1 are an antithetic pair.

        Returns:
          Influences; `info` holds, `[targets]` each: `penalty`; `leave_one_out_mse`; `r_squared`, the share of variance
          between models that is predicted with the model (or pair) left out; `noise_deviation` and `effect_deviation`,
          the estimated standard deviations of noise (of a model, or of the difference within a pair) and of effects;
          and what `build_influences` adds.

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
        found = _solve(
            jnp.asarray(rows), jnp.asarray(values), jnp.asarray(self.penalties, outputs.dtype),
            jnp.asarray(is_relative(masks)), has_intercept=not paired,
        )  # fmt: skip
        influence, error, sampling = (np.asarray(x) for x in (found.weights, found.error, found.sampling))
        constant = constant_units(masks)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where((sampling > 0) & ~constant, influence / sampling, 0.0)
        degrees = max(len(rows) - (not paired), 1)
        return build_influences(
            self.name, masks, outputs, influence, paired=paired, standard_error=np.where(constant, np.inf, error),
            z=z.astype(influence.dtype), degrees_of_freedom=np.full((1, 1), degrees, influence.dtype),
            info={name: np.asarray(values) for name, values in found.info.items()},
        )  # fmt: skip


class _Solution(NamedTuple):
    weights: Float[Array, "units targets"]
    error: Float[Array, "units targets"]
    sampling: Float[Array, "units targets"]
    info: dict[str, Float[Array, " targets"]]


class Projected(NamedTuple):
    """Outputs in the directions of the masks, and what lies outside of them.

    Attributes:
      spectrum: Of the rows (centred when there is an intercept).
      inside: `[rank, targets]` coordinates of the outputs.
      beyond: `[rows, targets]` what no weights fit.
      outside: How many directions of the rows no weights reach.
      share: `[rows]` how much of each row lies in those.
    """

    spectrum: Spectrum
    inside: Float[Array, "rank targets"]
    beyond: Float[Array, "rows targets"]
    outside: Int[Array, ""]
    share: Float[Array, " rows"]


def project(spectrum: Spectrum, values: Float[Array, "rows targets"], *, has_intercept: bool) -> Projected:
    """Split outputs (centred when there is an intercept) for every penalty at once."""
    inside = matmul(spectrum.left.T, values)
    outside = len(values) - has_intercept - (spectrum.values > 0).sum()
    # Where nothing is outside, what the subtractions leave is rounding.
    beyond = jnp.where(outside > 0, values - matmul(spectrum.left, inside), 0.0)
    share = 1.0 - has_intercept / len(values) - (spectrum.left**2).sum(axis=1)
    return Projected(spectrum, inside, beyond, outside, jnp.where(outside > 0, jnp.maximum(share, 0.0), 0.0))


def left_out_residuals(projected: Projected, penalty: Float[Array, ""]) -> Float[Array, "rows targets"]:
    """Residual of each row when it is left out, exactly, without refitting: r_i / (1 - h_ii).

    Both are sums of what the penalty leaves of each direction, without the cancellation of y - fit and 1 - leverage,
    so that weights which pass through every output lose no digits.
    """
    spectrum, inside, beyond, _, share = projected
    left = jnp.where(spectrum.values > 0, penalty / (spectrum.values + penalty), 0.0)
    residual = beyond + matmul(spectrum.left * left, inside)
    return residual / (share + matmul(spectrum.left**2, left))[:, None]


@jax.jit(static_argnames=("has_intercept",))
def _solve(
    rows: Float[Array, "rows units"],
    values: Float[Array, "rows targets"],
    penalties: Float[Array, " penalties"],
    relative: Bool[Array, ""],
    *,
    has_intercept: bool,
) -> _Solution:
    spectrum = thin_spectrum(rows)
    scale = spectrum.values.sum() / jnp.maximum((spectrum.values > 0).sum(), 1)
    grid = penalties * jnp.where(scale > 0, scale, 1.0)  # Equal masks have no eigenvalue to measure by.
    projected = project(spectrum, values, has_intercept=has_intercept)
    errors = jax.lax.map(lambda p: (left_out_residuals(projected, p) ** 2).mean(axis=0), grid)
    best: Int[Array, " targets"] = errors.argmin(axis=0)
    penalty, left_out = grid[best], errors.min(axis=0)

    eigen, squared = spectrum.values[:, None], projected.inside**2  # [rank, 1], [rank, targets]
    weights = matmul(spectrum.right, jnp.sqrt(eigen) / (eigen + penalty) * projected.inside)
    beyond = (projected.beyond**2).sum(axis=0)
    freedom = max(len(rows) - has_intercept, 1)
    components = variance_components(spectrum.values, squared, beyond, freedom, independent_targets(values, freedom))
    # Weights: noise reaches them by `reach`, and effects are lost by `bias`. Directions that no model varies keep all
    # of theirs; subsets of one size never vary the mean of the units, which is no part of a relative influence.
    weight = spectrum.right**2
    reach = matmul(weight, eigen / (eigen + penalty) ** 2)
    bias = matmul(weight, (penalty / (eigen + penalty)) ** 2)
    varied = (rows != 0).any(axis=0)
    mean = jnp.where(varied & relative, 1.0 / jnp.maximum(varied.sum(), 1), 0.0)
    unseen = 1.0 - weight.sum(axis=1) - mean
    unseen = jnp.where(unseen < 1e-4, 0.0, unseen)[:, None]
    error = components.noise * reach + components.effect * (bias + unseen)

    # The residual sum is the noise times a sum of squares: those outside whole, one a direction of the masks times
    # `left`. A floor under their number would make noise significant where few models leave less than one.
    left = jnp.where(eigen > 0, (penalty / (eigen + penalty)) ** 2, 0.0)  # [rank, targets]
    residual = (beyond + (squared * left).sum(axis=0)) / (projected.outside + left.sum(axis=0))
    total = (values**2).mean(axis=0)
    info = {
        "penalty": penalty,
        "leave_one_out_mse": left_out,
        "r_squared": jnp.where(total > 0, 1.0 - left_out / jnp.where(total > 0, total, 1.0), 0.0),
        "noise_deviation": jnp.sqrt(components.noise),
        "effect_deviation": jnp.sqrt(components.effect),
    }
    return _Solution(weights, jnp.sqrt(error), jnp.sqrt(residual * reach), info)
