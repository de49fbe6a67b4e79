"""Make a forecast: run trial blocks and a trial estimation on this host."""

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdt import store
from jdt.devices import memory_limit
from jdt.estimators import TABLE, Estimator
from jdt.masks import sample
from jdt.pipeline.findings import Truth, estimate_target
from jdt.pipeline.forecast import WRITING, Forecast, Stage
from jdt.pipeline.task import Task
from jdt.pipeline.trial import ACCURACY, MOST_ROUNDS, TRAINING, Compilation, Round, Rounds, Trial, plan_trial
from jdt.store.schema import CONVERGENCE
from jdt.train import Choice, inference_memory_needed, memory_needed
from jdt.transfer import head_memory_needed

BUDGET_SECONDS = 20.0
"""How long trial blocks are run, after a first one that compiles; estimation may take as long again."""
_FIRST_MODELS, _FIRST_EXAMPLES, _GROWTH = 128, 4096, 4


def make_forecast(
    task: Task,
    choice: Choice,
    *,
    missing_blocks: int | None = None,
    loading_seconds: float = 0.0,
    output: str = "confidence",
    truth: Truth | None = None,
    estimators: Sequence[Estimator] = TABLE,
    config_fingerprint: str = "",
    budget: float = BUDGET_SECONDS,
    progress: Callable[[str], None] | None = None,
) -> Forecast:
    """Measure what a task takes on this host, all of its devices together.

    Trial blocks run as blocks will, with their masks, data and programs, as long as the budget lasts (`jdt.pipeline.
    trial` says what is cut where one is too much); the first one compiles and counts for the start only. Compilation
    counts in full, also where the cache on disk holds the programs: other hosts have an empty one.

    Args:
      task: What will be run.
      choice: Its plan, as it was chosen.
      missing_blocks: Blocks that are still to be trained; all of them when None.
      loading_seconds: What loading the data took.
      output: What the findings will be about.
      truth: The planted truth that will be looked for.
      estimators: Which estimators will be used.
      config_fingerprint: Of the run's configuration, which ties the forecast to it.
      budget: Seconds for trial blocks after the first, and about as many for the estimation.
      progress: Called with what is being done.

    Raises:
      UserError: If one model does not fit the device.
    """
    say = progress or (lambda _: None)
    layout = task.schema().layout
    missing = layout.num_blocks if missing_blocks is None else missing_blocks
    say("memory that the programs need")
    memory = _memory(task)
    say("a first block, which compiles")
    trial = plan_trial(task, choice, budget / (2 + len(task.targets) * len(task.modes)))
    with tempfile.TemporaryDirectory(prefix="jdt-plan-") as folder:
        run = Rounds(trial, Path(folder) / "run")
        first, rounds = run(), [run()]
        count = min(MOST_ROUNDS, int(budget / sum(rounds[0].seconds.values())))
        if count > 1:
            say(f"{count} blocks of {trial.num_models} models each")
        rounds += [run() for _ in range(1, count)]
        stored_share = run.stored_share()
    stages, totals = _stages(trial, rounds)
    compiling = trial.compile_seconds + _compile_seconds(first, rounds, choice)
    say("estimation of influences from made-up outputs")
    once, once_bytes = _estimation(task, budget, output=output, truth=truth, estimators=estimators)
    if missing == layout.num_blocks:
        seconds = sum(stage.seconds for stage in stages if stage.name not in (TRAINING, ACCURACY, WRITING))
        number = task.baseline_models
        once = (Stage("untrained models", number * seconds, f"{number} models, transferred for comparison"), *once)
    device = jax.local_devices()[0]
    return Forecast(
        num_models=task.num_models,
        block_size=task.block_size,
        missing_blocks=missing,
        num_devices=task.num_devices,
        device=device.device_kind,
        stages=stages,
        rounds=totals,
        start=(Stage("loading data", loading_seconds, "as it was here"), Stage("compiling", compiling, "as if anew")),
        once=once,
        memory=memory,
        memory_limit=memory_limit(device),
        shared_memory=device.platform == "cpu",
        block_bytes=layout.bytes_per_block(),
        stored_share=stored_share,
        once_bytes=once_bytes,
        config_fingerprint=config_fingerprint,
    )


def _stages(trial: Trial, rounds: list[Round]) -> tuple[tuple[Stage, ...], tuple[float, ...]]:
    """Stages by their mean over rounds, and the total of each round; seconds a model."""
    how = trial.how()
    seconds = np.array([[done.scaled[name] for name in how] for done in rounds]) * trial.share_of_model
    means = seconds.mean(axis=0)
    stages = tuple(Stage(name, float(mean), words) for (name, words), mean in zip(how.items(), means, strict=True))
    return stages, tuple(seconds.sum(axis=1).tolist())


def _compile_seconds(first: Round, rounds: list[Round], choice: Choice) -> float:
    """What a first block takes longer than others where nothing is in the cache on disk."""
    beyond = {
        name: max(0.0, seconds - float(np.mean([done.seconds[name] for done in rounds])) + first.saved[name])
        for name, seconds in first.seconds.items()
    }
    # Choosing a plan may have left the training program in this process.
    chosen = [timing.compile_seconds for timing in choice.timings if timing.plan == choice.plan.name]
    return sum(beyond.values()) - beyond[TRAINING] + max([beyond[TRAINING], *chosen])


