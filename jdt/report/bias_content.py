"""What the page shows of a study of bias transfer, as plain values (arXiv 2207.02842).

Rates are shares: 0.43 is shown as 43 %. A rate that is NaN had no example in its denominator, and is shown as such.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt.report.content import Figure, Mover
from jdt.types import Int, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class BiasBar:
    """How strongly one pattern moves, or one attribute skews, the predictions of one target in one mode.

    Attributes:
      target: Name of the target.
      mode: `fixed`, `full` or `scratch`.
      pattern: What is put on the test images, e.g. "square" or "sham" (a pattern that no source image has, the
        control), or the attribute by which groups differ.
      metric: In words, e.g. "attack success rate" or "group skew"; the first metric of a pattern gives the verdict.
      attacked: Names of the classes that the pattern pushes to; empty where there is none, as for a skew.
      rates: The metric by source arm, e.g. "clean", "square", "scratch" (models that never saw the source): the mean
        over `n` seeds with its 95 % interval.
      transfer: By source arm, its rate minus that of the twins of the same seeds, with the 95 % interval over `over`.
      denominators: By source arm, what the rate is a share of, e.g. "of 3,912 to 3,950 images".
      control: Whether no source image has the pattern, so that nothing should come along.
      from_scratch: By source arm, its rate minus that of models from scratch of the same seeds, with the 95 % interval.
      attacked_by: By source arm, what its models are pushed to, where that is not `attacked`.
      over: What the intervals of `transfer` are over: "seeds", or "test images" where all seeds are one model.
    """

    target: str
    mode: str
    pattern: str
    metric: str
    attacked: str
    rates: Mapping[str, Figure]
    transfer: Mapping[str, Figure]
    denominators: Mapping[str, str]
    control: bool = False
    from_scratch: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    attacked_by: Mapping[str, str] = dataclasses.field(default_factory=dict)
    over: str = "seeds"


@dataclasses.dataclass(frozen=True, eq=False)
class BiasCurve:
    """A rate against something that was varied: weight decay, size of the target, share of de-biasing images, ...

    Attributes:
      title: E.g. "Weight decay, cifar10".
      x_label: What is varied.
      x: Where it was measured, ascending.
      log_x: Whether the axis is logarithmic; 0 is then shown left of it.
      metric: Of the rates, in words.
      lines: Rates at all of `x` by what they are of, e.g. "square, full": a source arm, and what else tells the line
        apart. Lines of one arm share a colour.
      note: What else is to be said; may be empty.
    """

    title: str
    x_label: str
    x: tuple[float, ...]
    log_x: bool
    metric: str
    lines: Mapping[str, tuple[Figure, ...]]
    note: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class BiasHistogram:
    """What models predict without and with a pattern.

    Attributes:
      title: E.g. "cifar10, square".
      class_names: Of the target.
      panels: Numbers of predictions of every class, without the pattern and with it, by kind of model: `fixed`,
        `full`, and beside them `scratch`, or `untrained` (a head on random features) where nothing else is there.
    """

    title: str
    class_names: tuple[str, ...]
    panels: Mapping[str, tuple[Int[np.ndarray, " classes"], Int[np.ndarray, " classes"]]]


@dataclasses.dataclass(frozen=True, eq=False)
class BiasStrip:
    """Images without and with a pattern, or of one group.

    Attributes:
      caption: What they are.
      images: In pairs: every second image is the one before it with the pattern; or one by one.
      paired: Which of the two.
    """

    caption: str
    images: UInt8[np.ndarray, "count height width channels"]
    paired: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Bias:
    """Whether a bias of the source comes along to targets that do not have it.

    Attributes:
      title: Of the section.
      text: What was asked, in a sentence or two.
      bars: Rates by target, mode, pattern and metric.
      curves: Rates against what was varied.
      histograms: Predictions without and with a pattern.
      strips: Images without and with a pattern.
      blamed: Source units, the one that carries most of the bias first; influences are on the output with the pattern
        minus the output without it.
      output: Which output those are of, e.g. "confidence" (in the class that is pushed to).
      figures: Key figures by name, the most important ones first; units are free, `SHARE` and `DIFFERENCE` are shown in
        per cent.
      compared_with: The source arm that differences are to, e.g. "clean", "phi=0", "twin" (a model that was given as
        one without the bias) or "scratch".
    """

    title: str
    text: str
    bars: tuple[BiasBar, ...]
    curves: tuple[BiasCurve, ...] = ()
    histograms: tuple[BiasHistogram, ...] = ()
    strips: tuple[BiasStrip, ...] = ()
    blamed: tuple[Mover, ...] = ()
    output: str = "confidence"
    figures: Mapping[str, Figure] = dataclasses.field(default_factory=dict)
    compared_with: str = "clean"
