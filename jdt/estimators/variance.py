"""How much of the outputs is effects of units and how much is noise, told from the spectrum of the masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt.linalg import matmul
from jdt.types import Array, Float, Int

_RATIOS = np.concatenate([[0.0], np.logspace(-3, 6, 46)])
# Each ratio x stands for the part of (0, 1) around its share of explained variance x / (1 + x).
_EDGES = np.concatenate([[0.0, _RATIOS[1] / 2], np.sqrt(_RATIOS[1:-1] * _RATIOS[2:])])
_PRIOR = np.diff(np.append(_EDGES / (1 + _EDGES), 1.0))
_PRIOR_WEIGHT = 0.1
_STEPS = 300


class Components(NamedTuple):
    """Variances of a random-effects model, in the outputs' unit squared.

    Attributes:
      noise: `[targets]` variance of a row that the units do not explain.
      effect: `[targets]` variance of the units' effects.
    """

    noise: Float[Array, " targets"]
    effect: Float[Array, " targets"]


def variance_components(
    eigen: Float[Array, " rank"],
    squared: Float[Array, "rank targets"],
    beyond: Float[Array, " targets"],
    freedom: int,
    num_independent: Float[Array, ""],
) -> Components:
    """Posterior means of the variances of noise and effects, by empirical Bayes over the targets.

    Effects are N(0, effect) and noise is N(0, noise), so that direction d of the masks carries variance
    noise + eigen_d effect. Given the ratio of the two, the noise variance drops out of the likelihood, which is that of
    residual maximum likelihood (Patterson & Thompson 1971), and one product gives it for a grid of ratios and all
    targets. How ratios are spread over targets is estimated by maximum likelihood over the same grid (Laird 1978),
    because one target's few units cannot tell weak effects from none; each target's posterior follows from that.

    With a single target nothing is shared, and what is left is a uniform prior on the share of explained variance
    (Daniels 1999). It counts for a tenth of a target beside others.

    Args:
      eigen: Squared singular values of the (centred) masks; 0 in directions without masks.
      squared: Squared coordinates of the (centred) outputs in those directions.
      beyond: Sum of squares of the outputs outside of all directions.
      freedom: Rows, less one where an intercept was removed.
      num_independent: How many independent targets these are worth, see `independent_targets`.
    """
    scale = eigen.sum() / jnp.maximum((eigen > 0).sum(), 1)
    ratios = jnp.asarray(_RATIOS, eigen.dtype) / jnp.where(scale > 0, scale, 1.0)
    prior = jnp.asarray(_PRIOR, eigen.dtype)
    shrunk = 1.0 / (1.0 + ratios[:, None] * eigen)  # [ratios, rank]
    squares = beyond + matmul(shrunk, squared)  # [ratios, targets]
    alive = squares.min(axis=0) > 0
    relative = jnp.where(alive, squares / jnp.where(alive, squares[0], 1.0), 1.0)
    log_likelihood = 0.5 * jnp.log(shrunk).sum(axis=1)[:, None] - 0.5 * freedom * jnp.log(relative)
    likelihood = jnp.exp(log_likelihood - log_likelihood.max(axis=0))

    def posterior(spread: Float[Array, " ratios"]) -> Float[Array, "ratios targets"]:
        joint = spread[:, None] * likelihood
        return joint / joint.sum(axis=0)

    def improved(_: Int[Array, ""], spread: Float[Array, " ratios"]) -> Float[Array, " ratios"]:
        found = (posterior(spread) * alive).sum(axis=1) / jnp.maximum(alive.sum(), 1)
        # One target less: a single one must not confirm itself.
        others = jnp.where(alive.any(), num_independent - 1.0, 0.0)
        return (_PRIOR_WEIGHT * prior + others * found) / (_PRIOR_WEIGHT + others)

    probability = posterior(jax.lax.fori_loop(0, _STEPS, improved, prior))
    noise = squares / freedom
    return Components((probability * noise).sum(axis=0), (probability * ratios[:, None] * noise).sum(axis=0))


def independent_targets(values: Float[Array, "rows targets"], freedom: int) -> Float[Array, ""]:
    """How many independent targets these are worth, from their mean squared correlation: copies count once.

    T / (1 + (T - 1) r^2), the design effect of Kish (1965) for squares; 1 / freedom of r^2 is chance.
    """
    norm = jnp.sqrt((values**2).sum(axis=0))
    unit = values / jnp.where(norm > 0, norm, 1.0)
    count = jnp.maximum((norm > 0).sum(), 1)
    gram = matmul(unit, unit.T) if unit.shape[0] < unit.shape[1] else matmul(unit.T, unit)
    between = ((gram**2).sum() - count) / jnp.maximum(count * (count - 1), 1)
    return count / (1.0 + (count - 1) * jnp.clip(between - 1.0 / freedom, 0.0, 1.0))
