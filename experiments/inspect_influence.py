"""What do the influences of a run say about single classes, images and source units?

Question  What moves a target class or a test image most, and what does a source unit move? Which images does a unit
          drive although their label is another (subpopulations)? Which unit is to blame for a failure, and is the image
          right once models are trained without it? Which source images leak into test images, and which mislead?
Source    arXiv 2207.05739 (source-data influence for transfer learning), its subpopulations, failures and leaks.
Run       python -m experiments.inspect_influence --run runs/demo
Ask       python -m experiments.inspect_influence --run runs/demo --classes 3 --examples 17 205 --units "upright 3"
Verify    python -m experiments.inspect_influence --run runs/demo --failures 4 --verify 2
Smoke     python -m experiments.inspect_influence --preset smoke
"""

import dataclasses
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

import jdt
from experiments import influence_setup
from experiments.influence_run import retrain as train_listed
from experiments.influence_setup import identity, settings_of, task_of


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    run: jdt.cli.RunPath
    """The run to ask; it may still be in progress."""
    classes: tuple[str, ...] = ()
    """Target classes: what moves each most?"""
    examples: tuple[int, ...] = ()
    """Numbers of test images: what moves each most, and what do models take it for?"""
    units: tuple[str, ...] = ()
    """Names of source units (numbers of source images): which test images does each move most?"""
    subpopulations: int = 0
    """How many groups of test images to show that a unit drives although their label is another."""
    failures: int = 0
    """How many test images to show that most models get wrong, with the unit to blame."""
    leakage: int = 0
    """How many source images to show that may be copies of test images; where units are examples."""
    misleading: int = 0
    """How many source images to show that mislead about a test image; where units are examples."""
    verify: int = 0
    """Retrain without the unit to blame, for so many of the failures."""
    seeds: int = 5
    """Models of each kind that --verify trains."""
    target: str | None = None
    """Which target; may be left out when the run has one."""
    mode: str | None = None
    """Which transfer mode; by default the run's first."""
    output: str | None = None
    """Which output's influences: confidence or margin; by default the one that the run's report shows."""
    estimator: Literal["ridge", "difference", "lasso"] | None = None
    """Which estimator's influences; by default the first of these that the run has."""
    count: int = 6
    """How many movers each way."""
    false_discovery: float = 0.05
    """Expected share of noise among what is called beyond noise."""
    least_similarity: float = jdt.analyses.SURELY_A_COPY
    """Similarity from which on two images count as copies; small or uniform images are alike anyhow."""
    images: bool = True
    """Load the run's data to show images; --no-images is faster."""
    data_dir: pathlib.Path | None = None
    """Where prepared TFDS datasets are; by default where the run had them."""
    groups: pathlib.Path | None = None
    """The file of --units groups:FILE, where it is no longer where the run had it."""
    model: str | None = None
    """The model of the run, where it is a class of your own: package.module:ClassName."""
    devices: int | None = None
    """Local devices that --verify uses; by default all of them."""


PRESETS = {
    "demo": Config(run=pathlib.Path("runs/demo")),
    "smoke": Config(run=pathlib.Path("runs/smoke"), failures=1, verify=1, seeds=2),
    "paper": Config(run=pathlib.Path("runs/paper")),
}
QUESTIONS = ("classes", "examples", "units", "subpopulations", "failures", "leakage", "misleading")
SHOWN = 4
"""Of each kind of question, where none is asked."""


