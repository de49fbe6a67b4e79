"""What the source models of a run say under their own heads, of any images: forward passes over kept models."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np

from jdt import checks, store
from jdt.data import ImageArray
from jdt.pipeline.source_models import block_variables
from jdt.train import Ensemble, apply_in_batches
from jdt.types import Bool, Float, Int

_AT_ONCE = 4096  # Images: their outputs by a block of models are in memory together.


class OwnOutputs(NamedTuple):
    """What models of one block say of some images.

    Attributes:
      models: int `[models]`: ids of the models whose training did not diverge.
      masks: bool `[models, units]`.
      first: Place of the first of the images.
      probabilities: float32 `[models, images, classes]`.
      features: float32 `[models, images, features]`.
    """

    models: Int[np.ndarray, " models"]
    masks: Bool[np.ndarray, "models units"]
    first: int
    probabilities: Float[np.ndarray, "models images classes"]
    features: Float[np.ndarray, "models images features"]


def own_outputs(
    run: store.Run, ensemble: Ensemble, images: Mapping[str, ImageArray], *, at_once: int = _AT_ONCE
) -> Iterator[tuple[str, OwnOutputs]]:
    """Apply every kept source model of a run, under its own head and in inference.

    Args:
      run: With `save_models`.
      ensemble: What the models share, as it was when they were trained.
      images: uint8 images by any name.
      at_once: Images whose outputs by one block are held together.

    Yields:
      The name of some images, and what the models of one block say of them: block by block, and within one in the order
      of `images`. Of equal models and images it is the same however the run was stopped and resumed.

    Raises:
      UserError: If the run keeps no models, or they are damaged or of another network.
    """
    for record in run.records():
        if not store.parts_of(record):
            raise checks.UserError(f"{run.path} keeps no source models: it was made without --save-models.")
        ids, diverged = np.arange(*record["models"]), record.get("diverged")
        sound = np.array([not (isinstance(diverged, list) and model in diverged) for model in ids.tolist()])
        variables = block_variables(run, record, range(*record["models"]), ensemble.network, ensemble.image_shape)
        masks = run.mask()[np.isin(run.complete, ids)][sound]
        for name, pixels in images.items():
            for first in range(0, len(pixels), at_once):
                part = np.asarray(pixels[first : first + at_once])
                said = apply_in_batches(ensemble, variables, part)
                probabilities = np.asarray(jax.nn.softmax(said.logits, axis=-1), np.float32)[sound]
                features = np.asarray(said.features, np.float32)[sound]
                yield name, OwnOutputs(ids[sound], masks, first, probabilities, features)
