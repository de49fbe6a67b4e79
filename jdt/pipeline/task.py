"""A task: everything that decides the outputs of a run, checked before any time is spent."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import jax
import numpy as np

from jdt import checks, config, store
from jdt.data import Dataset, StreamedImages, as_shown, overlap
from jdt.devices import BYTES_A_GIB, host_memory, memory_limit
from jdt.masks import Design, Listed, Units, check_num_models
from jdt.models import Network, Variables, check_contract, check_width
from jdt.plant import Planted
from jdt.train import SUPERVISED, Ensemble, Objective, Plan, Pool, Precision, Recipe
from jdt.transfer import (
    Draw,
    FixedFeature,
    FullNetwork,
    Tuning,
    ViewBanks,
    ZeroShot,
    drawn_rows,
    require_aligned,
    require_text_tower,
    tuned_ensemble,
)
from jdt.transfer.subsets import require_shots
from jdt.types import Int, Int32

ModeSettings = Tuning | FixedFeature | FullNetwork | ZeroShot
"""How models are transferred in one mode."""

VALIDATION = "validation"
"""Name of the view that settings are chosen on: it shares no image with the training and the test split."""

Mode = Literal["fixed", "full"]
"""The modes of transfer that every task knows; the names of its tuners are modes, too."""


@dataclasses.dataclass(frozen=True, eq=False)
class TargetData:
    """A target: its training split for the head, its test split for the outputs.

    Attributes:
      name: Unlike that of any other target of a run.
      train: Training split.
      test: Test split, with the same classes.
      head: How heads are fitted on it; as the task says when None.
      full: How whole networks are fine-tuned on it; as the task says when None.
      whole: The target that this one is a variant of: with fewer training images, or another weight decay.
      streamed: The training split again, for recipes that cut images anew in every pass; else not needed.
      views: Further test splits by name, of the same classes: outputs on them are those of the same transferred models,
        and the store has them as a target `NAME+VIEW`.
      spectra: Whether the store keeps singular values of the features that tuned heads read, on the test split and its
        views: they cost a decomposition for every model and tuner.
      draw: Which few of the training images each model is given, its own ones; all of them when None.
      own: Settings of named modes for this target, by mode; as the task says where there are none.
    """

    name: str
    train: Dataset
    test: Dataset
    head: FixedFeature | None = None
    full: FullNetwork | None = None
    whole: "TargetData | None" = None
    streamed: Dataset | None = None
    views: tuple[tuple[str, Dataset], ...] = ()
    spectra: bool = True
    draw: Draw | None = None
    own: Mapping[str, ModeSettings] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.train.class_names != self.test.class_names:
            raise checks.UserError(f"target {self.name!r}: its training and test splits name different classes.")
        views = [view for view, _ in self.views]
        if len(set(views)) < len(views):
            raise checks.UserError(f"views of target {self.name!r} are {', '.join(views)}: name each of them once.")
        for view, data in self.views:
            if data.class_names != self.test.class_names or data.image_shape != self.test.image_shape:
                raise checks.UserError(
                    f"view {view!r} of target {self.name!r} has other classes or images of another shape than its test "
                    "split: one head reads both."
                )
        if self.whole is None:  # Variants have images of every class that the whole target has.
            tested = np.unique(np.concatenate([np.asarray(data.labels) for data in self.tests.values()]))
            if (missing := np.setdiff1d(tested, np.asarray(self.train.labels))).size:
                raise checks.UserError(
                    f"target {self.name!r}: class {self.test.class_names[missing[0]]!r} has test images, but no "
                    "training image, so that no model can learn it: take it out of the test split, or add images."
                )
        if self.draw is not None:
            names = self.train.class_names
            try:
                require_shots(np.asarray(self.train.labels), len(names), self.draw.shots, names)
            except checks.UserError as error:
                raise checks.UserError(f"target {self.name!r}: {error}") from error

    @property
    def num_examples(self) -> int:
        """Training images that each model is given."""
        return len(self.train) if self.draw is None else self.draw.shots * len(self.train.class_names)

    def rows(self, seed: int, randomness_ids: Int[np.ndarray, " models"]) -> Int32[np.ndarray, "models chosen"] | None:
        """Training images of each model; None where each is given all."""
        if self.draw is None:
            return None
        return drawn_rows(
            np.asarray(self.train.labels), len(self.train.class_names), self.draw.shots,
            seed=seed, randomness_ids=randomness_ids, number=self.draw.number, class_names=self.train.class_names,
        )  # fmt: skip

    @property
    def tests(self) -> dict[str, Dataset]:
        """The test split and its views, by the names that the store has for them."""
        return {self.name: self.test, **{view_name(self.name, view): data for view, data in self.views}}

    @functools.cached_property
    def all_tests(self) -> Dataset:
        """The test split and its views one after the other, as they are shown to models."""
        if self.whole is not None and (self.whole.test, self.whole.views) == (self.test, self.views):
            return self.whole.all_tests
        if not self.views:
            return as_shown(self.test)
        parts = list(map(as_shown, self.tests.values()))
        return dataclasses.replace(
            parts[0],
            name=f"{self.test.name} and its views",
            images=np.concatenate([np.asarray(part.images[:]) for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            fingerprint=config.fingerprint([part.fingerprint for part in parts]),
            version_of=None,
            tokens=None,
        )

    def seen_by(self, recipe: Recipe) -> Dataset:
        """The training split as models see it that are trained by a recipe."""
        return self.streamed if recipe.is_cut and self.streamed is not None else self.train

    @functools.cached_property
    def overlap(self) -> Int[np.ndarray, "shared 2"]:
        """Positions of training and test images that are the same: see `jdt.data.overlap`. Found once."""
        if self.whole is not None and (self._has_images_of_whole or not len(self.whole.overlap)):
            return self.whole.overlap  # Fewer images of a split share none either.
        return overlap(self.train.images, self.test.images)

    @functools.cached_property
    def validation_overlap(self) -> Mapping[str, Int[np.ndarray, "shared 2"]]:
        """The same of the `training` and the `test` split with the view `validation`, where they share images."""
        held = dict(self.views).get(VALIDATION)
        if held is None:
            return {}
        if self.whole is not None and (self._has_images_of_whole or not self.whole.validation_overlap):
            return self.whole.validation_overlap  # Fewer images of a split share none either.
        found = {name: overlap(d.images, held.images) for name, d in (("training", self.train), ("test", self.test))}
        return {name: shared for name, shared in found.items() if len(shared)}

    @property
    def _has_images_of_whole(self) -> bool:
        mine, its = ((one.train, one.test, one.views) for one in (self, self.whole or self))
        return mine == its

    @property
    def root_name(self) -> str:
        """Name of the whole target, which randomness derives from: variants share their heads' first values."""
        return self.name if self.whole is None else self.whole.root_name

    def require_no_overlap(self, allow_overlap: bool) -> None:
        """Raise where the two splits overlap, unless that is allowed."""
        if not allow_overlap and (words := self.overlap_words()):
            raise checks.UserError(
                f"{words}: outputs on images that were trained on mislead, so take them out of one of the splits, or "
                "pass --allow-overlap to go on with a warning."
            )

    def overlap_words(self) -> str:
        """How much the splits overlap, in one sentence without an end; empty where they do not."""
        held = "; ".join(
            f"target {self.name!r}: its {name} split and its view {VALIDATION!r}, which settings are chosen on, share "
            f"{len(shared):,} images (the first: {name} image {shared[0, 0]} is image {shared[0, 1]} of the view)"
            for name, shared in self.validation_overlap.items()
        )
        if not len(self.overlap):
            return held
        (trained, tested), height, width = self.overlap[0], *self.test.image_shape[:2]
        verb = "are" if len(self.overlap) > 1 else "is"
        return (
            f"target {self.name!r}: {len(self.overlap):,} of its {len(self.test):,} test images {verb} also in its "
            f"training split, at {height}x{width} pixels (the first: test image {tested} is training image {trained})"
        ) + (f"; {held}" if held else "")


