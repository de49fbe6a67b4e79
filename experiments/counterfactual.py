"""What becomes of target accuracy when the most harmful (or most helpful) source units are left out?

Question  Units are ranked by their influence on a target, or on one class of it, with one half of its test images.
          Models are trained anew without the first k of them, along a grid of k, several seeds each; how accurate are
          they on the other half, beside models that do without random units, or without units of your choice?
Source    arXiv 2207.05739 (source-data influence for transfer learning), section 3.7.
Run       python -m experiments.counterfactual --run runs/demo
Smoke     python -m experiments.counterfactual --run runs/smoke --preset smoke
Class     python -m experiments.counterfactual --run runs/demo --target-class 3 --removed 1 2 5
Own list  python -m experiments.counterfactual --run runs/demo --hand-picked names.txt
"""

import dataclasses
import hashlib
import itertools
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from rich.table import Table

import jdt
from experiments import influence_setup
from experiments.influence_run import retrain
from experiments.influence_setup import identity, settings_of, task_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    run: jdt.cli.RunPath
    """The run whose influences rank the units; it may still be in progress."""
    out: jdt.cli.RunPath | None = None
    """Where retrained models are kept; by default a folder of their own in RUN/counterfactuals."""
    target: str | None = None
    """Which target; may be left out when the run has one."""
    mode: jdt.pipeline.Mode | None = None
    """Which transfer mode; by default the run's first."""
    target_class: str | None = None
    """Rank units by their influence on this class of the target, and report accuracy on it, instead of the whole."""
    output: Literal["confidence", "margin"] | None = None
    """Which output's influences rank the units; by default the one that the run's report shows."""
    estimator: str = "ridge"
    """Which estimator ranks the units: ridge, difference, lasso."""
    removed: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.6)
    """How much is removed at each point: shares of the units (below 1) or numbers of them."""
    arms: tuple[Literal["bottom", "top", "random"], ...] = ("bottom", "top", "random")
    """What is removed: the most harmful units, the most helpful, random ones."""
    hand_picked: pathlib.Path | None = None
    """A text file of units to remove, a name a line, in this order: one more arm."""
    seeds: int = 5
    """Repetitions of everything; intervals are over them. More seeds later train only the new ones."""
    data_dir: pathlib.Path | None = None
    """Where prepared TFDS datasets are; by default where the run had them."""
    units: str | None = None
    """groups:FILE, where the file is no longer where the run had it."""
    model: str | None = None
    """The model of the run, where it is a class of your own: package.module:ClassName."""
    plan: str = "auto"
    """How models share the devices: auto (as the run did) or a name: see jdt.train.PLANS."""
    devices: int | None = None
    """Local devices to use; by default all of them (on CPUs one a core)."""
    memory_budget: float | None = None
    """GiB of each device for source images."""
    block_size: int | None = None
    """Models saved (and at worst lost) together; by default what trains at once."""
    checkpoint_minutes: float = 10.0
    """Minutes between checkpoints inside the training of a block."""
    overwrite: bool = False
    """Train all of them anew."""
    shard: str | None = None
    """i/n, i from 0: this process is one of n that share the models."""
    distributed: jdt.hosts.Distributed = "auto"
    """Learn i and n from a jax.distributed job: auto where the environment describes one (SLURM, GKE)."""


