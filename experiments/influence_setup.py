"""What an influence run is made of: its flags, the data they name, and what decides the stored numbers."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

import jdt
from experiments import planting
from experiments.paper_recipes import PAPER_EVALUATION, TABLES, paper_target, still_view
from experiments.target_recipes import recipes_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    out: jdt.cli.RunPath
    """Run directory, or gs://bucket/folder. The same command resumes; with more --num-models the run grows."""
    source: str = "jdt_digits_source"
    """Source dataset: a prepared TFDS name, folder:PATH, or the embedded jdt_digits_source."""
    source_split: str = "train"
    """Split that source models train on."""
    source_test_split: str | None = None
    """Split that source models are tested on; by default test, else validation."""
    source_groups: pathlib.Path | None = None
    """Group the source's classes anew, and leave out those in no group: a JSON file of new class -> classes."""
    source_per_group: int | None = None
    """With --source-groups: so many training images of each, drawn at random; by default all."""
    label: str | None = None
    """Feature of the source that is the label, e.g. attributes/Young; by default the only or the usual one."""
    target: tuple[str, ...] = ("jdt_digits",)
    """Target datasets."""
    target_groups: pathlib.Path | None = None
    """Group the targets' classes anew, and leave out those in no group: a JSON file of new class -> classes."""
    target_label: str | None = None
    """Feature of the targets that is the label; by default the only or the usual one."""
    target_split: str | None = None
    """Split of the targets that heads and networks are trained on, e.g. "train[:25%]"; by default train."""
    target_test_split: str | None = None
    """Split of the targets whose outputs are recorded, e.g. "test[:1000]"; by default test, else validation."""
    data_dir: pathlib.Path | None = None
    """Where prepared TFDS datasets are; TFDS's own default when not given."""
    image_size: int | None = None
    """Resize images to this height and width."""
    image_channels: Literal[1, 3] | None = None
    """Read grey images as coloured ones (3), or the reverse (1), where source and targets disagree."""
    views: Literal["whole", "paper", "paper-bias"] = "whole"
    """How images are cut: the whole centre; or by targets' names after experiments/paper_recipes.py."""
    units: str = "classes"
    """What a mask switches: classes, groups:FILE (JSON of group -> class names), or examples."""
    plant: tuple[str, ...] = ()
    """Truth to plant in the source and find again: leak:COUNT, misleading:COUNT, harmful:UNIT, mislabelled:UNIT."""
    plant_fits: pathlib.Path | None = None
    """Which source classes fit a target class, for planted copies: JSON of target class -> source classes."""
    plant_changes: tuple[jdt.plant.Change, ...] = jdt.plant.CHANGES
    """What is done to planted copies, in turn."""
    plant_control: bool = False
    """Leave what is there in the places where truth would be planted: what is found then is no truth."""
    equalize: bool = False
    """Subsample all units to the size of the smallest one."""
    allow_overlap: bool = False
    """Warn, instead of refusing, where a target's test split holds images of its training split."""
    design: jdt.masks.DesignKind = "antithetic"
    """How subsets are drawn: antithetic or balanced pairs, fixed-size, balanced or bernoulli."""
    fraction: float = 0.5
    """Share of the units that each model keeps."""
    num_models: int = 128
    """Source models to train."""
    baseline_models: int = 4
    """Untrained models that are transferred as well, with the first block: what the source is worth at all."""
    until_reliability: float | None = None
    """Stop early, once the influences on every target class have this split-half reliability, e.g. 0.9."""
    seed: int = 0
    """Root of all randomness."""
    model: str = "small_cnn"
    """A zoo name, or package.module:ClassName of a Flax module, Linen or NNX."""
    model_args: tuple[str, ...] = ()
    """Arguments of the model's class, NAME=VALUE each: width=64 depth=3."""
    features: str | None = None
    """Where a model that returns a dictionary has its features: a key. Or: output, to keep a model's last layer."""
    start_from: pathlib.Path | None = None
    """Start every source model from these variables (Orbax folder, .msgpack, .safetensors), under a head of its own."""
    recipe: jdt.train.Recipe = dataclasses.field(default_factory=jdt.train.Recipe)
    """How source models are trained."""
    head: jdt.transfer.FixedFeature = dataclasses.field(default_factory=jdt.transfer.FixedFeature)
    """How heads are fitted on frozen features."""
    transfer: tuple[jdt.pipeline.Mode, ...] = ("fixed",)
    """Transfer modes: fixed features under a new head, full fine-tunes the whole network."""
    full: jdt.transfer.FullNetwork = dataclasses.field(default_factory=jdt.transfer.FullNetwork)
    """How whole networks are fine-tuned."""
    target_recipes: str | None = None
    """Recipes by target where a recipe trains: paper, or a JSON file of target -> fields of Recipe that differ."""
    shots: tuple[int, ...] = ()
    """Training images of each class of a target: a variant NAME@5shot for every number, in place of all images."""
    target_fractions: tuple[float, ...] = ()
    """Shares of the training images of each class of a target: NAME@25% for 0.25; 1 is the whole target."""
    weight_decays: tuple[float, ...] = ()
    """Weight decays of transfer to compare: a variant NAME@wd0.001 for each, of every size that is asked for."""
    output: Literal["confidence", "margin"] = "confidence"
    """Which output the table and the report show; influences of both are saved."""
    estimators: tuple[str, ...] = ("ridge", "difference", "lasso")
    """How influences are estimated: ridge, difference, lasso. A LASSO takes long with fewer models than units."""
    plan: str = "auto"
    """How models share the devices: auto (measured) or a name: see jdt.train.PLANS."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What training computes in; auto takes bfloat16 where the device has matrix units for it."""
    devices: int | None = None
    """Local devices to use; by default all of them (on CPUs one a core)."""
    memory_budget: float | None = None
    """GiB of each device for source images; a source that does not fit is trained on a pool of it at a time."""
    streamed: bool = False
    """Decode source images while training instead of once beforehand: for sources that outgrow the disk."""
    block_size: int | None = None
    """Models saved (and at worst lost) together; by default what trains at once, or the saved run's."""
    resume: bool = True
    """Continue the run that is in --out; with --no-resume it is left alone and the command refused."""
    overwrite: bool = False
    """Remove the run that is in --out and begin anew."""
    save_models: bool = False
    """Keep every source model, to apply it or to add targets later (experiments.transfer_again)."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints inside the training of a block; blocks that take less need none."""
    shard: str | None = None
    """i/n, i from 0: this process is one of n that share the run; they need not know each other."""
    distributed: jdt.hosts.Distributed = "auto"
    """Learn i and n from a jax.distributed job: auto where the environment describes one (SLURM, GKE)."""


