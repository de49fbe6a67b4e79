"""Rankings of source labels by how wrong they look, and how well each finds what was planted."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

import jdt

INFLUENCE, CONFIDENT, LOSS = "influence", "confident learning", "loss"
RANKINGS = (INFLUENCE, CONFIDENT, LOSS)
"""Confident learning is ranked by self-confidence, the stronger of its two scores in trials with other seeds."""
EVEN, MARGIN, NEIGHBOURS = "influence on all images alike", "confident learning, margin", "neighbours alone"
"""Further rankings: influence without similarity, the other score of confident learning, similarity without influence.
"""
PERMUTATIONS = 50
"""Of which labels are wrong, for the negative control."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """One way to rank, and how well it finds what was planted.

    Attributes:
      scores: float64 `[suspects]`: larger is more suspicious; NaN where nothing is known.
      detection: Area under the ROC curve, with its interval.
      control: The same with the planted truth permuted: mean and 95 % range.
      curve: Shares of right and of wrong ones above each threshold.
      precision: Share of wrong ones among as many as there are wrong ones.
    """

    scores: np.ndarray
    detection: jdt.analyses.Detection
    control: jdt.report.Figure
    curve: tuple[np.ndarray, np.ndarray]
    precision: float


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """How well one kind of thing was found.

    Attributes:
      what: "examples" or "units".
      run: Folder of the run that holds the models.
      num_models: Models that the rankings rest on.
      left_out: Ids of models whose training diverged, and of their partners.
      planted: bool `[suspects]`: which are wrong.
      names: Of units; empty for examples.
      rate: At which share labels are wrong: of all examples, or of those in noisy units.
      estimated_rate: What confident learning says of all examples.
      true_rate: What is true of all examples.
      rankings: By name; the first three are `RANKINGS`.
      mask_control: Of influence, with mask rows permuted: mean and 95 % range of the area.
      never_out: Examples that every model trained on: without an out-of-sample prediction.
      never_in: Examples that no model trained on: without a loss.
      given: int `[examples]`: labels as given.
      likely: int `[examples]`: most probable class out of sample; -1 where nothing is known.
      picked: bool `[examples]`: what confident learning would remove.
    """

    what: str
    run: str
    num_models: int
    left_out: tuple[int, ...]
    planted: np.ndarray
    names: tuple[str, ...]
    rate: float
    estimated_rate: float
    true_rate: float
    rankings: Mapping[str, Ranking]
    mask_control: jdt.report.Figure
    never_out: np.ndarray
    never_in: np.ndarray
    given: np.ndarray
    likely: np.ndarray
    picked: np.ndarray


def spread(values: Sequence[float], text: str) -> jdt.report.Figure:
    """The mean of a negative control and its 95 % range."""
    low, high = np.quantile(values, [0.025, 0.975])
    return jdt.report.Figure(float(np.mean(values)), float(low), float(high), len(values), "AUROC", text)


def ranked(scores: np.ndarray, planted: np.ndarray, seed: int) -> Ranking:
    """Judge scores; `seed` draws the permutations of the truth."""
    detection, rng = jdt.analyses.detection_auc(scores, planted), jdt.plant.draws(seed, "permuted truth")
    known = np.isfinite(scores)
    permuted = [
        jdt.analyses.detection_auc(scores[known], rng.permutation(planted[known])).value for _ in range(PERMUTATIONS)
    ]
    precision = jdt.analyses.precision_at(scores, planted, detection.positives) if detection.positives else np.nan
    text = "with the planted truth permuted: mean and 95 % range"
    curve = jdt.analyses.detection_curve(scores, planted, 200)
    return Ranking(np.asarray(scores, np.float64), detection, spread(permuted, text), curve, precision)
