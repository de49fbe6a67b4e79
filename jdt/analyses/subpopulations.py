"""Subpopulations: target images that a source unit drives although their label is not what it shows."""

import dataclasses

import numpy as np

from jdt import checks
from jdt.analyses.effects import Effects, known, pick
from jdt.estimators import Influences
from jdt.evaluate import p_values, q_values
from jdt.types import Bool, Float, Int

NO_MATCH = -1
"""Natural match of a unit of which the models cannot tell any influence."""


@dataclasses.dataclass(frozen=True, eq=False)
class Subpopulation:
    """Target images of one class that a source unit drives although the unit helps another class most.

    Attributes:
      unit: Row of the unit.
      match: Label of its natural match: the target class that it helps most.
      label: Label of these images.
      size: How many target images have that label.
      effects: Influence of the unit on these images, strongest first; all beyond noise where that can be told.
    """

    unit: int
    match: int
    label: int
    size: int
    effects: Effects


def natural_matches(classes: Influences, class_labels: Int[np.ndarray, " classes"]) -> Int[np.ndarray, " units"]:
    """The target class that each source unit helps most.

    Args:
      classes: Influences on the mean outputs of target classes, `[units, classes]`.
      class_labels: Label of each of these classes.

    Returns:
      int64 `[units]`: a label, or `NO_MATCH` where the models cannot tell the unit's influence on any class.
    """
    values = known(classes)
    best = np.asarray(class_labels, np.int64)[values.argmax(axis=1)]
    return np.where((values != 0).any(axis=1), best, NO_MATCH)


def subpopulations(
    influences: Influences,
    labels: Int[np.ndarray, " targets"],
    matches: Int[np.ndarray, " units"],
    *,
    level: float = 0.05,
    least: int = 1,
) -> tuple[Subpopulation, ...]:
    """For each source unit, the images that it drives although their label is not its natural match, by label.

    Section 3.8 of the paper's analyses: target images sorted by influence, those kept whose label is another. Here only
    influences beyond noise count: with two-sided p-values of z over all units and all images off their match (asked
    together, so that looking everywhere is paid for), those of Benjamini-Hochberg q below `level`. Of an estimator
    without standard errors all that help count: for a LASSO, the ones that it selects.

    Args:
      influences: Influences on examples, `[units, targets]`; a part of the units is a smaller family of tests.
      labels: Label of every target image.
      matches: Natural match of every unit, see `natural_matches`; nothing is off the match of a unit without one.
      level: False discovery rate.
      least: Groups with fewer images are left out.

    Returns:
      Groups of images, one a unit and label at most, the one with the largest sum of influences first.

    Raises:
      UserError: If sizes do not fit, or `level` is not between 0 and 1.
    """
    checks.require_fraction("level", level)
    labels, matches = np.asarray(labels), np.asarray(matches)
    if influences.influence.shape != (len(matches), len(labels)):
        raise checks.UserError(
            f"influences have shape {influences.influence.shape}, but there are matches of {len(matches)} units and "
            f"labels of {len(labels)} images."
        )
    off = (labels != matches[:, None]) & (matches[:, None] != NO_MATCH)
    values, q = known(influences), _q_off_match(influences, off)
    driven = off & (values > 0) & (True if q is None else q < level)
    groups = []
    for unit in np.flatnonzero(driven.any(axis=1)):
        for label in np.unique(labels[driven[unit]]):
            members = np.flatnonzero(driven[unit] & (labels == label))
            if len(members) >= least:
                members = members[np.argsort(-values[unit, members], kind="stable")]
                effects = pick(influences, np.full(len(members), unit), members, q=q)
                groups.append(
                    Subpopulation(int(unit), int(matches[unit]), int(label), int((labels == label).sum()), effects)
                )
    return tuple(sorted(groups, key=lambda group: -float(group.effects.influence.sum())))


def _q_off_match(
    influences: Influences, off: Bool[np.ndarray, "units targets"]
) -> Float[np.ndarray, "units targets"] | None:
    z, error, degrees = influences.z, influences.standard_error, influences.degrees_of_freedom
    if z is None or error is None or degrees is None:
        return None
    return q_values(np.where(off & np.isfinite(error), p_values(z, degrees), np.nan))
