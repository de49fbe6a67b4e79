"""Which source units help, and which harm, according to the models of a run or of a datamodels log directory?

Question  Models are there already, trained by jdt or logged by MadryLab's datamodels or data-transfer: what does each
          estimator make of them, and how well does it predict models that it has not seen?
Source    arXiv 2202.00622 (datamodels), section 3; arXiv 2303.14186 for the linear datamodeling score.
Run       python -m experiments.fit_datamodels --run runs/demo --output margin --estimator ridge difference
Smoke     python -m experiments.fit_datamodels --preset smoke
Your log  python -m experiments.fit_datamodels --run LOGDIR --out runs/imported --target cifar10 --labels labels.npy
Together  the same command in every process of a jax.distributed job, on one run that all of them see
"""

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping

import numpy as np
from rich.markup import escape
from rich.table import Table

import jdt


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    run: jdt.cli.RunPath
    """A run of jdt, or a log directory of datamodels or data-transfer (_completed.npy, masks.npy, margins.npy)."""
    target: str | None = None
    """Which target of the run, or what to call the one of a log directory; may be left out when there is one."""
    mode: str = "fixed"
    """Which kind of transfer, fixed or full; of a log directory: the one that made it."""
    output: str = "margin"
    """Which output of the target's examples."""
    estimator: tuple[str, ...] = ("ridge",)
    """Which estimators."""
    held_out: float = 0.1
    """Share of the models that a second fit leaves out, to be predicted by it; 0 for none."""
    memory_budget: float = 2.0
    """GiB a process for examples: more of them than fit are read and fitted a part at a time."""
    distributed: jdt.hosts.Distributed = "auto"
    """Share the work with the other processes of a jax.distributed job; auto: where the environment tells of one."""
    count: int = 5
    """Units shown for each class."""
    out: jdt.cli.RunPath | None = None
    """Where an imported run goes; beside the log directory by default. The same command again resumes it."""
    masks: pathlib.Path | None = None
    """File of a log directory's masks, where it is not LOGDIR/masks.npy."""
    outputs: tuple[str, ...] = ()
    """What to import, as NAME=FILE (margin=margins for margins.npy); by default the files that are known by name."""
    unit_names: pathlib.Path | None = None
    """JSON list: a name for each column of a log directory's masks."""
    labels: pathlib.Path | None = None
    """.npy file: true class of each example of a log directory's target, for influences on classes."""
    class_names: pathlib.Path | None = None
    """JSON list: a name for each class that --labels has."""
    paired: bool = False
    """Rows 2i and 2i+1 of a log directory are a mask and its complement."""
    allow_diverged: bool = False
    """Import completed models with NaN or infinite outputs as diverged ones, which are then left out."""
    overwrite: bool = False
    """Import anew, in place of the run that is in --out."""


PRESETS = {
    "demo": Config(run=pathlib.Path("runs/demo")),
    "smoke": Config(run=pathlib.Path("runs/smoke"), estimator=("difference",)),
    "paper": Config(run=pathlib.Path("runs/paper"), estimator=("lasso",)),
}
TILE = 4096
"""Examples fitted together, at most: tiles are what processes share, and each of them factorises the masks anew."""
TABLE_CLASSES = 20
"""Target classes with a row of their own in the table."""
IMPORT_ONLY = (
    "out", "masks", "outputs", "unit_names", "labels", "class_names", "paired", "allow_diverged", "overwrite",
)  # fmt: skip


def main(config: Config) -> None:
    """Import if need be, fit every estimator, save and print; of several processes the first alone saves and prints."""
    hosts = jdt.hosts.join(distributed=config.distributed, together=True)
    say = jdt.cli.console.print if hosts.index == 0 else silent
    known = {estimator.name: estimator for estimator in jdt.estimators.TABLE}
    for name in config.estimator:
        jdt.checks.require_known("estimator", name, known)
    if not 0 <= config.held_out < 1:
        raise jdt.UserError(
            f"--held-out is {config.held_out}, but it must be a share of the models: pass for example 0.1."
        )
    if not config.memory_budget > 0:
        raise jdt.UserError(
            f"--memory-budget is {config.memory_budget} GiB, but it must be positive: pass for example 2."
        )
    with jdt.exchange.in_step(hosts):
        imported = opened(config) if hosts.index == 0 else None
    with jdt.exchange.in_step(hosts):
        run = imported or jdt.open_run(place(config))
    target = chosen_target(run, config.target)
    run = run.holding(target)
    run.output_column(target, config.mode, config.output)  # Refuses what is not there before anything is read.
    models = jdt.pipeline.usable_models(run, target, config.mode, hosts=hosts)
    num_models, num_units = models.masks.shape
    at_once = jdt.estimators.targets_at_once(num_models, num_units, config.memory_budget * 2**30)
    left_out = f", {len(models.left_out)} left out" if models.left_out else ""
    say(
        f"{num_models:,} models{left_out}, {num_units:,} units, {run.layout.num_examples[target]:,} examples of "
        f"{target} ({config.output}).",
        markup=False,
    )
    for name in config.estimator:
        shown = jdt.cli.item_progress(f"{name}, examples") if hosts.index == 0 else contextlib.nullcontext()
        with shown as progress:
            fitted = jdt.pipeline.fit_target(
                run, target, config.mode, config.output, known[name],
                models=models, tile=min(at_once, TILE), at_once=at_once, held_out=config.held_out, hosts=hosts,
                progress=progress,
            )  # fmt: skip
        say(table(fitted.levels, config.count))
        say(verdict(name, fitted.held_out), markup=False)
    arguments = f'"{run.path}", target="{target}", output="{config.output}", estimator="{config.estimator[0]}"'
    say(f"arrays: jdt.load_influences({arguments})", markup=False, soft_wrap=True)


