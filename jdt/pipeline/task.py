"""A task: everything that decides the outputs of a run, checked before any time is spent."""

import dataclasses
import math
from typing import Literal

import jax
import numpy as np

from jdt import checks, store
from jdt.data import Dataset, StreamedImages
from jdt.devices import BYTES_A_GIB, memory_limit
from jdt.masks import Design, Units, check_num_models
from jdt.models import Network, check_contract
from jdt.train import Ensemble, Plan, Pool, Precision, Recipe
from jdt.transfer import FixedFeature, FullNetwork

Mode = Literal["fixed", "full"]


@dataclasses.dataclass(frozen=True, eq=False)
class TargetData:
    """A target: its training split for the head, its test split for the outputs.

    Attributes:
      name: Of its columns.
      train: Training split, as frozen features see it.
      test: Test split.
      streamed: The training split for fine-tuning whose recipe cuts images anew in every pass; not needed otherwise.
    """

    name: str
    train: Dataset
    test: Dataset
    streamed: Dataset | None = None

    def __post_init__(self) -> None:
        if self.train.class_names != self.test.class_names:
            raise checks.UserError(f"target {self.name!r}: its training and test splits name different classes.")

    @property
    def tuned_on(self) -> Dataset:
        """The training split as fine-tuning sees it."""
        return self.train if self.streamed is None else self.streamed


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Everything that decides the outputs of a run.

    Attributes:
      source: Source training split.
      source_test: Source test split, for `source/accuracy`; None leaves that column missing.
      units: What mask columns switch.
      targets: One or more targets.
      design: How subsets are drawn; its seed is the seed of the whole run.
      num_models: Models in all.
      block_size: Models trained together, a unit of work, of storage and of loss.
      network: The source model.
      recipe: How it is trained.
      plan: How a block shares the device.
      head: How heads are fitted.
      modes: Kinds of transfer: `fixed`, `full` or both.
      full: How whole networks are fine-tuned.
      precision: What training computes in.
      num_devices: Devices of this process that share each block.
      pool_size: Source examples on a device at a time; None keeps all of them there.
    """

    source: Dataset
    source_test: Dataset | None
    units: Units
    targets: tuple[TargetData, ...]
    design: Design
    num_models: int
    block_size: int
    network: Network
    recipe: Recipe
    plan: Plan
    head: FixedFeature
    modes: tuple[Mode, ...] = ("fixed",)
    full: FullNetwork = dataclasses.field(default_factory=FullNetwork)
    precision: Precision = "float32"
    num_devices: int = 1
    pool_size: int | None = None

    def __post_init__(self) -> None:
        check_num_models(self.design, self.num_models)
        if self.design.is_paired and self.block_size % 2:
            raise checks.UserError(
                f"block-size is {self.block_size}, which is odd, but antithetic pairs are trained together: "
                f"use {self.block_size + 1}."
            )
        names = [target.name for target in self.targets]
        if len(set(names)) < len(names):
            raise checks.UserError(f"targets are {', '.join(names)}: name each target once.")
        for data in [self.source_test] + [part for t in self.targets for part in (t.train, t.test)]:
            if data is not None and data.image_shape != self.source.image_shape:
                raise checks.UserError(
                    f"{data.name} has images of shape {data.image_shape} and {self.source.name} of "
                    f"{self.source.image_shape}: one network reads both, so pass {_remedy(data, self.source)}."
                )
        check_contract(self.network, self.source.image_shape, len(self.source.class_names))
        _check_cuts(self.recipe, self.source, self.network)
        if "full" in self.modes:
            for target in self.targets:
                network = self.network.with_classes(len(target.train.class_names))
                _check_cuts(self.full.recipe, target.tuned_on, network)
        if self.pool is not None:
            ensemble = self.ensemble
            self.pool.check(ensemble.smallest_subset, ensemble.batch_size, ensemble.training_shape)

    @property
    def ensemble(self) -> Ensemble:
        """What all models share, as the engine wants it."""
        sizes = self.units.sizes
        share = self.design.kept(len(self.units)) / len(self.units)
        if self.design.kind == "bernoulli":
            share = self.design.fraction
        return Ensemble(
            network=self.network,
            recipe=self.recipe,
            plan=self.plan,
            image_shape=self.source.image_shape,
            mean_subset_size=share * float(sizes.sum()),
            smallest_subset=self.design.smallest_subset(sizes),
            precision=self.precision,
            num_devices=self.num_devices,
        )

    @property
    def pool(self) -> Pool | None:
        """The source as a pool, where it does not stay on the device as a whole, or not as it is."""
        if self.pool_size is None:
            return Pool(self.source, len(self.source)) if self.recipe.is_cut else None
        return Pool(self.source, min(self.pool_size, len(self.source)))

    def schema(self) -> store.Schema:
        """Columns of the run's store."""
        return store.Schema(
            num_models=self.num_models,
            block_size=self.block_size,
            unit_names=self.units.names,
            modes=self.modes,
            targets={t.name: store.Target(np.asarray(t.test.labels), t.test.class_names) for t in self.targets},
        )