def recorded(config: Config) -> dict[str, Any]:
    """Flags as a run keeps them: paths are absolute, so that other commands find them from any folder."""

    def absolute(value: Any) -> Any:
        kind, mark, path = value.partition(":") if isinstance(value, str) else ("", "", "")
        if mark and kind in ("folder", "groups"):
            return f"{kind}:{pathlib.Path(path).expanduser().absolute()}"
        return value

    plain = jdt.config.to_plain(config)
    for name, value in plain.items():
        given = getattr(config, name)
        if isinstance(given, pathlib.Path) and name != "out":
            plain[name] = str(given.expanduser().absolute())
        elif name == "target_recipes" and given is not None and given not in TABLES:
            plain[name] = str(pathlib.Path(given).expanduser().absolute())
        else:
            plain[name] = [absolute(one) for one in value] if isinstance(value, list) else absolute(value)
    return plain


MACHINE_FIELDS = (
    "out", "plan", "devices", "memory_budget", "block_size", "resume", "overwrite", "checkpoint_minutes",
    "shard", "distributed", "until_reliability", "save_models",
)  # fmt: skip
"""Flags that say how and where a run is trained, and not what: each command has its own."""
ARRAYS_AT_ONCE = 8
"""Float32 arrays [units, examples] that estimating and saving one output holds: influence, error, z, and copies."""
LATER_FIELDS = (
    "source_test_split", "target_test_split", "image_channels", "views", "label", "target_label", "target_split",
)  # fmt: skip
"""Flags that runs of before do not know; part of a run's identity where they are given."""


def load_task(config: Config) -> tuple[jdt.pipeline.Task, jdt.train.Choice]:
    """Load the data, make the units, check that everything fits and choose the plan, before anything is written."""
    jdt.checks.require_known("plan", config.plan, ["auto", *jdt.train.PLANS])
    if config.until_reliability is not None:
        jdt.checks.require_fraction("until-reliability", config.until_reliability)
    jdt.estimators.named(config.estimators)
    task = make_task(config)
    require_estimable(task)
    return planned_on(config, task)


