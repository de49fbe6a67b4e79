"""Targets in tiles: an estimator fitted to a few columns at a time, for outputs and working arrays that do not fit."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jdt import checks
from jdt.estimators.influences import GRIDS, Influences
from jdt.types import Float

_LARGE = ("influence", "standard_error", "z")
_PLAIN = ("unit_names", "target_names", "estimator", "output", "num_models")
_INFO = "info/"


def tiles(num_targets: int, size: int) -> Iterator[slice]:
    """Cut targets into ranges of at most `size`.

    >>> list(tiles(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]

    Raises:
      UserError: If `size` is less than 1.
    """
    checks.require_at_least("tile size", size, 1)
    return (slice(start, min(start + size, num_targets)) for start in range(0, num_targets, size))


def targets_at_once(num_models: int, num_units: int, num_bytes: float) -> int:
    """How many targets an estimator can be fitted to in so much memory, at least 1.

    A target takes a few columns as long as the models (outputs as read, as computed with, projected, fitted, left out)
    and as long as the units (weights, their errors, and what they are made from): 8 each, of 4 bytes, for all
    estimators here. What masks take comes on top.
    """
    return max(1, int(num_bytes / (8 * 4 * (num_models + num_units))))


def to_arrays(found: Influences) -> dict[str, np.ndarray]:
    """Influences as named arrays alone, for processes that exchange nothing else; see `from_arrays`."""
    info = {_INFO + name: value for name, value in found.info.items() if isinstance(value, np.ndarray)}
    plain: dict[str, Any] = {name: getattr(found, name) for name in _PLAIN}
    plain["info"] = {name: value for name, value in found.info.items() if _INFO + name not in info}
    text = json.dumps(plain, default=lambda scalar: scalar.item()).encode()
    return {**found.grids(), "intercept": found.intercept, **info, "plain": np.frombuffer(text, np.uint8)}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Influences:
    """The influences that `to_arrays` took apart.

    >>> one = Influences(np.ones((1, 1)), None, None, None, np.ones(1), ("u",), ("t",), "ridge", info={"a": 1})
    >>> from_arrays(to_arrays(one)).info
    {'a': 1}
    """
    plain: dict[str, Any] = json.loads(arrays["plain"].tobytes())
    info = {name.removeprefix(_INFO): value for name, value in arrays.items() if name.startswith(_INFO)}
    names = {name: tuple(plain.pop(name)) for name in ("unit_names", "target_names")}
    fields: dict[str, Any] = {name: arrays.get(name) for name in (*GRIDS, "intercept")}
    return Influences(**fields, **{**plain, **names, "info": {**plain["info"], **info}})


class _Small(NamedTuple):
    """What is kept of a tile besides its large grids."""

    degrees_of_freedom: Float[np.ndarray, "units_or_one targets_or_one"] | None
    intercept: Float[np.ndarray, " targets"]
    info: dict[str, Any]


class Joined:
    """Influences on tiles of targets, put together as they come: no tile is in memory twice.

    Args:
      num_targets: In all tiles.
    """

    def __init__(self, num_targets: int) -> None:
        self._num_targets = num_targets
        self._large: dict[str, np.ndarray] = {}
        self._small: list[_Small] = []
        self._plain: dict[str, Any] = {}

    def add(self, where: slice, part: Influences) -> None:
        """Take the influences on the targets of one tile; tiles come in order."""
        for name in _LARGE:
            if (values := getattr(part, name)) is not None:
                if name not in self._large:
                    self._large[name] = np.empty((len(values), self._num_targets), values.dtype)
                self._large[name][:, where] = values
        self._small.append(_Small(part.degrees_of_freedom, part.intercept, part.info))
        self._plain = {name: getattr(part, name) for name in ("unit_names", "estimator", "output", "num_models")}

    def influences(self) -> Influences:
        """All of them. What methods report is joined along targets; a number that differs between tiles is a list."""
        first = self._small[0]
        return Influences(
            influence=self._large["influence"],
            standard_error=self._large.get("standard_error"),
            z=self._large.get("z"),
            degrees_of_freedom=self._degrees(),
            intercept=np.concatenate([part.intercept for part in self._small]),
            target_names=tuple(str(t) for t in range(self._num_targets)),
            info={name: _joined([part.info[name] for part in self._small]) for name in first.info},
            **self._plain,
        )

    def _degrees(self) -> Float[np.ndarray, "units_or_one targets_or_one"] | None:
        found = [(part.degrees_of_freedom, len(part.intercept)) for part in self._small]
        grids = [(values, width) for values, width in found if values is not None]
        if not grids:
            return None
        if all(values.shape[1] == 1 and np.array_equal(values, grids[0][0]) for values, _ in grids):
            return grids[0][0]
        return np.concatenate([np.broadcast_to(values, (len(values), width)) for values, width in grids], axis=1)


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        return np.concatenate(values, axis=-1)
    return values[0] if all(value == values[0] for value in values) else list(values)
