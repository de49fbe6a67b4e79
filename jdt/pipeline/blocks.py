"""From masks to stored outputs, block by block: a run can be stopped and resumed at any of them."""

import collections
import contextlib
import importlib.util
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks, config, store
from jdt.analyses import singular_values
from jdt.data import Dataset
from jdt.hosts import ALONE, Hosts, next_block
from jdt.masks import OUTSIDE, sample
from jdt.models import Variables
from jdt.outputs import example_outputs
from jdt.pipeline.saving import SavedModels, require_savable
from jdt.pipeline.source_models import kept_models, source_columns
from jdt.pipeline.task import TargetData, Task, Transfers, settings_of
from jdt.sharding import SHARED, place
from jdt.train import (
    CLIP,
    OWN,
    Checkpoints,
    Ensemble,
    Pool,
    Progress,
    SourceData,
    Trained,
    apply_in_batches,
    initial_variables,
    source_data,
    train,
)
from jdt.transfer import (
    FixedFeature,
    FrozenFeatures,
    FullNetwork,
    TunedTransfer,
    Tuning,
    ZeroShot,
    transfer_fixed,
    transfer_full,
    transfer_tuned,
    transfer_zero_shot,
)
from jdt.types import Bool, Float, Int

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 600.0
"""Between checkpoints inside a block's training, where nothing else is asked for."""

BlockProgress = Callable[[float], None]
"""Called with the number of models that are done, those of other processes and fractions included."""


def train_missing_blocks(
    task: Task,
    writer: store.RunWriter,
    blocks: Collection[int] | None = None,
    *,
    hosts: Hosts = ALONE,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    save_models: bool = False,
    progress: BlockProgress | None = None,
    enough: Callable[[int], bool] | None = None,
) -> list[int]:
    """Train, transfer and store the blocks that the store lacks, one after the other.

    What is missing is asked again before each block, so that any number of processes may work on one run, come and go.
    Of a block that was partial before the run grew, only the new models are trained. Where another run keeps these very
    models (`Task.kept`), they are read, and none is trained.

    Args:
      task: What to run.
      writer: The run's store.
      blocks: Only these; all of them when None.
      hosts: Which process this is, of how many that share the blocks.
      checkpoint_seconds: Time between checkpoints inside the training of a block; a shorter one makes none.
      save_models: Keep the source models of every block in the run, for `jdt.Run.source_model` and for targets that
        are added later; a record then says that they are there.
      progress: Called now and then while training.
      enough: Asked before each block, with the number of models in all blocks that are not missing; where it says so,
        the rest stay missing.

    Returns:
      Ids of models that were marked because their training became NaN or infinite.

    Raises:
      UserError: If source models are to be kept and cannot be, or are to be taken from a run that does not have them.
    """
    if save_models:
        require_savable(writer.path, task.network, task.source.image_shape)
    source = None if task.kept is not None else task.pool or place(source_data(task.source), task.num_devices, SHARED)
    spans = task.schema().blocks()
    marked: list[int] = []
    spectra_of = writer.schema.layout.spectrum_targets
    keep = _Unfinished(writer, checkpoint_seconds)
    while missing := [b for b in writer.unrecorded_blocks() if blocks is None or b in blocks]:
        done = task.num_models - sum(len(spans[block]) for block in missing)
        block = next_block(missing, hosts)
        if block is None or (enough is not None and enough(done)):
            break
        start = time.perf_counter()
        earlier = writer.first_rows(block)
        model_ids = np.asarray(spans[block])[len(earlier.models) :]
        tell = None if progress is None else _telling(progress, done + len(earlier.models), len(model_ids))
        checkpoints = keep.of_block(block, model_ids)
        if source is None:
            trained, record = _kept_block(task, model_ids)
        else:
            trained, record = _train_block(task, source, model_ids, checkpoints, tell)
        saved = _saved(task, writer, block, model_ids, trained) if save_models else None
        try:
            arrays, more = _outputs_of_block(task, block, model_ids, spectra_of, trained)
        finally:
            if saved is not None:
                saved.wait()
        try:
            kept = {} if saved is None else {store.MODELS_KEY: [saved.part().described()]}
        except checks.UserError:
            if block in writer.unrecorded_blocks():
                raise
            continue  # Another process has recorded the block meanwhile, and removed what is of no more use.
        record = {**record, **more, **kept}
        if not writer.schema.train_accuracy:  # The run is from before it was recorded.
            arrays = {name: value for name, value in arrays.items() if not name.endswith(f"/{store.TRAIN_ACCURACY}")}
        record = {**record, "seconds": time.perf_counter() - start}
        marked += record["diverged"]
        writer.write_block(block, *earlier.followed_by(arrays, record))
        if checkpoints is not None:
            checkpoints.discard()
    keep.tidy()
    return marked