def require_estimable(task: jdt.pipeline.Task) -> None:
    """Refuse a run whose influences on single test images would not fit the memory of this machine.

    Raises:
      UserError: With both sizes, and what to do.
    """
    limit = jdt.devices.host_memory()
    for target in task.targets:
        units, examples = len(task.units), len(target.test)
        needed = ARRAYS_AT_ONCE * 4 * units * examples
        if limit is not None and needed > limit:
            raise jdt.UserError(
                f"influences of {units:,} units on each of {examples:,} test images of {target.name} need about "
                f"{needed / jdt.devices.BYTES_A_GIB:.0f} GiB of memory while they are estimated, and there are "
                f"{limit / jdt.devices.BYTES_A_GIB:.0f}: pass fewer test images, for example --target-test-split "
                f"'test[:{max(1, int(limit / (ARRAYS_AT_ONCE * 4 * units)) // 2)}]'."
            )


def planned_on(config: Config, task: jdt.pipeline.Task) -> tuple[jdt.pipeline.Task, jdt.train.Choice]:
    """Choose the plan and the block size of a task: those of the run in `--out`, where there is one to go on with.

    Another plan would round otherwise, another block size would not fit the store.
    """
    saved = None if config.overwrite else jdt.store.saved_run(config.out)
    plan = saved.provenance["plan"]["name"] if saved and config.plan == "auto" else config.plan
    return planned(task, plan, config.block_size or (saved.layout.block_size if saved else None))


def planned(task: jdt.pipeline.Task, plan: str, block_size: int | None) -> tuple[jdt.pipeline.Task, jdt.train.Choice]:
    """Choose the plan of a task by measurement (`auto`) or by name, and its block size where none is given."""
    with jdt.cli.console.status("choosing a plan by measurement"):
        choice = jdt.train.choose(
            plan,
            task.ensemble,
            num_models=task.num_models,
            num_examples=task.pool.chunk_size if task.pool else len(task.source),
            block_size=block_size,
        )
    at_once = task.num_devices * choice.plan.width
    default = max(2, at_once + at_once % 2)  # Even, for the sake of antithetic pairs.
    return dataclasses.replace(task, plan=choice.plan, block_size=block_size or default), choice


def make_task(config: Config) -> jdt.pipeline.Task:
    """Load the data, make the units and check that everything fits; the plan is still to be chosen."""
    design = jdt.masks.Design(config.design, config.fraction, config.seed)
    num_devices = jdt.devices.resolve_num_devices(config.devices)

    def load(
        name: str, split: str, view: jdt.data.View, *, label: str | None = config.target_label, streamed: bool = False
    ) -> jdt.data.Dataset:
        with jdt.cli.item_progress(f"decoding {name}[{split}]") as progress:
            return jdt.data.load(
                name,
                split,
                data_dir=config.data_dir,
                image_size=config.image_size,
                streamed=streamed,
                view=view,
                image_channels=config.image_channels,
                label=label,
                progress=progress,
            )

    def held_out(name: str) -> str:
        return jdt.data.evaluation_split(name, data_dir=config.data_dir)

    def target_test_split(name: str) -> str:
        return config.target_test_split or held_out(name)

    jdt.masks.check_num_models(design, config.num_models)

    def own_recipes(base: jdt.train.Recipe, *, used: bool) -> dict[str, jdt.train.Recipe]:
        return recipes_of(config.target_recipes, config.target, base) if used else {}

    stepwise = "fixed" in config.transfer and config.head.solver == "sgd"  # A convex head has no recipe.
    heads = own_recipes(config.head.recipe, used=stepwise)
    fulls = own_recipes(config.full.recipe, used="full" in config.transfer)

    def targets_of(name: str) -> tuple[jdt.pipeline.TargetData, ...]:
        full, head = fulls.get(name, config.full.recipe), heads.get(name, config.head.recipe)
        training = [recipe for recipe, used in ((full, "full" in config.transfer), (head, stepwise)) if used]
        train, test, streamed = load_target(
            config, name, target_test_split(name), training, functools.partial(load, name)
        )
        return jdt.pipeline.variants(
            jdt.pipeline.TargetData(
                name,
                train,
                test,
                head=dataclasses.replace(config.head, recipe=head) if name in heads else None,
                full=dataclasses.replace(config.full, recipe=full) if name in fulls else None,
                streamed=streamed,
            ),
            shots=config.shots,
            fractions=config.target_fractions,
            weight_decays=config.weight_decays,
            head=config.head,
            full=config.full,
            modes=config.transfer,
            seed=config.seed,
        )

    view = jdt.data.View() if config.views == "whole" else PAPER_EVALUATION
    streamed = config.streamed or config.recipe.is_cut
    source = load(config.source, config.source_split, view, label=config.label, streamed=streamed)
    test_split = config.source_test_split or held_out(config.source)
    source_test = load(config.source, test_split, view, label=config.label)
    if config.source_groups is not None:
        groups = jdt.masks.read_groups(config.source_groups)
        source = jdt.data.regrouped(source, groups, per_group=config.source_per_group, seed=config.seed)
        source_test = jdt.data.regrouped(source_test, groups)
    elif config.source_per_group is not None:
        raise jdt.UserError("--source-per-group says how many images a group has: pass --source-groups as well.")
    units = jdt.masks.parse(config.units, np.asarray(source.labels), source.class_names)
    units = jdt.masks.equalized(units, config.seed) if config.equalize else units
    targets = tuple(target for name in config.target for target in targets_of(name))
    planted: tuple[jdt.plant.Planted, ...] = ()
    if config.plant:
        source, planted = planting.plant(
            config.plant, source, units, targets[0], fits=config.plant_fits, changes=config.plant_changes,
            is_control=config.plant_control, seed=config.seed,
        )  # fmt: skip
    network = jdt.models.make(
        config.model,
        len(source.class_names),
        arguments=jdt.models.parse_arguments(config.model_args),
        features=config.features,
    )
    start = None
    if config.start_from is not None:
        start = jdt.models.load_variables(config.start_from, network, source.image_shape, head=False)
    return jdt.pipeline.Task(
        source=source,
        source_test=source_test,
        units=units,
        targets=targets,
        design=design,
        num_models=config.num_models,
        block_size=config.block_size or 2,
        network=network,
        recipe=config.recipe,
        plan=jdt.train.PLANS["native"],
        head=config.head,
        modes=config.transfer,
        full=config.full,
        precision=jdt.devices.resolve_precision(config.precision),
        num_devices=num_devices,
        pool_size=jdt.pipeline.pool_size(source, config.memory_budget, config.recipe),
        baseline_models=config.baseline_models,
        allow_overlap=config.allow_overlap,
        start=start,
        planted=planted,
    )


