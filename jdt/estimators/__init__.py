"""Estimators turn masks and outputs into influences: one protocol, one result type.

>>> import numpy as np
>>> masks = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
>>> DifferenceOfMeans().fit(masks, np.array([[3.0], [1.0], [3.0], [1.0]])).influence[:, 0].tolist()
[2.0, -2.0]
"""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

from jdt import checks
from jdt.estimators.design import DATA_STATUS as DATA_STATUS
from jdt.estimators.design import complete_pairs as complete_pairs
from jdt.estimators.design import finite_models as finite_models
from jdt.estimators.design import is_relative as is_relative
from jdt.estimators.difference import DifferenceOfMeans as DifferenceOfMeans
from jdt.estimators.influences import Influences as Influences
from jdt.estimators.influences import Ranked as Ranked
from jdt.estimators.influences import build_influences as build_influences
from jdt.estimators.lasso import HoldOut as HoldOut
from jdt.estimators.lasso import KFold as KFold
from jdt.estimators.lasso import Lasso as Lasso
from jdt.estimators.paths import LassoPath as LassoPath
from jdt.estimators.paths import explain_status as explain_status
from jdt.estimators.paths import lasso_path as lasso_path
from jdt.estimators.ridge import Ridge as Ridge
from jdt.estimators.saga import SagaParity as SagaParity
from jdt.estimators.saved import Level as Level
from jdt.estimators.saved import influence_path as influence_path
from jdt.estimators.saved import load_influences as load_influences
from jdt.estimators.saved import save_influences as save_influences
from jdt.estimators.tiles import Joined as Joined
from jdt.estimators.tiles import from_arrays as from_arrays
from jdt.estimators.tiles import targets_at_once as targets_at_once
from jdt.estimators.tiles import tiles as tiles
from jdt.estimators.tiles import to_arrays as to_arrays
from jdt.types import Masks, Outputs


@runtime_checkable
class Estimator(Protocol):
    """What every estimator does: `fit` masks and outputs, return `Influences`."""

    @property
    def name(self) -> str:
        """Name in paths, tables and flags."""
        ...

    def fit(self, masks: Masks, outputs: Outputs, *, paired: bool = False) -> Influences:
        """Estimate the influence of every unit on every target."""
        ...


TABLE: tuple[Estimator, ...] = (Ridge(), DifferenceOfMeans(), Lasso())
"""All estimators, the one shown first first; tests and tables walk it."""


def named(names: Collection[str]) -> tuple[Estimator, ...]:
    """The estimators of these names, in the order of `TABLE`.

    Raises:
      UserError: If there is none of some name, or no name at all.

    >>> [estimator.name for estimator in named(["difference", "ridge"])]
    ['ridge', 'difference']
    """
    known = {estimator.name: estimator for estimator in TABLE}
    for name in names:
        checks.require_known("estimator", name, known)
    if not names:
        raise checks.UserError(f"no estimator is asked for; known: {', '.join(known)}.")
    return tuple(estimator for name, estimator in known.items() if name in names)