def view_name(target: str, view: str) -> str:
    """What the store calls a view of a target."""
    return f"{target}+{view}"


@runtime_checkable
class Transfers(Protocol):
    """What transferring trained models takes: a `Task`, or a target that is added to a run."""

    @property
    def targets(self) -> tuple[TargetData, ...]:
        """One or more."""
        ...

    @property
    def modes(self) -> tuple[str, ...]:
        """Kinds of transfer."""
        ...

    @property
    def design(self) -> Design | Listed:
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
    def tuners(self) -> Mapping[str, ModeSettings]:
        """Named modes beside `fixed` and `full`, with their settings."""
        ...

    @property
    def banks(self) -> ViewBanks:
        """Augmented views of training images, for all blocks."""
        ...

    @property
    def start(self) -> Variables | None:
        """Variables of one model, which the source models start from; None where they start at random."""
        ...

    @property
    def baseline_models(self) -> int:
        """How many untrained models are transferred too."""
        ...

    @property
    def allow_overlap(self) -> bool:
        """Whether a target's test split may hold images of its training split."""
        ...


def stored_targets(targets: Sequence[TargetData]) -> dict[str, store.Target]:
    """Targets and their views as the store keeps them."""
    tests = {name: data for target in targets for name, data in target.tests.items()}
    return {name: store.Target(np.asarray(data.labels), data.class_names) for name, data in tests.items()}