PRESETS = {
    "demo": Config(run=pathlib.Path("runs/demo")),
    "smoke": Config(run=pathlib.Path("runs/smoke"), removed=(0.2, 0.4), seeds=2),
    "paper": Config(run=pathlib.Path("runs/paper"), removed=tuple(range(50, 1000, 50)), arms=("bottom", "top")),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """What is asked of a run: which units are ranked for what, and which images report.

    Attributes:
      run: The run.
      target: Name of the target.
      mode: Transfer mode.
      target_class: The class that units are ranked for; None for the whole target.
      output: Which output ranks them.
      estimator: By which estimator.
      halves: Test images that rank, and that report; of one class where one is asked for.
      influence: float `[units]`: on the mean output of the images that rank.
      num_models: How many models it rests on.
    """

    run: jdt.store.Run
    target: str
    mode: jdt.pipeline.Mode
    target_class: str | None
    output: str
    estimator: str
    halves: jdt.analyses.Halves
    influence: np.ndarray
    num_models: int

    @property
    def subject(self) -> str:
        """What units are ranked for, in words."""
        return "the whole target" if self.target_class is None else f"class {self.target_class}"


def ask(config: Config) -> Question:
    """Rank the units.

    Raises:
      UserError: If the run has no such target, mode, class or output, or no estimator has this name.
    """
    run = jdt.open_run(config.run)
    if run.config["design"]["kind"] == "listed":
        raise jdt.UserError(
            f"{run.path} holds retrained models, whose subsets are chosen: influences need those drawn at random, so "
            "pass the run that it was made for."
        )
    if not len(run.complete):
        raise jdt.UserError(f"{run.path} has no complete model yet: wait for some, and run this again.")
    estimator = jdt.estimators.named((config.estimator,))[0]
    own = list(run.layout.num_examples)
    if config.target is None and len(own) > 1:
        raise jdt.UserError(f"{run.path} has {len(own)} targets: pass --target, one of {', '.join(own)}.")
    target = config.target or own[0]
    mode: jdt.pipeline.Mode = config.mode or ("full" if run.modes[0] == "full" else "fixed")
    if target in run.added:
        raise jdt.UserError(
            f"target {target!r} was added to {run.path} later, and models are retrained for a run's own targets: pass "
            f"one of {', '.join(own)}, or make a run with this target."
        )
    jdt.checks.require_known("target", target, own)
    if mode not in run.modes:
        raise jdt.UserError(f"{run.path} has no {mode} transfer: pass --mode, one of {', '.join(run.modes)}.")
    output = config.output or str(run.provenance.get("output", "confidence"))
    labelled = run.target(target)
    parts = jdt.analyses.halves(labelled.labels, int(run.config["design"]["seed"]))
    if config.target_class is not None:
        jdt.checks.require_known("target class", config.target_class, labelled.class_names)
        inside = labelled.labels == labelled.class_names.index(config.target_class)
        if inside.sum() < 2:
            raise jdt.UserError(
                f"target class {config.target_class!r} has {int(inside.sum())} test images, but one ranks and another "
                "reports: choose a class with at least 2."
            )
        parts = jdt.analyses.Halves(parts.score & inside, parts.report & inside)
    rows = jdt.pipeline.usable_rows(run, target, mode)
    if output not in rows.outputs:
        jdt.checks.require_known("output", output, list(rows.outputs))
    ranked = rows.outputs[output][:, parts.score].mean(axis=1, keepdims=True, dtype=np.float64)
    influence = estimator.fit(rows.masks, ranked, paired=rows.paired).influence[:, 0]
    return Question(run, target, mode, config.target_class, output, estimator.name, parts, influence, len(rows.masks))


def read_names(path: pathlib.Path, unit_names: tuple[str, ...]) -> np.ndarray:
    """Read which units to remove, a name a line; empty lines and those that begin with # say nothing.

    Raises:
      UserError: If the file cannot be read, names no unit, an unknown one (with the nearest names), or one twice.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise jdt.UserError(f"cannot read hand-picked units from {str(path)!r}: {error}.") from error
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not names:
        raise jdt.UserError(f"{str(path)!r} names no unit: write one name a line.")
    for name in names:
        if name not in unit_names:
            near = jdt.checks.nearest(name, unit_names)
            raise jdt.UserError(f"{str(path)!r} names unit {name!r}, which the run does not have; nearest: {near}.")
        if names.count(name) > 1:
            raise jdt.UserError(f"{str(path)!r} names unit {name!r} more than once: a unit can be removed once.")
    if len(names) == len(unit_names):
        raise jdt.UserError(f"{str(path)!r} names every unit, but a model needs one at least: leave some out.")
    return np.array([unit_names.index(name) for name in names])


def make_plan(config: Config, question: Question) -> jdt.analyses.Removals:
    """Which units each model does without."""
    run, num_units = question.run, question.run.layout.num_units
    removed = jdt.analyses.counts_of(config.removed, num_units)
    orders = {
        arm: order for arm, order in jdt.analyses.removal_orders(question.influence).items() if arm in config.arms
    }
    if config.hand_picked is not None:
        orders["hand-picked"] = read_names(config.hand_picked, run.unit_names)
        removed = np.union1d(removed, [0, len(orders["hand-picked"])])
    if not orders and "random" not in config.arms:
        raise jdt.UserError("there is nothing to remove: pass --arms bottom top random, or --hand-picked FILE.")
    return jdt.analyses.removals(
        orders, removed, num_units,
        num_seeds=config.seeds, seed=int(run.config["design"]["seed"]), random="random" in config.arms,
    )  # fmt: skip


def describe(
    question: Question, plan: jdt.analyses.Removals, own: dict[str, Any], task: jdt.pipeline.Task
) -> dict[str, Any]:
    """What decides the numbers of a counterfactual run, but not how many seeds it has: it grows by them."""
    first = plan.seed_index == 0
    # A small subset makes the batches of all models small, also one of a seed that is added later.
    smallest = int((plan.masks @ task.units.sizes).min())
    small = {"smallest_subset": smallest} if smallest < task.recipe.batch_size else {}
    return {
        **own,
        "experiment": "counterfactual",
        "target": [question.target],
        "transfer": [question.mode],
        "design": {"kind": "listed", "seed": int(own["design"]["seed"])},
        "arms": list(plan.arms),
        "removed": plan.removed.tolist(),
        **({} if question.target_class is None else {"target_class": question.target_class}),
        **small,
        "subsets": hashlib.sha256(np.packbits(plan.masks[first], axis=1).tobytes()).hexdigest()[:16],
    }


def destination(
    config: Config, question: Question, plan: jdt.analyses.Removals, described: Mapping[str, Any]
) -> tuple[str, jdt.store.Place]:
    """Name of the question, and where its models are kept.

    Raises:
      UserError: If that is the run itself, leads out of it, or holds more seeds than are asked for.
    """
    run, of_class = question.run, [] if question.target_class is None else [question.target_class]
    name = "-".join([question.target, question.mode, *of_class, jdt.config.fingerprint(described)[:8]])
    out = config.out or run.path / "counterfactuals" / jdt.store.safe_name(name)
    if jdt.store.run_path(out) == run.path or (
        jdt.store.is_local(run.path) and pathlib.Path(out).resolve() == pathlib.Path(run.path).resolve()
    ):
        raise jdt.UserError(f"--out {out} is the run itself: choose another folder for the retrained models.")
    if config.out is None:
        for folder in ("counterfactuals", f"counterfactuals/{out.name}"):
            jdt.store.refuse_links(run.path, folder)
    saved = None if config.overwrite else jdt.store.saved_run(out)
    if saved is not None and saved.num_models > len(plan.masks):
        raise jdt.UserError(
            f"{out} holds {saved.num_models} models, and --seeds {config.seeds} asks for {len(plan.masks)}: models are "
            f"not taken away; pass --seeds {-(-saved.num_models * config.seeds // len(plan.masks))}."
        )
    return name, out


def main(config: Config) -> None:
    """Rank, retrain what is missing, and say what became of the accuracy."""
    start, say = time.perf_counter(), jdt.cli.console.print
    hosts = jdt.hosts.join(config.shard, config.distributed)
    if config.overwrite and hosts.count > 1:
        raise jdt.UserError("--overwrite would remove what the other processes write: use it in a process alone.")
    question = ask(config)
    run = question.run
    say(
        f"{len(run.unit_names)} units ranked by {question.estimator} influence on {question.output} of "
        f"{question.target} ({question.mode}), {question.subject}: {question.halves.score.sum():,} test images rank, "
        f"{question.halves.report.sum():,} others report.",
        markup=False,
    )
    if len(run.complete) < run.num_models:
        if hosts.count > 1:
            raise jdt.UserError(
                f"{run.path} is in progress, and processes that start at different times would rank by different "
                "models: wait until it is complete, or use a process alone."
            )
        say(
            f"the run is in progress: {len(run.complete)} of its {run.num_models} models are complete, and rank; with "
            "more of them the ranking may be another one, for which models are retrained anew.",
            markup=False,
        )
    plan = make_plan(config, question)
    like = influence_setup.Config(out=config.run, devices=config.devices, memory_budget=config.memory_budget)
    settings = settings_of(run, like, data_dir=config.data_dir, units=config.units, model=config.model)
    task = task_of(run, settings)
    described = describe(question, plan, identity(settings, task), task)
    name, out = destination(config, question, plan, described)
    machine = {field: getattr(config, field) for field in ("overwrite", "checkpoint_minutes", "block_size", "plan")}
    settings = dataclasses.replace(settings, out=out, **machine)
    listed = jdt.masks.Listed(plan.masks, plan.randomness_ids, int(run.config["design"]["seed"]))
    done = retrain(run, task, settings, listed, question.target, question.mode, described, hosts, say)
    if not done:
        say("the rest is in the hands of other processes; the same command again does what is missing and reports.")
        return
    retrained = jdt.open_run(out)
    found = findings(question, plan, retrained)
    warnings = []
    if diverged := [model for record in retrained.records() for model in record["diverged"]]:
        warnings = [f"{len(diverged)} retrained models are left out: their training diverged (ids {diverged[:10]})."]
        say(f"warning: {warnings[0]}", style="bold", markup=False)
    publish(found, out, say)
    there = jdt.store.names_in(run.path)
    if "report.html" in there and "sections" not in there:
        say("the page that was there is of an older version and gives way; the run's own command makes it anew.")
    section = f"counterfactual-{section_name(name)}"
    page = jdt.report.add_counterfactual(run.path, [found], name=section, warnings=warnings)
    say(f"report: {page}", markup=False, soft_wrap=True)
    say(f"{time.perf_counter() - start:.0f} s in all.")


def section_name(name: str) -> str:
    """Name of the part of the page that one question has."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", name)[-60:].lstrip("-_")  # What tells questions apart stands last.


