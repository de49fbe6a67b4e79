"""A head that was fitted on frozen features, as the head of the network itself: where LP-FT starts."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdt.checks import UserError
from jdt.data import Dataset
from jdt.models import Network
from jdt.train import Ensemble
from jdt.transfer.fixed import FixedFeature, chosen_features, fitted_heads
from jdt.types import Array, Float, Int

_IMAGES = 8  # That the scale of a network's head is found on.


def probe_params(
    tuned: Ensemble,
    features: Float[Array | np.ndarray, "models examples features"],
    train: Dataset,
    settings: FixedFeature,
    rows: Int[np.ndarray, "models chosen"] | None,
) -> dict[str, Any]:
    """Fit a convex head on the frozen features of each model and write it as `params["head"]` of its network.

    The head is for the features as the network has them: how they were standardised is in its weights and bias.
    A network whose head has no bias gets one that was fitted without.

    Args:
      tuned: What the models share on the target, its classes among it.
      features: float32 `[models, examples, features]` of the training split.
      train: Target training split.
      settings: How the heads are fitted.
      rows: Training images of each model; all when None.

    Raises:
      UserError: If the network's head is no dense layer on its features, maybe scaled.
    """
    scale, has_bias = _form_of_head(tuned.network, tuned.image_shape)
    own, labels = chosen_features(features, train, rows)
    head = fitted_heads(tuned, own, labels, len(train.class_names), settings, intercept=has_bias)
    return {"kernel": head.weights / scale, **({"bias": head.bias / scale} if has_bias else {})}


@functools.lru_cache(maxsize=64)  # Asked for every target and setting of a study; each time it compiles the network.
def _form_of_head(network: Network, image_shape: tuple[int, int, int]) -> tuple[float, bool]:
    """By what a network multiplies what its dense head says, and whether that has a bias.

    It is found by asking an untrained one: a module's own head may do anything that its author wrote.
    """
    shapes = network.shapes(image_shape).params["head"]
    if isinstance(shapes, dict) and set(shapes) in ({"kernel"}, {"kernel", "bias"}):
        draw = np.random.default_rng(0)
        head = {name: jnp.asarray(draw.normal(size=leaf.shape), jnp.float32) for name, leaf in shapes.items()}
        fresh = jax.jit(network.init, static_argnums=1)(jax.random.key(0), image_shape)
        images = jax.random.normal(jax.random.key(1), (_IMAGES, *image_shape))
        output = jax.jit(network.apply)(fresh._replace(params={**fresh.params, "head": head}), images)
        said, features = (np.asarray(array, np.float64) for array in output)
        kernel, bias = np.asarray(head["kernel"], np.float64), np.asarray(head.get("bias", 0.0), np.float64)
        if kernel.shape == (features.shape[1], said.shape[1]):
            dense = features @ kernel + bias
            scale = float((said * dense).sum() / np.square(dense).sum())
            if scale and np.allclose(said, scale * dense, rtol=1e-2, atol=1e-3 * np.abs(said).max()):
                return scale, "bias" in head
    raise UserError(
        f"model {network.name} has a head that is no dense layer on its features, so it cannot start from a "
        "fitted one: leave out --full.start probe, or let the model return its features alone, and jdt adds a head."
    )