def settings_of(task: Transfers, target: TargetData, mode: str) -> ModeSettings:
    """How models are transferred to a target in one mode: its own way, or the task's."""
    if mode in task.tuners:
        return target.own.get(mode, task.tuners[mode])
    return (target.full or task.full) if mode == "full" else (target.head or task.head)


def fit_of(settings: ModeSettings) -> store.Fit:
    """How a mode with these settings gets its heads, as the store calls it."""
    if isinstance(settings, FixedFeature) and settings.reads_features:
        return "convex" if settings.solver == "convex" else "closed"
    if isinstance(settings, ZeroShot):
        return "closed"
    return "tuned" if isinstance(settings, Tuning) else "trained"


def stored_fits(task: Transfers) -> dict[str, store.Fit]:
    """How modes get their heads, of those where their name does not say so: see `jdt.store.Schema.fits`."""
    fits: dict[str, store.Fit] = {mode: fit_of(task.tuners[mode]) for mode in task.modes if mode in task.tuners}
    if "fixed" in task.modes and task.head.solver == "prototype":
        fits["fixed"] = "closed"
    return {mode: fit for mode, fit in fits.items() if fit != "tuned"}


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
      modes: Kinds of transfer: `fixed`, `full`, names of tuners.
      full: How whole networks are fine-tuned.
      precision: What training computes in.
      num_devices: Devices of this process that share each block.
      pool_size: Source examples on a device at a time; None keeps all of them there.
      allow_overlap: Whether a target's test split may hold images of its training split.
      baseline_models: How many untrained models are transferred too, which say what the source is worth at all.
      start: Variables of one model that every source model starts from, under a head of its own; None to start at
        random.
      planted: Truth that was planted in the source, and where.
      tuners: Named modes with their settings: heads, and small networks under them, that are tuned on frozen features,
        and any further way of fixed features or whole networks, such as `LP@0.1` and `LP@10`. Of tuned heads the
        store keeps singular values of the features that they read, for targets that ask for them.
      objective: What the source models are trained for.
      kept: A run that keeps these very source models: they are taken from it, and none is trained.
    """

    source: Dataset
    source_test: Dataset | None
    units: Units
    targets: tuple[TargetData, ...]
    design: Design | Listed
    num_models: int
    block_size: int
    network: Network
    recipe: Recipe
    plan: Plan
    head: FixedFeature
    modes: tuple[str, ...] = ("fixed",)
    full: FullNetwork = dataclasses.field(default_factory=FullNetwork)
    precision: Precision = "float32"
    num_devices: int = 1
    pool_size: int | None = None
    allow_overlap: bool = False
    baseline_models: int = 4
    start: Variables | None = None
    planted: tuple[Planted, ...] = ()
    tuners: Mapping[str, ModeSettings] = dataclasses.field(default_factory=dict)
    objective: Objective = SUPERVISED
    kept: store.Run | None = None

    def __post_init__(self) -> None:
        for mode in self.modes:
            checks.require_known("transfer mode", mode, [*get_args(Mode), *self.tuners])
        if names := set(get_args(Mode)) & set(self.tuners):
            raise checks.UserError(f"a tuner is called {min(names)!r}, as another mode is: rename it.")
        checks.require_at_least("baseline-models", self.baseline_models, 0)
        check_num_models(self.design, self.num_models)
        if self.design.is_paired and self.block_size % 2:
            raise checks.UserError(
                f"block-size is {self.block_size}, which is odd, but antithetic pairs are trained together: "
                f"use {self.block_size + 1}."
            )
        named = [s for one in (self.tuners, *(t.own for t in self.targets)) for s in one.values()]
        heads = (self.head, *(target.head for target in self.targets if target.head), *named)
        for head in heads:
            if isinstance(head, FixedFeature):
                head.check()
        for target, mode in itertools.product(self.targets, self.tuners):
            if fit_of(self.settings(target, mode)) != fit_of(self.tuners[mode]):
                raise checks.UserError(f"mode {mode!r} of target {target.name!r} is of another kind than the task's.")
        solvers = {(target.head or self.head).solver for target in self.targets}
        if solvers - {self.head.solver}:
            raise checks.UserError("heads of some targets have another solver than the task's: pass one for all.")
        names = [name for target in self.targets for name in target.tests]
        if len(set(names)) < len(names):
            raise checks.UserError(f"targets are {', '.join(names)}: name each target once.")
        for data in [self.source_test] + [part for t in self.targets for part in (t.train, t.test)]:
            if data is not None and data.image_shape != self.source.image_shape:
                raise checks.UserError(
                    f"{data.name} has images of shape {data.image_shape} and {self.source.name} of "
                    f"{self.source.image_shape}: one network reads both, so pass {_remedy(data, self.source)}."
                )
        for target in self.targets:
            target.require_no_overlap(self.allow_overlap)
        check_contract(self.network, self.source.image_shape, len(self.source.class_names))
        _check_cuts(self.recipe, self.source, self.network)
        self.objective.check(self.recipe, self.source)
        if self.source_test is not None:  # Its labels are looked up under the source's classes.
            try:
                require_aligned(self.source.class_names, self.source_test.class_names)
            except checks.UserError as error:
                raise checks.UserError(
                    f"{self.source_test.name}, on which source models are tested, has other classes than "
                    f"{self.source.name}, or in another order (heads are those of the source): {error}"
                ) from error
        for target, mode in itertools.product(self.targets, self.modes):
            if isinstance(self.settings(target, mode), ZeroShot):
                require_text_tower(self.objective, mode)
                if self.kept is not None:
                    raise checks.UserError(
                        f"mode {mode!r} is zero-shot, which needs the text tower that models are kept without in "
                        f"{self.kept.path}: leave the mode out, or train the models anew."
                    )
        for target, mode in itertools.product(self.targets, self.modes):
            tuned = self.tuning(target, mode)  # Says where a network or a recipe does not fit the target.
            if tuned is not None:
                check_width(tuned.network, tuned.image_shape, len(target.train.class_names))
                _check_cuts(tuned.recipe, target.seen_by(tuned.recipe), tuned.network)
        _check_stamps(self)
        if self.pool is not None:
            ensemble = self.ensemble
            self.pool.check(ensemble.smallest_subset, ensemble.batch_size, ensemble.training_shape)

    @property
    def banks(self) -> ViewBanks:
        """Augmented views of the targets' training images, made where they are first asked for."""
        return self._banks

    @functools.cached_property
    def _banks(self) -> ViewBanks:
        return ViewBanks(self.design.seed)

    @property
    def ensemble(self) -> Ensemble:
        """What all models share, as the engine wants it."""
        sizes = self.units.sizes
        return Ensemble(
            network=self.network,
            recipe=self.recipe,
            plan=self.plan,
            image_shape=self.source.image_shape,
            mean_subset_size=self.design.epoch_size(sizes),
            smallest_subset=self.design.smallest_subset(sizes),
            precision=self.precision,
            num_devices=self.num_devices,
            objective=self.objective,
        )

    def settings(self, target: TargetData, mode: str) -> ModeSettings:
        """How models are transferred to a target in one mode."""
        return settings_of(self, target, mode)

    def tuning(self, target: TargetData, mode: str) -> Ensemble | None:
        """What models share that are trained on a target in one mode; None where nothing reads images anew."""
        settings = self.settings(target, mode)
        if isinstance(settings, Tuning | ZeroShot) or (isinstance(settings, FixedFeature) and settings.reads_features):
            return None
        return tuned_ensemble(self.ensemble, target.train, settings, target.num_examples)

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
            targets=stored_targets(self.targets),
            train_accuracy=True,
            sgd_head=self.head.solver == "sgd",
            spectrum=self._num_features if self._has_tuned else 0,
            spectrum_of=tuple(name for target in self.targets if target.spectra for name in target.tests)
            if self._has_tuned
            else None,
            fits=stored_fits(self),
        )

    @property
    def _has_tuned(self) -> bool:
        """Whether heads are tuned on frozen features, which the store keeps spectra of."""
        return any(isinstance(settings, Tuning) for settings in self.tuners.values())

    @property
    def _num_features(self) -> int:
        """Features of the source model."""
        images = jax.ShapeDtypeStruct((1, *self.source.image_shape), np.float32)
        variables = self.network.shapes(self.source.image_shape)
        return jax.eval_shape(self.network.apply, variables, images).features.shape[-1]


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
    name, expected = network.name, _parameter_shapes(network, data.image_shape)
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