def findings(question: Question, plan: jdt.analyses.Removals, retrained: jdt.store.Run) -> jdt.report.Counterfactual:
    """Accuracy curves of retrained models, and what differs beyond the spread of seeds."""
    labels = question.run.target(question.target).labels
    predictions = retrained.outputs(question.target, question.mode, "prediction")
    usable = np.asarray((predictions >= 0).all(axis=1))
    curves, optimistic = (
        jdt.analyses.accuracy_curves(plan, predictions == labels, images, usable)
        for images in (question.halves.report, question.halves.score)
    )
    order = np.argsort(question.influence, kind="stable")
    return jdt.report.Counterfactual(
        target=question.target,
        mode=question.mode,
        subject=question.subject,
        ranked_by=f"{question.estimator} influence on {question.output}, from {question.num_models} models",
        num_units=len(question.influence),
        removed=plan.removed,
        arms=curves,
        optimistic=optimistic,
        images=(int(question.halves.report.sum()), int(question.halves.score.sum())),
        figures={**_differences(plan, curves), **_best(plan, curves, optimistic)},
        order=tuple(question.run.unit_names[u] for u in order),
    )


def _figure(values: np.ndarray, text: str) -> jdt.report.Figure:
    mean, low, high = jdt.analyses.mean_interval(values)
    known = (None, None) if np.isnan(low) else (low, high)
    return jdt.report.Figure(mean, *known, int(np.isfinite(values).sum()), "accuracy", text)


