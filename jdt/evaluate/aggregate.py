"""Targets taken together: by class, by group of classes, or the whole task.

An influence on a mean output is the mean influence, but its standard error is not made from single ones: what one model
says about many images errs together. So outputs are averaged first and the estimator is fitted to the averages.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jdt import checks
from jdt.types import Float, Int, Outputs

NOWHERE = -1
"""Group of a target that belongs to none."""


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Groups of targets whose outputs are averaged.

    Attributes:
      names: One name a group.
      of_target: int `[targets]`: the group of each target, or `NOWHERE`.
    """

    names: tuple[str, ...]
    of_target: Int[np.ndarray, " targets"]


def aggregate(outputs: Outputs, groups: Groups) -> Float[np.ndarray, "models groups"]:
    """Mean output of each group of targets, for each model, in float64; every target of a group weighs the same.

    Fitting an estimator to it gives influences on groups with standard errors of their own.

    Args:
      outputs: float `[models, targets]`; a model with NaN has NaN in every group that the target belongs to.
      groups: Which target belongs where.

    Raises:
      UserError: If there is no group for each target, or no target in one of the groups.

    >>> aggregate(np.array([[1.0, 2.0, 6.0]]), Groups(("a", "b"), np.array([0, 1, 1]))).tolist()
    [[1.0, 4.0]]
    """
    if outputs.shape[1] != len(groups.of_target):
        raise checks.UserError(
            f"outputs have shape {outputs.shape}, but there are groups for {len(groups.of_target)} targets."
        )
    columns = [np.flatnonzero(groups.of_target == g) for g in range(len(groups.names))]
    for name, members in zip(groups.names, columns, strict=True):
        if not len(members):
            raise checks.UserError(f"group {name!r} has no target, but a mean needs one: leave the group out.")
    values = np.asarray(outputs)
    return np.stack([values[:, members].mean(axis=1, dtype=np.float64) for members in columns], axis=1)


def whole_task(num_targets: int, name: str = "task") -> Groups:
    """All targets in one group."""
    return Groups((name,), np.zeros(num_targets, np.int32))


def by_class(labels: Int[np.ndarray, " targets"], class_names: Sequence[str]) -> Groups:
    """One group a target class, of the classes that have a target; a label of -1 is an unknown class, in no group.

    >>> by_class(np.array([2, 0, 2, -1]), ("cat", "dog", "ship")).names
    ('cat', 'ship')
    """
    present = np.unique(labels[labels >= 0])
    of_target = np.where(labels >= 0, np.searchsorted(present, labels), NOWHERE)
    return Groups(tuple(class_names[int(c)] for c in present), of_target.astype(np.int32))


def by_class_group(
    labels: Int[np.ndarray, " targets"], class_names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> Groups:
    """Groups of target classes by name; classes in no group are left out.

    Args:
      labels: int `[targets]`.
      class_names: One name a class.
      groups: Group -> names of its classes.

    Raises:
      UserError: If a group names an unknown class, or two groups the same one.

    >>> groups = {"animals": ["cat", "dog"]}
    >>> by_class_group(np.array([0, 1, 2]), ("cat", "dog", "ship"), groups).of_target.tolist()
    [0, 0, -1]
    """
    of_class = np.full(len(class_names), NOWHERE, np.int32)
    for number, (group, members) in enumerate(groups.items()):
        for name in members:
            checks.require_known("target class", name, class_names)
            place = list(class_names).index(name)
            if of_class[place] != NOWHERE:
                raise checks.UserError(
                    f"target class {name!r} is in group {list(groups)[of_class[place]]!r} and in {group!r}, but a "
                    "class belongs to one group: name it once."
                )
            of_class[place] = number
    return Groups(tuple(groups), of_class[np.asarray(labels)])
