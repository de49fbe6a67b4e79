"""Trial blocks: a task's own blocks, timed stage by stage, cut short where a whole one takes too long.

Cut are the optimiser steps, the images that features and accuracies are computed for, and the waves of a block, which
are all alike. How the whole follows from what is left is said in words with every stage.
"""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jdt import store
from jdt.data import Dataset
from jdt.masks import sample
from jdt.pipeline import blocks
from jdt.pipeline.forecast import WRITING
from jdt.pipeline.task import TargetData, Task
from jdt.sharding import SHARED, place
from jdt.train import (
    Choice,
    Ensemble,
    Pool,
    Recipe,
    SourceData,
    apply_in_batches,
    initial_variables,
    source_data,
    time_plan,
    train,
)
from jdt.train.pool import size_at
from jdt.transfer import FixedFeature, FullNetwork

TRAINING, ACCURACY = "training", "source accuracy"
MOST_ROUNDS = 20
_BATCH = 500  # Images a call of inference.
_LEAST_CALLS = 4  # Of the training program, where it is cut short: its first and last call are not looked at.


class Compilation:
    """Seconds that XLA compiles inside of a `with`, and seconds of compilation that the cache on disk saved."""

    def __init__(self) -> None:
        self.seconds = self.saved = 0.0

    def __enter__(self) -> "Compilation":
        jax.monitoring.register_event_duration_secs_listener(self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._hear)

    def _hear(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.seconds += duration_secs
        elif event == "/jax/compilation_cache/compile_time_saved_sec":
            self.saved += max(0.0, duration_secs)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """What of a task is timed, and how the whole follows.

    Attributes:
      whole: The task.
      task: The same in small; a block of it holds the models that are timed, and there is one for every round.
      tuning: What training on targets does, by target and mode where there is any: the target with a recipe that is
        cut, and with all of its training split, every step of which sees but a batch.
      batch_seconds: Applying all models of a trial block to one batch of images.
      share_of_model: Seconds of a trial block times this are seconds a model of a whole block.
      compile_seconds: What was compiled to find this out, and will be used.
    """

    whole: Task
    task: Task
    tuning: dict[tuple[str, str], TargetData]
    batch_seconds: float
    share_of_model: float
    compile_seconds: float

    @property
    def num_models(self) -> int:
        """Models of a trial block."""
        return self.task.block_size

    def how(self) -> dict[str, str]:
        """What is timed, in words, by stage, in the order in which stages are done."""
        small, whole = self.task, self.whole
        words = {TRAINING: _of(small.ensemble.num_steps, whole.ensemble.num_steps, "steps")}
        if small.source_test is not None and whole.source_test is not None:
            words[ACCURACY] = _of(len(small.source_test), len(whole.source_test), "images")
        for cut, target in zip(small.targets, whole.targets, strict=True):
            images = _of(_images(cut), _images(target), "images")
            for mode in whole.modes:
                steps = _of(*self.tuning_steps(target, mode), "steps") if (target.name, mode) in self.tuning else ""
                words[stage_name(target.name, mode)] = ", ".join(filter(None, (steps, images)))
        return {**words, WRITING: "to a temporary folder"}

    def tuning_steps(self, target: TargetData, mode: str) -> tuple[int, int]:
        """Steps of training on a target: those that are timed, and all."""
        both = (self.whole.tuning(data, mode) for data in (self.tuning[target.name, mode], target))
        small, whole = (0 if tuned is None else tuned.num_steps for tuned in both)
        return small, whole

    def scale(self, name: str, seconds: float) -> float:
        """Seconds that a stage takes for all of its images and steps, but for those of training: see `Pace`."""
        small, whole = self.task, self.whole
        if name == ACCURACY and small.source_test is not None and whole.source_test is not None:
            return seconds * _batches(whole.source_test) / _batches(small.source_test)
        if name == WRITING:
            per_model = [t.schema().layout.bytes_per_block() / t.block_size for t in (whole, small)]
            return seconds * per_model[0] / per_model[1]
        for cut, target in zip(small.targets, whole.targets, strict=True):
            for mode in whole.modes:
                if name != stage_name(target.name, mode):
                    continue
                if (target.name, mode) not in self.tuning:
                    return seconds * _images(target) / _images(cut)
                timed, steps = self.tuning_steps(target, mode)
                applied, to_apply = (
                    self.batch_seconds * (_batches(part.train) + _batches(part.all_tests)) for part in (cut, target)
                )
                # Where nothing is cut, this is the time itself.
                return (seconds - applied) * steps / timed + to_apply
        return seconds


def stage_name(target: str, mode: str) -> str:
    """What the transfer to a target is called."""
    return f"{target}, {mode}"


def plan_trial(task: Task, choice: Choice, seconds: float) -> Trial:
    """Cut a task so that each stage of a trial block takes about so long, or as little as says something.

    Args:
      task: The task.
      choice: Its plan and, where they were timed, its times.
      seconds: For each stage.
    """
    ensemble, block = task.ensemble, len(task.schema().blocks()[0])
    waves = ensemble.waves(block)
    wave = len(waves[0])
    num_models = block if len(waves) == 1 else min(block, wave if wave % 2 == 0 else 2 * wave)
    num_waves = len(ensemble.waves(num_models))
    batch_seconds, compile_seconds = _inference(task, num_models)
    images = seconds / batch_seconds * _BATCH
    steps = seconds / (num_waves * wave * _seconds_per_step(task, choice))
    cut = {target.name: _cut_target(target, images) for target in task.targets}
    tuning = {}
    for target, mode in itertools.product(task.targets, task.modes):
        tuned, settings = task.tuning(target, mode), task.settings(target, mode)
        if tuned is None or not isinstance(settings, FixedFeature | FullNetwork):
            continue
        recipe = _cut_recipe(settings.recipe, tuned, steps * ensemble.batch_size / tuned.batch_size)
        shorter = dataclasses.replace(settings, recipe=recipe)
        own = {"own": {mode: shorter}} if mode in task.tuners else {"full" if mode == "full" else "head": shorter}
        tuning[target.name, mode] = dataclasses.replace(cut[target.name], train=target.train, **own)
    least = 0 if task.pool is None else math.ceil(
        2 * ensemble.recipe.steps_per_epoch(ensemble.mean_subset_size) / task.pool.chunks_a_pass
    )  # fmt: skip
    small = dataclasses.replace(
        task,
        num_models=(1 + MOST_ROUNDS) * num_models,
        block_size=num_models,
        recipe=_cut_recipe(task.recipe, ensemble, max(steps, least)),
        source_test=_some(task.source_test, images) if task.source_test and task.objective.classifies else None,
        targets=tuple(cut.values()),
    )
    return Trial(task, small, tuning, batch_seconds, len(waves) / num_waves / block, compile_seconds)


def _of(timed: int, whole: int, noun: str) -> str:
    return f"all {whole:,} {noun}" if timed == whole else f"{timed:,} of {whole:,} {noun}, scaled"


def _batches(data: Dataset) -> int:
    return math.ceil(len(data) / _BATCH)


def _images(target: TargetData) -> int:
    return len(target.train) + sum(map(len, target.tests.values()))


def _some(data: Dataset, count: float) -> Dataset:
    """At most so many images of a dataset, in whole batches and at least one, from all over it."""
    if count >= len(data):
        return data
    rows = np.linspace(0, len(data) - 1, min(len(data), max(_BATCH, int(count) // _BATCH * _BATCH))).astype(int)
    return data.part(rows)


def _cut_target(target: TargetData, images: float) -> TargetData:
    share = min(1.0, images / _images(target))
    train, test = (_some(part, share * len(part)) for part in (target.train, target.test))
    train = train if target.draw is None else target.train  # Classes must keep what is drawn of them.
    views = tuple((view, _some(part, share * len(part))) for view, part in target.views)
    # Of what it is cut from, it has no more overlap, and need not have every class.
    return dataclasses.replace(target, train=train, test=test, views=views, whole=target)


def _cut_recipe(recipe: Recipe, ensemble: Ensemble, steps: float) -> Recipe:
    """A recipe for about so many steps in whole calls of the program, or the same where it takes no more."""
    call = ensemble.steps_per_call
    least, shares = _LEAST_CALLS, [count / ensemble.num_steps for count in _steps_by_size(ensemble).values()]
    if len(shares) > 1:  # Of every size two calls, from one of which to the next all is its pace.
        least = max(least, math.ceil(2 / min(shares)))
    steps = max(least, int(steps) // call) * call if steps < ensemble.num_steps else ensemble.num_steps
    if steps >= ensemble.num_steps:
        return recipe
    share = steps / ensemble.num_steps
    resolution = tuple((epoch * share, side) for epoch, side in recipe.resolution)
    return dataclasses.replace(recipe, epochs=recipe.epochs * share, resolution=resolution)


def _steps_by_size(ensemble: Ensemble) -> dict[int | None, int]:
    """How many steps see images of which side, of those that see any."""
    firsts = [min(step, ensemble.num_steps) for step, _ in ensemble.sizes] + [ensemble.num_steps]
    counts: dict[int | None, int] = {}
    for (first, last), (_, side) in zip(itertools.pairwise(firsts), ensemble.sizes, strict=True):
        if last > first:
            counts[side] = counts.get(side, 0) + last - first
    return counts


def _seconds_per_step(task: Task, choice: Choice) -> float:
    """One step of one model, all devices together; timed now where the choice of the plan was made without."""
    for timing in choice.timings:
        if (timing.plan, timing.width) == (task.plan.name, task.plan.width):
            return timing.seconds_per_step
    return time_plan(task.ensemble, len(task.source) if task.pool is None else task.pool.chunk_size).seconds_per_step


def _inference(task: Task, num_models: int) -> tuple[float, float]:
    """Seconds of a trial block's models on one batch of images, and of compiling what that takes."""
    ensemble, images = task.ensemble, task.targets[0].test.images[:_BATCH]
    start = time.perf_counter()
    with Compilation() as compilation:
        untrained = initial_variables(ensemble, task.design.seed, np.arange(num_models))
        jax.block_until_ready(apply_in_batches(ensemble, untrained, images, batch_size=_BATCH))
    middle = time.perf_counter()
    jax.block_until_ready(apply_in_batches(ensemble, untrained, images, batch_size=_BATCH))
    seconds = time.perf_counter() - middle
    return seconds, max(0.0, middle - start - seconds + compilation.saved)


@dataclasses.dataclass
class Round:
    """Times of one trial block by stage.

    Attributes:
      seconds: As they were.
      scaled: To the whole of the work of the block's models.
      saved: Compilation that the cache on disk saved.
    """

    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    scaled: dict[str, float] = dataclasses.field(default_factory=dict)
    saved: dict[str, float] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str, scale: Callable[[str, float], float]) -> Iterator[None]:
        """Time what is inside."""
        start = time.perf_counter()
        with Compilation() as compilation:
            yield
        self.seconds[name] = time.perf_counter() - start
        self.scaled[name] = scale(name, self.seconds[name])
        self.saved[name] = compilation.saved


class Rounds:
    """Runs trial blocks, one a call, and stores them in a run in `path`."""

    def __init__(self, trial: Trial, path: Path) -> None:
        task = trial.task
        self._trial, self._path, self._done = trial, path, 0
        self._source: SourceData | Pool
        self._source = place(source_data(task.source), task.num_devices, SHARED) if task.pool is None else task.pool
        self._writer = store.create_or_open(path, config={}, provenance={}, schema=task.schema())

    def __call__(self) -> Round:
        """Run and time the next block."""
        trial, task, timed = self._trial, self._trial.task, Round()
        ensemble, ids = task.ensemble, np.asarray(task.schema().blocks()[self._done])
        pace = Pace(
            ensemble.num_steps,
            trial.whole.ensemble.num_steps,
            len(ensemble.waves(len(ids))),
            sizes=ensemble.sizes,
            left_out={
                side: count - _steps_by_size(ensemble).get(side, 0)
                for side, count in _steps_by_size(trial.whole.ensemble).items()
            },
        )
        randomness_ids = task.design.randomness_id(ids)
        with timed.stage(TRAINING, lambda _, seconds: seconds + pace.rest()):
            masks = sample(task.design, ids, len(task.units))
            members = task.units.members(masks)
            trained = train(ensemble, self._source, members, randomness_ids, seed=task.design.seed, progress=pace)
        arrays = {"mask": masks, "source/loss": trained.loss, "source/accuracy": np.full(len(ids), np.nan, np.float32)}
        if task.source_test is not None:
            with timed.stage(ACCURACY, trial.scale):
                arrays["source/accuracy"] = blocks._source_accuracy(task, ensemble, trained, masks)
        spectra_of = self._writer.schema.layout.spectrum_targets
        for target in task.targets:
            banks = blocks._banks(task, target)  # Made once a run: no stage of a block.
            for mode in task.modes:
                data = trial.tuning.get((target.name, mode), target)
                with timed.stage(stage_name(target.name, mode), trial.scale):
                    found, _ = blocks._transfer(
                        task, ensemble, trained.variables, data, mode, randomness_ids,
                        measured=target.train, bank=banks.get(mode), spectra_of=spectra_of,
                    )  # fmt: skip
                arrays |= blocks.named_columns(found, mode)
        with timed.stage(WRITING, trial.scale):
            self._writer.write_block(self._done, arrays, {"seconds": sum(timed.seconds.values())})
        self._done += 1
        return timed

    def stored_share(self) -> float:
        """Bytes on disk for each byte of outputs, of the blocks so far."""
        chunks = [file for file in self._path.glob("store.zarr/**/c/**/*") if file.is_file()]
        records = [*self._path.glob("blocks/*.json")]
        stored = sum(file.stat().st_size for file in (*chunks, *records))
        return stored / (self._done * self._trial.task.schema().layout.bytes_per_block())


@dataclasses.dataclass
class Pace:
    """Hears of the progress of training and says how long the steps that were cut would have taken.

    Told is what was done at the time of each call of the program. Between the first and the last call all is the pace
    of a long training: neither the draw of initial parameters is in it, nor the wait for the last call. Where the
    images' size changes, each size has a pace of its own.

    Attributes:
      steps: That are done.
      all_steps: Of the whole.
      num_waves: One after the other.
      told: (time, steps done) of each call.
      sizes: (first step, side in pixels) of the images of these steps; one size when empty.
      left_out: Steps that are left out, by side, where there are several.
    """

    steps: int
    all_steps: int
    num_waves: int
    told: list[tuple[float, int]] = dataclasses.field(default_factory=list)
    sizes: Sequence[tuple[int, int]] = ()
    left_out: Mapping[int | None, int] = dataclasses.field(default_factory=dict)

    def __call__(self, done: int, _: int) -> None:
        """Note the time: so many steps are done, of all waves together."""
        if done < self.steps:  # The first wave's calls, without the word that it is done.
            self.told.append((time.perf_counter(), done))

    def rest(self) -> float:
        """Seconds that the steps take which were left out."""
        if self.steps == self.all_steps:
            return 0.0
        (start, first), (end, last) = self.told[0], self.told[-1]
        pace = (end - start) / (last - first)
        if len(self.left_out) < 2:
            return self.num_waves * (self.all_steps - self.steps) * pace
        seconds, steps = dict.fromkeys(self.left_out, 0.0), dict.fromkeys(self.left_out, 0)
        for (before, done), (after, then) in itertools.pairwise(self.told):
            side = size_at(self.sizes, done)
            seconds[side] += after - before
            steps[side] += then - done
        paces = {side: seconds[side] / count if count else pace for side, count in steps.items()}
        return self.num_waves * sum(count * paces[side] for side, count in self.left_out.items())
