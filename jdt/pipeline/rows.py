"""The models of a run that estimators can use."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jdt import checks, exchange, store
from jdt.estimators import complete_pairs, finite_models
from jdt.hosts import ALONE, Hosts
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
      train_accuracy: The same on the training images of the target.
    """

    outputs: Mapping[str, Float[np.ndarray, "models examples"]]
    accuracy: Float[np.ndarray, " models"]
    train_accuracy: Float[np.ndarray, " models"]


def share_of(run: store.Run, hosts: Hosts) -> store.Run:
    """The run as if it held one process's share of its blocks alone: consecutive ones, so that shares join in order."""
    records = run.records()
    first, stop = (len(records) * i // hosts.count for i in (hosts.index, hosts.index + 1))
    return dataclasses.replace(run, _records=tuple(records[first:stop]))


def usable_models(run: store.Run, target: str, mode: str, *, least: int = 2, hosts: Hosts = ALONE) -> Models:
    """Find the models of a run that estimators can use, reading all it holds about a target a block at a time.

    Args:
      run: The run, which every process has opened.
      target: Which target.
      mode: Which mode.
      least: Fewer are too few.
      hosts: The processes that share the reading; each gets all models.

    Raises:
      UserError: If fewer than `least` are left, or the processes do not see the same models.
    """
    with exchange.in_step(hosts):
        run = run.holding(target)
        own = share_of(run, hosts)
        there = np.ones(len(own.complete), bool)
        for output in run.layout.example_outputs:
            if output != "prediction":
                blocks = own.blocks(run.output_column(target, mode, output))
                there &= np.concatenate([there[:0], *(np.isfinite(values).all(axis=1) for values in blocks)])
        found = {"models": own.complete, "finite": there, "bits": np.packbits(own.mask(), axis=1)}
    parts = exchange.gather(found, hosts)
    models, finite, bits = (np.concatenate([part[name] for part in parts]) for name in found)
    with exchange.in_step(hosts):
        if not np.array_equal(models, run.complete):
            raise checks.UserError(
                f"{run.path} holds {len(run.complete)} models for this process and others for another: wait until no "
                "model is being trained, and see that all processes read the same directory."
            )
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
    masks = np.unpackbits(bits, axis=1, count=run.layout.num_units).view(bool)
    return Models(masks[kept], kept, left_out, paired)


def usable_rows(run: store.Run, target: str, mode: str, *, least: int = 2) -> Rows:
    """Read the models of a run that estimators can use, with their outputs.

    Raises:
      UserError: If fewer than `least` are left, or the run holds none of `OUTPUTS`.
    """
    run = run.holding(target)
    models = usable_models(run, target, mode, least=least)
    held = [name for name in OUTPUTS if name in run.layout.example_outputs]
    if not held:
        run.output_column(target, mode, OUTPUTS[0])  # Refuses, naming what the run holds.

    def held_or_nan(scalar: str) -> np.ndarray:
        column = f"targets/{target}/{mode}/{scalar}"
        if column in run.layout.columns():
            return run.column(column)[models.kept]
        return np.full(len(models.kept), np.nan, np.float32)

    return Rows(
        masks=models.masks,
        kept=models.kept,
        left_out=models.left_out,
        paired=models.paired,
        outputs={name: run.outputs(target, mode, name)[models.kept] for name in held},
        accuracy=held_or_nan(store.ACCURACY),
        train_accuracy=held_or_nan(store.TRAIN_ACCURACY),
    )
