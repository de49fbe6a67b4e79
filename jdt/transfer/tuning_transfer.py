"""Transfer with tuned heads: the frozen features of a block of models, and a head tuned on them for each."""

import math
import zlib
from typing import NamedTuple

import numpy as np

from jdt.data import Dataset, augmented_views
from jdt.devices import host_memory
from jdt.models import Variables
from jdt.train import Ensemble
from jdt.transfer.fixed import FrozenFeatures, chosen_features, own_rows
from jdt.transfer.tuning import Tuning
from jdt.transfer.tuning_loop import Sharing, apply_heads, tune_heads
from jdt.types import AnyArray, Bool, Float, Int


class TunedTransfer(NamedTuple):
    """A block of models on one target, under tuned heads.

    Attributes:
      logits: float32 `[models, examples, classes]` on the target's test images.
      loss: float32 `[models]`, mean training loss of the last pass, all terms included.
      finite: bool `[models]`: False marks a model that diverged, or whose features are not finite.
      train_accuracy: float32 `[models]`, on the training images as they are.
      features: float32 `[models, examples, features]` that the head reads on the test images: what the residual
        network makes of the frozen features, or these themselves under a linear probe.
    """

    logits: Float[AnyArray, "models examples classes"]
    loss: Float[AnyArray, " models"]
    finite: Bool[AnyArray, " models"]
    train_accuracy: Float[AnyArray, " models"]
    features: Float[AnyArray, "models examples features"]


def transfer_tuned(
    ensemble: Ensemble,
    variables: Variables,
    train: Dataset,
    test: Dataset,
    settings: Tuning,
    *,
    target: str,
    randomness_ids: Int[np.ndarray, " models"],
    seed: int,
    features_of: FrozenFeatures | None = None,
    bank: Dataset | None = None,
    rows: Int[np.ndarray, "models chosen"] | None = None,
) -> TunedTransfer:
    """Tune a head for every model of a block on its frozen features (arXiv 2309.17002).

    Args:
      ensemble: What the source models share.
      variables: Of the source models, stacked on a leading models axis.
      train: Target training split.
      test: Target test split, with the same classes.
      settings: How to tune.
      target: The target's name, which its randomness derives from.
      randomness_ids: `[models]` ids from which heads, batches and draws of views derive.
      seed: Root seed of the study, which the bank of views derives from as well.
      features_of: Features of these models that are there already. Asked for `train` and `test`, and for the bank
        where `settings.reads_views`.
      bank: What `view_bank` made of these settings, target and seed, where it is there already.
      rows: Training images of each model, as `jdt.transfer.drawn_rows` has them: of as many of each class, class by
        class. All of them when None.
    """
    features_of = features_of or FrozenFeatures(ensemble, variables)
    features, labels = chosen_features(features_of.of(train), train, rows)
    if (labels != labels[0]).any():
        raise ValueError("models have other labels in the same places, but heads are tuned on the same for all.")
    test_features, views = features_of.of(test), None
    bank = view_bank(train, settings, seed) if bank is None else bank
    if bank is not None and settings.reads_views:
        views = features_of.of(bank)
        views = views.reshape(len(views), settings.num_views, len(train), -1)
        if rows is not None:
            views = own_rows(views, rows[:, None, :, None], axis=2)
    num_models = len(features)
    sharing = Sharing(ensemble.num_devices, ensemble.waves(num_models), ensemble.plan.layout == "vmapped")
    tuned = tune_heads(
        features, labels[0], views, settings,
        num_classes=len(train.class_names), seed=seed, target=zlib.crc32(target.encode()),
        randomness_ids=np.asarray(randomness_ids), sharing=sharing,
    )  # fmt: skip
    logits, read = apply_heads(tuned.head, test_features, sharing)
    return TunedTransfer(logits, tuned.history.loss[:, -1], tuned.finite, tuned.train_accuracy, read)


def view_bank(train: Dataset, settings: Tuning, seed: int) -> Dataset | None:
    """The bank of augmented views that tuning on a target reads, or None where it reads none.

    It depends on the target and the seed of the study, not on a model: one bank serves all models and all methods with
    the same number of views.
    """
    if not settings.reads_views:
        return None
    return augmented_views(train, settings.num_views, seed=seed, flip=settings.flip, scale=settings.crop)


class ViewBanks:
    """Banks of augmented views of a study, each made once for all blocks of models, methods and labels of its images.

    Args:
      seed: Root seed of the study.
      num_bytes: What banks may take together, a quarter of the host's memory when None; those beyond are made anew
        whenever they are asked for.
    """

    def __init__(self, seed: int, num_bytes: float | None = None) -> None:
        self._seed = seed
        self._free = (host_memory() or math.inf) / 4 if num_bytes is None else num_bytes
        # Images stand beside the bank of theirs: while they are kept, nothing else has their address.
        self._kept: dict[tuple[object, ...], tuple[Dataset, Dataset]] = {}

    def of(self, train: Dataset, settings: Tuning) -> Dataset | None:
        """The bank of a training split, as `view_bank` makes it; None where the settings read none.

        Splits that hold the very same images, such as one with other labels, share a bank, whose labels are those of
        the split that asked first: tuning reads labels from the split itself.
        """
        if not settings.reads_views:
            return None
        key = (id(train.images), id(train.stamps), settings.num_views, settings.flip, settings.crop)
        if key in self._kept:
            return self._kept[key][1]
        bank = view_bank(train, settings, self._seed)
        assert bank is not None  # The settings read views.
        size = np.asarray(bank.images).nbytes
        if size <= self._free:
            self._free -= size
            self._kept[key] = train, bank
        return bank
