"""A task: everything that decides the outputs of a run, checked before any time is spent."""

import dataclasses

import numpy as np

from jdt import checks, store
from jdt.data import Dataset
from jdt.masks import Design, Units, check_num_models
from jdt.models import Network, check_contract
from jdt.train import Ensemble, Plan, Recipe
from jdt.transfer import FixedFeature


@dataclasses.dataclass(frozen=True, eq=False)
class TargetData:
    """A target: its training split for the head, its test split for the outputs."""

    name: str
    train: Dataset
    test: Dataset

    def __post_init__(self) -> None:
        if self.train.class_names != self.test.class_names:
            raise checks.UserError(f"target {self.name!r}: its training and test splits name different classes.")


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
        )

    def schema(self) -> store.Schema:
        """Columns of the run's store."""
        return store.Schema(
            num_models=self.num_models,
            block_size=self.block_size,
            unit_names=self.units.names,
            targets={t.name: store.Target(np.asarray(t.test.labels), t.test.class_names) for t in self.targets},
        )
