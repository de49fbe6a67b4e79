"""What a report shows, as plain values: the page is drawn from these and from nothing else."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdt.estimators import Influences
from jdt.evaluate import ReliabilityCurve
from jdt.types import Float, Int, UInt8

SHARE, DIFFERENCE = "share", "difference of shares"
"""Units of key figures that are shown in per cent, and in percentage points."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A key figure with its interval, as `summary.json` keeps it.

    Attributes:
      value: The figure.
      low: Lower end of its 95 % interval, or None where there is none.
      high: Upper end, or None.
      n: How many models (or draws) it rests on.
      unit: Of `value`, e.g. "accuracy", "models/s", "AUROC".
      text: One sentence that says what it is.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    unit: str
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class EstimatorFindings:
    """What one estimator found on one target.

    Attributes:
      classes: Influence of every unit on every target class (the mean output of its test images).
      task: Influence of every unit on the whole task: one column.
      reliability: Split-half reliability over units, of class-level influence, at this number of models.
      growth: The same at fewer models; may hold no sizes.
      models_needed: How many models would have a high reliability; infinite where nothing was reliable.
      significant: How many influences are beyond noise: `task`, of units on the whole task, and `class`, of units on
        target classes. `text` continues the number. Empty where there is no z.
      z_variance: Variance of class-level z over units and classes: 1 is pure noise; None where there is no z.
    """

    classes: Influences
    task: Influences
    reliability: Figure
    growth: ReliabilityCurve
    models_needed: Figure
    significant: Mapping[str, Figure]
    z_variance: Figure | None


