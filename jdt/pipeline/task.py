"""A task: everything that decides the outputs of a run, checked before any time is spent."""

import dataclasses
import math
from typing import Literal, Protocol, runtime_checkable

import jax
import numpy as np

from jdt import checks, store
from jdt.data import Dataset
from jdt.devices import BYTES_A_GIB, memory_limit
from jdt.masks import Design, Units, check_num_models
from jdt.models import Network, Variables, check_contract
from jdt.train import Ensemble, Plan, Pool, Precision, Recipe
from jdt.transfer import FixedFeature, FullNetwork

Mode = Literal["fixed", "full"]


@dataclasses.dataclass(frozen=True, eq=False)
class TargetData:
    """A target: its training split for the head, its test split for the outputs."""

    name: str
    train: Dataset
    test: Dataset

    def __post_init__(self) -> None:
        if self.train.class_names != self.test.class_names:
            raise checks.UserError(f"target {self.name!r}: its training and test splits name different classes.")


@runtime_checkable
class Transfers(Protocol):
    """What transferring trained models takes: a `Task`, or a target that is added to a run."""

    @property
    def targets(self) -> tuple[TargetData, ...]:
        """One or more."""
        ...

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Kinds of transfer."""
        ...

    @property
    def design(self) -> Design:
        """How subsets were drawn; its seed is the seed of everything."""
        ...

    @property
    def head(self) -> FixedFeature:
        """How heads are fitted."""
        ...

    @property
    def full(self) -> FullNetwork:
        """How whole networks are fine-tuned."""
        ...

    @property
    def ensemble(self) -> Ensemble:
        """What all models share."""
        ...

    @property
    def start(self) -> Variables | None:
        """Variables of one model, which the source models start from; None where they start at random."""
        ...


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
      start: Variables of one model that every source model starts from, under a head of its own; None to start at
        random.
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
    start: Variables | None = None

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
                    f"{self.source.image_shape}: one network reads both, so pass --image-size to resize them to one "
                    "size (images must agree in their number of channels)."
                )
        check_contract(self.network, self.source.image_shape, len(self.source.class_names))
        if "full" in self.modes:
            for target in self.targets:
                self.network.with_classes(len(target.train.class_names))
        if self.pool is not None:
            self.pool.check(self.ensemble.smallest_subset, self.ensemble.batch_size)

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
        """The source as a pool, where it does not stay on the device as a whole."""
        return None if self.pool_size is None else Pool(self.source, min(self.pool_size, len(self.source)))

    def schema(self) -> store.Schema:
        """Columns of the run's store."""
        return store.Schema(
            num_models=self.num_models,
            block_size=self.block_size,
            unit_names=self.units.names,
            modes=self.modes,
            targets={t.name: store.Target(np.asarray(t.test.labels), t.test.class_names) for t in self.targets},
        )


def pool_size(source: Dataset, memory_budget: float | None) -> int | None:
    """How many source images fit the memory for them, or None where all do.

    Args:
      source: The source.
      memory_budget: GiB of each device; half of what the device has when None.

    Raises:
      UserError: If the budget is not positive, or below one image.
    """
    if memory_budget is not None and not memory_budget > 0:
        raise checks.UserError(f"memory-budget is {memory_budget} GiB, but it must be positive.")
    limit = memory_limit(jax.local_devices()[0])
    if memory_budget is None and limit is None:
        return None
    available = (limit or 0) / 2 if memory_budget is None else memory_budget * BYTES_A_GIB
    fitting = int(available // math.prod(source.image_shape))
    if fitting < 1:
        raise checks.UserError(f"memory-budget is {memory_budget} GiB, less than one image: raise it.")
    return None if fitting >= len(source) else fitting
