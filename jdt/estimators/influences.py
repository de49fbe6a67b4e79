"""`Influences`: what every estimator returns and every reader gets."""

import dataclasses
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import stats

from jdt import checks
from jdt.types import Bool, Float

if TYPE_CHECKING:
    import xarray


class Ranked(NamedTuple):
    """One entry of a ranking: a unit, its influence, the standard error and z of it."""

    unit: str
    influence: float
    standard_error: float
    z: float


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
      z: float `[units, targets]`: influence over its sampling deviation alone; its variance over units is 1 where
        there is only noise, whatever the shrinkage. 0 where the models cannot tell.
      degrees_of_freedom: float `[units]`: of the t distribution that `interval` uses.
      intercept: float `[targets]`: expected output when no unit is included (relative designs: see above).
      unit_names: One name a row.
      target_names: One name a column.
      estimator: `ridge` or `difference`.
      output: Which output: `confidence` or `margin`.
      num_models: Models used.
      info: What the method reports about itself, name -> array or number.
    """

    influence: Float[np.ndarray, "units targets"]
    standard_error: Float[np.ndarray, "units targets"]
    z: Float[np.ndarray, "units targets"]
    degrees_of_freedom: Float[np.ndarray, " units"]
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
          UserError: If `level` is not between 0 and 1.
        """
        checks.require_fraction("level", level)
        reach = stats.t.ppf(0.5 + level / 2, self.degrees_of_freedom)[:, None] * self.standard_error
        return self.influence - reach, self.influence + reach

    def predict(self, masks: Bool[np.ndarray, "models units"]) -> Float[np.ndarray, "models targets"]:
        """Outputs that the linear datamodel expects of models trained on these subsets."""
        return self.intercept + np.asarray(masks, self.influence.dtype) @ self.influence

    def top(self, target: int | str | None = None, count: int = 5, *, harmful: bool = False) -> list[Ranked]:
        """The units that help (or harm) a target most.

        Args:
          target: Column index or name; None averages over all targets (its standard error is then not known from
            single targets, and reported as NaN).
          count: How many.
          harmful: Most negative first, instead of most positive.

        Raises:
          UserError: If there is no such target.
        """
        if target is None:
            value = self.influence.mean(axis=1)
            error = z = np.full_like(value, np.nan)
        else:
            column = self._column(target)
            value, error, z = self.influence[:, column], self.standard_error[:, column], self.z[:, column]
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
                "influence": (grid, self.influence),
                "standard_error": (grid, self.standard_error),
                "z": (grid, self.z),
                "degrees_of_freedom": ("unit", self.degrees_of_freedom),
                "intercept": ("target", self.intercept),
            },
            coords={"unit": list(self.unit_names), "target": list(self.target_names)},
            attrs={"estimator": self.estimator, "output": self.output, "num_models": self.num_models},
        )

    def to_npz(self, path: str | pathlib.Path) -> pathlib.Path:
        """Write arrays and names to a compressed `.npz` that `numpy.load` reads without pickle."""
        path = pathlib.Path(path)
        path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
        np.savez_compressed(
            path,
            influence=self.influence,
            standard_error=self.standard_error,
            z=self.z,
            degrees_of_freedom=self.degrees_of_freedom,
            intercept=self.intercept,
            unit=np.array(self.unit_names, dtype=np.str_),
            target=np.array(self.target_names, dtype=np.str_),
        )
        return path

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
