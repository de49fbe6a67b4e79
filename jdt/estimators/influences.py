"""`Influences`: what every estimator returns and every reader gets."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import special

from jdt import checks
from jdt.estimators.design import constant_units, data_status, is_relative, mean_over_models
from jdt.types import Bool, Float

if TYPE_CHECKING:
    import xarray


class Ranked(NamedTuple):
    """One entry of a ranking: a unit, its influence, the standard error and z of it (NaN where there is none)."""

    unit: str
    influence: float
    standard_error: float
    z: float


GRIDS = ("influence", "standard_error", "z", "degrees_of_freedom")
"""Fields of `Influences` with an axis of units and one of targets."""


@dataclasses.dataclass(frozen=True, eq=False)
class Influences:
    """Influence of every source unit on every target (an example, a class or the whole task).

    Sign and scale: `influence[u, j]` is the change of output j when unit u is included, in the output's own unit
    (probability for confidence, logits for margin). Positive helps. With subsets of fixed size the influence is
    relative to the average unit: including one unit leaves another out, and influences sum to zero over units.

    Attributes:
      influence: float `[units, targets]`.
      standard_error: float `[units, targets]`: expected distance (root mean square) of `influence` from the true
        effect: sampling noise and, for ridge, shrinkage. Infinite where the models cannot tell, e.g. for a unit that
        every model keeps.
        None, like `z` and `degrees_of_freedom`, where theory gives none.
      z: float `[units, targets]`: influence over its sampling deviation alone; its variance over units is 1 where
        there is only noise, whatever the shrinkage. 0 where the models cannot tell.
      degrees_of_freedom: float `[units or 1, targets or 1]`: of the t distribution that `interval` uses.
      intercept: float `[targets]`: expected output when no unit is included (relative designs: see above).
      unit_names: One name a row.
      target_names: One name a column.
      estimator: Name of the estimator, e.g. `ridge`.
      output: Which output: `confidence` or `margin`.
      num_models: Models used.
      info: What the method reports about itself, name -> array or number.
    """

    influence: Float[np.ndarray, "units targets"]
    standard_error: Float[np.ndarray, "units targets"] | None
    z: Float[np.ndarray, "units targets"] | None
    degrees_of_freedom: Float[np.ndarray, "units_or_one targets_or_one"] | None
    intercept: Float[np.ndarray, " targets"]
    unit_names: tuple[str, ...]
    target_names: tuple[str, ...]
    estimator: str
    output: str = "output"
    num_models: int = 0
    info: dict[str, Any] = dataclasses.field(default_factory=dict)

    def interval(
        self, level: float = 0.95
    ) -> tuple[Float[np.ndarray, "units targets"], Float[np.ndarray, "units targets"]]:
        """Lower and upper ends of the t interval that holds the true effect with probability `level`.

        Raises:
          UserError: If `level` is not between 0 and 1, or the estimator gives no standard errors.
        """
        checks.require_fraction("level", level)
        if self.standard_error is None or self.degrees_of_freedom is None:
            raise checks.UserError(
                f"the estimator {self.estimator!r} gives no standard errors, but an interval needs them: use "
                'estimator="ridge" or "difference", or judge by split-half reliability (jdt.evaluate.split_half).'
            )
        # The quantile of the t distribution: `scipy.stats` takes half a second to import.
        quantile = special.stdtrit(np.asarray(self.degrees_of_freedom, np.float64), 0.5 + level / 2)
        reach = quantile * self.standard_error
        return self.influence - reach, self.influence + reach

    def predict(self, masks: Bool[np.ndarray, "models units"]) -> Float[np.ndarray, "models targets"]:
        """Outputs that the linear datamodel expects of models trained on these subsets."""
        return self.intercept + np.asarray(masks, self.influence.dtype) @ self.influence

    def top(self, target: int | str | None = None, count: int = 5, *, harmful: bool = False) -> list[Ranked]:
        """The units that help (or harm) a target most.

        Args:
          target: Column index or name; None averages over all targets (its standard error is then not known from
            single targets, and reported as NaN, as it is where the estimator gives none).
          count: How many.
          harmful: Most negative first, instead of most positive.

        Raises:
          UserError: If there is no such target.
        """
        column = None if target is None else self._column(target)
        value = self.influence.mean(axis=1) if column is None else self.influence[:, column]
        error, z = (
            np.full_like(value, np.nan) if column is None or found is None else found[:, column]
            for found in (self.standard_error, self.z)
        )
        order = np.argsort(value if harmful else -value, kind="stable")[:count]
        return [Ranked(self.unit_names[u], float(value[u]), float(error[u]), float(z[u])) for u in order]

    def to_xarray(self) -> "xarray.Dataset":
        """The arrays as an `xarray.Dataset` with named dimensions and coordinates (needs xarray)."""
        try:
            import xarray
        except ImportError as error:
            raise checks.UserError("to_xarray needs the package xarray: pip install xarray.") from error
        grid = ("unit", "target")
        return xarray.Dataset(
            {
                **{name: (grid, np.broadcast_to(x, self.influence.shape)) for name, x in self.grids().items()},
                "intercept": ("target", self.intercept),
            },
            coords={"unit": list(self.unit_names), "target": list(self.target_names)},
            attrs={"estimator": self.estimator, "output": self.output, "num_models": self.num_models},
        )

    def to_npz(self, path: str | pathlib.Path) -> pathlib.Path:
        """Write arrays and names to a compressed `.npz` that `numpy.load` reads without pickle.

        Standard errors, z and degrees of freedom are left out where there are none.
        """
        path = pathlib.Path(path)
        path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
        arrays: dict[str, Any] = self.grids()
        np.savez_compressed(
            path,
            **arrays,
            intercept=self.intercept,
            unit=np.array(self.unit_names, dtype=np.str_),
            target=np.array(self.target_names, dtype=np.str_),
        )
        return path

    def grids(self) -> dict[str, Float[np.ndarray, "units_or_one targets_or_one"]]:
        """`influence` and those of `standard_error`, `z` and `degrees_of_freedom` that there are, by name."""
        named = {name: getattr(self, name) for name in GRIDS}
        return {name: values for name, values in named.items() if values is not None}

    def _column(self, target: int | str) -> int:
        if isinstance(target, str):
            if target not in self.target_names:
                raise checks.UserError(
                    f"unknown target {target!r}; nearest: {checks.nearest(target, self.target_names)}."
                )
            return self.target_names.index(target)
        if not -len(self.target_names) <= target < len(self.target_names):
            raise checks.UserError(f"target is {target}, but there are {len(self.target_names)} targets.")
        return target


def build_influences(
    estimator_name: str,
    masks: Bool[np.ndarray, "models units"],
    outputs: Float[np.ndarray, "models targets"],
    influence: Float[np.ndarray, "units targets"],
    *,
    paired: bool,
    standard_error: Float[np.ndarray, "units targets"] | None = None,
    z: Float[np.ndarray, "units targets"] | None = None,
    degrees_of_freedom: Float[np.ndarray, "units_or_one targets_or_one"] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Influences:
    """What every estimator adds to its weights: intercept, names, and what the design lets one say.

    Args:
      estimator_name: Name of the estimator.
      masks: As the estimator was given them, checked by `design.check_rows`; so are `outputs`.
      outputs: float `[models, targets]`.
      influence: The weights, in the outputs' dtype.
      paired: Whether rows 2i and 2i+1 were treated as an antithetic pair.
      standard_error: None, like `z` and `degrees_of_freedom`, where theory gives none.
      z: See `Influences`.
      degrees_of_freedom: See `Influences`.
      info: What the method reports about itself.

    Returns:
      Influences whose `info` also holds `paired`; `relative` (see `design.is_relative`); `constant_units`, indices of
      units that every model keeps or none does; and `data_status` `[targets]` (see `design.DATA_STATUS`). The intercept
      makes the mean prediction over these models their mean output.
    """
    return Influences(
        influence=influence,
        standard_error=standard_error,
        z=z,
        degrees_of_freedom=degrees_of_freedom,
        intercept=mean_over_models(outputs) - masks.mean(axis=0, dtype=outputs.dtype) @ influence,
        unit_names=tuple(str(u) for u in range(masks.shape[1])),
        target_names=tuple(str(t) for t in range(outputs.shape[1])),
        estimator=estimator_name,
        num_models=len(masks),
        info={
            "relative": is_relative(masks),
            "paired": paired,
            "constant_units": np.flatnonzero(constant_units(masks)).tolist(),
            "data_status": data_status(masks, outputs),
            **(info or {}),
        },
    )
