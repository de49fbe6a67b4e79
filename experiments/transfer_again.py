"""What are the source models of a run worth on a target that nobody had thought of when they were trained?

Question  The source models of a run were kept (--save-models): what is the influence of its source units on one more
          target, without training a source model again?
Source    arXiv 2207.05739, section 3: one set of source models serves all targets.
Run       python -m experiments.class_influence --out runs/kept --save-models
          python -m experiments.transfer_again --run runs/kept --target folder:PATH --image-size 8
Smoke     python -m experiments.class_influence --preset smoke --save-models
          python -m experiments.transfer_again --preset smoke
Read      jdt.open_run("runs/kept").outputs("folder:PATH"), jdt.load_influences("runs/kept", target="folder:PATH")
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Literal

import jdt
from experiments import influence_setup
from experiments.influence_report import conclude, digits_truth, publish
from experiments.influence_setup import load_target


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    run: jdt.cli.RunPath
    """A run that was made with --save-models. What is in it stays as it is; the same command resumes."""
    target: str
    """The new target: a prepared TFDS name, or folder:PATH."""
    data_dir: pathlib.Path | None = None
    """Where prepared TFDS datasets are; TFDS's own default when not given."""
    image_size: int | None = None
    """Resize images to this height and width; by default as the run did."""
    image_channels: int | None = None
    """3 reads grey images as coloured ones, 1 the other way round; by default as the run did."""
    transfer: tuple[jdt.pipeline.Mode, ...] = ()
    """Transfer modes, fixed or full or both; by default those of the run."""
    full: jdt.transfer.FullNetwork = dataclasses.field(default_factory=jdt.transfer.FullNetwork)
    """How whole networks are fine-tuned, if the run has no full transfer that says it."""
    model: str | None = None
    """The model of the run, package.module:ClassName, where it is not of the zoo: it is imported, hence run."""
    start_from: pathlib.Path | None = None
    """What the run was given as --start-from, if it was: untrained models are transferred as well."""
    output: Literal["confidence", "margin"] | None = None
    """Which output the table and the report show; by default that of the run's report."""
    allow_overlap: bool = False
    """Warn, instead of refusing, where the target's test split holds images of its training split."""
    estimators: tuple[str, ...] = ("ridge", "difference", "lasso")
    """How influences are estimated: ridge, difference, lasso. A LASSO takes long with fewer models than units."""
    devices: int | None = None
    """Local devices to use; by default all of them (on CPUs one a core)."""
    shard: str | None = None
    """i/n, i from 0: this process is one of n that share the work; they need not know each other."""
    distributed: jdt.hosts.Distributed = "auto"
    """Learn i and n from a jax.distributed job: auto where the environment describes one (SLURM, GKE)."""


PRESETS = {
    name: Config(run=pathlib.Path(f"runs/{name}"), target=target)
    for name, target in (("demo", "jdt_digits_source"), ("smoke", "jdt_digits_source"), ("paper", "svhn_cropped"))
}


def main(config: Config) -> None:
    """Transfer what is missing, estimate, and write table and report beside the run's own."""
    start = time.perf_counter()
    say = jdt.cli.console.print
    hosts = jdt.hosts.join(config.shard, config.distributed)
    jdt.estimators.named(config.estimators)
    added = load(config)
    writer = added.open({**jdt.cli.provenance(), "plan": added.run.provenance["plan"], "output": output(config, added)})
    for damage in writer.damaged:
        say(f"damaged: {damage}", markup=False)
    there = len(added.run.complete)
    say(f"{there} of {added.run.num_models} source models are there, {writer.num_complete} are transferred already.")

    def saved() -> str:
        return f"{writer.num_complete} models are transferred to {added.target.name} in {writer.path}"

    with jdt.cli.saving(saved), jdt.cli.ModelProgress(there, writer.num_complete) as progress:
        jdt.pipeline.transfer_missing_blocks(added, writer, hosts=hosts, progress=progress)
    missing = len(set(writer.unrecorded_blocks()) - unfinished(added.run))
    if missing:
        say(
            f"{missing} blocks are in the hands of other processes; the last one makes the report. If one was killed, "
            "the same command again does what is missing."
        )
    elif hosts.count > 1 and not writer.claim_report():
        say("another process makes the report; if it was killed, run the same command without --shard.", markup=False)
    else:
        report(config, added, say)
        writer.reported()
        say(f"{time.perf_counter() - start:.0f} s in all.")