def _saved(
    task: Task, writer: store.RunWriter, block: int, model_ids: Int[np.ndarray, " models"], trained: Trained
) -> SavedModels:
    """Begin to keep the source models of a block, without what belongs to their objective."""
    return SavedModels(writer.path, block, model_ids, task.ensemble.of_network(trained.variables))


class _Unfinished:
    """Checkpoints of blocks that are being trained, in the run directory."""

    def __init__(self, writer: store.RunWriter, every_seconds: float) -> None:
        self._writer, self._every, self._folder = writer, every_seconds, writer.path / store.UNFINISHED
        if not store.is_local(self._folder) and importlib.util.find_spec("gcsfs") is None:
            logger.info("no checkpoints inside blocks: Orbax needs gcsfs to write them to a bucket.")
            self._every = math.inf
        self.tidy()

    def of_block(self, block: int, model_ids: Int[np.ndarray, " models"]) -> Checkpoints | None:
        """Those of the models of a block that are to be trained."""
        if self._every == math.inf:
            return None
        identity = f"{self._writer.config_fingerprint} {block} {model_ids[0]}-{model_ids[-1]}"
        return Checkpoints(self._folder / f"{block:06d}", identity, self._every)

    def tidy(self) -> None:
        """Remove what blocks left that are complete by now, and the folder with the last of them."""
        names = store.names_in(self._folder)
        missing = set(self._writer.unrecorded_blocks()) if names else set()
        gone = [name for name in names if not (name.isdigit() and int(name) in missing)]
        for name in gone:
            store.remove_tree(self._folder / name)
        if store.is_local(self._folder) and self._folder.exists():
            with contextlib.suppress(OSError):  # Not empty: another process has a checkpoint there.
                self._folder.rmdir()


def _telling(progress: BlockProgress, before: int, num_models: int) -> Progress:
    return lambda done, total: progress(before + num_models * done / total)


def _train_block(
    task: Task,
    source: SourceData | Pool,
    model_ids: Int[np.ndarray, " models"],
    checkpoints: Checkpoints | None,
    progress: Progress | None,
) -> tuple[Trained, dict[str, Any]]:
    """Train the models of a block; also what its record says of that. Models without units stay as they start."""
    randomness_ids = task.design.randomness_id(model_ids)
    masks = sample(task.design, model_ids, len(task.units))
    learns: np.ndarray = np.any(masks, axis=1)
    starts = ~learns

    def started(rows: Bool[np.ndarray, " models"]) -> Variables:
        return _initial(task, task.ensemble, randomness_ids[rows])

    parts = []
    if learns.any():
        parts.append(
            train(
                task.ensemble,
                source,
                task.units.members(masks[learns]),
                randomness_ids[learns],
                seed=task.design.seed,
                start=None if task.start is None else started(learns),
                checkpoints=checkpoints,
                progress=progress,
            )
        )
    if starts.any():
        num = int(starts.sum())
        parts.append(Trained(started(starts), np.full(num, np.nan, np.float32), np.ones(num, bool)))
    trained = parts[0] if len(parts) == 1 else _in_order(parts, np.argsort(starts, kind="stable"))
    return trained, _record_of(task, model_ids, trained)


def _record_of(task: Task, model_ids: Int[np.ndarray, " models"], trained: Trained) -> dict[str, Any]:
    return {
        "plan": task.plan.name,
        "precision": task.precision,
        "randomness_ids": task.design.randomness_id(model_ids).tolist(),
        "diverged": model_ids[~trained.finite].tolist(),
    }


