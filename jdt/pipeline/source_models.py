"""Source models of a run, ready to apply: what `train_missing_blocks(..., save_models=True)` kept."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jdt import checks, store
from jdt.data.augment import normalise
from jdt.models import ZOO, ModelOutput, Network, Variables, make
from jdt.pipeline.saving import require_same_leaves, unflattened
from jdt.types import Bool, Int, UInt8


@dataclasses.dataclass(frozen=True, eq=False)
class SourceModel:
    """One source model.

    Attributes:
      network: What it is an instance of.
      variables: Its arrays, in NumPy.
      image_shape: (height, width, channels) of its images.
      mean: Of pixels, as `jdt.train.Recipe` has it.
      std: Of pixels.
    """

    network: Network
    variables: Variables
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def module(self) -> Any:
        """The Flax module: `module.apply({"params": variables.params, **variables.state}, images, train=False)`."""
        return self.network.module

    def apply(self, images: UInt8[np.ndarray | jax.Array, "batch height width channels"]) -> ModelOutput:
        """Logits `[batch, classes]` and features `[batch, features]` in inference; pixels scaled as in training.

        Raises:
          UserError: If the images are of another shape.
        """
        if tuple(images.shape[1:]) != self.image_shape:
            raise checks.UserError(
                f"images have shape {tuple(images.shape[1:])}, but the model was trained on {self.image_shape}: "
                "resize them."
            )
        return _apply(self.network, self.mean, self.std, self.variables, jnp.asarray(images))


@functools.partial(jax.jit, static_argnames=("network", "mean", "std"))
def _apply(network: Network, mean: tuple[float, ...], std: tuple[float, ...], variables: Variables, images: Any) -> Any:
    return network.apply(variables, normalise(images, mean, std))


@dataclasses.dataclass(frozen=True)
class Description:
    """What `run.json` says of the network of a run; it may come from anyone.

    Attributes:
      spec: A name of `jdt.models.ZOO`, or `package.module:ClassName`.
      num_classes: Width of the source models' logits.
      image_shape: (height, width, channels).
      mean: Of pixels.
      std: Of pixels.
      options: Further keyword arguments of `jdt.models.make`.
    """

    spec: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    options: Mapping[str, Any]

    def network(self, *, trust: bool = False) -> Network:
        """Build the network.

        A class outside of the zoo is imported, and importing a module runs it. So the name must come from the user and
        not from a file that may have come with the run.

        Args:
          trust: Import the class that `run.json` names.

        Raises:
          UserError: If the class is not of the zoo and not trusted, or cannot be built.
        """
        if self.spec not in ZOO and not trust:
            raise checks.UserError(
                f"the run says that its models are {self.spec!r}, and importing that would run its code: pass "
                "trust=True if you know where the run comes from, or network=jdt.models.make(...) of your own."
            )
        return make(self.spec, self.num_classes, **self.options)


def describe_source_model(
    spec: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    mean: Sequence[float],
    std: Sequence[float],
    *,
    arguments: Mapping[str, Any] | None = None,
    features: str | None = None,
) -> dict[str, Any]:
    """What a run keeps in `provenance["source_model"]`, so that its models can be built again."""
    return {
        "spec": spec,
        "num_classes": num_classes,
        "arguments": dict(arguments or {}),
        "features": features,
        "image_shape": list(image_shape),
        "mean": list(mean),
        "std": list(std),
    }


def described_source_model(run: store.Run) -> Description:
    """Read that back.

    Raises:
      UserError: If the run does not say, or says what jdt never writes.
    """
    saved = run.provenance.get("source_model")
    if saved is None:
        raise checks.UserError(f"{run.path} does not say what its models are: {_HOW_TO_SAVE}.")
    try:
        (height, width, channels), spec, classes = saved["image_shape"], saved["spec"], saved["num_classes"]
        mean, std = (tuple(float(value) for value in saved[name]) for name in ("mean", "std"))
        arguments, features = saved["arguments"], saved["features"]
        sound = isinstance(spec, str) and isinstance(arguments, dict) and isinstance(features, str | None)
        if not (sound and all(type(n) is int and n > 0 for n in (height, width, channels, classes)) and mean and std):
            raise TypeError("it is not as jdt writes it")
    except (TypeError, KeyError, ValueError) as error:
        raise checks.UserError(f"{run.path}/run.json is damaged: its source_model cannot be read ({error}).") from error
    options = {name: value for name, value in (("arguments", arguments), ("features", features)) if value}
    return Description(spec, classes, (height, width, channels), mean, std, options)


_HOW_TO_SAVE = "it was made without --save-models; make one with it, in another --out"


def source_model(run: store.Run, model: int, *, network: Network | None = None, trust: bool = False) -> SourceModel:
    """Read one source model of a run, and no other.

    Nothing that `run.json` names is ever imported while a run is opened, verified or read. Here the network has to be
    built: one of the zoo, the caller's own, or, if the caller trusts the run, the class that it names.

    Args:
      run: The run.
      model: Its id.
      network: What the models are instances of; built from what the run says when None.
      trust: Import the class that the run names, if it is not of the zoo.

    Raises:
      UserError: If the run keeps no models, there is no such model (yet), its bytes are damaged, or the network is
        another.
    """
    if not 0 <= model < run.num_models:
        raise checks.UserError(f"model is {model}, but {run.path} has models 0 to {run.num_models - 1}.")
    record = next((r for r in run.records() if r["models"][0] <= model < r["models"][1]), None)
    if record is None:
        raise checks.UserError(
            f"model {model} of {run.path} is not complete: the command that made the run trains what is missing."
        )
    part = next((part for part in store.parts_of(record) if model in part.models), None)
    if part is None:
        raise checks.UserError(f"{run.path} keeps no source models: {_HOW_TO_SAVE}.")
    about = described_source_model(run)
    network = about.network(trust=trust) if network is None else network
    like = network.shapes(about.image_shape)
    stacked = _read(run, record["block"], part, range(model, model + 1), like)
    return SourceModel(network, jax.tree.map(lambda leaf: leaf[0], stacked), about.image_shape, about.mean, about.std)


def block_variables(
    run: store.Run, record: Mapping[str, Any], models: range, network: Network, image_shape: tuple[int, int, int]
) -> Variables:
    """Source models of one block, stacked on a leading models axis.

    Args:
      run: The run.
      record: The block's.
      models: Ids, consecutive ones of the block.
      network: What the models are instances of.
      image_shape: (height, width, channels).

    Raises:
      UserError: If the run does not keep them, they are damaged, or they are of another network.
    """
    like, stacks = network.shapes(image_shape), []
    for part in store.parts_of(record):
        wanted = range(max(models.start, part.models.start), min(models.stop, part.models.stop))
        if wanted:
            stacks.append(_read(run, record["block"], part, wanted, like))
    if not stacks:
        raise checks.UserError(f"{run.path} keeps no source models: {_HOW_TO_SAVE}.")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *stacks)


@dataclasses.dataclass(frozen=True, eq=False)
class KeptModels:
    """Consecutive source models that a run keeps, and what its store says of them.

    Attributes:
      variables: Stacked on a leading models axis, in NumPy.
      finite: bool `[models]`: False marks a model that diverged.
      columns: Masks, losses and accuracies in training, as the store has them, by column.
      randomness_ids: int `[models]`.
    """

    variables: Variables
    finite: Bool[np.ndarray, " models"]
    columns: Mapping[str, np.ndarray]
    randomness_ids: Int[np.ndarray, " models"]


def kept_models(run: store.Run, models: range, network: Network, image_shape: tuple[int, int, int]) -> KeptModels:
    """Source models of a run with what the store says of them, whatever blocks they are in.

    Args:
      run: The run.
      models: Ids, consecutive ones.
      network: What the models are instances of.
      image_shape: (height, width, channels).

    Raises:
      UserError: If the run lacks one of them or does not keep it, it is damaged, or it is of another network.
    """
    columns = source_columns(run, models)
    stacks, finite, randomness = [], [], []
    for record in _records_of(run, models):
        first, stop = record["models"]
        wanted = range(max(models.start, first), min(models.stop, stop))
        stacks.append(block_variables(run, record, wanted, network, image_shape))
        diverged = record.get("diverged")
        finite += [not (isinstance(diverged, list) and model in diverged) for model in wanted]
        ids = record.get("randomness_ids")
        if not (isinstance(ids, list) and len(ids) == stop - first and all(type(one) is int for one in ids)):
            raise checks.UserError(
                f"{run.path} is damaged: the record of block {record['block']} lacks the randomness of its models: "
                "make the run again."
            )
        randomness += ids[wanted.start - first : wanted.stop - first]
    variables = jax.tree.map(lambda *leaves: np.concatenate(leaves), *stacks)
    return KeptModels(variables, np.array(finite), columns, np.asarray(randomness))


def source_columns(run: store.Run, models: range) -> dict[str, np.ndarray]:
    """Masks, losses and accuracies in training of consecutive models of a run, by column.

    Raises:
      UserError: If the run lacks one of them, or is damaged.
    """
    part = dataclasses.replace(run, _records=tuple(_records_of(run, models)))
    if missing := sorted(set(models) - set(part.complete.tolist())):
        raise checks.UserError(
            f"model {missing[0]} of {run.path} is not complete: the command that made the run trains what is missing."
        )
    rows = np.isin(part.complete, np.asarray(models))
    return {name: part.column(name)[rows] for name in ("mask", "source/loss", "source/accuracy")}


def _records_of(run: store.Run, models: range) -> list[Mapping[str, Any]]:
    return [r for r in run.records() if r["models"][0] < models.stop and models.start < r["models"][1]]


def _read(run: store.Run, block: int, part: store.SavedPart, models: range, like: Variables) -> Variables:
    require_same_leaves(store.read_leaves(run.path, block, part), part.bytes_per_model, like)
    return unflattened(store.read_models(run.path, block, part, models), like)
