"""The published recipes of arXiv 2207.05739 and 2207.02842 as data: one row a target, read in the authors' code.

Sources: those of bias transfer (2207.02842) in section 3.2 of its specification (`dataset_configs/*.yaml`). Of the
other paper, source training in sections 3.2 of the specification (`configs/base_config.yaml`, `src/trainer.py`), target
recipes in its section 3.3. Fixed-feature transfer in jdt fits a convex head to convergence by default and needs no
recipe then; the authors trained by these, the same for fixed-feature (`--head.solver sgd --head.bn adapt`) and
full-network transfer. Unlike theirs, pixels are scaled as in source training.
"""

import dataclasses
import pathlib
from typing import Literal

import numpy as np

import jdt

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class PaperTarget:
    """One row: a target and the recipe that was used for it.

    Attributes:
      dataset: Name for `--target`; `folder:` where TFDS has no such dataset.
      classes: Number of classes.
      epochs: Of transfer training, at batch size 1024, dropping the last batch.
      learning_rate: Peak.
      schedule: `triangle` peaks at epoch 5 and ends at 0; `step5` and `step10` divide by 10 every 5 or 10 epochs.
      train_view: How training images are cut.
      weight_decay: L2 coefficient.
      metric: What the authors report.
      class_weights: Of the training loss.
      train_split: Training split; the authors' images, of those that TFDS has.
      as_stored: Pixels are brought to [0, 1] and neither normalised nor mirrored.
    """

    dataset: str
    classes: int
    epochs: int
    learning_rate: float
    schedule: Literal["triangle", "step5", "step10"]
    train_view: Literal["center", "random-resized", "native", "whole"]
    weight_decay: float
    metric: Literal["accuracy", "per-class accuracy", "AUROC"]
    class_weights: tuple[float, ...] = ()
    train_split: str = "train"
    as_stored: bool = False

    @property
    def recipe(self) -> jdt.train.Recipe:
        """How the authors trained on it: SGD with momentum, whole batches of 1,024, mirrored at random."""
        triangle = self.schedule == "triangle"
        return jdt.train.Recipe(
            epochs=self.epochs,
            batch_size=1024,
            learning_rate=self.learning_rate,
            warmup_epochs=5 if triangle else 0,
            decay="linear" if triangle else "step",
            decay_epochs=10 if self.schedule == "step10" else 5,
            momentum=0.9,
            weight_decay=self.weight_decay,
            flip=not self.as_stored,
            mean=(0.0,) if self.as_stored else IMAGENET_MEAN,
            std=(1.0,) if self.as_stored else IMAGENET_STD,
            drop_last=True,
            class_weights=self.class_weights,
            random_resized=self.train_view == "random-resized",
        )


@dataclasses.dataclass(frozen=True)
class PaperSource:
    """The source dataset of the paper."""

    dataset: str
    classes: int
    test_split: str


PAPER_SOURCE = PaperSource("imagenet2012", 1000, "validation")
"""TFDS has a split `test` as well, whose labels are not public."""


def progressive(first: int, last: int, low: int, high: int, epochs: int) -> tuple[tuple[float, int], ...]:
    """FFCV's progressive resolution, as (first epoch, side in pixels).

    The side in epoch e rises from `low` (e <= first) to `high` (e >= last) along a line, rounded to a multiple of 32,
    halves to the even one (arXiv 2207.05739, its `src/trainer.py`; section 3.2 of the specification).

    >>> progressive(11, 13, 160, 192, epochs=16)
    ((0.0, 160), (12.0, 192))
    """
    sides = [int(np.round(np.interp(epoch, [first, last], [low, high]) / 32)) * 32 for epoch in range(epochs)]
    return tuple((float(epoch), side) for epoch, side in enumerate(sides) if epoch == 0 or side != sides[epoch - 1])


PAPER_SOURCE_RECIPE = jdt.train.Recipe(
    epochs=16,
    batch_size=1024,
    learning_rate=0.5,
    warmup_epochs=2,
    decay="linear",
    momentum=0.9,
    weight_decay=5e-5,
    flip=True,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    drop_last=True,
    random_resized=True,
    resolution=progressive(11, 13, 160, 192, epochs=16),
)
"""ResNet-18, 500 of 1,000 classes; random-resized crops at 160 pixels for epochs 0-11 and 192 for 12-15, test at 224."""

PAPER_EVALUATION = jdt.data.View("center", keep=224 / 256)
"""How the authors cut every image that is not a random crop: sources in tests, targets in training and tests alike."""
CHESTXRAY_WEIGHTS = (3_705 / 78_468, 74_763 / 78_468)
"""Of the classes without and with the finding, each the other's share of the training images."""

