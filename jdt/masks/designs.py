"""Subset designs: which units each source model keeps.

A row depends on (seed, model id) alone, so any model's subset can be drawn again on any host (arXiv 2207.05739,
section 3.1 draws fixed-size subsets without a seed and has to store them).
"""

import dataclasses
import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks
from jdt.keys import key_for
from jdt.masks.balance import balanced_rows, group_size
from jdt.types import Array, Bool, Float, Int, PRNGKey

DesignKind = Literal["fixed-size", "bernoulli", "antithetic", "balanced", "balanced-pairs"]
KINDS: tuple[DesignKind, ...] = get_args(DesignKind)
PAIRED: frozenset[str] = frozenset({"antithetic", "balanced-pairs"})
"""Kinds whose models 2i and 2i+1 are a mask and its complement."""


@dataclasses.dataclass(frozen=True)
class Design:
    """How subsets are drawn.

    * `fixed-size`: exactly `kept(units)` units, uniformly without replacement (the published design).
    * `bernoulli`: every unit independently with probability `fraction`; an empty draw is drawn again.
    * `antithetic`: models 2i and 2i+1 keep a fixed-size half and its complement and share initialisation, batch
      order seeds and augmentation seeds, so that a unit's effect is a difference within a pair.
    * `balanced`: fixed-size subsets that make up for each other within groups of consecutive models: every unit is
      kept about equally often, and so is every pair of units (`jdt.masks.balance`). Each row alone is a uniform
      fixed-size subset, and each model has its own randomness. Groups have four models a unit and balance grows row
      by row: any first part of one is balanced, the better the longer. Standard errors of differences of means do not
      know of it and are too wide.
    * `balanced-pairs`: antithetic pairs whose first rows are those of the balanced design.

    Attributes:
      kind: One of `KINDS`.
      fraction: Share of the units kept, strictly between 0 and 1. Pairs need 0.5.
      seed: Root seed of the study, 0 to 2**31 - 1.
    """

    kind: DesignKind = "fixed-size"
    fraction: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        checks.require_known("design", self.kind, KINDS)
        checks.require_fraction("fraction", self.fraction)
        if not 0 <= self.seed < 2**31:
            raise checks.UserError(f"seed is {self.seed}, but it must lie between 0 and 2147483647 (31 bits).")
        if self.is_paired and self.fraction != 0.5:
            raise checks.UserError(
                f"fraction is {self.fraction}, but the {self.kind} design pairs a subset with its complement: "
                "use fraction=0.5, or design=fixed-size."
            )

    @property
    def is_paired(self) -> bool:
        """Whether models 2i and 2i+1 are a mask and its complement with equal randomness."""
        return self.kind in PAIRED

    def kept(self, num_units: int) -> int:
        """Units kept by one row: `round(fraction * num_units)`, at least 1 and at most `num_units - 1`."""
        return min(max(1, math.floor(self.fraction * num_units + 0.5)), num_units - 1)

    def randomness_id(self, model_id: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """Id from which a model's initialisation, order and augmentation derive: shared within pairs."""
        return model_id // 2 if self.is_paired else model_id

    def smallest_subset(self, unit_sizes: Int[np.ndarray, " units"]) -> int:
        """Fewest examples that a row is expected to hold, from the design alone (no row is drawn).

        Exact for fixed-size, balanced and antithetic rows (the `kept` smallest units); for Bernoulli rows six standard
        deviations below the mean, and never less than the smallest unit.
        """
        ordered = np.sort(unit_sizes)
        if self.kind == "bernoulli":
            mean = self.fraction * ordered.sum()
            spread = math.sqrt(self.fraction * (1 - self.fraction) * float((ordered.astype(float) ** 2).sum()))
            return max(int(ordered[0]), int(mean - 6 * spread))
        kept = self.kept(len(ordered))
        if self.is_paired:
            kept = min(kept, len(ordered) - kept)
        return int(ordered[:kept].sum())

    def epoch_size(self, unit_sizes: Int[np.ndarray, " units"]) -> float:
        """Examples that a row holds on average, which is what an epoch is a pass over (decision 2)."""
        share = self.fraction if self.kind == "bernoulli" else self.kept(len(unit_sizes)) / len(unit_sizes)
        return share * float(unit_sizes.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Listed:
    """Subsets that are listed one by one, as a counterfactual asks for them.

    Attributes:
      masks: bool `[models, units]`: the row of each model.
      randomness_ids: int `[models]`: from which its initialisation, order and augmentation derive. Models that share
        one differ in their subset alone, so that their outputs can be compared in pairs.
      seed: Root seed, 0 to 2**31 - 1.
      allow_untrained: Whether a row may keep no unit: its model stays as it was initialised.
    """

    masks: Bool[np.ndarray, "models units"]
    randomness_ids: Int[np.ndarray, " models"]
    seed: int = 0
    kind: Literal["listed"] = "listed"
    is_paired: Literal[False] = False
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        if (empty := np.flatnonzero(~self.masks.any(axis=1)).tolist()) and not self.allow_untrained:
            raise checks.UserError(f"listed subset {empty[0]} keeps no unit, but a model needs data: leave it out.")
        if not 0 <= self.seed < 2**31:
            raise checks.UserError(f"seed is {self.seed}, but it must lie between 0 and 2147483647 (31 bits).")

    def randomness_id(self, model_id: Int[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """Id from which a model's initialisation, order and augmentation derive."""
        return self.randomness_ids[model_id]

    def smallest_subset(self, unit_sizes: Int[np.ndarray, " units"]) -> int:
        """Fewest examples that a row holds which keeps any unit."""
        held = self.masks @ unit_sizes
        return int(held[self.masks.any(axis=1)].min(initial=int(unit_sizes.sum())))

    def epoch_size(self, unit_sizes: Int[np.ndarray, " units"]) -> float:
        """Examples of the largest row: all models take as many steps as the one with most data does in its epochs."""
        return float((self.masks @ unit_sizes).max()) or float(unit_sizes.sum())


def check_num_models(design: Design | Listed, num_models: int) -> None:
    """Raise `UserError` unless the design can be drawn with this many models."""
    if isinstance(design, Listed):
        if num_models != len(design.masks):
            raise checks.UserError(f"num-models is {num_models}, but {len(design.masks)} subsets are listed.")
        return
    if num_models < 2:
        raise checks.UserError(
            f"num-models is {num_models}, but an effect is a difference between models: use at least 2 "
            "(hundreds for influences that mean something)."
        )
    if design.is_paired and num_models % 2:
        raise checks.UserError(
            f"num-models is {num_models}, which is odd, but the {design.kind} design trains models in pairs: "
            f"use {num_models + 1}, or design=fixed-size."
        )


def sample(
    design: Design | Listed, model_ids: Int[np.ndarray, " models"], num_units: int
) -> Bool[np.ndarray, "models units"]:
    """Draw the mask rows of the given models.

    Args:
      design: How subsets are drawn.
      model_ids: `[models]` global ids, in any order.
      num_units: Number of units (columns), at least 2.

    Returns:
      bool `[models, units]`: entry (m, u) says whether model `model_ids[m]` keeps unit u.

    Raises:
      UserError: If there are fewer than 2 units, or the listed rows have another number of them.

    >>> sample(Design("fixed-size", 0.5, seed=3), np.arange(4), 6).sum(axis=1).tolist()
    [3, 3, 3, 3]
    >>> pair = sample(Design("antithetic", seed=3), np.arange(2), 6)
    >>> bool((pair[0] == ~pair[1]).all())
    True
    """
    model_ids = np.asarray(model_ids)
    if isinstance(design, Listed):
        if design.masks.shape[1] != num_units:
            raise checks.UserError(f"listed subsets are of {design.masks.shape[1]} units, but there are {num_units}.")
        return design.masks[model_ids]
    if num_units < 2:
        raise checks.UserError(f"there is {num_units} unit, but subsets need at least 2 units to choose from.")
    ids = design.randomness_id(model_ids)
    root, rows = key_for(design.seed, "mask"), jnp.asarray(ids)
    if design.kind in ("balanced", "balanced-pairs"):
        mask = _balanced(design.seed, ids, design.kept(num_units), num_units)
    elif design.kind == "bernoulli":
        # The type of the fraction is that of the draws: float32 whether or not 64-bit types are enabled.
        mask = np.array(_bernoulli_rows(root, rows, jnp.float32(design.fraction), num_units=num_units))
    else:
        mask = np.array(_fixed_size_rows(root, rows, jnp.int32(design.kept(num_units)), num_units=num_units))
    if design.is_paired:
        mask ^= (model_ids % 2 == 1)[:, None]
    return mask


def _balanced(
    seed: int, ids: Int[np.ndarray, " models"], kept: int, num_units: int
) -> Bool[np.ndarray, "models units"]:
    group, place = np.divmod(ids, group_size(num_units))
    mask = np.zeros((len(ids), num_units), bool)
    for g in np.unique(group):
        inside = group == g
        # Rows rest on earlier rows only; lengths that are powers of two let the cache serve the blocks of a run.
        length = min(max(64, 1 << int(place[inside].max()).bit_length()), group_size(num_units))
        mask[inside] = _balanced_group(seed, int(g), length, kept, num_units)[place[inside]]
    return mask


@functools.lru_cache(maxsize=8)
def _balanced_group(seed: int, group: int, length: int, kept: int, num_units: int) -> Bool[np.ndarray, "models units"]:
    ids = group * group_size(num_units) + jnp.arange(length)
    rows = balanced_rows(np.asarray(_orders(key_for(seed, "mask"), ids, num_units=num_units)), kept)
    rows.flags.writeable = False
    return rows


@jax.jit(static_argnames="num_units")
def _orders(root: PRNGKey, ids: Int[Array, " models"], *, num_units: int) -> Int[Array, "models units"]:
    return jax.vmap(lambda i: jax.random.permutation(jax.random.fold_in(root, i), num_units))(ids)


@jax.jit(static_argnames="num_units")
def _fixed_size_rows(
    root: PRNGKey, ids: Int[Array, " models"], kept: Int[Array, ""], *, num_units: int
) -> Bool[Array, "models units"]:
    def row(i: Int[Array, ""]) -> Bool[Array, " units"]:
        order = jax.random.permutation(jax.random.fold_in(root, i), num_units)
        return jnp.zeros(num_units, bool).at[order].set(jnp.arange(num_units) < kept)

    return jax.vmap(row)(ids)


@jax.jit(static_argnames="num_units")
def _bernoulli_rows(
    root: PRNGKey, ids: Int[Array, " models"], fraction: Float[Array, ""], *, num_units: int
) -> Bool[Array, "models units"]:
    def row(i: Int[Array, ""]) -> Bool[Array, " units"]:
        def draw(attempt: Int[Array, ""]) -> Bool[Array, " units"]:
            key = jax.random.fold_in(jax.random.fold_in(root, i), attempt)
            return jax.random.bernoulli(key, fraction, (num_units,))

        # A model without data cannot be trained: an empty row is drawn again, at the next attempt's key.
        first = jnp.asarray(0)
        _, mask = jax.lax.while_loop(
            lambda carry: ~carry[1].any(), lambda carry: (carry[0] + 1, draw(carry[0] + 1)), (first, draw(first))
        )
        return mask

    return jax.vmap(row)(ids)
