"""Make or resume an influence run, and train what it lacks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jdt
from experiments import planting
from experiments.influence_setup import Config, identity, planned, recorded, source_model

Flags = TypeVar("Flags", bound=Config)


def stop_rule(config: Config) -> jdt.pipeline.UntilReliability | None:
    """When to stop before all models are trained; the blocks left out stay missing, and a later run can train them."""
    if config.until_reliability is None:
        return None
    return jdt.pipeline.UntilReliability(config.out, config.until_reliability, config.output)


def adopted(
    config: Config, task: jdt.pipeline.Task, choice: jdt.train.Choice
) -> tuple[jdt.pipeline.Task, jdt.train.Choice]:
    """The task as the run in `--out` has it, where another process has begun it meanwhile: equal plans, equal bytes."""
    saved = jdt.store.saved_run(config.out)
    if saved is None:
        return task, choice
    name, size = saved.provenance["plan"]["name"], config.block_size or saved.layout.block_size
    if config.plan == "auto" and name != task.plan.name:
        return planned(task, name, size)
    return dataclasses.replace(task, plan=choice.plan, block_size=size), choice


def open_writer(
    config: Config, task: jdt.pipeline.Task, choice: jdt.train.Choice, described: Mapping[str, Any] | None = None
) -> tuple[jdt.store.RunWriter, jdt.pipeline.Task, jdt.train.Choice]:
    """Make, resume or enlarge the run in `--out`.

    Raises:
      UserError: If it holds a run that may not be resumed.
    """

    def opened(task: jdt.pipeline.Task, choice: jdt.train.Choice) -> jdt.store.RunWriter:
        return jdt.store.create_or_open(
            config.out,
            config=identity(config, task) if described is None else described,
            provenance={
                **jdt.cli.provenance(),
                "plan": choice.record(),
                "output": config.output,
                "settings": recorded(config),
                "source_model": source_model(config, task),
            },
            schema=task.schema(),
            overwrite=config.overwrite,
        )

    if config.overwrite:
        return opened(task, choice), task, choice
    if not config.resume and jdt.store.saved_run(config.out) is not None:
        raise jdt.UserError(f"{config.out} already holds a run and --no-resume was given: choose another --out.")
    try:
        writer = opened(task, choice)
    except jdt.UserError:
        # Begun by another process since: how it divides and runs blocks was for it to say. All else is an error again.
        task, choice = adopted(config, task, choice)
        writer = opened(task, choice)
    return writer, *adopted(config, task, choice)


def once_made(config: Flags) -> Flags:
    """The flags once the run in `--out` was made, refused or removed as they ask: it goes on from there."""
    return dataclasses.replace(config, overwrite=False, resume=True)


def remove_own(config: Config, is_own: Callable[[str], bool]) -> None:
    """Remove what the study of a run that is overwritten wrote beside its models, so that none of it outlives them.

    Args:
      config: Its flags.
      is_own: Whether a name in the folder of the run is of the study.
    """
    run = jdt.store.run_path(config.out)
    for name in filter(is_own, jdt.store.names_in(run)):
        jdt.store.refuse_links(run, name)
        jdt.store.remove_tree(run / name)


def train_run(
    config: Config,
    task: jdt.pipeline.Task,
    choice: jdt.train.Choice,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
    described: Mapping[str, Any] | None = None,
) -> tuple[jdt.store.RunWriter, bool]:
    """Make or resume the run in `--out` and train what it lacks, or this process's share of it.

    `described` is what decides its numbers, where that is not `identity(config, task)`.

    Returns:
      The run's writer, and whether nothing more is to be trained.

    Raises:
      UserError: If it holds a run that may not be resumed.
    """
    writer, task, choice = open_writer(config, task, choice, described)
    if task.planted:
        planting.save(config.out, task.planted)
    for damage in writer.damaged:
        say(f"damaged: {damage}; the block is trained again.", markup=False)
    missing = writer.missing_blocks()
    describe(task, choice, missing, say)
    if hosts.count > 1:
        say(f"this is process {hosts.index} of 0 to {hosts.count - 1} that share the run.")
    stop, stopped = stop_rule(config), False

    def enough(done: int) -> bool:
        nonlocal stopped
        stopped = stop is not None and stop(done)
        return stopped

    def saved() -> str:
        return f"{writer.num_complete} of {task.num_models} models are saved in {config.out}"

    with jdt.cli.saving(saved), jdt.cli.ModelProgress(task.num_models, writer.num_complete) as progress:
        jdt.pipeline.train_missing_blocks(
            task,
            writer,
            hosts=hosts,
            checkpoint_seconds=60 * config.checkpoint_minutes,
            save_models=config.save_models,
            progress=progress,
            enough=enough,
        )
    return writer, stopped or not writer.unrecorded_blocks()


def retrain(
    run: jdt.store.Run,
    task: jdt.pipeline.Task,
    config: Config,
    listed: jdt.masks.Listed,
    target: str,
    mode: jdt.pipeline.Mode,
    described: Mapping[str, Any],
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
) -> bool:
    """Train models of a run's kind on listed subsets of its source, as a run of their own, which resumes.

    Args:
      run: The run.
      task: What it was made of, from `task_of`.
      config: Its flags, with the place of the new run in `out`.
      listed: The subsets.
      target: The only target.
      mode: The only transfer mode.
      described: What decides the numbers.
      hosts: The processes that share the models.
      say: Prints.

    Returns:
      Whether nothing more is to be trained.
    """
    saved = None if config.overwrite else jdt.store.saved_run(config.out)
    task, choice = planned(
        dataclasses.replace(
            task,
            design=listed,
            num_models=len(listed.masks),
            targets=tuple(one for one in task.targets if one.name == target),
            modes=(mode,),
            baseline_models=0,
        ),
        run.provenance["plan"]["name"] if config.plan == "auto" else config.plan,
        config.block_size or (saved.layout.block_size if saved else None),
    )
    return train_run(config, task, choice, hosts, say, described)[1]


def describe(task: jdt.pipeline.Task, choice: jdt.train.Choice, missing: list[int], say: Callable[..., None]) -> None:
    """Say in a few lines what is about to happen."""
    ensemble, plan = task.ensemble, choice.plan
    say(
        f"{len(task.source):,} source images, {len(task.units)} units, {task.num_models} models in blocks of "
        f"{task.block_size}, {ensemble.num_steps} steps of {ensemble.batch_size} images each."
    )
    say(task.network.describe(task.source.image_shape), markup=False)
    devices = f"{task.num_devices} device{'s' if task.num_devices > 1 else ''}"
    say(f"plan {plan.name} ({choice.reason}), {plan.width} at once on each of {devices}, {task.precision}.")
    if task.pool is not None and task.pool.chunks_a_pass > 1:
        say(
            f"the source does not fit: {task.pool.chunk_size:,} images at a time are on the device, "
            f"{task.pool.chunks_a_pass} pools a pass."
        )
    if ensemble.batch_size < task.recipe.batch_size:
        say(
            f"the batch shrinks from {task.recipe.batch_size} to {ensemble.batch_size} images: the smallest subset "
            "that the design can draw has no more."
        )
    if not missing:
        say("all blocks are there already: nothing to train.")