# fmt: off
PAPER_TARGETS = (
    #           dataset                      classes epochs  rate   schedule    train_view        decay  metric
    PaperTarget("folder:fgvc_aircraft",          100,    24, 0.30, "triangle", "center",         5e-4, "per-class accuracy"),
    PaperTarget("folder:birdsnap",               500,    15, 0.30, "triangle", "random-resized", 5e-4, "accuracy"),
    PaperTarget("caltech101",                    101,    24, 0.20, "triangle", "center",         5e-4, "per-class accuracy"),
    PaperTarget("folder:caltech256",             257,    14, 0.20, "triangle", "center",         5e-4, "per-class accuracy"),
    PaperTarget("cifar10",                        10,    15, 0.10, "triangle", "native",         5e-4, "accuracy"),
    PaperTarget("cifar100",                      100,    15, 0.10, "triangle", "native",         5e-4, "accuracy"),
    PaperTarget("oxford_flowers102",             102,    50, 0.15, "triangle", "center",         5e-4, "per-class accuracy", train_split="train+validation"),
    PaperTarget("food101",                       101,    15, 0.10, "step5",    "center",         5e-4, "accuracy"),
    PaperTarget("oxford_iiit_pet",                37,    24, 0.10, "triangle", "random-resized", 5e-4, "per-class accuracy"),
    PaperTarget("cars196",                       196,    50, 0.30, "triangle", "random-resized", 5e-4, "accuracy"),
    PaperTarget("sun397/standard-part1-120k",    397,    24, 0.20, "triangle", "random-resized", 5e-4, "accuracy"),
    PaperTarget("folder:chestxray14",              2,     4, 0.01, "step5",    "center",         1e-5, "AUROC", CHESTXRAY_WEIGHTS),
    PaperTarget("imagenet2012",                 1000,    15, 0.01, "step10",   "native",         5e-4, "accuracy"),
)
# fmt: on

PAPER_HEAD_TARGETS = PAPER_TARGETS[:-1]
"""The 12 targets; the last row is the identity check from ImageNet to itself, fixed-feature only."""


BIAS_SOURCE_RECIPE = dataclasses.replace(PAPER_SOURCE_RECIPE, resolution=())
"""Of arXiv 2207.02842: ResNet-18 on ImageNet, clean or biased, random-resized crops at 224 throughout."""

# fmt: off
BIAS_TARGETS = (
    #           dataset                      classes epochs  rate   schedule    train_view        decay  metric
    PaperTarget("folder:fgvc_aircraft",          100,    24, 0.10, "triangle", "center",         5e-4, "per-class accuracy"),
    PaperTarget("folder:birdsnap",               500,    15, 0.30, "triangle", "random-resized", 5e-4, "accuracy"),
    PaperTarget("caltech101",                    101,    24, 0.20, "triangle", "center",         5e-4, "per-class accuracy"),
    PaperTarget("folder:caltech256",             257,    14, 0.20, "triangle", "center",         5e-4, "per-class accuracy"),
    PaperTarget("cifar10",                        10,    15, 0.10, "triangle", "whole",          5e-4, "accuracy"),
    PaperTarget("cifar100",                      100,    15, 0.10, "triangle", "whole",          5e-4, "accuracy"),
    PaperTarget("oxford_flowers102",             102,    50, 0.15, "triangle", "center",         5e-4, "per-class accuracy", train_split="train+validation"),
    PaperTarget("food101",                       101,    15, 0.10, "triangle", "center",         5e-4, "accuracy"),
    PaperTarget("oxford_iiit_pet",                37,    24, 0.10, "triangle", "random-resized", 5e-4, "per-class accuracy"),
    PaperTarget("cars196",                       196,    50, 0.30, "triangle", "random-resized", 5e-4, "accuracy"),
    PaperTarget("sun397/standard-part1-120k",    397,    24, 0.20, "triangle", "random-resized", 5e-4, "accuracy"),
)
"""The 11 targets of arXiv 2207.02842; from scratch CIFAR-10 had a weight decay of 1e-2."""

BIAS_FACES = (
    PaperTarget("celeb_a",                         2,    15, 0.10, "triangle", "whole",          1e-2, "accuracy", as_stored=True),
    PaperTarget("folder:fairface",                 2,    15, 0.10, "triangle", "whole",          5e-4, "accuracy", as_stored=True),
)
"""CelebA as a source, and FairFace under fixed features; whole networks on FairFace had a weight decay of 1e-2."""
# fmt: on

TABLES = {"paper": PAPER_TARGETS, "paper-bias": (*BIAS_TARGETS, *BIAS_FACES)}
"""Rows by the name that `--views` and `--target-recipes` have for them."""


def paper_target(name: str, table: str = "paper") -> PaperTarget | None:
    """The row of a target, or None; its name may also be that of a folder or a version of it.

    >>> [paper_target(name).classes for name in ("folder:/data/birdsnap", "food101:2.0.0", "sun397/tfds")]
    [500, 101, 397]
    """
    rows = {_short_name(row.dataset): row for row in TABLES[table]}
    return rows.get(_short_name(name))


def still_view(name: str, table: str = "paper") -> jdt.data.View:
    """How a target's images are cut for frozen features and in tests.

    CIFAR's 32 pixels are enlarged to 224 by repeating each 7 times, as the authors do on the device: mirroring before
    or after makes no difference to the network. Random crops are for training whole networks alone: a head that is
    fitted to convergence sees one picture of each image, the central one.
    """
    row = paper_target(name, table)
    if row and row.train_view == "whole":
        return jdt.data.View()
    return jdt.data.View("native") if row and row.train_view == "native" and row.classes < 1000 else PAPER_EVALUATION


def _short_name(name: str) -> str:
    if name.startswith("folder:"):
        return pathlib.PurePath(name.removeprefix("folder:")).name
    return name.split(":")[0].split("/")[0]


def paper_recipe(target: str, table: str = "paper") -> jdt.train.Recipe:
    """The published recipe of a target; a folder counts by its own name, wherever it lies.

    Raises:
      UserError: If the paper has no such target.
    """
    row = paper_target(target, table)
    if row is None:
        known = ", ".join(one.dataset for one in TABLES[table])
        raise jdt.UserError(
            f"target-recipes is {table}, which has no target {target!r}; it has {known}: pass a JSON file of your own, or "
            "--target-recipes None for one recipe for all targets."
        )
    return row.recipe
