"""What the page shows of a study of pre-training data, as plain values (arXiv 2302.13602).

Accuracies are shares: 0.43 is shown as 43 %. Differences of accuracies are differences of shares, shown in percentage
points. A figure that is NaN was not measured and is shown as such; one without an interval (`low` and `high` None), as
of a log of somebody else's runs, is shown without one. *Shots* are training images of each class of the target, `ALL`
where all of them are used. A *source* is what models were pre-trained on, a *method* how ("supervised", "simclr",
"clip"), a *transfer* what happens on the target ("LP", "FT", "LP-FT", "prototype", "zero-shot").
"""

import dataclasses
from collections.abc import Mapping

from jdt.report.content import DIFFERENCE as DIFFERENCE
from jdt.report.content import SHARE as SHARE
from jdt.report.content import Figure
from jdt.report.requirements import Requirement

ALL = None
"""Shots: all training images of the target."""
Shots = int | None
SCRATCH = "scratch"
"""The source of models that were trained on the target alone: grey in every figure, and in no spread."""


@dataclasses.dataclass(frozen=True)
class PretrainingSource:
    """What a source is.

    Attributes:
      name: As everywhere else in the content.
      text: What it holds, e.g. "animals, 40 % of the labels wrong"; may be empty.
      images: How many; None where that is not known, 0 of `SCRATCH`.
    """

    name: str
    text: str = ""
    images: int | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingAccuracy:
    """Accuracy on one target of one source, method and transfer, by shots.

    Attributes:
      method: E.g. "simclr".
      source: E.g. "near".
      target: Its name, e.g. "cifar10_32".
      transfer: E.g. "LP".
      accuracy: By shots; what is missing was not measured. `Figure.n` is how many runs (seeds times draws) it rests on.
    """

    method: str
    source: str
    target: str
    transfer: str
    accuracy: Mapping[Shots, Figure]


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingSpread:
    """How far sources of equal size are apart on one target, by shots.

    Attributes:
      target, method, transfer: As in `PretrainingAccuracy`.
      spread: Accuracy of the best source minus that of the worst; a difference of shares.
      relative: The same over the accuracy of the best source; a share.
      pairwise: Mean absolute difference between two sources; a difference of shares. May be empty.
      null: Spread where there is nothing but noise (one source with other seeds): `value` its middle, `low` and `high`
        the ends of its 95 % band. May be empty.
      best, worst: Names of the sources that are apart so far. May be empty.
      left: Spread with all images over the largest one at few shots: 1 is no fade, 0 is all gone; None where nobody
        asked.
      faded: Largest spread at few shots minus that with all images; a difference of shares, or None.
    """

    target: str
    method: str
    transfer: str
    spread: Mapping[Shots, Figure]
    relative: Mapping[Shots, Figure] = dataclasses.field(default_factory=dict)
    pairwise: Mapping[Shots, Figure] = dataclasses.field(default_factory=dict)
    null: Mapping[Shots, Figure] = dataclasses.field(default_factory=dict)
    best: Mapping[Shots, str] = dataclasses.field(default_factory=dict)
    worst: Mapping[Shots, str] = dataclasses.field(default_factory=dict)
    left: Figure | None = None
    faded: Figure | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingReference:
    """What images of another source are compared with: a source of one size, a line across the curve.

    Attributes:
      name: E.g. "clean, supervised".
      images: How many it was trained on.
      accuracy: On the same target with the same transfer and shots.
      needed: How many images of the curve's source are as good (unit "images"). `value`, `low` and `high` are infinite
        where the largest size is not enough, and the smallest size where that is enough already. None where nobody
        asked.
      ratio: `needed` over `images`, likewise infinite. None where nobody asked.
      difference: Accuracy at every size minus that of the reference; differences of shares. May be empty.
    """

    name: str
    images: int
    accuracy: Figure
    needed: Figure | None = None
    ratio: Figure | None = None
    difference: tuple[Figure, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingSize:
    """Accuracy against the size of a source, and what other sources are worth in its images: one panel.

    Attributes:
      source, method, target, transfer, shots: Of the curve.
      sizes: How many images of the source, ascending.
      accuracy: A figure at every size.
      references: Lines across; may be empty.
      note: What else is to be said, e.g. "40 % of its labels are wrong", or the true ratio of a planted case.
    """

    source: str
    method: str
    target: str
    transfer: str
    shots: Shots
    sizes: tuple[int, ...]
    accuracy: tuple[Figure, ...]
    references: tuple[PretrainingReference, ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingGap:
    """Accuracy of one method minus that of another: the same source, target, transfer and shots.

    Attributes:
      method, other: E.g. "simclr", "supervised".
      source, target, transfer, shots: What is the same.
      gap: A difference of shares with the interval that the verdict rests on.
      examples: The same with an interval over test images alone; None where there is none.
      draws: The same with an interval over seeds and few-shot draws alone; None where there is none.
    """

    method: str
    other: str
    source: str
    target: str
    transfer: str
    shots: Shots
    gap: Figure
    examples: Figure | None = None
    draws: Figure | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingOptimism:
    """What choosing a setting by the test images would add to an accuracy.

    Attributes:
      method, source, target, transfer, shots: Of the cell.
      chosen: The setting that validation images chose, e.g. "FT@0.01".
      flattering: The setting that test images would choose.
      settings: How many there were to choose from.
      accuracy: On test images, of the setting that validation chose.
      optimism: That of the setting that test images choose, minus it; a difference of shares, never below 0.
    """

    method: str
    source: str
    target: str
    transfer: str
    shots: Shots
    chosen: str
    flattering: str
    settings: int
    accuracy: Figure
    optimism: Figure


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingGain:
    """What pre-training is worth against training on the target alone.

    Attributes:
      method, source, target, transfer, shots: Of the models.
      gain: Accuracy minus that from scratch; a difference of shares.
      error_reduction: The share of the errors from scratch that is gone; None where nobody asked.
    """

    method: str
    source: str
    target: str
    transfer: str
    shots: Shots
    gain: Figure
    error_reduction: Figure | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingStability:
    """Whether two settings rank the sources alike.

    Attributes:
      first, second: In words, e.g. "cifar10_32, 5 shots", "cifar10_32, all images".
      correlation: Spearman's rank correlation over sources.
      sources: How many were ranked.
    """

    first: str
    second: str
    correlation: Figure
    sources: int


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingZeroShot:
    """Accuracy of a head made of class names or prototypes, without training, and with the names permuted.

    Attributes:
      source: What the models were trained on.
      classes_of: Whose classes are told apart, e.g. "its own classes" or a target.
      head: E.g. "zero-shot" (text) or "prototype".
      classes: How many; chance is 1 over it.
      aligned: Accuracy with every name at its class.
      permuted: The same with permuted names: should be at chance.
      chance: Accuracy of guessing.
      method: E.g. "clip".
    """

    source: str
    classes_of: str
    head: str
    classes: int
    aligned: Figure
    permuted: Figure
    chance: float
    method: str = "clip"


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingRanked:
    """A candidate in a ranking.

    Attributes:
      source, method, transfer: What it is; `method` and `transfer` may be empty where all are the same.
      accuracy: On the target.
      best: Probability of being the best of all candidates, by bootstrap; NaN where that is not known.
      behind: Accuracy minus that of the first; a difference of shares, None of the first itself or where nobody asked.
      note: What else is to be said, e.g. "not told apart from the first"; may be empty.
    """

    source: str
    accuracy: Figure
    best: float
    method: str = ""
    transfer: str = ""
    behind: Figure | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class PretrainingRanking:
    """Candidates for one target, the best first.

    Attributes:
      target, shots: What they are ranked for.
      candidates: In their order.
      text: What follows, e.g. what it costs to be surer; may be empty.
    """

    target: str
    shots: Shots
    candidates: tuple[PretrainingRanked, ...]
    text: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Pretraining:
    """What a study of pre-training data found. What is empty is not shown.

    Attributes:
      title: Of the section.
      text: What was asked and how, in a sentence or two.
      shots: Ascending, `ALL` last where it was measured, e.g. (1, 5, 20, ALL).
      bars: Requirements, in their order.
      sources: What the sources are, in the order of tables.
      accuracies: The study's table; the method and transfer to show first first.
      spreads: Of sources of equal size.
      sizes: Accuracy against size of a source, with what others are worth in its images.
      label_worth: The same for a source with wrong labels, against a clean one of `PretrainingReference.images` images:
        its axis counts multiples of those.
      gaps: Between methods.
      optimism: Of choosing settings by test images.
      gains: Over training from scratch.
      stability: Of rankings.
      zero_shot: Whether class names are where they belong.
      rankings: Which source to take.
      heat_shots: The few shots that the heatmap has beside all images; None for the largest up to 20.
      candidates: Sources of equal size, which curves have in colour where all are too many; the best and the worst when
        empty.
      figures: Key figures by name, the most important first; units are free, `SHARE` and `DIFFERENCE`
        ("share", "difference of shares") are shown in per cent and percentage points.
    """

    title: str
    text: str
    shots: tuple[Shots, ...]
    bars: tuple[Requirement, ...] = ()
    sources: tuple[PretrainingSource, ...] = ()
    accuracies: tuple[PretrainingAccuracy, ...] = ()
    spreads: tuple[PretrainingSpread, ...] = ()
    sizes: tuple[PretrainingSize, ...] = ()
    label_worth: tuple[PretrainingSize, ...] = ()
    gaps: tuple[PretrainingGap, ...] = ()
    optimism: tuple[PretrainingOptimism, ...] = ()
    gains: tuple[PretrainingGain, ...] = ()
    stability: tuple[PretrainingStability, ...] = ()
    zero_shot: tuple[PretrainingZeroShot, ...] = ()
    rankings: tuple[PretrainingRanking, ...] = ()
    heat_shots: int | None = None
    candidates: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
