"""The convex head: multinomial logistic regression with an L2 penalty, solved to convergence."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jdt.types import Array, Float, Int

matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Head(NamedTuple):
    """A fitted head for raw (not standardised) features.

    Attributes:
      weights: float32 `[features, classes]`.
      bias: float32 `[classes]`.
      gradient_norm: Largest absolute entry of the objective's gradient at the solution, in standardised features.
      iterations: Solver steps taken.
    """

    weights: Float[Array, "*models features classes"]
    bias: Float[Array, "*models classes"]
    gradient_norm: Float[Array, "*models"]
    iterations: Int[Array, "*models"]

    def logits(self, features: Float[Array, "examples features"]) -> Float[Array, "examples classes"]:
        """Apply the head of one model."""
        return matmul(features, self.weights) + self.bias


def fit_head(
    features: Float[Array, "examples features"],
    labels: Int[Array, " examples"],
    *,
    num_classes: int,
    inverse_penalty: float = 1.0,
    tolerance: float = 1e-6,
    max_iterations: int = 300,
    intercept: bool = True,
) -> Head:
    r"""Fit a multinomial logistic head on frozen features.

    Minimises, over weights W and an unpenalised bias b on standardised features x,
    `mean_i CE(W^T x_i + b, y_i) + |W|^2 / (2 n C)`: scikit-learn's `LogisticRegression(C=inverse_penalty)`.
    L-BFGS (Liu and Nocedal 1989, through optax) runs in coordinates in which the penalised second moment of the
    features is the identity, which takes the features' conditioning out of the problem.

    Args:
      features: float32 `[examples, features]`.
      labels: int32 `[examples]`.
      num_classes: Number of classes, present among `labels` or not.
      inverse_penalty: C; larger is less regularised.
      tolerance: Stop when the gradient's largest entry is below it.
      max_iterations: Stop there in any case; `gradient_norm` tells how far it got.
      intercept: Whether there is a bias; without one it is zero, and features are scaled by their root mean square
        instead of being standardised.

    Returns:
      The head, mapped back to raw features.
    """
    count, width = features.shape
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    if not intercept:
        mean, deviation = jnp.zeros_like(mean), jnp.sqrt(jnp.square(features).mean(axis=0))
    scale = jnp.where(deviation > 1e-6 * jnp.maximum(jnp.abs(mean), 1.0), deviation, 1.0)
    x = (features - mean) / scale
    decay = 1.0 / (count * inverse_penalty)
    # A feature's curvature is at most its second moment plus the penalty: whitening by both leaves curvatures near 1.
    values, vectors = jnp.linalg.eigh(matmul(x.T, x) / count)
    whitening = vectors / jnp.sqrt(jnp.maximum(values, 0.0) + 4.0 * decay + 1e-7)
    z = matmul(x, whitening)
    penalty = decay * matmul(whitening.T, whitening)

    def objective(params: tuple[Array, Array]) -> Float[Array, ""]:
        weights, bias = params
        logits = matmul(z, weights) + bias if intercept else matmul(z, weights)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss + 0.5 * jnp.sum(weights * matmul(penalty, weights))

    start = (jnp.zeros((width, num_classes), x.dtype), jnp.zeros(num_classes, x.dtype))
    (weights, bias), gradient_norm, iterations = _minimise(objective, start, tolerance, max_iterations)
    raw = matmul(whitening, weights) / scale[:, None]
    return Head(raw, bias - matmul(mean, raw), gradient_norm, iterations)


def _minimise(objective: Any, start: Any, tolerance: float, max_iterations: int) -> tuple[Any, Array, Array]:
    solver = optax.lbfgs(memory_size=10)
    value_and_grad = optax.value_and_grad_from_state(objective)

    def largest(tree: Any) -> Array:
        return functools.reduce(jnp.maximum, [jnp.abs(leaf).max() for leaf in jax.tree.leaves(tree)])

    def unfinished(carry: tuple[Any, Any, Array]) -> Array:
        _, state, iteration = carry
        gradient = optax.tree.get(state, "grad")
        return (iteration == 0) | ((iteration < max_iterations) & (largest(gradient) > tolerance))

    def step(carry: tuple[Any, Any, Array]) -> tuple[Any, Any, Array]:
        params, state, iteration = carry
        value, gradient = value_and_grad(params, state=state)
        updates, state = solver.update(gradient, state, params, value=value, grad=gradient, value_fn=objective)
        return optax.apply_updates(params, updates), state, iteration + 1

    params, state, iterations = jax.lax.while_loop(unfinished, step, (start, solver.init(start), jnp.asarray(0)))
    return params, largest(optax.tree.get(state, "grad")), iterations
