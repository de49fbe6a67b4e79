"""Recipes: how every source model of a study is trained."""

import dataclasses
import math
from typing import Any, Literal, get_args

import jax
import optax

from jdt import checks, config
from jdt.data.views import View

Algorithm = Literal["sgd", "adamw"]
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
      weight_decay: With `sgd` an L2 coefficient on every parameter, added to the gradient. With `adamw` decoupled from
        the gradient, and on kernels alone: parameters with more than one axis, so no bias, no scale of a normalisation,
        no temperature.
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
      algorithm: `sgd` with momentum, or `adamw` (Loshchilov and Hutter 2019, arXiv 1711.05101), which has `betas` and
        `epsilon` instead of `momentum` and `nesterov`.
      betas: Decay of AdamW's averages of the gradient and of its square.
      epsilon: Added to AdamW's root of the mean square.
      clip_norm: Largest norm of a model's whole gradient, which is scaled down to it; None for no limit.
      warmup_steps: Length of the rise in steps, in the place of `warmup_epochs`; 0 for that. Step s of it has
        (s + 1) / `warmup_steps` of the peak, as the published code of arXiv 2302.13602 has it.
      warmup_cap: Most of all steps that `warmup_steps` may take. From 1 on the rise is never adapted, which is that
        code's behaviour: short training ends before the peak.
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
    algorithm: Algorithm = dataclasses.field(default="sgd", metadata=config.LATER)
    betas: tuple[float, float] = dataclasses.field(default=(0.9, 0.999), metadata=config.LATER)
    epsilon: float = dataclasses.field(default=1e-8, metadata=config.LATER)
    clip_norm: float | None = dataclasses.field(default=None, metadata=config.LATER)
    warmup_steps: int = dataclasses.field(default=0, metadata=config.LATER)
    warmup_cap: float = dataclasses.field(default=0.1, metadata=config.LATER)

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
        self._check_optimizer()
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

    def _check_optimizer(self) -> None:
        checks.require_known("algorithm", self.algorithm, get_args(Algorithm))
        checks.require_at_least("warmup-steps", self.warmup_steps, 0)
        if not all(0 <= beta < 1 for beta in self.betas) or not self.epsilon > 0:
            raise checks.UserError(
                f"betas are {self.betas} and epsilon is {self.epsilon}, but betas must be from 0 to below 1 and "
                "epsilon positive: for example 0.9 0.999 and 1e-8."
            )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise checks.UserError(f"clip-norm is {self.clip_norm}, but must be positive: leave it out for no limit.")
        if not self.warmup_cap > 0:
            raise checks.UserError(
                f"warmup-cap is {self.warmup_cap}, but must be positive: 0.1 lets the rise take a tenth of all steps, "
                "1 leaves warmup-steps as they are."
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
        """Learning rate by step: 0 at step 0, the peak after `warmup_epochs`, then the decay.

        With `warmup_steps` it rises from the first step's share instead, and where they are not capped, perhaps to the
        end.
        """
        per_epoch = self.steps_per_epoch(mean_subset_size)
        total = self.num_steps(mean_subset_size)
        if self.warmup_steps == 0:
            rise = min(round(self.warmup_epochs * per_epoch), total - 1)
        elif self.warmup_cap >= 1:
            rise = self.warmup_steps
        else:
            rise = min(self.warmup_steps, math.floor(self.warmup_cap * total))
        fall = max(1, total - rise)
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
        first = self.learning_rate / rise if self.warmup_steps else 0.0
        length = rise - 1 if self.warmup_steps else rise
        before = optax.linear_schedule(first, self.learning_rate, length) if length else optax.constant_schedule(first)
        return optax.join_schedules([before, after], [rise])

    def optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """What turns a model's gradient into its step, by `algorithm`.

        With SGD the decay term joins the gradient before the momentum (the papers' form). A limit on the gradient's
        norm comes before everything else.

        Args:
          schedule: Learning rate by step.
        """
        if self.algorithm == "adamw":
            of_algorithm = [
                optax.adamw(schedule, *self.betas, self.epsilon, weight_decay=self.weight_decay, mask=_kernels)
            ]
        else:
            of_algorithm = [
                optax.add_decayed_weights(self.weight_decay),
                optax.sgd(schedule, momentum=self.momentum, nesterov=self.nesterov),
            ]
        limit = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        return optax.chain(*limit, *of_algorithm)


def _kernels(params: Any) -> Any:
    """Which parameters of one model decoupled decay is for."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