def _kept_block(task: Task, model_ids: Int[np.ndarray, " models"]) -> tuple[Trained, dict[str, Any]]:
    """Read the models of a block from the run that keeps them; also what its record says of them.

    Raises:
      UserError: If that run does not have them, or they saw other images or have other randomness than the task says.
    """
    assert task.kept is not None
    models = range(int(model_ids[0]), int(model_ids[-1]) + 1)
    kept = kept_models(task.kept, models, task.network, task.source.image_shape)
    asked = {
        "source images": (kept.columns["mask"], sample(task.design, model_ids, len(task.units))),
        "randomness": (kept.randomness_ids, task.design.randomness_id(model_ids)),
    }
    for what, (theirs, ours) in asked.items():
        if theirs.shape != ours.shape or not (theirs == ours).all():
            raise checks.UserError(
                f"models {models.start} to {models.stop - 1} of {task.kept.path} have other {what} than are asked for "
                "here: train anew."
            )
    trained = Trained(kept.variables, kept.columns["source/loss"], kept.finite)
    return trained, {**_record_of(task, model_ids, trained), "kept_in": config.fingerprint(task.kept.config)}


def _in_order(parts: Sequence[Trained], model_of_row: Int[np.ndarray, " models"]) -> Trained:
    """Models that were trained and models that were not, each in its row of the block."""
    rows = np.argsort(model_of_row)
    return jax.tree.map(lambda *leaves: np.concatenate(jax.device_get(leaves))[rows], *parts)


def _outputs_of_block(
    task: Task, block: int, model_ids: Int[np.ndarray, " models"], spectra_of: Collection[str], trained: Trained
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All columns of a block, and what else its record says."""
    masks = sample(task.design, model_ids, len(task.units))
    if task.kept is None:
        accuracy = _source_accuracy(task, task.ensemble, trained, masks)
    else:
        accuracy = source_columns(task.kept, range(int(model_ids[0]), int(model_ids[-1]) + 1))["source/accuracy"]
    columns = {
        "mask": masks,
        "source/loss": _rows(trained.loss, trained.finite),
        "source/accuracy": _rows(accuracy, trained.finite),
    }
    return transferred(task, block, model_ids, trained.variables, trained.finite, columns, spectra_of)


def transferred(
    task: Transfers,
    block: int,
    model_ids: Int[np.ndarray, " models"],
    variables: Variables,
    finite: Bool[np.ndarray, " models"],
    columns: Mapping[str, np.ndarray],
    spectra_of: Collection[str] = (),
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Transfer trained models to every target in every mode.

    Args:
      task: Targets, and how they are transferred to.
      block: Number of the block.
      model_ids: `[models]` ids.
      variables: Of the source models, stacked on a leading models axis.
      finite: Which of them stayed finite; the rows of the others are blank.
      columns: What is known of these models already.
      spectra_of: Test splits and views, by the store's names, that singular values of what tuned heads read are of.

    Returns:
      All columns by name, and what the block's record says of the transfer.
    """
    ensemble, randomness_ids, arrays = task.ensemble, task.design.randomness_id(model_ids), dict(columns)
    features_of = FrozenFeatures(ensemble, variables, _uses(task))
    for target in task.targets:
        target.require_no_overlap(task.allow_overlap)  # Found once; nothing is transferred to a split that was seen.
        banks = _banks(task, target)
        features_of.expect(bank.fingerprint for bank in banks.values())
        for mode in task.modes:
            found, sound = _transfer(
                task, ensemble, variables, target, mode, randomness_ids, features_of=features_of, bank=banks.get(mode),
                spectra_of=spectra_of,
            )  # fmt: skip
            found = named_columns(found, mode)
            arrays |= {name: _rows(value, finite & sound) for name, value in found.items()}
    return arrays, _baseline(task, ensemble) if block == 0 else {}


def named_columns(found: Mapping[str, Mapping[str, np.ndarray]], mode: str) -> dict[str, np.ndarray]:
    """Columns by the names of the store, of columns by test split."""
    return {
        f"targets/{test}/{mode}/{name}": value for test, columns in found.items() for name, value in columns.items()
    }


def _uses(task: Transfers) -> dict[str, int]:
    """How often features of each dataset are asked for, by fingerprint: variants and modes share images."""
    found: collections.Counter[str] = collections.Counter()
    for target, mode in itertools.product(task.targets, task.modes):
        settings = settings_of(task, target, mode)
        if isinstance(settings, Tuning | ZeroShot) or (isinstance(settings, FixedFeature) and settings.reads_features):
            found.update((target.train.fingerprint, target.all_tests.fingerprint))
        elif isinstance(settings, FullNetwork) and settings.start == "probe":
            found[target.train.fingerprint] += 1
    return found


def _banks(task: Transfers, target: TargetData) -> dict[str, Dataset]:
    """Augmented views of a target's training images by the tuner that reads them."""
    made: dict[tuple[Any, ...], Dataset | None] = {}
    found = {}
    for mode, tuner in task.tuners.items():
        if mode in task.modes and isinstance(tuner, Tuning):
            key = (tuner.reads_views, tuner.num_views, tuner.flip, tuner.crop)
            if key not in made:
                made[key] = task.banks.of(target.train, tuner)
            if (bank := made[key]) is not None:
                found[mode] = bank
    return found


def _initial(task: Transfers, ensemble: Ensemble, randomness_ids: Int[np.ndarray, " models"]) -> Variables:
    """What source models start from: random variables, or those that are given, under random heads."""
    fresh = initial_variables(ensemble, task.design.seed, randomness_ids)
    if task.start is None:
        return fresh
    given = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(randomness_ids), *leaf.shape)), task.start)
    tops = {name: fresh.params[name] for name in ("head", ensemble.objective.top)}
    return Variables({**given.params, **tops}, given.state)


