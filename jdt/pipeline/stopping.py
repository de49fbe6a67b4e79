"""A stop rule: train until influences are reliable, and say how many models that took or would take."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from jdt import checks, store
from jdt.estimators import TABLE, Estimator
from jdt.evaluate import aggregate, by_class, models_needed, split_half
from jdt.pipeline.rows import usable_rows
from jdt.report.content import TargetFindings

LEAST_MODELS = 8
"""Models below which reliability is not asked: four antithetic pairs, the fewest that can be halved."""
GROWTH = 1.1
"""Reliability is asked again when this many times as many models are there: estimating must not outweigh training."""


@dataclasses.dataclass
class UntilReliability:
    """Says, block after block, whether influences on every target and in every mode are reliable enough.

    Asked is the split-half reliability of class-level influence by one estimator, as the report gives it. It scatters,
    and the first time that it reaches the threshold is a lucky one: with few units ask for somewhat more than needed.

    Attributes:
      path: The run.
      threshold: The reliability wanted, strictly between 0 and 1.
      output: `confidence` or `margin`.
      estimator: By default the one that is shown first.
      asked_at: Models at which reliability was last estimated.

    Raises:
      UserError: If `threshold` is no fraction.
    """

    path: store.Place
    threshold: float
    output: str
    estimator: Estimator = TABLE[0]
    asked_at: int = 0

    def __post_init__(self) -> None:
        checks.require_fraction("until-reliability", self.threshold)

    def __call__(self, num_models: int) -> bool:
        """Whether the run's first `num_models` complete models are enough."""
        if num_models < max(LEAST_MODELS, GROWTH * self.asked_at):
            return False
        self.asked_at = num_models
        run = store.open_run(self.path)
        return all(
            class_reliability(run, target, mode, self.output, self.estimator) >= self.threshold
            for target in run.layout.num_examples
            for mode in run.modes
        )


def class_reliability(run: store.Run, target: str, mode: str, output: str, estimator: Estimator) -> float:
    """Split-half reliability of class-level influence; NaN while too few models can be used."""
    rows = usable_rows(run, target, mode, least=0)
    labelled = run.target(target)
    classes = by_class(labelled.labels, labelled.class_names)
    return split_half(estimator, rows.masks, aggregate(rows.outputs[output], classes), paired=rows.paired)[0]


def verdict(findings: Sequence[TargetFindings], threshold: float, num_models: int, bound: int) -> str:
    """One sentence on what a stop rule has come to.

    Args:
      findings: Of every target and mode.
      threshold: The reliability that was asked for.
      num_models: Models that are trained.
      bound: Models that were to be trained at most.
    """
    first = {f"{found.target} ({found.mode})": next(iter(found.estimators.items())) for found in findings}
    reliability = {place: one.reliability.value for place, (_, one) in first.items()}
    lowest = min(reliability, key=lambda place: np.nan_to_num(reliability[place], nan=-np.inf))
    (name, one), value = first[lowest], reliability[lowest]
    what, trained = f"split-half reliability of class-level {name} influence", f"after {num_models} of {bound} models"
    if value >= threshold:
        return f"{what} is {value:.2f} or more on every target {trained}; asked: {threshold}."
    # Of the models trained, not of those that can be used: as many of the new ones will diverge.
    needed = models_needed(value, num_models, threshold, paired=bool(one.classes.info["paired"]))
    estimate = (
        f"about {needed:,.0f} models in all would be needed, {needed - num_models:,.0f} more: run the same "
        f"command with --num-models {needed:.0f}."
        if math.isfinite(needed)
        else "how many models would be needed cannot be told from so little agreement."
    )
    number = f"{value:.2f}" if math.isfinite(value) else "unknown"
    return f"{what} is {number} on {lowest} {trained}; asked: {threshold}; {estimate}"
