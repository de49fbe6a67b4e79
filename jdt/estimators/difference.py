"""Difference of means: outputs of the models that keep a unit, minus outputs of those that do not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jdt.estimators.design import check_rows, mean_over_models
from jdt.estimators.influences import Influences, build_influences
from jdt.linalg import matmul
from jdt.types import Array, Float, Masks, Outputs


@dataclasses.dataclass(frozen=True)
class DifferenceOfMeans:
    """The published estimator (arXiv 2207.05739, algorithm 1), with the standard errors it lacks.

    Infl[k] = mean of outputs over models with unit k, minus mean over models without it. Standard errors are Welch's
    for independent models, and those of the within-pair differences for antithetic pairs, where the two estimates
    coincide but noise shared by a pair cancels.
    """

    name = "difference"

    def fit(self, masks: Masks, outputs: Outputs, *, paired: bool = False) -> Influences:
        """Estimate the influence of every unit on every target.

        Args:
          masks: bool `[models, units]`.
          outputs: float `[models, targets]`, finite (see `finite_models`).
          paired: Whether rows 2i and 2i+1 are an antithetic pair.

        Returns:
          Influences with t intervals; degrees of freedom `[units, 1]` are those of the smaller side, so never too many,
          or `[1, 1]` the number of pairs less one. `info` holds what `build_influences` adds.

        Raises:
          UserError: If the inputs do not fit each other.
        """
        masks, outputs = check_rows(masks, outputs, paired=paired)
        fit, values = (_paired, outputs) if paired else (_unpaired, outputs - mean_over_models(outputs))
        influence, error, degrees = (np.asarray(x) for x in fit(jnp.asarray(masks), jnp.asarray(values)))
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where((error > 0) & np.isfinite(error), influence / error, 0.0)
        return build_influences(
            self.name, masks, outputs, influence, paired=paired, standard_error=error,
            z=z.astype(influence.dtype), degrees_of_freedom=degrees,
        )  # fmt: skip


@jax.jit
def _unpaired(masks: Array, centred: Float[Array, "models targets"]) -> tuple[Array, Array, Array]:
    inside = masks.astype(centred.dtype)
    sums, squares = matmul(inside.T, centred), matmul(inside.T, centred**2)
    totals, total_squares = centred.sum(axis=0), (centred**2).sum(axis=0)

    def moments(count: Array, total: Array, square: Array) -> tuple[Array, Array]:
        mean = total / jnp.maximum(count, 1)
        spread = jnp.maximum(square - count * mean**2, 0.0) / jnp.maximum(count - 1, 1)
        return mean, jnp.where(count >= 2, spread / jnp.maximum(count, 1), jnp.inf)

    kept = inside.sum(axis=0)[:, None]
    dropped = len(masks) - kept
    mean_in, error_in = moments(kept, sums, squares)
    mean_out, error_out = moments(dropped, totals - sums, total_squares - squares)
    influence = jnp.where((kept > 0) & (dropped > 0), mean_in - mean_out, 0.0)
    degrees = jnp.maximum(jnp.minimum(kept, dropped) - 1, 1)
    return influence, jnp.sqrt(error_in + error_out), degrees


@jax.jit
def _paired(masks: Array, outputs: Float[Array, "models targets"]) -> tuple[Array, Array, Array]:
    signs = jnp.where(masks[0::2], 1.0, -1.0).astype(outputs.dtype)
    differences = outputs[0::2] - outputs[1::2]
    num_pairs = len(signs)
    influence = matmul(signs.T, differences) / num_pairs
    spread = jnp.maximum((differences**2).sum(axis=0) - num_pairs * influence**2, 0.0) / max(num_pairs - 1, 1)
    error = jnp.sqrt(spread / num_pairs) if num_pairs > 1 else jnp.full_like(influence, jnp.inf)
    return influence, error, jnp.full((1, 1), max(num_pairs - 1, 1), outputs.dtype)
