"""What the page shows of a study of noisy pre-training, as plain values (arXiv 2309.17002).

Accuracies and noise rates are shares: 0.43 is shown as 43 %. Differences of accuracies are differences of shares, shown
in percentage points. Figures are means over seeds with 95 % intervals over seeds; one that is NaN was not measured, and
is shown as such. *ID* is the target as it is, *OOD* the same classes under a shift that the head never saw.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt.report.content import DIFFERENCE as DIFFERENCE
from jdt.report.content import SHARE as SHARE
from jdt.report.content import Figure
from jdt.report.requirements import Requirement as NoiseBar
from jdt.types import Float, UInt8

ID, OOD = "ID", "OOD"
NATS = "nats"
LINEAR, MLP = "linear", "mlp"
"""Tuners that others are compared with."""


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSet:
    """Accuracy on one set of test images, or its mean over several, against the noise rate of the source.

    Attributes:
      name: E.g. "cifar10_32+edges", or "mean of 6 views".
      role: `ID` or `OOD`.
      accuracy: By tuner, a figure at every one of `Noise.rates`.
      effect: By tuner, accuracy at every rate minus that at the lowest rate, paired by seed; that of the lowest rate is
        not shown. May be empty.
      is_mean: Whether it stands for all sets of its role, and is shown first.
    """

    name: str
    role: str
    accuracy: Mapping[str, tuple[Figure, ...]]
    effect: Mapping[str, tuple[Figure, ...]] = dataclasses.field(default_factory=dict)
    is_mean: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """The spectrum of features of one set of test images, before or after tuning, against the noise rate.

    Attributes:
      name: Of the set, e.g. "cifar10_32+edges".
      role: `ID` or `OOD`.
      tuner: `linear` for the frozen features as they are, others for what their head reads.
      center: "column" (each feature minus its mean over examples) or "row" (each example minus its own mean).
      sve: Singular value entropy in nats, a figure at every one of `Noise.rates`.
      lsvr: -ln(sigma_1 / sum(sigma)), likewise.
      curve: float `[rates, features]`: singular values over their sum, descending, mean over seeds; None where they are
        not shown.
    """

    name: str
    role: str
    tuner: str
    center: str
    sve: tuple[Figure, ...]
    lsvr: tuple[Figure, ...]
    curve: Float[np.ndarray, "rates features"] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseScatter:
    """Two quantities of models, a dot each.

    Attributes:
      title: E.g. "OOD accuracy against LSVR, cifar10_32+edges (linear)".
      x_label, y_label: What they are, without a unit.
      x, y: float `[models]`; NaN where a model has none.
      rate: float `[models]`: noise rate of the source of every model.
      x_unit, y_unit: `SHARE` or `NATS`.
      correlation: Of ranks (Spearman); None where it was not computed.
      note: What else is to be said; may be empty.
    """

    title: str
    x_label: str
    y_label: str
    x: Float[np.ndarray, " models"]
    y: Float[np.ndarray, " others"]
    rate: Float[np.ndarray, " these"]
    x_unit: str = NATS
    y_unit: str = SHARE
    correlation: Figure | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseTuning:
    """What one tuner reaches at one noise rate, beside others.

    Attributes:
      rate: Noise rate of the source.
      tuner: E.g. "nmtune" or "nmtune-code".
      accuracy: By role, e.g. {"ID": ..., "OOD": ...}.
      gain: By the tuner that it is compared with (`linear`, `mlp`), then by role: accuracy minus that tuner's, paired
        by seed. None of a tuner with itself.
    """

    rate: float
    tuner: str
    accuracy: Mapping[str, Figure]
    gain: Mapping[str, Mapping[str, Figure]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseAblation:
    """What the three terms of NMTune are worth.

    Attributes:
      rate: Noise rate of the source.
      full: The tuner with all terms, in words, e.g. "NMTune (paper form)".
      change: By what was left out ("consistency", "covariance", "dominance", "all three: MLP"), then by role: accuracy
        without it minus accuracy with all terms, paired by seed. Negative: the term helped.
    """

    rate: float
    full: str
    change: Mapping[str, Mapping[str, Figure]]


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseFractions:
    """Accuracy against the share of the target's training images, of models of one noise rate: one panel.

    Attributes:
      name: Of the test images, e.g. "ID" or "OOD, mean of 6 views".
      rate: Noise rate of the source.
      fractions: Ascending, in (0, 1].
      accuracy: By tuner, a figure at every fraction.
    """

    name: str
    rate: float
    fractions: tuple[float, ...]
    accuracy: Mapping[str, tuple[Figure, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseRanking:
    """One way of ranking source examples (or units) by how likely their labels are wrong.

    Attributes:
      name: E.g. "influence", "confident learning", "loss".
      false_positives, true_positives: Points of the ROC curve, ascending shares.
      auroc: Area under it, with its interval.
      control: Of the same ranking with permuted truth or permuted masks: should be at 0.5; None where there is none.
    """

    name: str
    false_positives: Float[np.ndarray, " points"]
    true_positives: Float[np.ndarray, " others"]
    auroc: Figure
    control: Figure | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseUnit:
    """A source unit with how much of it is wrong, and where rankings place it.

    Attributes:
      name: Of the unit.
      wrong: Planted share of wrong labels; None where the truth is not known.
      score: By ranking, in that ranking's own unit; larger is more suspicious.
      place: By ranking, from 1 for the most suspicious.
    """

    name: str
    wrong: float | None
    score: Mapping[str, float]
    place: Mapping[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSuspect:
    """A source example whose label is suspected to be wrong.

    Attributes:
      name: E.g. "image 1234".
      image: uint8 `[height, width, channels]`.
      given: The label that it has.
      suggested: The label that it should have by the ranking.
      true: Its true label; empty where that is not known.
      note: Which ranking says so, its place; may be empty.
    """

    name: str
    image: UInt8[np.ndarray, "height width channels"]
    given: str
    suggested: str
    true: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseSuspects:
    """Which source labels are wrong, by several rankings, and what mending them is worth.

    Attributes:
      text: How they were found, in a sentence or two.
      rankings: Of examples or units, the one to show first first.
      ranked: What was ranked, e.g. "20,000 source examples, 30 % of them with a wrong label".
      units: In the order of the first ranking; may be empty.
      retraining: Accuracy of models that were trained anew, by arm ("noisy", "dropped", "relabelled", "oracle", ...),
        then by what it is measured on ("source", "ID", "OOD").
      change: By arm, the same minus "noisy", paired by seed.
      examples: The most suspicious examples, with images.
    """

    text: str
    rankings: tuple[NoiseRanking, ...] = ()
    ranked: str = ""
    units: tuple[NoiseUnit, ...] = ()
    retraining: Mapping[str, Mapping[str, Figure]] = dataclasses.field(default_factory=dict)
    change: Mapping[str, Mapping[str, Figure]] = dataclasses.field(default_factory=dict)
    examples: tuple[NoiseSuspect, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """What label noise in the source does to transfer, and what tuning repairs. What is empty is not shown.

    Attributes:
      title: Of the section.
      text: What was asked and how, in a sentence or two.
      rates: Noise rates of the source, ascending; what others are compared with comes first, e.g. (0.0, 0.05, 0.3).
      bars: Requirements, in their order.
      sets: Accuracy against noise: means of `ID` and `OOD`, then every set of test images.
      spectra: Of frozen features (`linear`) and, after tuning, of what heads read.
      scatters: Accuracy against SVE (ID) and LSVR (OOD).
      robustness: ID against OOD accuracy.
      tuning: A row a rate and tuner.
      ablations: One panel each.
      fractions: One panel each.
      suspects: Which source labels are wrong; None where nobody asked.
      views: A few images of every set of test images, the same ones in all: name -> uint8
        `[count, height, width, channels]`.
      figures: Key figures by name, the most important first; units are free, `SHARE` and `DIFFERENCE`
        ("share", "difference of shares") are shown in per cent and percentage points.
    """

    title: str
    text: str
    rates: tuple[float, ...]
    bars: tuple[NoiseBar, ...] = ()
    sets: tuple[NoiseSet, ...] = ()
    spectra: tuple[NoiseSpectrum, ...] = ()
    scatters: tuple[NoiseScatter, ...] = ()
    robustness: tuple[NoiseScatter, ...] = ()
    tuning: tuple[NoiseTuning, ...] = ()
    ablations: tuple[NoiseAblation, ...] = ()
    fractions: tuple[NoiseFractions, ...] = ()
    suspects: NoiseSuspects | None = None
    views: Mapping[str, UInt8[np.ndarray, "count height width channels"]] = dataclasses.field(default_factory=dict)
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