def _differences(plan: jdt.analyses.Removals, curves: dict[str, np.ndarray]) -> dict[str, jdt.report.Figure]:
    """Differences of arms at each point, and to keeping everything: paired over seeds."""
    figures = {}
    for point, count in enumerate(plan.removed.tolist()):
        if not count:
            continue
        at = {arm: curve[point] for arm, curve in curves.items() if np.isfinite(curve[point]).any()}
        everything = next(iter(curves.values()))[0]
        for first, second in itertools.combinations([a for a in ("bottom", "random", "top") if a in at], 2):
            figures[f"{first} - {second} at {count}"] = _figure(
                at[first] - at[second],
                f"accuracy without the {_words(first)} {count} units minus without the {_words(second)} {count}",
            )
        for arm, values in at.items():
            figures[f"{arm} - all at {count}"] = _figure(
                values - everything, f"accuracy without the {_words(arm)} {count} units minus with all of them"
            )
    return figures


def _words(arm: str) -> str:
    return {"bottom": "most harmful", "top": "most helpful", "random": "randomly chosen"}.get(arm, arm)


def _best(
    plan: jdt.analyses.Removals, curves: dict[str, np.ndarray], ranking: dict[str, np.ndarray]
) -> dict[str, jdt.report.Figure]:
    """The best number of harmful units to remove, and what it looks like where its own test images choose it."""
    if "bottom" not in curves or not np.isfinite(curves["bottom"]).any():
        return {}
    gains = curves["bottom"] - curves["bottom"][0]
    optimistic = int(np.nanargmax([jdt.analyses.mean_interval(point)[0] for point in curves["bottom"]]))
    figures = {
        "best, read off its own test images": _figure(
            gains[optimistic],
            f"gain over all units of the best of all points on the images that report ({plan.removed[optimistic]} "
            "units): optimistic by construction",
        )
    }
    chosen = jdt.analyses.best_points(ranking["bottom"])
    if chosen is not None:
        counts = ", ".join(str(count) for count in np.unique(plan.removed[chosen]))
        figures["best"] = _figure(
            gains[chosen, np.arange(len(chosen))],
            f"gain over all units without as many of the most harmful ones ({counts}) as the models of the other seeds "
            "chose on the images that rank",
        )
    return dict(sorted(figures.items()))


def publish(found: jdt.report.Counterfactual, out: jdt.store.Place | pathlib.Path, say: Callable[..., None]) -> None:
    """Print the curves and what differs, and write them beside the models."""
    table = Table(
        "units removed", *found.arms, title=f"accuracy on {found.images[0]:,} test images", title_justify="left"
    )
    for point, count in enumerate(found.removed.tolist()):
        cells = []
        for curve in found.arms.values():
            mean, low, _ = jdt.analyses.mean_interval(curve[point])
            cells.append("" if np.isnan(mean) else f"{mean:.1%}" + ("" if np.isnan(low) else f" ± {mean - low:.1%}"))
        table.add_row(f"{count} of {found.num_units}", *cells)
    say(table)
    for name, figure in found.figures.items():
        ends = [end for end in (figure.low, figure.high) if end is not None]
        interval = f" ({' to '.join(f'{100 * end:+.1f}' for end in ends)})" if ends else ""
        say(f"{name}: {100 * figure.value:+.1f} points{interval}", markup=False)
    jdt.store.write_json(
        jdt.store.run_path(out) / "summary.json",
        {name: dataclasses.asdict(figure) for name, figure in found.figures.items()},
    )
    say(f'models: jdt.open_run("{out}")', markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
