"""Units of a study whose subsets are known beforehand: what tells one subset from another, and nothing finer."""

import collections
from collections.abc import Sequence

import numpy as np

from jdt import checks
from jdt.masks.units import OUTSIDE, Units
from jdt.types import Bool

_MOST_NAMES = 3  # Of subsets, in the name of a unit: a study may have a hundred.


def atoms(
    members: Bool[np.ndarray, "subsets examples"], names: Sequence[str]
) -> tuple[Units, Bool[np.ndarray, "subsets units"]]:
    """Make units of the examples that the same subsets hold, so that every subset is a row over few units.

    A unit is named after the subsets that hold it, `a, b and 5 more` where they are many. Examples in no subset are
    outside all units; a subset may be empty.

    Args:
      members: Which examples each subset holds.
      names: Of the subsets.

    Returns:
      The units, in the order of their first examples, and a mask row for each subset.

    Raises:
      UserError: If no subset holds an example, or two have one name.

    >>> units, masks = atoms(np.array([[1, 1, 0, 0], [1, 0, 1, 0]], bool), ["clean", "stamped"])
    >>> units.names, units.of_example.tolist(), masks.astype(int).tolist()
    (('clean, stamped', 'clean', 'stamped'), [0, 1, 2, -1], [[1, 1, 0], [1, 0, 1]])
    """
    if len(set(names)) < len(names):
        raise checks.UserError(f"subsets are named {', '.join(names)}: name each of them once.")
    inside = members.any(axis=0)
    if not inside.any():
        raise checks.UserError("no subset holds any example, so that there is nothing to train on.")
    patterns, first, which = np.unique(members[:, inside], axis=1, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.argsort(order)
    of_example = np.full(members.shape[1], OUTSIDE, np.int32)
    of_example[inside] = rank[which.reshape(-1)]
    masks = patterns[:, order].astype(bool)
    held = [_short([name for name, holds in zip(names, column, strict=True) if holds]) for column in masks.T]
    return Units(_unique(held), of_example), masks


def _short(names: list[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    return f"{', '.join(names[: _MOST_NAMES - 1])} and {len(names) - _MOST_NAMES + 1} more"


def _unique(names: list[str]) -> tuple[str, ...]:
    """Names of which those that occur again are numbered: `a`, `a (2)`."""
    seen: collections.Counter[str] = collections.Counter()
    made: list[str] = []
    for name in names:
        unique = name
        while seen[unique]:
            seen[name] += 1
            unique = f"{name} ({seen[name]})"
        seen[unique] += 1
        made.append(unique)
    return tuple(made)
