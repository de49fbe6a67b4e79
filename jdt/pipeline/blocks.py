"""From masks to stored outputs, block by block: a run can be stopped and resumed at any of them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdt import store
from jdt.masks import OUTSIDE, sample
from jdt.models import Variables
from jdt.outputs import example_outputs
from jdt.pipeline.task import TargetData, Task
from jdt.train import Ensemble, SourceData, Trained, apply_in_batches, initial_variables, train
from jdt.transfer import transfer_fixed
from jdt.types import Bool, Float, Int

UNTRAINED_MODELS = 4
"""How many untrained models say what the network's random features are worth."""

BlockProgress = Callable[[int, float], None]
"""Called with (block, share of its training done)."""


def train_missing_blocks(
    task: Task, writer: store.RunWriter, blocks: Sequence[int], *, progress: BlockProgress | None = None
) -> list[int]:
    """Train, transfer and store the given blocks, one after the other.

    Args:
      task: What to run.
      writer: The run's store.
      blocks: Block numbers, usually `writer.missing_blocks()`.
      progress: Called with (block, share done).

    Returns:
      Ids of models that were marked because their training became NaN or infinite.
    """
    source = SourceData(jnp.asarray(task.source.images), jnp.asarray(task.source.labels))
    spans = task.schema().blocks()
    marked: list[int] = []
    for block in blocks:
        start = time.perf_counter()
        model_ids = np.asarray(spans[block])
        arrays, record = _run_block(task, source, block, model_ids, progress)
        writer.write_block(block, arrays, {**record, "seconds": time.perf_counter() - start})
        marked += record["diverged"]
    return marked


def _run_block(
    task: Task, source: SourceData, block: int, model_ids: Int[np.ndarray, " models"], progress: BlockProgress | None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    ensemble, seed = task.ensemble, task.design.seed
    masks = sample(task.design, model_ids, len(task.units))
    # A last, shorter block is filled up with copies of its own models, so that it needs no program of its own.
    padding = np.resize(np.arange(len(model_ids)), task.block_size)
    randomness_ids = task.design.randomness_id(model_ids)[padding]
    trained = train(
        ensemble,
        source,
        task.units.members(masks)[padding],
        randomness_ids,
        seed=seed,
        progress=None if progress is None else lambda done, total: progress(block, done / total),
    )
    finite = trained.finite[: len(model_ids)]
    arrays: dict[str, np.ndarray] = {
        "mask": masks,
        "source/loss": _rows(trained.loss, finite),
        "source/accuracy": _rows(_source_accuracy(task, ensemble, trained, masks[padding]), finite),
    }
    for target in task.targets:
        columns = _transfer(task, ensemble, trained.variables, target)
        arrays |= {f"targets/{target.name}/fixed/{name}": _rows(value, finite) for name, value in columns.items()}
    record: dict[str, Any] = {
        "plan": task.plan.name,
        "randomness_ids": randomness_ids[: len(model_ids)].tolist(),
        "diverged": model_ids[~finite].tolist(),
    }
    if block == 0:
        record["random_accuracy"] = _untrained_accuracy(task, ensemble)
    return arrays, record


def _untrained_accuracy(task: Task, ensemble: Ensemble) -> dict[str, list[float]]:
    """Target accuracy of features before any training: influences mean something only above it."""
    found: dict[str, list[float]] = {target.name: [] for target in task.targets}
    for first in range(0, UNTRAINED_MODELS, task.block_size):
        ids = np.arange(first, first + task.block_size)  # A whole block, since its programs are compiled already.
        untrained = initial_variables(ensemble, jnp.asarray(task.design.seed), jnp.asarray(ids))
        for target in task.targets:
            found[target.name] += _transfer(task, ensemble, untrained, target)["accuracy"].tolist()
    return {name: values[:UNTRAINED_MODELS] for name, values in found.items()}


def _transfer(task: Task, ensemble: Ensemble, variables: Variables, target: TargetData) -> dict[str, np.ndarray]:
    transferred = transfer_fixed(ensemble, variables, target.train, target.test, task.head)
    outputs = example_outputs(transferred.logits, jnp.asarray(target.test.labels))
    columns = {**outputs._asdict(), "gradient_norm": transferred.gradient_norm}
    return {name: np.asarray(value) for name, value in jax.device_get(columns).items()}


def _source_accuracy(
    task: Task, ensemble: Ensemble, trained: Trained, masks: Bool[np.ndarray, "models units"]
) -> Float[np.ndarray, " models"]:
    """Accuracy on the test images of the classes that each model was trained on (the published protocol)."""
    if task.source_test is None:
        return np.full(len(masks), np.nan, np.float32)
    logits = apply_in_batches(ensemble, trained.variables, task.source_test.images).logits
    labels = np.asarray(task.source_test.labels)
    right = np.asarray(logits.argmax(axis=-1)) == labels
    kept = _kept_classes(task, masks)[:, labels]
    return (np.sum(right & kept, axis=1) / np.maximum(kept.sum(axis=1), 1)).astype(np.float32)


def _kept_classes(task: Task, masks: Bool[np.ndarray, "models units"]) -> Bool[np.ndarray, "models classes"]:
    kept = np.zeros((len(masks), len(task.source.class_names)), bool)
    inside = task.units.of_example != OUTSIDE
    pairs = np.unique(np.stack([np.asarray(task.source.labels)[inside], task.units.of_example[inside]], axis=1), axis=0)
    for label in np.unique(pairs[:, 0]):
        kept[:, label] = masks[:, pairs[pairs[:, 0] == label, 1]].any(axis=1)
    return kept


def _rows(values: np.ndarray, finite: Bool[np.ndarray, " models"]) -> np.ndarray:
    """Drop padded rows, and blank those of models that diverged."""
    values = np.array(values[: len(finite)])
    values[~finite] = -1 if values.dtype.kind == "i" else np.nan
    return values


def random_accuracy(run: store.Run, target: str) -> Float[np.ndarray, " some"]:
    """Target accuracy of untrained models' features, from the first block's record; empty before it is complete."""
    for record in run.records():
        found: Mapping[str, Sequence[float]] = record.get("random_accuracy", {})
        if target in found:
            return np.asarray(found[target], np.float32)
    return np.empty(0, np.float32)
