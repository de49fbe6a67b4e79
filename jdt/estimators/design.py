"""What every estimator needs of its inputs: checked rows, finite models only, pairs kept together."""

import jax
import numpy as np

from jdt import checks
from jdt.types import Bool, Float, Int, Masks, Outputs


def check_rows(
    masks: Masks, outputs: Outputs, *, paired: bool, least: int = 2
) -> tuple[Bool[np.ndarray, "models units"], Float[np.ndarray, "models targets"]]:
    """Check that masks and outputs fit each other and, when paired, that rows 2i and 2i+1 are complements.

    Raises:
      UserError: If shapes differ, an output is NaN or infinite, there are fewer than `least` models, or pairs are
        broken.
    """
    masks, outputs = np.asarray(masks, bool), np.asarray(outputs)
    if masks.ndim != 2 or outputs.ndim != 2 or len(masks) != len(outputs):
        raise checks.UserError(
            f"masks have shape {masks.shape} and outputs {outputs.shape}, expected [models, units] and "
            "[models, targets] with equal numbers of models."
        )
    require_models(len(masks), least)
    if not np.isfinite(outputs).all():
        bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
        raise checks.UserError(
            f"{len(bad)} models have NaN or infinite outputs (first row: {bad[0]}): drop them with "
            "jdt.estimators.finite_models before fitting."
        )
    if paired and (len(masks) % 2 or (masks[0::2] == masks[1::2]).any()):
        raise checks.UserError("paired=True, but rows 2i and 2i+1 are not a mask and its complement.")
    dtype = np.float64 if jax.config.read("jax_enable_x64") else np.float32
    return masks, outputs.astype(dtype, copy=False)


def require_models(count: int, least: int = 2) -> None:
    """Raise `UserError` where there are too few models."""
    if count < least:
        raise checks.UserError(f"there is {count} model, but an effect is a difference between models: train more.")


def mean_over_models(outputs: Float[np.ndarray, "models targets"]) -> Float[np.ndarray, " targets"]:
    """Mean output of each target, summed in float64: a constant output's mean is the constant itself.

    >>> mean_over_models(np.full((300, 1), 0.1, np.float32)).tolist() == np.full(1, 0.1, np.float32).tolist()
    True
    """
    return outputs.mean(axis=0, dtype=np.float64).astype(outputs.dtype)


def finite_models(outputs: Outputs, *, paired: bool) -> Bool[np.ndarray, " models"]:
    """Say which models can be used: those with finite outputs only, and when paired, whose partner has them too.

    >>> finite_models(np.array([[1.0], [np.nan], [2.0], [3.0]]), paired=True).tolist()
    [False, False, True, True]
    """
    finite = np.asarray(np.isfinite(np.asarray(outputs)).all(axis=1))
    return np.repeat(finite[0::2] & finite[1::2], 2) if paired else finite


def complete_pairs(model_ids: np.ndarray, *, paired: bool) -> Bool[np.ndarray, " models"]:
    """Say which of these sorted model ids can be used: all, or when paired, those whose partner is there as well.

    >>> complete_pairs(np.array([0, 1, 3, 4, 5]), paired=True).tolist()
    [True, True, False, True, True]
    """
    return np.isin(model_ids ^ 1, model_ids) if paired else np.ones(len(model_ids), bool)


DATA_STATUS = ("ordinary", "output is constant", "no unit varies")
"""What the codes of `data_status` mean; influences are 0 wherever the code is not, and unknown where no unit varies."""


def constant_units(masks: Bool[np.ndarray, "models units"]) -> Bool[np.ndarray, " units"]:
    """Which units every model keeps or none does: their influence cannot be told.

    >>> constant_units(np.array([[1, 0, 1], [1, 0, 0]], bool)).tolist()
    [True, True, False]
    """
    return np.asarray(masks.all(axis=0) | ~masks.any(axis=0))


def data_status(
    masks: Bool[np.ndarray, "models units"], outputs: Float[np.ndarray, "models targets"]
) -> Int[np.ndarray, " targets"]:
    """Code for each target of what is odd about its data, an index into `DATA_STATUS`.

    >>> data_status(np.array([[1], [0]], bool), np.array([[1.0, 2.0], [1.0, 3.0]])).tolist()
    [1, 0]
    """
    if constant_units(masks).all():
        return np.full(outputs.shape[1], 2)
    return np.where(outputs.max(axis=0) == outputs.min(axis=0), 1, 0)


def is_relative(masks: Bool[np.ndarray, "models units"]) -> bool:
    """Whether all subsets have one size, so that influences are relative to the average unit.

    For f = sum_k beta_k a_k such designs identify K/(K-1) (beta - mean beta) only (arXiv 2207.05739; derived in
    docs/glossary.md, "relative influence").
    """
    return bool((masks.sum(axis=1) == masks[0].sum()).all())