def _remedy(data: Dataset, source: Dataset) -> str:
    """Flags that make two datasets' images agree."""
    remedies = []
    if data.image_shape[:2] != source.image_shape[:2]:
        remedies.append("--image-size to resize them to one size")
    if data.image_shape[2] != source.image_shape[2]:
        remedies.append("--image-channels 3 to read grey images as coloured ones, or 1 for the reverse")
    return ", and ".join(remedies)


def _check_cuts(recipe: Recipe, data: Dataset, network: Network) -> None:
    """Refuse a recipe that cuts images where the data or the network do not allow it.

    Raises:
      UserError: Saying which.
    """
    if not recipe.is_cut:
        return
    height, width = data.image_shape[:2]
    if not isinstance(data.images, StreamedImages):
        raise checks.UserError(
            f"the recipe asks for random-resized crops or a changing resolution, which are cut from {data.name} while "
            "it is read, but its images are decoded already: load it streamed (--streamed)."
        )
    if height != width:
        raise checks.UserError(
            f"{data.name} has images of {width}x{height}, but random-resized crops are square: pass --image-size."
        )
    name, expected = type(network.module).__name__, _parameter_shapes(network, data.image_shape)
    for shape in recipe.image_shapes(data.image_shape):
        if shape[:2] == (height, width):
            continue
        try:
            found = _parameter_shapes(network, shape)
        except Exception as error:  # A user's module can fail in any way at all: see check_contract.
            raise checks.UserError(
                f"the recipe shows images of {shape[0]}x{shape[0]}, on which {name} raised {type(error).__name__}: "
                f"{str(error).strip().splitlines()[0]}; change --recipe.resolution."
            ) from error
        for path in expected:
            if found.get(path) != expected[path]:
                raise checks.UserError(
                    f"{name} has parameters that depend on the size of the images ({path} is {expected[path]} at "
                    f"{height}x{width} and {found.get(path)} at {shape[0]}x{shape[0]}), so it cannot be trained at one "
                    f"and tested at the other: pass --recipe.resolution 0 {height}, or take a model that pools."
                )


def _parameter_shapes(network: Network, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    variables = jax.eval_shape(lambda key: network.init(key, image_shape), jax.random.key(0))
    images = jax.ShapeDtypeStruct((4, *image_shape), np.float32)
    jax.eval_shape(network.train_apply, variables, images, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def pool_size(source: Dataset, memory_budget: float | None, recipe: Recipe | None = None) -> int | None:
    """How many source images fit the memory for them, or None where all do.

    Args:
      source: The source.
      memory_budget: GiB of each device; half of what the device has when None.
      recipe: Says how large the images are in training; as the source has them when None.

    Raises:
      UserError: If the budget is not positive, or below one image.
    """
    if memory_budget is not None and not memory_budget > 0:
        raise checks.UserError(f"memory-budget is {memory_budget} GiB, but it must be positive.")
    limit = memory_limit(jax.local_devices()[0])
    if memory_budget is None and limit is None:
        return None
    available = (limit or 0) / 2 if memory_budget is None else memory_budget * BYTES_A_GIB
    shape = source.image_shape if recipe is None else recipe.image_shapes(source.image_shape)[0]
    fitting = int(available // math.prod(shape))
    if fitting < 1:
        raise checks.UserError(f"memory-budget is {memory_budget} GiB, less than one image: raise it.")
    return None if fitting >= len(source) else fitting
