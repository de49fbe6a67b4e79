"""Which source classes (or groups of classes) help, and which harm, each target class?

Question  Many small source models are trained on random halves of the source's units and transferred to each target
          with fixed features; how much does including a unit change the outputs on each target image?
Source    arXiv 2207.05739 (source-data influence for transfer learning), sections 3.1-3.5.
Run       python -m experiments.class_influence --out runs/demo
Smoke     python -m experiments.class_influence --out runs/smoke --preset smoke
Your data python -m experiments.class_influence --out runs/mine --source folder:PATH --target cifar10 \
              --image-size 32 --model my_package.my_module:MyModel --num-models 400
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable

import jdt
from experiments.influence_report import conclude, planted_truth, publish
from experiments.influence_run import train_run
from experiments.influence_setup import Config, load_task
from experiments.paper_recipes import PAPER_HEAD_TARGETS, PAPER_SOURCE, PAPER_SOURCE_RECIPE

DEMO = Config(
    out=pathlib.Path("runs/demo"),
    num_models=96,
    recipe=jdt.train.Recipe(epochs=6, batch_size=64, learning_rate=0.1),
)
PRESETS = {
    "demo": DEMO,
    "smoke": dataclasses.replace(
        DEMO,
        out=pathlib.Path("runs/smoke"),
        num_models=8,
        block_size=2,
        estimators=("ridge", "difference"),
        recipe=jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1),
    ),
    "paper": Config(
        out=pathlib.Path("runs/paper"),
        source=PAPER_SOURCE.dataset,
        source_test_split=PAPER_SOURCE.test_split,
        target=tuple(target.dataset for target in PAPER_HEAD_TARGETS),
        image_size=224,
        views="paper",
        design="fixed-size",
        num_models=7540,
        model="resnet18",
        recipe=PAPER_SOURCE_RECIPE,
        target_recipes="paper",
    ),
}


def main(config: Config) -> None:
    """Train what is missing, estimate, and write table and report."""
    start = time.perf_counter()
    say = jdt.cli.console.print
    if not config.checkpoint_minutes > 0:
        raise jdt.UserError(
            f"--checkpoint-minutes is {config.checkpoint_minutes}, but it must be positive: pass for example 10."
        )
    hosts = jdt.hosts.join(config.shard, config.distributed)
    if config.overwrite and hosts.count > 1:
        raise jdt.UserError("--overwrite would remove what the other processes write: use it in a process alone.")
    task, choice = load_task(config)
    writer, done = train_run(config, task, choice, hosts, say)
    trained = time.perf_counter() - start
    if not done:
        say(
            f"{writer.num_complete} of {task.num_models} models are there, and the rest is in the hands of other "
            "processes; the last one makes the report. If one was killed, the same command again does what is missing.",
            markup=False,
        )
    elif hosts.count > 1 and not writer.claim_report():
        say("another process makes the report; if it was killed, run the same command without --shard.", markup=False)
    else:
        report(config, task, say, start, trained)
        writer.reported()


def report(config: Config, task: jdt.pipeline.Task, say: Callable[..., None], start: float, trained: float) -> None:
    """Estimate, and write table and report."""
    run = jdt.store.open_run(config.out)
    unit_images = jdt.report.sample_images(task.source.images, task.units.of_example, task.units.names)
    findings, warnings, page = publish(
        run, task.targets, task.modes, say,
        title=f"{config.source} → {', '.join(config.target)}", output=config.output, unit_images=unit_images,
        truth=planted_truth(config, task), estimators=jdt.estimators.named(config.estimators), task=task,
    )  # fmt: skip
    conclude(findings, warnings, say)
    if config.until_reliability is not None:
        say(jdt.pipeline.verdict(findings, config.until_reliability, len(run.complete), task.num_models), markup=False)
    say(f"{len(run.complete)} models; {trained:.0f} s to train, {time.perf_counter() - start:.0f} s in all.")
    say(f"report: {page}", markup=False, soft_wrap=True)
    say(f'arrays: jdt.load_influences("{config.out}")', markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
