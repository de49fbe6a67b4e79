"""Full-network transfer: every source model goes on training on the target, through the ensemble engine."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks, config
from jdt.data import Dataset, as_shown
from jdt.keys import key_for
from jdt.models import Variables
from jdt.train import (
    SUPERVISED,
    Ensemble,
    Pool,
    Recipe,
    Statistics,
    apply_in_batches,
    initial_variables,
    source_data,
    train,
)
from jdt.transfer.fixed import TUNING, FixedFeature, FrozenFeatures
from jdt.transfer.probe import probe_params
from jdt.types import Bool, Float, Int

HeadStart = Literal["random", "probe"]

_MEASURED_AT_ONCE = 8000  # Training images whose outputs are on a device together.


@dataclasses.dataclass(frozen=True)
class FullNetwork:
    """How whole networks are fine-tuned.

    Attributes:
      recipe: Of training on the target. Pixels are scaled as in source training, whatever it says.
      bn: `adapt` trains in training mode: BatchNorm's statistics move to the target; `frozen` keeps those of the source
        model and trains in inference mode, without dropout.
      start: How heads start: at `random`, or as the `probe`, the head that is fitted on the frozen features of the same
        training images (LP-FT; arXiv 2302.13602, section 3.2 of its specification).
      probe: How that head is fitted.
    """

    recipe: Recipe = dataclasses.field(default_factory=lambda: TUNING)
    bn: Statistics = dataclasses.field(default="adapt", metadata=config.LATER)
    start: HeadStart = dataclasses.field(default="random", metadata=config.LATER)
    probe: FixedFeature = dataclasses.field(default_factory=FixedFeature, metadata=config.LATER)

    def __post_init__(self) -> None:
        checks.require_known("full bn", self.bn, get_args(Statistics))
        checks.require_known("full start", self.start, get_args(HeadStart))
        if self.probe.solver != "convex":
            raise checks.UserError(
                f"full probe solver is {self.probe.solver}, but networks start from a convex head: leave it out."
            )
        self.probe.check()


class FineTuned(NamedTuple):
    """A block of models that were trained on one target, whole or their heads alone.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      loss: float32 `[models]`, mean training loss of the last epoch.
      finite: bool `[models]`: False marks a model that diverged.
      train_accuracy: float32 `[models]`, on the training images.
    """

    logits: Float[jax.Array | np.ndarray, "models examples classes"]
    loss: Float[np.ndarray, " models"]
    finite: Bool[np.ndarray, " models"]
    train_accuracy: Float[np.ndarray, " models"]


def transfer_full(
    ensemble: Ensemble,
    variables: Variables,
    training: Dataset,
    test: Dataset,
    settings: FullNetwork | FixedFeature,
    *,
    target: str,
    randomness_ids: Int[np.ndarray, " models"],
    seed: int,
    measured: Dataset | None = None,
    rows: Int[np.ndarray, "models chosen"] | None = None,
    features_of: FrozenFeatures | None = None,
) -> FineTuned:
    """Train every model of a block on a target by a recipe (arXiv 2207.05739, appendix; its `src/trainer.py`).

    Each network keeps everything but its head, which starts anew with the target's classes, or as the head that was
    fitted on its frozen features (`FullNetwork.start`). Then all parameters train, or with the settings of fixed
    features the head alone, whatever their solver.

    Args:
      ensemble: What the source models share.
      variables: Of the source models, stacked on a leading models axis.
      training: Target training split; every model sees all of it, or its own `rows`. Streamed where the recipe cuts
        images.
      test: Target test split, with the same classes.
      settings: How to train.
      target: The target's name, which its randomness derives from.
      randomness_ids: `[models]` ids from which heads, batches and augmentation derive.
      seed: Root seed of the study.
      measured: What the training accuracy is measured on; the training split when None. With `rows` these very images
        are taken from it.
      rows: Training images of each model, as `jdt.transfer.drawn_rows` has them; all of them when None.
      features_of: Features of these models that are there already, for a start from a fitted head; asked for
        `measured`.

    Raises:
      UserError: If the recipe weighs another number of classes, or a network's head cannot start from a fitted one.
    """
    shown = training if measured is None else measured
    tuned = tuned_ensemble(ensemble, training, settings, None if rows is None else rows.shape[1])
    own_seed = int(jax.random.bits(key_for(seed, "transfer", zlib.crc32(target.encode())), dtype=jnp.uint32) >> 1)
    if isinstance(settings, FullNetwork) and settings.start == "probe":
        features_of = features_of or FrozenFeatures(ensemble, variables)
        head = probe_params(tuned, features_of.of(shown), shown, settings.probe, rows)
    else:
        head = initial_variables(tuned, own_seed, randomness_ids).params["head"]
    params: Mapping = {**ensemble.of_network(variables).params, "head": head}
    data = Pool(training, len(training)) if tuned.recipe.is_cut else source_data(training)
    members = np.ones((len(randomness_ids), len(training)), bool)
    if rows is not None:
        members[:] = False
        np.put_along_axis(members, rows, True, axis=1)
    start = Variables(params, variables.state)
    trained = train(tuned, data, members, randomness_ids, seed=own_seed, start=start)
    return FineTuned(
        apply_in_batches(tuned, trained.variables, as_shown(test).images).logits,
        trained.loss,
        trained.finite,
        _accuracy(tuned, trained.variables, as_shown(shown), rows),
    )


def _accuracy(
    ensemble: Ensemble, variables: Variables, data: Dataset, rows: Int[np.ndarray, "models chosen"] | None
) -> Float[np.ndarray, " models"]:
    """Share of right predictions; no more than some outputs are on the device, which has no room to spare for them.

    With `rows` it is that on each model's own images.
    """
    if rows is not None:  # Nothing is computed for images that no model of the block was trained on.
        seen, rows = np.unique(rows, return_inverse=True)
        data, rows = data.part(seen), rows.reshape(len(jax.tree.leaves(variables)[0]), -1)
    labels, right = np.asarray(data.labels), []
    for start in range(0, len(data), _MEASURED_AT_ONCE):
        part = slice(start, start + _MEASURED_AT_ONCE)
        right.append(
            np.asarray(apply_in_batches(ensemble, variables, data.images[part]).logits.argmax(-1)) == labels[part]
        )
    found = np.concatenate(right, axis=1)
    own = found if rows is None else np.take_along_axis(found, rows, axis=1)
    return own.mean(axis=1).astype(np.float32)


def tuned_ensemble(
    ensemble: Ensemble, training: Dataset, settings: FullNetwork | FixedFeature, num_examples: int | None = None
) -> Ensemble:
    """What the models of a block share while they are trained on a target.

    Training on a target is supervised whatever the source models were trained for, and has no parameters of theirs.
    A target that is smaller than a batch makes the batch as small: see `Ensemble.batch_size`.

    Args:
      ensemble: What the source models share.
      training: Target training split.
      settings: How to train: whole networks, or with the settings of fixed features their heads.
      num_examples: Training images of each model; the whole split when None.

    Raises:
      UserError: If the recipe weighs another number of classes.
    """
    settings.recipe.require_weights_for(training.name, len(training.class_names))
    count = len(training) if num_examples is None else num_examples
    return dataclasses.replace(
        ensemble,
        network=ensemble.network.with_classes(len(training.class_names)),
        recipe=dataclasses.replace(settings.recipe, mean=ensemble.recipe.mean, std=ensemble.recipe.std),
        mean_subset_size=float(count),
        smallest_subset=count,
        trainable="head" if isinstance(settings, FixedFeature) else "all",
        statistics=settings.bn,
        objective=SUPERVISED,
    )