def unfinished(run: jdt.store.Run) -> set[int]:
    """Blocks of which the run itself lacks models."""
    whole = {r["block"] for r in run.records() if r["models"][1] == run.layout.models_of(r["block"]).stop}
    return set(range(run.layout.num_blocks)) - whole


def load(config: Config) -> jdt.pipeline.AddedTarget:
    """Open the run, load the target, and check that they fit each other, before anything is written."""
    run = jdt.open_run(config.run)
    about = jdt.pipeline.described_source_model(run)
    if config.model is not None and config.model != about.spec:
        raise jdt.UserError(f"--model is {config.model}, but the run was made with {about.spec}: leave it out.")
    if config.model is None and about.spec not in jdt.models.ZOO:
        raise jdt.UserError(
            f"the run says that its models are {about.spec!r}, and importing that runs its code: if you know where the "
            f"run comes from, pass --model {about.spec}."
        )
    if config.target in run.layout.num_examples:
        raise jdt.UserError(f"the run {config.run} has had the target {config.target!r} from the start: pass another.")
    size = run.config.get("image_size") if config.image_size is None else config.image_size

    channels = run.config.get("image_channels") if config.image_channels is None else config.image_channels

    def split(name: str, view: jdt.data.View, *, streamed: bool = False) -> jdt.data.Dataset:
        with jdt.cli.item_progress(f"decoding {config.target}[{name}]") as progress:
            return jdt.data.load(
                config.target, name, data_dir=config.data_dir, image_size=size, view=view, streamed=streamed,
                image_channels=channels, progress=progress,
            )  # fmt: skip

    as_run = settings(config, run)
    stepwise = "fixed" in as_run.transfer and as_run.head.solver == "sgd"
    recipes = ((as_run.full.recipe, "full" in as_run.transfer), (as_run.head.recipe, stepwise))
    train, test, streamed = load_target(
        as_run,
        config.target,
        jdt.data.evaluation_split(config.target, data_dir=config.data_dir),
        [recipe for recipe, used in recipes if used],
        split,
    )
    return jdt.pipeline.added_target(
        run,
        jdt.pipeline.TargetData(config.target, train, test, streamed=streamed),
        modes=config.transfer,
        full=None if config.full == jdt.transfer.FullNetwork() else config.full,
        trust=config.model is not None,
        start_from=config.start_from,
        num_devices=jdt.devices.resolve_num_devices(config.devices),
        allow_overlap=config.allow_overlap,
    )


def settings(config: Config, run: jdt.store.Run) -> influence_setup.Config:
    """How the run cuts images and transfers, as the experiment that made it has it."""
    views = run.config.get("views", "whole")
    influence_setup.require_views(run, views)
    try:
        return influence_setup.Config(
            out=config.run,
            views=views,
            transfer=config.transfer or run.modes,  # pyright: ignore[reportArgumentType]
            head=jdt.config.from_plain(jdt.transfer.FixedFeature(), run.config["head"]),
            full=jdt.config.from_plain(config.full, run.config.get("full") or {}),
        )
    except (KeyError, ValueError) as error:
        raise jdt.UserError(f"{run.path} does not say how it was made ({error}).") from error


def output(config: Config, added: jdt.pipeline.AddedTarget) -> Literal["confidence", "margin"]:
    """Which output is shown."""
    known = ("confidence", "margin")
    asked = config.output or added.run.provenance.get("output")
    return known[known.index(asked)] if asked in known else known[0]


def report(config: Config, added: jdt.pipeline.AddedTarget, say: Callable[..., None]) -> None:
    """Estimate, and write table and report."""
    run, parent = jdt.store.open_run(added.path), added.run.config
    source = str(parent.get("source"))
    findings, warnings, page = publish(
        run, added.targets, added.modes, say,
        title=f"{source} → {added.target.name}", output=output(config, added), unit_images={},
        truth=digits_truth(source, str(parent.get("units")), run.unit_names) if config.target == "jdt_digits" else None,
        estimators=jdt.estimators.named(config.estimators),
    )  # fmt: skip
    conclude(findings, warnings, say)
    say(f"{len(run.complete)} models, none of them trained again.")
    say(f"report: {page}", markup=False, soft_wrap=True)
    say(f'arrays: jdt.load_influences("{config.run}", target="{config.target}")', markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
