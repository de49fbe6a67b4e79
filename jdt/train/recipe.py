"""Recipes: how every source model of a study is trained."""

import dataclasses
import math
from typing import Literal, get_args

import optax

from jdt import checks, config
from jdt.data.views import View

Decay = Literal["linear", "cosine", "step"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Optimiser, schedule, augmentation and input scaling, shared by all models of a run.

    One epoch is `fraction` of the source images for every model, whatever the size of its own subset: all models
    take the same number of steps, and each passes through its own members in a fresh order, over and over.

    Attributes:
      epochs: Length of training.
      batch_size: Images a step.
      learning_rate: Peak learning rate.
      warmup_epochs: Linear rise from 0 to the peak.
      decay: After the peak: `linear` or `cosine` to 0, or `step` (times 0.1 every `decay_epochs`).
      decay_epochs: Length of a step of the `step` decay, in epochs.
      momentum: Of SGD.
      nesterov: Whether the momentum looks ahead.
      weight_decay: L2 coefficient on every parameter, added to the gradient.
      label_smoothing: Share of the target probability spread over all classes.
      crop_pad: Zero padding, in pixels, from which a random crop is taken; 0 turns cropping off.
      flip: Whether images are mirrored at random, left to right.
      mean: Per-channel (or one) mean of pixels in [0, 1]; subtracted.
      std: Per-channel (or one) deviation of pixels in [0, 1]; divided by.
      random_resized: Whether images are random-resized crops, cut on the host from stored images of any size; a pass
        shows all models the same crops. For streamed data.
      crop_scale: Least and largest area of such a crop, as parts of the image's.
      resolution: (first epoch, side in pixels), rising: images are that large from that epoch on; test and transfer
        images keep theirs. Empty for one size throughout. For streamed data.
      drop_last: Whether an epoch has whole batches only, as the papers count; otherwise a last part of one counts as
        that part of a step.
      class_weights: Weight of each class in the training loss, whose mean is over weights; none weighs all alike.
    """

    epochs: float = 8.0
    batch_size: int = 128
    learning_rate: float = 0.1
    warmup_epochs: float = 1.0
    decay: Decay = "linear"
    decay_epochs: float = 5.0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    label_smoothing: float = 0.0
    crop_pad: int = 0
    flip: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    random_resized: bool = dataclasses.field(default=False, metadata=config.LATER)
    crop_scale: tuple[float, float] = dataclasses.field(default=(0.08, 1.0), metadata=config.LATER)
    resolution: tuple[tuple[float, int], ...] = dataclasses.field(default=(), metadata=config.LATER)
    drop_last: bool = dataclasses.field(default=False, metadata=config.LATER)
    class_weights: tuple[float, ...] = dataclasses.field(default=(), metadata=config.LATER)

    def __post_init__(self) -> None:
        checks.require_known("decay", self.decay, get_args(Decay))
        checks.require_at_least("batch-size", self.batch_size, 1)
        checks.require_at_least("crop-pad", self.crop_pad, 0)
        checks.require_at_least("warmup-epochs", self.warmup_epochs, 0)
        if not self.epochs > 0:
            raise checks.UserError(f"epochs is {self.epochs}, but training needs a positive number of epochs.")
        if not (self.learning_rate > 0 and min(self.std) > 0):
            raise checks.UserError(
                f"learning-rate is {self.learning_rate} and std is {self.std}, but both must be positive."
            )
        if self.class_weights and not min(self.class_weights) > 0:
            raise checks.UserError(f"class-weights are {self.class_weights}, but all of them must be positive.")
        if self.class_weights and self.label_smoothing:
            raise checks.UserError("class-weights and label-smoothing do not go together: pass one of them.")
        View("random-resized", scale=self.crop_scale)  # Checks it.
        pairs = all(isinstance(pair, tuple) and len(pair) == 2 for pair in self.resolution)
        epochs, sides = ([pair[i] for pair in self.resolution] if pairs else [] for i in (0, 1))
        if self.resolution and (not pairs or epochs[0] != 0 or epochs != sorted(set(epochs)) or min(sides) < 1):
            raise checks.UserError(
                f"resolution is {self.resolution}, but must be pairs of a first epoch and a side in pixels, the epochs "
                "rising from 0: for example 0 160 12 192."
            )

    def require_weights_for(self, name: str, num_classes: int) -> None:
        """Raise unless there is a weight for each class, or none at all."""
        if self.class_weights and len(self.class_weights) != num_classes:
            raise checks.UserError(
                f"class-weights are {len(self.class_weights)} numbers, but {name} has {num_classes} classes: pass one "
                "for each, or none."
            )

    @property
    def is_cut(self) -> bool:
        """Whether training shows images otherwise than they are stored, so that it must read them anew."""
        return self.random_resized or bool(self.resolution)

    @property
    def view(self) -> View | None:
        """The random crops, or None where images are shown as the dataset shows them."""
        return View("random-resized", scale=self.crop_scale) if self.random_resized else None

    def sizes(self, mean_subset_size: float, side: int) -> tuple[tuple[int, int], ...]:
        """Steps from which images have another side: (first step, side in pixels), from step 0 on.

        Args:
          mean_subset_size: Images of the average subset, in an epoch.
          side: Where there is no `resolution`.
        """
        per_epoch = self.steps_per_epoch(mean_subset_size)
        return tuple((round(epoch * per_epoch), size) for epoch, size in self.resolution) or ((0, side),)

    def image_shapes(self, image_shape: tuple[int, int, int]) -> tuple[tuple[int, int, int], ...]:
        """Shapes of the images in training, the largest first.

        Args:
          image_shape: (height, width, channels) in inference, and in training where there is no `resolution`.
        """
        sides = sorted({side for _, side in self.resolution}, reverse=True)
        return tuple((side, side, image_shape[2]) for side in sides) or (image_shape,)

    def steps_per_epoch(self, mean_subset_size: float) -> float:
        """Optimiser steps in one epoch of the average subset, rounded down where the last batch is dropped."""
        steps = mean_subset_size / self.batch_size
        return max(1.0, math.floor(steps) if self.drop_last else steps)

    def num_steps(self, mean_subset_size: float) -> int:
        """Optimiser steps of the whole training."""
        return max(1, round(self.epochs * self.steps_per_epoch(mean_subset_size)))

    def schedule(self, mean_subset_size: float) -> optax.Schedule:
        """Learning rate by step: 0 at step 0, the peak after `warmup_epochs`, then the decay."""
        per_epoch = self.steps_per_epoch(mean_subset_size)
        total = self.num_steps(mean_subset_size)
        rise = min(round(self.warmup_epochs * per_epoch), total - 1)
        fall = total - rise
        match self.decay:
            case "linear":
                after = optax.linear_schedule(self.learning_rate, 0.0, fall)
            case "cosine":
                after = optax.cosine_decay_schedule(self.learning_rate, fall)
            case "step":
                after = optax.exponential_decay(
                    self.learning_rate, max(1, round(self.decay_epochs * per_epoch)), 0.1, staircase=True
                )
        if rise == 0:
            return after
        return optax.join_schedules([optax.linear_schedule(0.0, self.learning_rate, rise), after], [rise])

    def optimizer(self, mean_subset_size: float) -> optax.GradientTransformation:
        """SGD with momentum; the decay term joins the gradient before the momentum (the papers' form)."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.sgd(self.schedule(mean_subset_size), momentum=self.momentum, nesterov=self.nesterov),
        )