def _baseline(task: Transfers, ensemble: Ensemble) -> dict[str, dict[str, list[float]]]:
    """What a block's record says of accuracy without any source training: influences mean something only above it.

    Keys are `target/mode`. With fixed features it is what random features are worth, else training from scratch.
    """
    if not task.baseline_models:
        return {}
    ids = np.arange(task.baseline_models)
    untrained = _initial(task, ensemble, ids)
    features_of, found = FrozenFeatures(ensemble, untrained, _uses(task)), {}
    for target in task.targets:
        banks = _banks(task, target)
        features_of.expect(bank.fingerprint for bank in banks.values())
        for mode in task.modes:
            columns, _ = _transfer(
                task, ensemble, untrained, target, mode, ids, features_of=features_of, bank=banks.get(mode)
            )
            found[f"{target.name}/{mode}"] = columns[target.name]["accuracy"].tolist()
    return {"random_accuracy": found}


def _transfer(
    task: Transfers,
    ensemble: Ensemble,
    variables: Variables,
    target: TargetData,
    mode: str,
    randomness_ids: Int[np.ndarray, " models"],
    measured: Dataset | None = None,
    features_of: FrozenFeatures | None = None,
    bank: Dataset | None = None,
    spectra_of: Collection[str] = (),
) -> tuple[dict[str, dict[str, np.ndarray]], Bool[np.ndarray, " models"]]:
    """Columns of one target in one mode, by the names of its test split and views; which models it left finite.

    `measured` are the images that the accuracy in training is of, where a recipe trains; all of them when None. Of a
    target of which each model is given its own images, it is of these.
    """
    sound, settings = np.ones(len(randomness_ids), bool), settings_of(task, target, mode)
    tests, rows = target.all_tests, target.rows(task.design.seed, randomness_ids)
    if isinstance(settings, FixedFeature) and settings.reads_features:
        transferred = transfer_fixed(ensemble, variables, target.train, tests, settings, features_of, rows)
        columns: dict[str, Any] = {"gradient_norm": transferred.gradient_norm} if settings.solver == "convex" else {}
    elif isinstance(settings, ZeroShot):
        transferred, columns = (
            transfer_zero_shot(ensemble, variables, target.train, tests, settings, features_of, rows),
            {},
        )
    elif isinstance(settings, Tuning):
        transferred = transfer_tuned(
            ensemble, variables, target.train, tests, settings,
            target=target.root_name, randomness_ids=randomness_ids, seed=task.design.seed, features_of=features_of,
            bank=bank, rows=rows,
        )  # fmt: skip
        sound, columns = np.asarray(transferred.finite), {"loss": transferred.loss}
    else:
        transferred = transfer_full(
            ensemble, variables, target.seen_by(settings.recipe), tests, settings,
            target=target.root_name, randomness_ids=randomness_ids, seed=task.design.seed,
            measured=target.train if measured is None else measured, rows=rows, features_of=features_of,
        )  # fmt: skip
        sound, columns = transferred.finite, {"loss": transferred.loss}
    columns[store.TRAIN_ACCURACY] = transferred.train_accuracy
    found, first = {}, 0
    for name, test in target.tests.items():
        logits = jnp.asarray(transferred.logits[:, first : first + len(test)])
        outputs = example_outputs(logits, jnp.asarray(test.labels))
        found[name] = jax.tree.map(np.asarray, jax.device_get({**outputs._asdict(), **columns}))
        if isinstance(transferred, TunedTransfer) and name in spectra_of:
            found[name] |= _spectra(transferred.features[:, first : first + len(test)], sound)
        first += len(test)
    return found, sound