def main(config: Config) -> None:
    """Answer every question, print and save the answers."""
    say = jdt.cli.console.print
    run = jdt.open_run(config.run)
    evidence = jdt.pipeline.gather_evidence(run, config.target, config.mode, config.output, config.estimator)
    say(
        f"{evidence.num_models:,} models, {evidence.num_units:,} units, {evidence.num_examples:,} test images of "
        f"{evidence.target} ({evidence.mode}), {evidence.estimator} influences on {evidence.output}.",
        markup=False,
    )
    if evidence.note:
        say(evidence.note, markup=False, soft_wrap=True)
    inspector = jdt.pipeline.Inspector(evidence, None, config.count, config.false_discovery)
    asked = checked(config, inspector)
    task, settings = (None, None) if not config.images and not config.verify else opened(config, run, say)
    if task is not None and config.images:
        inspector = dataclasses.replace(inspector, gallery=jdt.pipeline.gallery_of(task))
    if not any(getattr(asked, name) for name in QUESTIONS):
        asked = chosen(asked, inspector)
    cases = list(answers(asked, inspector))
    if asked.subpopulations and not any(case.kind == "subpopulation" for case in cases):
        say("no unit drives three images or more, beyond noise, whose label is not what it helps most.")
    if asked.failures:
        found = inspector.failures(asked.failures)
        mendings = ()
        if task is not None and settings is not None and config.verify:
            mendings = verified(
                config, inspector, found.take(np.arange(min(config.verify, len(found)))), task, settings, say
            )
        cases += inspector.failure_cases(found, mendings)
    suspects = []
    if asked.leakage or asked.misleading:
        alike = jdt.pipeline.copies(inspector)
        for kind, count in (("leakage", asked.leakage), ("misleading", asked.misleading)):
            if count:
                least = config.least_similarity
                suspects.append(jdt.pipeline.suspects(inspector, kind, count, alike, least_similarity=least))
    publish(inspector, cases, suspects, say)


def checked(config: Config, inspector: jdt.pipeline.Inspector) -> Config:
    """The questions, refused before anything is loaded where there is no such class, image or unit."""
    for name in config.classes:
        inspector.of_class(name)
    for example in config.examples:
        inspector.of_example(example)
    for name in config.units:
        inspector.unit_number(name)
    if config.verify:
        jdt.checks.require_at_least("seeds", config.seeds, 2)
        if inspector.run.path != jdt.store.run_path(config.run):
            raise jdt.UserError(
                f"target {inspector.evidence.target!r} was added to {config.run} later, and models are retrained for a "
                "run's own targets: leave out --verify."
            )
        return dataclasses.replace(config, failures=max(config.failures, config.verify))
    return config


def opened(
    config: Config, run: jdt.store.Run, say: Callable[..., None]
) -> tuple[jdt.pipeline.Task, influence_setup.Config] | tuple[None, None]:
    """Load what the run was made of; where it does not say that, or it is gone, say how to get images."""
    units = None if config.groups is None else f"groups:{config.groups}"
    like = influence_setup.Config(out=config.run, devices=config.devices)
    try:
        settings = settings_of(run, like, data_dir=config.data_dir, units=units, model=config.model)
        return task_of(run, settings), settings
    except jdt.UserError as error:
        if config.verify or any(x is not None for x in (config.data_dir, config.groups, config.model)):
            raise
        say(f"without images: {error}", markup=False, soft_wrap=True)
        return None, None