def load_target(
    config: Config,
    name: str,
    test_split: str,
    training: Sequence[jdt.train.Recipe],
    load: Callable[..., jdt.data.Dataset],
) -> tuple[jdt.data.Dataset, jdt.data.Dataset, jdt.data.Dataset | None]:
    """Load a target's splits, cut as its row of the published table says where that is asked for.

    Returns:
      Training split, test split, and the training split once more, streamed, where a recipe of training cuts it anew.
    """
    row = None if config.views == "whole" else paper_target(name, config.views)
    split = config.target_split or ("train" if row is None or name.startswith("folder:") else row.train_split)
    view = target_view(config, name)
    streamed = load(split, view, streamed=True) if any(recipe.is_cut for recipe in training) else None
    train, test = load(split, view), load(test_split, view)
    if config.target_groups is None:
        return train, test, streamed
    if streamed is not None:
        raise jdt.UserError(
            "--target-groups needs decoded images, but a recipe cuts them anew in every pass: leave one."
        )
    groups = jdt.masks.read_groups(config.target_groups)
    return jdt.data.regrouped(train, groups), jdt.data.regrouped(test, groups), None


def target_view(config: Config, name: str) -> jdt.data.View:
    """How images of a target are cut for good: as its row of the published table says, where that is asked for."""
    return jdt.data.View() if config.views == "whole" else still_view(name, config.views)


def require_views(run: jdt.store.Run, views: object) -> None:
    """Refuse a run that names another table of views than there are: what a run says may be damaged, or a trap."""
    jdt.checks.require_known(f"views in {run.path}", str(views), ["whole", *TABLES])


def settings_of(run: jdt.store.Run, like: Config, **changes: object) -> Config:
    """Flags that a run was made with, to load its data and train its kind of models again.

    Args:
      run: The run.
      like: Says how this command uses the machine: devices, memory and so on.
      **changes: Fields that differ; those that are None do not, so that a run's own data folder is the default.

    Raises:
      UserError: If the run is from before runs said it, or says it in another way, or names a class of its own as its
        model and the caller does not name the same: importing it runs code that the run's author chose.
    """
    saved = dict(run.provenance.get("settings") or {})
    if not saved:
        raise jdt.UserError(
            f"{run.path} does not say with which flags it was made, as runs of jdt 0.1 did not: make it anew, with "
            "--overwrite, to go on from it."
        )
    for name in MACHINE_FIELDS:
        saved.pop(name, None)
    try:
        config = jdt.config.from_plain(like, {name: value for name, value in saved.items() if hasattr(like, name)})
    except ValueError as error:
        raise jdt.UserError(f"{run.path} says in a way of its own how it was made ({error}).") from error
    require_views(run, config.views)
    if not isinstance(config.target_recipes, str | None):
        raise jdt.UserError(f"{run.path} says that its target recipes are {config.target_recipes!r}, which is no name.")
    paths = {
        name: pathlib.Path(value)
        for name in ("data_dir", "start_from", "source_groups", "target_groups", "plant_fits")
        if isinstance(value := getattr(config, name), str)
    }
    given = {name: value for name, value in changes.items() if value is not None}
    if config.model not in jdt.models.ZOO and given.get("model") is None:
        raise jdt.UserError(
            f"the run says that its models are {config.model!r}, and importing that runs its code: if you know where "
            f"the run comes from, pass --model {config.model}."
        )
    if given.get("model", config.model) != config.model:
        raise jdt.UserError(f"--model is {given['model']}, but the run was made with {config.model}: leave it out.")
    return dataclasses.replace(config, **paths, **{"precision": run.config.get("precision", config.precision), **given})