def _spectra(
    features: Float[Any, "models examples features"], sound: Bool[np.ndarray, " models"]
) -> dict[str, np.ndarray]:
    """Singular values of the features that heads read, by column; blank for models that are not finite."""
    read, found = np.asarray(features), {}
    sound = sound & np.isfinite(read).all(axis=(1, 2))  # What is finite in training can overflow on other images.
    for center, column in store.SPECTRA.items():
        found[column] = np.full((len(read), read.shape[-1]), np.nan)
        if sound.any():
            found[column][sound] = singular_values(read[sound], center=center, zero_rows="keep")
    return found


def _source_accuracy(
    task: Task, ensemble: Ensemble, trained: Trained, masks: Bool[np.ndarray, "models units"]
) -> Float[np.ndarray, " models"]:
    """Accuracy on the test images of the classes that each model was trained on (the published protocol); else NaN.

    NaN, too, where what the models were trained for says nothing of classes. Models of images and texts choose among
    the names of their own classes: they have an opinion on any other name.
    """
    if task.source_test is None or not task.objective.classifies:
        return np.full(len(masks), np.nan, np.float32)
    output = apply_in_batches(ensemble, trained.variables, task.source_test.images)
    own = trained.variables.params.get(OWN)
    logits = task.objective.class_logits(output, own, task.source_test.class_names)
    labels, own_classes = np.asarray(task.source_test.labels), _kept_classes(task, masks)
    if isinstance(task.objective, CLIP):
        logits = jnp.where(own_classes[:, None, :], logits, -jnp.inf)
    right = np.asarray(logits.argmax(axis=-1)) == labels
    kept = own_classes[:, labels]
    count = kept.sum(axis=1)
    return np.where(count > 0, np.sum(right & kept, axis=1) / np.maximum(count, 1), np.nan).astype(np.float32)


def _kept_classes(task: Task, masks: Bool[np.ndarray, "models units"]) -> Bool[np.ndarray, "models classes"]:
    kept = np.zeros((len(masks), len(task.source.class_names)), bool)
    inside = task.units.of_example != OUTSIDE
    pairs = np.unique(np.stack([np.asarray(task.source.labels)[inside], task.units.of_example[inside]], axis=1), axis=0)
    for label in np.unique(pairs[:, 0]):
        kept[:, label] = masks[:, pairs[pairs[:, 0] == label, 1]].any(axis=1)
    return kept


def _rows(values: np.ndarray, finite: Bool[np.ndarray, " models"]) -> np.ndarray:
    """Blank the rows of models that diverged."""
    values = np.array(values)
    values[~finite] = -1 if values.dtype.kind == "i" else np.nan
    return values


def random_accuracy(run: store.Run, target: str, mode: str) -> Float[np.ndarray, " some"]:
    """Target accuracy of untrained models, from the first block's record; empty before it is complete."""
    for record in run.records():
        found: Mapping[str, Sequence[float]] = record.get("random_accuracy", {})
        if f"{target}/{mode}" in found:
            return np.asarray(found[f"{target}/{mode}"], np.float32)
    return np.empty(0, np.float32)