@dataclasses.dataclass(frozen=True, eq=False)
class PlantedTruth:
    """Whether the truth that was planted in the data was found.

    Attributes:
      question: What was asked, e.g. "do upright source classes help more than scrambled ones?".
      auroc: Area under the ROC curve of task-level influence.
      control: The same with mask rows permuted: mean over permutations, with their 2.5 and 97.5 % quantiles.
      passed: Whether the truth was found and the control stayed at chance.
      kinds: Kind of every unit, in unit order, e.g. "upright".
    """

    question: str
    auroc: Figure
    control: Figure
    passed: bool
    kinds: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TargetFindings:
    """Everything found for one target in one transfer mode.

    Attributes:
      target: Name of the target.
      mode: `fixed` or `full`.
      output: Which output the influences are of: `confidence` or `margin`.
      accuracy: Target accuracy of every model, `[models]`, in [0, 1].
      random_accuracy: Target accuracy of models that never saw the source, `[models]`: untrained features, or training
        from scratch.
      estimators: Findings by estimator, the one to show first first.
      class_images: A few test images of every target class: class name -> uint8 `[count, height, width, channels]`.
      pair_correlation: Correlation of outputs within antithetic pairs, raw and residual; empty for other designs.
      truth: Planted truth, where there is one.
      train_accuracy: Accuracy of every model on the images that it was transferred with, `[models]`; none where the run
        does not hold it.
      metrics: What tells more than accuracy does on this target, by name: `auroc` where there are two classes,
        `per_class_accuracy` where classes have different numbers of test images.
    """

    target: str
    mode: str
    output: str
    accuracy: Float[np.ndarray, " models"]
    random_accuracy: Float[np.ndarray, " some"]
    estimators: Mapping[str, EstimatorFindings]
    class_images: Mapping[str, UInt8[np.ndarray, "count height width channels"]]
    pair_correlation: Mapping[str, Figure]
    truth: PlantedTruth | None
    train_accuracy: Float[np.ndarray, " these"] = dataclasses.field(default_factory=lambda: np.empty(0, np.float32))
    metrics: Mapping[str, Figure] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Content:
    """The whole page.

    Attributes:
      title: Of the page, e.g. "tiny_imagenet32 -> cifar10_32".
      relative: Whether influences are relative to the average unit (subsets of one size).
      warnings: What the reader must know before believing a number; shown first.
      targets: One section a target and mode.
      unit_images: A few images of every source unit: unit name -> uint8 `[count, height, width, channels]`.
      figures: Key figures of the run by name, e.g. seconds per model.
      provenance: Flat name -> value: command, config, versions, device, commit.
    """

    title: str
    relative: bool
    warnings: tuple[str, ...]
    targets: tuple[TargetFindings, ...]
    unit_images: Mapping[str, UInt8[np.ndarray, "count height width channels"]]
    figures: Mapping[str, Figure]
    provenance: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Counterfactual:
    """Target accuracy of models that were trained anew without some source units (arXiv 2207.05739, section 3.7).

    Attributes:
      target: Name of the target.
      mode: `fixed` or `full`.
      subject: What the units were ranked for: the whole target, or one class of it.
      ranked_by: In words, e.g. "ridge influence on confidence".
      num_units: Units that there are.
      removed: How many units are removed at each point, ascending, from 0 on.
      arms: Accuracy of every retrained model on the images that report, by arm: `bottom` (most harmful units removed),
        `top` (most helpful), `random`, `hand-picked`. NaN where an arm has no such point. Seeds are the same in all
        arms, so differences are paired.
      optimistic: The same on the images that ranked the units: too good for `bottom` by construction.
      images: How many test images report, and how many ranked.
      figures: Differences and best points with their intervals, by name.
      order: Names of all units, the most harmful first.
    """

    target: str
    mode: str
    subject: str
    ranked_by: str
    num_units: int
    removed: Int[np.ndarray, " points"]
    arms: Mapping[str, Float[np.ndarray, "points seeds"]]
    optimistic: Mapping[str, Float[np.ndarray, "points seeds"]]
    images: tuple[int, int]
    figures: Mapping[str, Figure]
    order: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Mover:
    """Something that moves, or is moved by, the subject of a case.

    Attributes:
      name: Of a source unit, or of a target class or image.
      images: A few images of it, or one.
      influence: Change of the output when the unit is included, in the output's own unit.
      low, high: 95 % interval; None where the estimator gives none.
      z: Influence over its sampling deviation; None where there is none.
      note: What else is to be said, e.g. "labelled ship, predicted truck"; may be empty.
    """

    name: str
    images: UInt8[np.ndarray, "count height width channels"]
    influence: float
    low: float | None
    high: float | None
    z: float | None
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One question put to the influences: what moves this class or image, or what does this unit move?

    Attributes:
      kind: `class`, `example`, `unit`, `subpopulation` or `failure`.
      title: E.g. "test image 17: a dog, taken for a cat by 61 % of the models".
      text: What is shown, and what to make of it, in a sentence or two.
      images: Of the subject.
      helps: What moves it up (or what it moves up), strongest first.
      harms: What moves it down, strongest first.
      output: Which output the influences are of.
      figures: E.g. what retraining without the unit to blame changed.
    """

    kind: str
    title: str
    text: str
    images: UInt8[np.ndarray, "count height width channels"]
    helps: tuple[Mover, ...]
    harms: tuple[Mover, ...]
    output: str
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Suspect:
    """A source image beside the target image that it is suspected to leak into, or to mislead.

    Attributes:
      source: What the source image is: its number and its class.
      target: What the target image is: its number, its class, and what models take it for.
      source_image: uint8 `[height, width, channels]`.
      target_image: Likewise.
      influence: Of the source image on the output of the target image.
      low, high: 95 % interval; None where the estimator gives none.
      z: Influence over its sampling deviation; None where there is none.
      rank: Place of this source image among all, 1 for the most helpful (leakage) or most harmful (misleading).
      similarity: Perceptual similarity of the two images, from 0 to 1.
      verdict: What influence and similarity say together, e.g. "both: a copy".
      lead: Of the first in rank: how far its influence is beyond that of the next; None of others.
    """

    source: str
    target: str
    source_image: UInt8[np.ndarray, "height width channels"]
    target_image: UInt8[np.ndarray, "height width channels"]
    influence: float
    low: float | None
    high: float | None
    z: float | None
    rank: int
    similarity: float
    verdict: str
    lead: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Suspects:
    """A table of suspects of one kind, the most suspect first.

    Attributes:
      kind: `leakage` or `misleading`.
      text: How they were found, in a sentence or two.
      output: Which output the influences are of.
      rows: The suspects.
      figures: E.g. how many are suspected by both, or how many of the planted ones were found.
    """

    kind: str
    text: str
    output: str
    rows: tuple[Suspect, ...]
    figures: Mapping[str, Figure]
