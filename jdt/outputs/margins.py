"""Per-example outputs of a classifier, the columns that influence is estimated for (arXiv 2207.05739, section 3.4)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jdt.types import Array, Float, Int


class ExampleOutputs(NamedTuple):
    """Outputs of models on examples with known labels.

    Attributes:
      margin: float32 `[models, examples]`: right logit minus the best wrong one, in logits.
      confidence: float32 `[models, examples]`: probability of the true class.
      prediction: int32 `[models, examples]`: class with the largest logit.
      accuracy: float32 `[models]`: share of right predictions.
    """

    margin: Float[Array, "models examples"]
    confidence: Float[Array, "models examples"]
    prediction: Int[Array, "models examples"]
    accuracy: Float[Array, " models"]


@jax.jit
def example_outputs(logits: Float[Array, "models examples classes"], labels: Int[Array, " examples"]) -> ExampleOutputs:
    """Compute every per-example output from logits.

    >>> outputs = example_outputs(jnp.array([[[2.0, 0.5, 1.0]]]), jnp.array([0]))
    >>> outputs.margin.tolist(), outputs.prediction.tolist(), outputs.accuracy.tolist()
    ([[1.0]], [[0]], [1.0])
    """
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    right = jnp.take_along_axis(logits, labels[None, :, None], axis=-1)[..., 0]
    best_wrong = jnp.where(is_label, -jnp.inf, logits).max(axis=-1)
    prediction = logits.argmax(axis=-1).astype(jnp.int32)
    confidence = jnp.exp(right - jax.nn.logsumexp(logits, axis=-1))
    return ExampleOutputs(right - best_wrong, confidence, prediction, (prediction == labels).mean(axis=1))
