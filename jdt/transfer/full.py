"""Full-network transfer: every source model goes on training on the target, through the ensemble engine."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jdt.data import Dataset
from jdt.keys import key_for
from jdt.models import Variables
from jdt.train import Ensemble, Pool, Recipe, SourceData, apply_in_batches, initial_variables, train
from jdt.types import Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class FullNetwork:
    """How whole networks are fine-tuned.

    Attributes:
      recipe: Of training on the target. Pixels are scaled as in source training, whatever it says.
    """

    recipe: Recipe = dataclasses.field(
        default_factory=lambda: Recipe(epochs=10, batch_size=64, learning_rate=0.02, warmup_epochs=2)
    )


class FineTuned(NamedTuple):
    """A block of fine-tuned models on one target.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      loss: float32 `[models]`, mean training loss of the last epoch.
      finite: bool `[models]`: False marks a model that diverged.
    """

    logits: Float[jax.Array | np.ndarray, "models examples classes"]
    loss: Float[np.ndarray, " models"]
    finite: Bool[np.ndarray, " models"]


def transfer_full(
    ensemble: Ensemble,
    variables: Variables,
    training: Dataset,
    test: Dataset,
    settings: FullNetwork,
    *,
    target: str,
    randomness_ids: Int[np.ndarray, " models"],
    seed: int,
) -> FineTuned:
    """Fine-tune every model of a block on a target (arXiv 2207.05739, appendix; its `src/trainer.py`).

    Each network keeps everything but its head, which starts anew with the target's classes; all parameters train.

    Args:
      ensemble: What the source models share.
      variables: Of the source models, stacked on a leading models axis.
      training: Target training split; every model sees all of it. Streamed where the recipe cuts images.
      test: Target test split, with the same classes.
      settings: How to fine-tune.
      target: The target's name, which its randomness derives from.
      randomness_ids: `[models]` ids from which heads, batches and augmentation derive.
      seed: Root seed of the study.
    """
    tuned = tuned_ensemble(ensemble, training, settings)
    own_seed = int(jax.random.bits(key_for(seed, "transfer", zlib.crc32(target.encode())), dtype=jnp.uint32) >> 1)
    fresh = initial_variables(tuned, own_seed, randomness_ids)
    params: Mapping = {**variables.params, "head": fresh.params["head"]}
    if tuned.recipe.is_cut:
        data = Pool(training, len(training))
    else:
        data = SourceData(np.asarray(training.images), np.asarray(training.labels))  # pyright: ignore[reportArgumentType]
    everything = np.ones((len(randomness_ids), len(training)), bool)
    start = Variables(params, variables.state)
    trained = train(tuned, data, everything, randomness_ids, seed=own_seed, start=start)
    return FineTuned(apply_in_batches(tuned, trained.variables, test.images).logits, trained.loss, trained.finite)


def tuned_ensemble(ensemble: Ensemble, training: Dataset, settings: FullNetwork) -> Ensemble:
    """What the fine-tuned models of a block share.

    Args:
      ensemble: What the source models share.
      training: Target training split.
      settings: How to fine-tune.
    """
    return dataclasses.replace(
        ensemble,
        network=ensemble.network.with_classes(len(training.class_names)),
        recipe=dataclasses.replace(settings.recipe, mean=ensemble.recipe.mean, std=ensemble.recipe.std),
        mean_subset_size=float(len(training)),
        smallest_subset=len(training),
    )
