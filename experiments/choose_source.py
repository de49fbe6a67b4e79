"""Which of several candidate sources to pre-train on for a target, how sure that is, and what being surer costs.

Question  A few models of each candidate source are transferred to the target with few training images and with all of
          them. Which source is best there, with what probability, do the sources differ beyond noise at all, and how
          many more seeds (models, minutes) would tell the first two apart?
Source    arXiv 2302.13602 (the role of pre-training data), sections 3 and 6 of its specification.
Run       python -m experiments.choose_source
Your own  python -m experiments.choose_source --out runs/choice --data-dir ~/data --source imagenet_resized/32x32 \
              --image-size 32 --source-sets groups.json --sources A=groups:animals B=groups:tools C=all \
              --target cifar10 --shots 5
Surer     the same command with more --seeds: the run grows, and only the new models are trained
Study     python -m experiments.pretraining_data
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Sequence

import jdt
from experiments import pretraining_data, pretraining_report, source_choice
from experiments.pretraining_families import count_of
from experiments.pretraining_measures import Measured
from experiments.pretraining_setup import Config, Study
from experiments.source_choice import Choice, Cost

SECTION = "choice"
"""Of the page."""
QUICK = Config(
    out=pathlib.Path("runs/choice"),
    sources=(
        "upright=classes:upright *", "upside=classes:upside-down *", "scrambled=classes:scrambled *", "pixels=pixels",
    ),
    seeds=3,
    room=20,
    shots=(5,),
    at_shots=5,
    draws=3,
    twin="none",
    control=False,
    model_args=("width=16",),
    recipe=jdt.train.Recipe(epochs=10, batch_size=64, learning_rate=0.1, crop_pad=1),
)  # fmt: skip
UNUSED = ("far", "equivalents", "twin", "control")
"""What a study is judged by, and a choice is not."""
PRESETS = {
    "quick": QUICK,
    "smoke": dataclasses.replace(
        QUICK,
        out=pathlib.Path("runs/choice-smoke"),
        sources=("upright=classes:upright *", "pixels=pixels"),
        seeds=2,
        draws=1,
        recipe=jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1),
    ),
}


def main(config: Config) -> None:
    """Train what is missing of the candidates' models, rank them, and write table and report."""
    pretraining_data.main(completed(config), publish)


def completed(config: Config) -> Config:
    """The flags with those that follow from others, so that nobody has to pass two of them.

    Raises:
      UserError: If flags ask for what a choice does not show.
    """
    unused = [f"--{name}" for name in UNUSED if getattr(config, name) != getattr(QUICK, name)]
    if unused:
        raise jdt.UserError(
            f"{', '.join(unused)} would cost time and not be shown: leave out what you passed, or run "
            "experiments.pretraining_data."
        )
    room = None if config.room is None else max(config.room, config.seeds)
    # The width is that of the small network of the preset, and of no other.
    is_other = config.model != QUICK.model and config.model_args == QUICK.model_args
    at_shots = config.at_shots if config.at_shots in config.shots else min(config.shots, default=config.at_shots)
    return dataclasses.replace(config, at_shots=at_shots, room=room, model_args=() if is_other else config.model_args)


def publish(config: Config, study: Study, measured: Measured, say: Callable[..., None]) -> jdt.store.Place:
    """Rank, print, and write beside the models; returns the place of the page."""
    run = jdt.store.run_path(config.out)
    choices = choices_of(config, study, measured)
    rankings = tuple(source_choice.shown(one) for one in choices)
    for one in rankings:
        say(jdt.report.ranking_table(one))
    warnings = [*pretraining_report.warnings_of(measured), *unequal(study)]
    for words in warnings:
        say(f"note: {words}", markup=False)
    for one in choices:
        say(f"{source_choice.recommendation(one)}.", markup=False)
    jdt.store.write_json(run / pretraining_report.CHOICE, to_plain(config, choices))
    content = pretraining_report.content(config, study, measured, (), ())
    content = dataclasses.replace(
        content, title=f"Which source for {', '.join(study.targets)}: {', '.join(study.sources.names)}",
        rankings=rankings, figures={},
    )  # fmt: skip
    return jdt.report.add_pretraining(run, content, name=SECTION, warnings=warnings)


def choices_of(config: Config, study: Study, measured: Measured) -> tuple[Choice, ...]:
    """A choice for every target and number of shots."""
    cost = cost_of(config, study)
    places = [(target, shots) for target in study.targets for shots in study.shots]
    return tuple(
        source_choice.choose(
            [cell for cell in measured.cells if (cell.target, cell.shots) == place], study.sources.names, cost
        )
        for place in places
    )


def cost_of(config: Config, study: Study) -> Cost:
    """What one more seed of all sources and methods takes, by the seconds that blocks of models took.

    Where source models are those of another study, its seconds are added: more of them are to be trained there first.
    """
    models, seconds = 0, 0.0
    for block in study.blocks:
        models += len(block.arms)
        for run in (jdt.open_run(block.out), *([] if block.task.kept is None else [block.task.kept])):
            records = run.records()
            made = sum(record["models"][1] - record["models"][0] for record in records)
            seconds += len(block.arms) * sum(record["seconds"] for record in records) / made
    return Cost(config.seeds, models, seconds)


def unequal(study: Study) -> list[str]:
    """What to know where candidates have other sizes than one another."""
    counts = {name: count_of(study.sources, name) for name in study.sources.names}
    if len(set(counts.values())) == 1:
        return []
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return [f"sources have unequal sizes ({told}), so that what differs between them may be that."]


def to_plain(config: Config, choices: Sequence[Choice]) -> dict[str, object]:
    """All that was found, for programs."""
    return {
        "seeds": config.seeds,
        "draws": config.draws,
        "cost_of_a_seed": dataclasses.asdict(choices[0].cost),
        "choices": [source_choice.to_plain(one) for one in choices],
    }


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="quick", description=(__doc__ or "").split("\n")[0]))
