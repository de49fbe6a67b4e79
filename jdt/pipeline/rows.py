"""The models of a run that estimators can use."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt import checks, store
from jdt.estimators import complete_pairs, finite_models
from jdt.masks import PAIRED
from jdt.types import Bool, Float, Int

OUTPUTS = ("confidence", "margin")
"""Outputs that influences are estimated for, where a run holds them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """The models of a run that estimators can use: complete, finite, and when paired, with their partner.

    Attributes:
      masks: bool `[models, units]`.
      kept: Their rows among the complete models.
      left_out: Ids of complete models that cannot be used: diverged ones, and the partners of such in pairs.
      paired: Whether rows 2i and 2i+1 are an antithetic pair.
    """

    masks: Bool[np.ndarray, "models units"]
    kept: Int[np.ndarray, " models"]
    left_out: tuple[int, ...]
    paired: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Rows(Models):
    """Those models, with what they say.

    Attributes:
      outputs: Output name -> float32 `[models, examples]`, of those of `OUTPUTS` that the run holds.
      accuracy: float32 `[models]`; NaN where the run does not hold it.
    """

    outputs: Mapping[str, Float[np.ndarray, "models examples"]]
    accuracy: Float[np.ndarray, " models"]


def usable_models(run: store.Run, target: str, mode: str, *, least: int = 2) -> Models:
    """Find the models of a run that estimators can use, reading all it holds about a target a block at a time.

    Raises:
      UserError: If fewer than `least` are left.
    """
    finite = np.ones(len(run.complete), bool)
    for output in run.layout.example_outputs:
        if output != "prediction":
            blocks = run.blocks(run.output_column(target, mode, output))
            finite &= np.concatenate([finite[:0], *(np.isfinite(values).all(axis=1) for values in blocks)])
    paired = run.config["design"]["kind"] in PAIRED
    together = complete_pairs(run.complete, paired=paired)
    usable = finite_models(np.where(finite[together], 0.0, np.nan)[:, None], paired=paired)
    if usable.sum() < least:
        raise checks.UserError(
            f"{int(usable.sum())} of {len(run.complete)} trained models can be used for target {target!r}, but an "
            "effect is a difference between models: lower --recipe.learning-rate if they diverged, or train more."
        )
    kept = np.flatnonzero(together)[usable]
    left_out = tuple(int(i) for i in np.setdiff1d(run.complete, run.complete[kept]))
    return Models(run.mask()[kept], kept, left_out, paired)


def usable_rows(run: store.Run, target: str, mode: str, *, least: int = 2) -> Rows:
    """Read the models of a run that estimators can use, with their outputs.

    Raises:
      UserError: If fewer than `least` are left, or the run holds none of `OUTPUTS`.
    """
    models = usable_models(run, target, mode, least=least)
    held = [name for name in OUTPUTS if name in run.layout.example_outputs]
    if not held:
        run.output_column(target, mode, OUTPUTS[0])  # Refuses, naming what the run holds.
    accuracy = f"targets/{target}/{mode}/{store.ACCURACY}"
    return Rows(
        masks=models.masks,
        kept=models.kept,
        left_out=models.left_out,
        paired=models.paired,
        outputs={name: run.outputs(target, mode, name)[models.kept] for name in held},
        accuracy=(
            run.column(accuracy)[models.kept]
            if accuracy in run.layout.columns()
            else np.full(len(models.kept), np.nan, np.float32)
        ),
    )
