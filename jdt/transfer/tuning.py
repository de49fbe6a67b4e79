"""Settings of tuning on frozen features: a linear probe, a residual network, or NMTune (arXiv 2309.17002)."""

import dataclasses
import math
from typing import Literal, get_args

from jdt import checks
from jdt.data.bank import require_scale
from jdt.transfer.nmtune_losses import FORMS, Form, Weights

Method = Literal["linear", "mlp", "nmtune"]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How a head is tuned on frozen features by steps of AdamW, its rate falling to zero along a cosine.

    `linear` trains a linear head on features of images as they are. `mlp` trains a residual network
    `Z = s * MLP(F) + F` below the head, on two augmented views of every image of a batch. `nmtune` does the same with
    three more terms in the loss, in one of two forms: see `jdt.transfer.nmtune_losses`. With all weights zero it is
    `mlp`, bit for bit.

    Every pass goes through the examples in batches of `batch_size`; the incomplete batch that ends a pass is dropped.
    With fewer examples than that a batch holds them all.

    Attributes:
      method: Which of the three.
      form: Which definition of the terms, and whose weights where none are given.
      consistency: Weight of the term that holds on to the frozen features; None for the form's.
      covariance: Weight of the term that decorrelates features; None for the form's.
      dominance: Weight of the term that raises the largest singular values; None for the form's.
      num_dominant: How many singular values that term raises; None for the form's, 1 (paper) or 5 (code).
      epochs: Passes over the examples.
      batch_size: Examples a step, each in two views unless the method is linear.
      learning_rate: Of AdamW at the first step; None for 1e-2 (linear) or 1e-3 (else).
      weight_decay: Of AdamW, on all parameters.
      ratio: Hidden units of the network, as a multiple of the features.
      scale: Initial value of s.
      num_views: Size of the bank of augmented views; 0 shows every image as it is, in both views.
      flip: Whether views are mirrored at random; digits and text should not be.
      crop: Least and largest area of a view, as parts of the image's.
    """

    method: Method = "nmtune"
    form: Form = "paper"
    consistency: float | None = None
    covariance: float | None = None
    dominance: float | None = None
    num_dominant: int | None = None
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    ratio: int = 4
    scale: float = 1.0
    num_views: int = 8
    flip: bool = True
    crop: tuple[float, float] = (0.8, 1.0)

    def __post_init__(self) -> None:
        checks.require_known("tuning method", self.method, get_args(Method))
        checks.require_known("tuning form", self.form, get_args(Form))
        least = {"epochs": 1, "batch_size": 2, "ratio": 1, "num_views": 0, "weight_decay": 0.0}
        least |= {"num_dominant": 1, "consistency": 0.0, "covariance": 0.0, "dominance": 0.0, "learning_rate": 0.0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None:
                checks.require_at_least(f"tuning {name}", value, bound)
                if not math.isfinite(value):
                    raise checks.UserError(f"tuning {name} is {value}, but it must be a finite number.")
        if self.learning_rate == 0:
            raise checks.UserError("tuning learning_rate is 0, with which nothing is learnt: pass for example 1e-3.")
        if not math.isfinite(self.scale):
            raise checks.UserError(f"tuning scale is {self.scale}, but it must be a finite number: pass for example 1.")
        require_scale("tuning crop", self.crop)

    @property
    def weights(self) -> Weights:
        """What the terms of NMTune weigh: all 0 for the other methods."""
        if self.method != "nmtune":
            return Weights(0.0, 0.0, 0.0)
        asked = (self.consistency, self.covariance, self.dominance)
        return Weights(*(
            default if weight is None else weight
            for weight, default in zip(asked, FORMS[self.form].weights, strict=True)
        ))  # fmt: skip

    @property
    def dominant(self) -> int:
        """How many of the largest singular values are raised."""
        return FORMS[self.form].num_dominant if self.num_dominant is None else self.num_dominant

    @property
    def rate(self) -> float:
        """Learning rate of the first step."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-2 if self.method == "linear" else 1e-3

    @property
    def has_network(self) -> bool:
        """Whether a residual network is tuned below the head."""
        return self.method != "linear"

    @property
    def reads_views(self) -> bool:
        """Whether training reads a bank of augmented views."""
        return self.has_network and self.num_views > 0
