"""How long will experiments.class_influence take here, what does it need, and how many such hosts meet a deadline?

Question  A few blocks and the estimation are timed on this machine, with the data and the programs of the run itself.
          What follows for all models, on one host and on many? Once the run is done: how true was it?
Run       python -m experiments.plan --out runs/demo
Deadline  python -m experiments.plan --out runs/demo --deadline 0.1
Afterwards, the same command again compares what was said with what the run took.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

import jdt
from experiments import class_influence, influence_report, influence_run, influence_setup


@dataclasses.dataclass(frozen=True)
class Config(influence_setup.Config):
    """Every knob of experiments.class_influence, and what is asked about it."""

    deadline: float | None = None
    """Hours from start to report: how many hosts of this kind are needed?"""
    hosts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Numbers of hosts to list."""
    budget: float = jdt.pipeline.BUDGET_SECONDS
    """Seconds to time blocks for, after a first one that compiles; the estimation may take as long again."""
    again: bool = False
    """Measure also where the run is complete; what was said about it before stays as it is."""


PRESETS = {
    name: Config(**{field.name: getattr(preset, field.name) for field in dataclasses.fields(preset)})
    for name, preset in class_influence.PRESETS.items()
}


def main(config: Config) -> None:
    """Measure, save, and print; or compare where the run is complete."""
    say = jdt.cli.console.print
    check(config)
    jdt.store.refuse_other_directories(config.out)
    run = None if config.overwrite else jdt.store.saved_run(config.out)
    complete = run is not None and len(run.complete) == run.num_models >= config.num_models
    if run is not None and complete and not config.again:
        say(comparison(run), markup=False)
        return
    busy, start = os.getloadavg()[0], time.perf_counter()
    task, choice = influence_setup.load_task(config)
    loading = time.perf_counter() - start - choice.seconds
    identity = influence_setup.identity(config, task)
    if run is not None and (changes := jdt.config.difference(run.config, identity)):
        raise jdt.UserError(
            f"{config.out} holds a run with another config: {'; '.join(changes)}; pass another --out, or --overwrite "
            "to plan as if it were not there."
        )
    num_blocks = len(task.schema().blocks())
    influence_run.describe(task, choice, list(range(num_blocks)), say)
    forecast = jdt.pipeline.make_forecast(
        task,
        choice,
        missing_blocks=num_blocks if run is None or complete else num_blocks - len(run.records()),
        loading_seconds=loading,
        output=config.output,
        truth=influence_report.planted_truth(config, task),
        estimators=jdt.estimators.named(config.estimators),
        config_fingerprint=jdt.config.fingerprint(identity),
        budget=config.budget,
        progress=lambda what: say(f"measuring: {what}", markup=False, style="dim"),
    )
    if not complete:
        jdt.pipeline.save_forecast(forecast, config.out)
    if busy > jdt.devices.usable_cores() / 2:
        say(f"this machine was busy (load {busy:.1f} before the start): what else ran is in the times.", style="bold")
    say(stage_table(forecast))
    for line in summary(forecast):
        say(line, markup=False)
    if config.save_models:
        each = jdt.pipeline.model_bytes(task.network, task.source.image_shape)
        size = jdt.pipeline.size
        say(f"disk for source models: {size(each)} each, {size(each * task.num_models)} in all, beside the rest.")
    say(host_table(forecast, config.hosts))
    if config.until_reliability is not None:
        say("--until-reliability may stop earlier: all of this is about all models.")
    if config.deadline is not None:
        say(forecast.verdict(config.deadline), markup=False)


def check(config: Config) -> None:
    """Refuse questions that have no answer, before anything is loaded."""
    if config.deadline is not None and not config.deadline > 0:
        raise jdt.UserError(f"--deadline is {config.deadline} hours, but it must be positive: pass for example 24.")
    if not config.budget > 0:
        raise jdt.UserError(f"--budget is {config.budget} seconds, but it must be positive: pass for example 20.")
    if not config.hosts or min(config.hosts) < 1:
        raise jdt.UserError(f"--hosts is {config.hosts}, but must be numbers from 1 on: pass for example 1 2 4.")


def comparison(run: jdt.store.Run) -> str:
    """What was said about a complete run, beside what it took."""
    compared = jdt.pipeline.compared(run)
    if compared is None:
        raise jdt.UserError(
            f"{run.path} is complete and holds no plan of this configuration, or only one block: there is nothing to "
            "compare; pass --again to measure anew, or another --out."
        )
    return str(compared)


def stage_table(forecast: jdt.pipeline.Forecast) -> Table:
    """Seconds a model by stage."""
    table = Table("stage", title="seconds a model, on all devices of this host", title_justify="left")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    table.add_column("what was timed")
    for stage in forecast.stages:
        share = stage.seconds / forecast.seconds_per_model
        table.add_row(escape(stage.name), f"{stage.seconds:.3g}", f"{share:.1%}", escape(stage.how))
    return table


def summary(forecast: jdt.pipeline.Forecast) -> list[str]:
    """What it takes and needs, a line each."""
    span, size = jdt.pipeline.span, jdt.pipeline.size
    devices = f"{forecast.num_devices} device{'s' if forecast.num_devices > 1 else ''}"
    rounds = f"{len(forecast.rounds)} measured block{'s' if len(forecast.rounds) > 1 else ''}"
    stage, peak = forecast.peak_memory
    has = "" if forecast.memory_limit is None else f" of {size(forecast.memory_limit)}"
    if forecast.shared_memory and has:
        has += " (its share of this machine's memory, which all devices use)"
    needs = ", ".join(f"{name} {size(needed)}" for name, needed in forecast.memory.items())
    return [
        f"a model takes {forecast.seconds_per_model:.3g} s ({min(forecast.rounds):.3g} to {max(forecast.rounds):.3g} "
        f"in {rounds}): {forecast.models_per_hour:,.0f} models an hour on {devices} ({forecast.device}).",
        f"{forecast.missing_blocks:,} blocks of {forecast.block_size} models to train: "
        f"{span(forecast.hours() * 3600)} on one host, {forecast.device_hours:.3g} device-hours in all.",
        f"in that, every host starts for {span(forecast.start_seconds)} ({listed(forecast.start)}), and once a run "
        f"come {span(forecast.once_seconds)} ({listed(forecast.once)}); the report is not counted.",
        f"memory: a device needs {size(peak)}{has}, most in {stage} ({needs}).",
        f"disk: {size(forecast.run_bytes)}; outputs are {size(forecast.block_bytes)} a block, stored as "
        f"{forecast.stored_share:.0%} of that, influences {size(forecast.once_bytes)}.",
    ]


def listed(stages: Sequence[jdt.pipeline.Stage]) -> str:
    """Stages in a sentence."""
    return ", ".join(f"{stage.name} {jdt.pipeline.span(stage.seconds)}" for stage in stages)


def host_table(forecast: jdt.pipeline.Forecast, hosts: Sequence[int]) -> Table:
    """How long it takes on several hosts of this kind."""
    table = Table(title="hosts of this kind", title_justify="left")
    for name in ("hosts", "wall time", "device-hours"):
        table.add_column(name, justify="right")
    for count, hours, device_hours in jdt.pipeline.host_table(forecast, hosts):
        table.add_row(str(count), jdt.pipeline.span(hours * 3600), f"{device_hours:.3g}")
    return table


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