def silent(*_: object, **__: object) -> None:
    """What processes other than the first say."""


def place(config: Config) -> jdt.store.Place:
    """Where the run is, or will be once it is imported."""
    if not jdt.store.is_foreign(config.run):
        return config.run
    logdir = pathlib.Path(config.run).absolute()
    return config.out or logdir.with_name(f"{logdir.name}-jdt")


def opened(config: Config) -> jdt.store.Run:
    """The run to work on: the one that is there, or the one that the log directory becomes."""
    if not jdt.store.is_foreign(config.run):
        run = jdt.open_run(config.run)
        defaults = {field.name: field.default for field in dataclasses.fields(Config)}
        if given := [name for name in IMPORT_ONLY if getattr(config, name) != defaults[name]]:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise jdt.UserError(f"{config.run} is a run of jdt, and {flags} only says how to import one: leave it out.")
        return run
    with jdt.cli.item_progress("importing models") as progress:
        run = jdt.store.import_datamodels(
            pathlib.Path(config.run).absolute(),
            place(config),
            masks=config.masks,
            outputs=dict(map(named_file, config.outputs)) or None,
            target=config.target or "target",
            mode=config.mode,
            unit_names=names("--unit-names", config.unit_names),
            labels=None if config.labels is None else labels(config.labels),
            class_names=names("--class-names", config.class_names),
            paired=config.paired,
            allow_diverged=config.allow_diverged,
            overwrite=config.overwrite,
            provenance=jdt.cli.provenance(),
            progress=progress,
        )
    jdt.cli.console.print(f"imported into {run.path}", markup=False, soft_wrap=True)
    return run


def chosen_target(run: jdt.store.Run, asked: str | None) -> str:
    """The target that is asked for, or the only one."""
    there = list(run.layout.num_examples)
    if asked is None and len(there) > 1:
        raise jdt.UserError(f"{run.path} has {len(there)} targets: pass --target with one of {', '.join(there)}.")
    return there[0] if asked is None else asked


def named_file(entry: str) -> tuple[str, str]:
    """Split `NAME=FILE`; the file is named without `.npy`."""
    name, equals, file = entry.partition("=")
    if not (name and equals and file):
        raise jdt.UserError(f"--outputs holds {entry!r}, but each entry is NAME=FILE: pass for example margin=margins.")
    return name, file.removesuffix(".npy")


def names(flag: str, path: pathlib.Path | None) -> list[str] | None:
    """Read a JSON list of names."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise jdt.UserError(f"cannot read {flag} {path} as JSON ({error}): pass a JSON list of names.") from error
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise jdt.UserError(f'{flag} {path} is not a list of names: write ["first", "second", ...].')
    return found


def labels(path: pathlib.Path) -> np.ndarray:
    """Read the classes of the target's examples."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise jdt.UserError(f"cannot read --labels {path} ({error}): pass a .npy file of integers.") from error


def table(levels: Mapping[jdt.estimators.Level, jdt.Influences], count: int) -> Table:
    """The units that help and harm most: the whole task, then target classes where they are known."""
    task = levels["task"]
    relative = ", relative to the average unit" if task.info["relative"] else ""
    title = f"influence on {task.output} ({task.estimator}){relative}"
    made = Table("target", "helps most", "harms most", title=escape(title), title_justify="left")
    for found in [task, *(levels[level] for level in ("class",) if level in levels)]:
        for name in found.target_names[:TABLE_CLASSES]:
            helps = [cell(one) for one in found.top(name, count) if one.influence > 0]
            harms = [cell(one) for one in found.top(name, count, harmful=True) if one.influence < 0]
            made.add_row(escape(name), "\n".join(helps), "\n".join(harms))
    if (more := len(levels["class"].target_names) - TABLE_CLASSES if "class" in levels else 0) > 0:
        made.caption = f"and {more} more classes, in the saved arrays"
    return made


def cell(one: jdt.estimators.Ranked) -> str:
    """One unit in the table, without z where there is none."""
    z = "" if np.isnan(one.z) else f" (z {one.z:.1f})"
    return escape(f"{one.unit} {one.influence:+.3g}{z}")


def verdict(name: str, held_out: jdt.pipeline.HeldOut | None) -> str:
    """Say how well models that were left out are predicted, beside a trivial baseline."""
    if held_out is None:
        return f"{name}: no models are held out (too few, or --held-out 0): how well it predicts is not known."
    known = held_out.r_squared[np.isfinite(held_out.r_squared)]
    share = f"R^2 {known.mean():.3f}" if len(known) else "R^2 not known, no output varies"
    low, high = held_out.lds.over_models
    return (
        f"{name}, {held_out.num_models} models held out: {share}, LDS {held_out.lds.value:.3f} ({low:.3f} to {high:.3f}"
        f"), means over examples; LDS {held_out.baseline.value:.3f} by predicting the mean output for every example."
    )


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