def task_of(run: jdt.store.Run, config: Config) -> jdt.pipeline.Task:
    """Load what a run was made of once more, and see that it is the same.

    Args:
      run: The run.
      config: Its flags, from `settings_of`.

    Raises:
      UserError: If data or units are others than the run's, naming which.
    """
    task = make_task(config)
    found, saved = identity(config, task), run.config
    parts = (
        "fingerprints", "recipe", "precision", "model", "model_args", "features", "head", "full", "target_settings",
        "start_from", "planted",
    )  # fmt: skip
    changed = jdt.config.difference({n: saved.get(n) for n in parts}, {n: found.get(n) for n in parts})
    if changed:
        raise jdt.UserError(
            f"what {run.path} was made of is not what is there now ({'; '.join(changed[:3])}): restore it, or pass "
            "--data-dir or the file of its groups so that it is found."
        )
    return task


def identity(config: Config, task: jdt.pipeline.Task) -> dict:
    """What decides the stored numbers: a run is resumed only when all of it is the same."""
    chosen = {
        name: jdt.config.to_plain(getattr(config, name))
        for name in ("source", "source_split", "target", "image_size", "equalize", "model", "transfer")
    }
    # Only where they are given: runs of before there were such options go on.
    asked = {name: getattr(config, name) for name in LATER_FIELDS}
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    chosen |= {name: value for name, value in asked.items() if value != defaults[name]}
    if config.model_args:
        chosen["model_args"] = jdt.config.to_plain(jdt.models.parse_arguments(config.model_args))
    if config.features is not None:
        chosen["features"] = config.features
    datasets = [task.source, *(data for target in task.targets for data in (target.train, target.test))]
    # Keys that runs from before do not know appear where they are used, so that those runs resume.
    used = {name: list(getattr(config, name)) for name in ("shots", "target_fractions", "weight_decays")}
    own = {target.name: own_settings(target, task) for target in task.targets}
    return {
        "experiment": "class_influence",
        **chosen,
        **{name: values for name, values in used.items() if values},
        **({"target_settings": own} if any(own.values()) else {}),
        **({"planted": [jdt.config.fingerprint(one) for one in task.planted]} if task.planted else {}),
        "units": config.units.partition(":")[0],
        "design": jdt.config.to_plain(task.design),
        "recipe": jdt.config.to_plain(task.recipe),
        "head": jdt.config.to_plain(task.head),
        "precision": task.precision,
        "pool_size": task.pool_size,
        "full": jdt.config.to_plain(task.full) if "full" in task.modes else None,
        **({"save_models": True} if config.save_models else {}),
        **({} if task.start is None else {"start_from": jdt.models.variables_digest(task.start)}),
        "fingerprints": {
            **{data.name: data.fingerprint for data in datasets},
            "units": jdt.config.fingerprint([list(task.units.names), task.units.of_example.tolist()]),
        },
    }


def own_settings(target: jdt.pipeline.TargetData, task: jdt.pipeline.Task) -> dict:
    """What is particular to the transfer to one target, by mode."""
    own = {"fixed": target.head, "full": target.full}
    return {mode: jdt.config.to_plain(own[mode]) for mode in task.modes if own[mode] is not None}


def source_model(config: Config, task: jdt.pipeline.Task) -> dict:
    """What the source models are, so that they can be built again."""
    return jdt.pipeline.describe_source_model(
        config.model,
        len(task.source.class_names),
        task.source.image_shape,
        task.recipe.mean,
        task.recipe.std,
        arguments=jdt.models.parse_arguments(config.model_args),
        features=config.features,
    )