def _memory(task: Task) -> Mapping[str, int]:
    """Bytes a device needs by stage."""
    ensemble = task.ensemble
    num_examples = len(task.source) if task.pool is None else task.pool.chunk_size
    memory = {TRAINING: memory_needed(ensemble, num_examples)}
    # A source that fits stays where it is while a block is transferred.
    source = num_examples * (math.prod(ensemble.image_shape) + 4) if task.pool is None else 0
    largest = max(task.targets, key=lambda target: len(target.train) + len(target.test))
    if "fixed" in task.modes and task.head.solver == "convex":
        images = len(largest.train) + len(largest.all_tests)
        memory["features"] = source + inference_memory_needed(ensemble, images)
        memory["heads"] = source + head_memory_needed(
            ensemble, largest.train, largest.all_tests, largest.head or task.head, largest.num_examples
        )
    named = [(mode, f"training {mode}") for mode in task.tuners]
    for mode, stage in (("fixed", "training heads"), ("full", "fine-tuning"), *named):
        tuned = task.tuning(largest, mode) if mode in task.modes else None
        if tuned is not None:
            memory[stage] = source + memory_needed(tuned, len(largest.train))
    return memory


def _estimation(task: Task, budget: float, **settings: Any) -> tuple[tuple[Stage, ...], int]:
    """Time the estimation on the largest target, with settings of `estimate_target`; all others follow from it.

    It is done with as many models and examples as the budget allows, all if they fit, and else scaled by the work of
    one factorisation and one product with the masks, `models * units * (min(models, units) + examples)`: rather too
    much, since what does not grow is scaled as well.

    Returns:
      Seconds by target and mode, compilation included, and bytes of all saved influences.
    """
    units, sizes = len(task.units), [len(target.test) for target in task.targets]
    all_models, all_examples = task.num_models, max(sizes)
    models, examples = min(_FIRST_MODELS, all_models), min(_FIRST_EXAMPLES, all_examples)
    spent = 0.0
    while True:
        seconds, compiling, stored = _estimate(task, models, examples, **settings)
        spent += seconds + compiling
        if (models, examples) == (all_models, all_examples) or spent + _GROWTH**2 * seconds > budget:
            break
        models, examples = min(_GROWTH * models, all_models), min(_GROWTH * examples, all_examples)

    def work(models: int, examples: int) -> float:
        return models * units * (min(models, units) + examples)

    here = f"{models:,} of {all_models:,} models and {examples:,} of {all_examples:,} examples, scaled"
    how = "on made-up outputs" if (models, examples) == (all_models, all_examples) else f"on made-up outputs, {here}"
    return tuple(
        Stage(
            f"estimation, {target.name}, {mode}",
            seconds * work(all_models, size) / work(models, examples) + compiling,
            how,
        )
        for target, size in zip(task.targets, sizes, strict=True)
        for mode in task.modes
    ), round(stored * sum(sizes) / examples * len(task.modes))


def _estimate(task: Task, models: int, examples: int, **settings: Any) -> tuple[float, float, int]:
    """Estimate influences on the largest target from made-up outputs.

    Returns:
      Seconds; seconds of compilation, with nothing in the cache; bytes of the saved influences.
    """
    target = max(task.targets, key=lambda target: len(target.test))
    labels = np.asarray(target.test.labels)
    rows = np.linspace(0, len(labels) - 1, examples).astype(int)
    mode = task.modes[0]
    schema = store.Schema(
        num_models=models,
        block_size=models,
        unit_names=task.units.names,
        modes=(mode,),
        targets={target.name: store.Target(labels[rows], target.test.class_names)},
    )
    masks, draw = sample(task.design, np.arange(models), len(task.units)), np.random.default_rng(0)
    # As models do, these disagree by class above all, and units explain most of that: LASSO takes several times as long
    # to explain noise.
    shape = (len(task.units), len(target.test.class_names))
    effects = draw.normal(size=shape) * (draw.random(shape) < 0.3) / np.sqrt(0.3 * len(task.units) / 4)
    by_class = (masks - 0.5) @ effects + draw.normal(0, 0.3, (models, shape[1]))
    values = by_class[:, labels[rows]] + draw.normal(0, 0.7, (models, examples))
    ones = np.full(models, 0.5, np.float32)
    arrays = {"margin": values, "confidence": 1 / (1 + np.exp(-values)), "prediction": np.zeros(values.shape, np.int32)}
    # The schema that is made here has no training accuracy, and heads of the usual kind.
    scalars = {"accuracy": ones, CONVERGENCE.get(mode, "loss"): ones}
    columns = {
        f"targets/{target.name}/{mode}/{name}": column if column.dtype == np.int32 else column.astype(np.float32)
        for name, column in {**arrays, **scalars}.items()
    }
    with tempfile.TemporaryDirectory(prefix="jdt-plan-") as folder:
        design = {"design": {"kind": task.design.kind}}
        writer = store.create_or_open(Path(folder) / "run", config=design, provenance={}, schema=schema)
        writer.write_block(0, {"mask": masks, "source/accuracy": ones, "source/loss": ones, **columns}, {})
        run = store.open_run(writer.path)
        start = time.perf_counter()
        with Compilation() as compilation:
            estimate_target(run, target.name, mode, class_images={}, **settings)
        seconds = time.perf_counter() - start - compilation.seconds
        saved = [file.stat().st_size for file in (Path(folder) / "run" / "influences").rglob("*") if file.is_file()]
        return seconds, compilation.seconds + compilation.saved, sum(saved)