def chosen(config: Config, inspector: jdt.pipeline.Inspector) -> Config:
    """A selection of all that the run allows, where nothing is asked."""
    evidence, changes = inspector.evidence, {}
    task = evidence.level("task")
    helps, harms = jdt.analyses.movers(task, 0, SHOWN // 2)
    units = [*helps.units.tolist(), *harms.units.tolist()]
    changes["units"] = tuple(evidence.run.unit_names[u] for u in units)
    if inspector.class_names:
        classes = evidence.level("class")
        spread = np.argsort(-classes.influence.std(axis=0), kind="stable")[:SHOWN]
        changes["classes"] = tuple(classes.target_names[c] for c in np.sort(spread))
    if inspector.mistakes is not None:
        # The image that models disagree about most.
        wrong = np.nan_to_num(inspector.mistakes.wrong)
        changes["examples"] = (int(np.argmin(np.abs(wrong - 0.5))),)
        changes["failures"] = SHOWN
    if inspector.class_names and not inspector.are_examples and evidence.fits_in_memory:
        changes["subpopulations"] = SHOWN
    if inspector.are_examples and inspector.gallery is not None and evidence.target in inspector.gallery.targets:
        changes |= {"leakage": 12, "misleading": 12}
    return dataclasses.replace(config, **changes)


def answers(config: Config, inspector: jdt.pipeline.Inspector) -> Sequence[jdt.report.Case]:
    """Cases of classes, images, units and subpopulations."""
    units = [inspector.unit_number(name) for name in config.units]
    return [
        *(inspector.of_class(name) for name in config.classes),
        *(inspector.of_example(example) for example in config.examples),
        *(inspector.of_unit(unit) for unit in units),
        *(inspector.subpopulations(config.subpopulations) if config.subpopulations else ()),
    ]


def verified(
    config: Config, inspector: jdt.pipeline.Inspector, found: jdt.analyses.Failures, task: jdt.pipeline.Task,
    settings: influence_setup.Config, say: Callable[..., None],
) -> tuple[jdt.analyses.Mending, ...]:  # fmt: skip
    """Train models without each unit to blame, and of the whole source, the same seeds; they are kept and resumed."""
    evidence, run = inspector.evidence, inspector.run

    def retrain(masks: np.ndarray, seeds: np.ndarray) -> jdt.analyses.Outcomes:
        randomness = jdt.analyses.FIRST_RETRAINED_ID + seeds
        described = {
            "experiment": "failures", "run": jdt.config.fingerprint(run.config), "target": evidence.target,
            "mode": evidence.mode, "masks": jdt.config.fingerprint(masks.astype(int).tolist()),
            "made_of": identity(settings, task),
        }  # fmt: skip
        name = f"failures-{evidence.target}-{evidence.mode}-{jdt.config.fingerprint(described)[:8]}"
        out = jdt.store.run_path(config.run) / "counterfactuals" / jdt.store.safe_name(name)
        listed = jdt.masks.Listed(masks, randomness, int(run.config["design"]["seed"]))
        mode: jdt.pipeline.Mode = "full" if evidence.mode == "full" else "fixed"
        own = dataclasses.replace(settings, out=out)
        train_listed(run, task, own, listed, evidence.target, mode, described, jdt.hosts.ALONE, say)
        trained = jdt.open_run(out)
        return jdt.analyses.Outcomes(
            trained.outputs(evidence.target, evidence.mode, "confidence"),
            trained.outputs(evidence.target, evidence.mode, "prediction"),
        )

    return jdt.analyses.verify_failures(found, inspector.labels, evidence.num_units, retrain, seeds=config.seeds)


def publish(
    inspector: jdt.pipeline.Inspector,
    cases: Sequence[jdt.report.Case],
    suspects: Sequence[jdt.report.Suspects],
    say: Callable[..., None],
) -> None:
    """Print the answers, add them with their CSV files to the run's page, and write grids of images."""
    evidence, run = inspector.evidence, inspector.run
    for case in cases:
        say(jdt.report.case_table(case))
    for one in suspects:
        say(jdt.report.suspects_table(one))
    where, info = f"{evidence.target}, {evidence.mode} transfer", evidence.level("task").info
    on_page = {
        "relative": bool(info.get("relative") or info.get("paired")),
        "warnings": (f"{where}: {evidence.note}",) if evidence.note else (),
    }
    name = re.sub(r"[^A-Za-z0-9_-]", "-", f"{evidence.target}-{evidence.mode}")[:60]
    kinds = "-".join(dict.fromkeys(case.kind for case in cases))  # What other questions have on the page stays.
    jdt.store.refuse_links(run.path, "inspection")
    there, page = jdt.store.names_in(run.path), None
    if (cases or suspects) and "report.html" in there and "sections" not in there:
        say("the page that was there is of an older version and gives way; the run's own command makes it anew.")
    if cases:
        title = f"What moves what: {where}"
        page = jdt.report.add_cases(run.path, cases, name=f"cases-{name}-{kinds}"[:100], title=title, **on_page)
    if suspects:
        title = f"Suspects: {where}"
        page = jdt.report.add_suspects(run.path, suspects, name=f"suspects-{name}", title=title, **on_page)
    if inspector.gallery is not None:
        folder = run.path / "inspection" / jdt.store.safe_name(name)
        grids = {f"{place:02}-{case.kind}.png": jdt.report.case_grid(case) for place, case in enumerate(cases, 1)}
        grids |= {f"{one.kind}.png": jdt.report.suspects_grid(one) for one in suspects if one.rows}
        for file, content in grids.items():
            jdt.store.write_bytes(folder / file, content)
        say(f"pictures: {folder}", markup=False, soft_wrap=True)
    say(f"report: {page}" if page else "nothing is found to be shown.", markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