def _check_stamps(task: Task) -> None:
    """Refuse a resolution that changes where examples carry stamps, which have one size."""
    trained = [(task.recipe, task.source)]
    for target, mode in itertools.product(task.targets, task.modes):
        if (tuned := task.tuning(target, mode)) is not None:
            trained.append((tuned.recipe, target.seen_by(tuned.recipe)))
    for recipe, data in trained:
        if data.stamps is not None and recipe.resolution:
            raise checks.UserError(
                f"{data.name} carries a pattern of the size of its images, but the recipe's resolution changes: leave "
                "--recipe.resolution out."
            )


def _parameter_shapes(network: Network, image_shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    variables = network.shapes(image_shape)
    images = jax.ShapeDtypeStruct((4, *image_shape), np.float32)
    jax.eval_shape(network.train_apply, variables, images, jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def pool_size(source: Dataset, memory_budget: float | None, recipe: Recipe | None = None) -> int | None:
    """How many source images fit the memory for them, or None where all do.

    Args:
      source: The source.
      memory_budget: GiB of each device; half of what the device has when None, and for a recipe that cuts images no
        more than an eighth of the host's memory, which holds three chunks.
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
    if memory_budget is None and recipe is not None and recipe.is_cut and (host := host_memory()) is not None:
        available = min(available, host / 8)
    shape = source.image_shape if recipe is None else recipe.image_shapes(source.image_shape)[0]
    fitting = int(available // math.prod(shape))
    if fitting < 1:
        raise checks.UserError(f"memory-budget is {memory_budget} GiB, less than one image: raise it.")
    return None if fitting >= len(source) else fitting
