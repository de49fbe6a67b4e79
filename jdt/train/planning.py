"""The plan is measured: time the candidates on the device for a few seconds, remember, choose.

What is remembered are times, by device, model and shapes; which plan wins also depends on how many models there are
to train, since a plan that compiles slowly must win its compilation back.
"""

import dataclasses
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import tempfile
import time
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jdt import checks, config
from jdt.devices import BYTES_A_GIB, cache_root, memory_limit, program_memory
from jdt.sharding import MODELS, SHARED, models_mesh, place
from jdt.train import engine
from jdt.train.engine import Ensemble, TrainState
from jdt.train.layout import uncovered
from jdt.train.objectives import SUPERVISED, described
from jdt.train.plan import CANDIDATES, PLANS, Plan
from jdt.train.source import SourceData

BUDGET_SECONDS = 12.0
"""No further candidate is tried that would not be done in this time; the first always is, since most runs need it."""
_SAMPLE_SECONDS = 0.4
_ROUNDS = 3

logger = logging.getLogger(__name__)


class Timing(NamedTuple):
    """What was measured of a candidate.

    Attributes:
      plan: Its name.
      width: Models a device takes at once: the plan's, or what memory leaves.
      seconds_per_step: One step of one model on all devices together.
      compile_seconds: Tracing and compiling the training program.
    """

    plan: str
    width: int
    seconds_per_step: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """A plan, and why.

    Attributes:
      plan: What to use.
      reason: `asked for`, `timed`, `remembered` or `the model asks for it`.
      timings: What the candidates took, where they were timed.
      seconds: Time spent choosing.
    """

    plan: Plan
    reason: str
    timings: tuple[Timing, ...] = ()
    seconds: float = 0.0

    def record(self) -> dict[str, Any]:
        """What a run keeps of it, as plain JSON."""
        return {
            "name": self.plan.name,
            "width": self.plan.width,
            "reason": self.reason,
            "seconds": round(self.seconds, 2),
            "timings": [timing._asdict() for timing in self.timings],
        }


def choose(
    name: str,
    ensemble: Ensemble,
    *,
    num_models: int,
    num_examples: int,
    block_size: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    memory_bytes: int | None = None,
) -> Choice:
    """Choose how the models of a run share the devices.

    Args:
      name: `auto`, or the name of a plan.
      ensemble: What the models share; its own plan is not looked at.
      num_models: Models that will be trained: a plan that compiles slowly must win its compilation back.
      num_examples: Source images on the device.
      block_size: Models of a block, where the user says; no plan is wider than a device's share of it.
      cache_dir: Where times are remembered; see `jdt.devices.cache_root`.
      memory_bytes: What a device may use; its own limit when None.

    Returns:
      The plan and the times behind it.

    Raises:
      UserError: If there is no such plan, or the device has too little memory for one model.
    """
    checks.require_known("plan", name, ["auto", *PLANS])
    begun = time.perf_counter()
    limit = memory_limit(jax.local_devices()[0]) if memory_bytes is None else memory_bytes
    left_alone = uncovered_layers(ensemble)
    if left_alone and (name == "auto" or PLANS[name].convolution != "native"):
        warnings.warn(
            f"no rule of jdt.train.conv covers the convolution in {left_alone[0]} (it is inside control flow, grouped "
            "over the batch, or of mixed types): models train by the plan 'native', unrolled, which may be slow.",
            stacklevel=2,
        )
        return Choice(PLANS["native"], "the model asks for it")
    share = math.ceil(min(block_size or num_models, num_models) / ensemble.num_devices)

    def narrowed(plan: Plan) -> Plan:
        return dataclasses.replace(plan, width=min(plan.width, share))

    if name != "auto":
        return Choice(_fitting(ensemble, narrowed(PLANS[name]), num_examples, limit), "asked for")
    plans = [narrowed(PLANS[candidate]) for candidate in CANDIDATES[jax.local_devices()[0].platform]]
    path, key = cache_root(cache_dir) / "plans.json", _key(ensemble, plans, num_examples, limit)
    timings = _recall(path, key)
    reason = "remembered" if timings else "timed"
    if not timings:
        timings = _time_candidates(ensemble, plans, num_examples, limit, begun)
        _remember(path, key, timings)
    best = min(timings, key=lambda t: t.compile_seconds + t.seconds_per_step * ensemble.num_steps * num_models)
    plan = dataclasses.replace(PLANS[best.plan], width=best.width)
    return Choice(plan, reason, timings, time.perf_counter() - begun)


def uncovered_layers(ensemble: Ensemble) -> list[str]:
    """Name the model's layers whose convolutions no rule covers: see `jdt.train.layout.uncovered`."""
    key = jax.random.key(0)
    variables = ensemble.network.shapes(ensemble.image_shape)
    images = jax.ShapeDtypeStruct((2, *ensemble.training_shape), jnp.float32)
    return uncovered(ensemble.network.train_apply, variables, images, key)


def memory_needed(ensemble: Ensemble, num_examples: int) -> int:
    """Bytes that the training program and its data take on each device. Compiles the program, for later use too.

    Where the images' size changes in training, it is about the largest.

    Args:
      ensemble: What the models share, with the plan in question.
      num_examples: Source images on the device.
    """
    return program_memory(_lowered(ensemble, num_examples).compile())


def inference_memory_needed(ensemble: Ensemble, num_images: int, batch_size: int = 500) -> int:
    """Bytes that applying a whole wave to images takes on each device, outputs included. Compiles the program.

    The outputs of all batches stay on the device until they are joined, and are there twice then.

    Args:
      ensemble: What the models share, with the plan in question.
      num_images: Images in all.
      batch_size: Images a call.
    """
    mesh, models = models_mesh(ensemble.num_devices), _wave_size(ensemble)
    ids = jax.ShapeDtypeStruct((models,), jnp.int32)
    variables = jax.eval_shape(lambda i: engine._initial_states(ensemble, jnp.asarray(0), i)[0], ids)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, MODELS)), variables
    )
    images: Any = jax.ShapeDtypeStruct((batch_size, *ensemble.image_shape), jnp.uint8)
    program = engine._apply_all.lower(ensemble, placed, images)
    outputs = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(program.out_info))
    kept = 2 * outputs * math.ceil(num_images / batch_size) // ensemble.num_devices
    return program_memory(program.compile()) + kept


def time_plan(ensemble: Ensemble, num_examples: int) -> Timing:
    """Time the ensemble's own plan: its real training program on made-up pixels, for some tenths of a second.

    Args:
      ensemble: What the models share, with the plan in question.
      num_examples: Source images on the device.
    """
    sample, timing = _first_timing(ensemble, num_examples, time.perf_counter())
    return timing._replace(seconds_per_step=sample.seconds_per_step(sample.steps_in(_SAMPLE_SECONDS)))


def _lowered(ensemble: Ensemble, num_examples: int) -> Any:
    """Trace the training program of a whole wave for its shapes alone."""
    mesh = models_mesh(ensemble.num_devices)

    def shaped(tree: Any, spec: Any) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    models, size = _wave_size(ensemble), ensemble.steps_per_call
    ids = jax.ShapeDtypeStruct((models,), jnp.int32)
    zero, program = jnp.asarray(0), ensemble.program
    states = jax.eval_shape(lambda i: TrainState(*engine._initial_states(program, zero, i)), ids)
    images: Any = jax.ShapeDtypeStruct((num_examples, *ensemble.training_shape), jnp.uint8)
    labels: Any = jax.ShapeDtypeStruct((num_examples,), jnp.int32)
    length = ensemble.objective.token_length
    tokens: Any = jax.ShapeDtypeStruct((num_examples, length), jnp.int32) if length else None
    source = SourceData(images, labels, tokens=tokens)
    indices = jax.ShapeDtypeStruct((size, models, ensemble.batch_size), jnp.int32)
    rates: Any = jax.ShapeDtypeStruct((size,), jnp.float32)
    return engine._run_steps.lower(
        program, shaped(states, MODELS), shaped(source, SHARED), shaped(indices, PartitionSpec(None, "models")),
        rates, zero, zero, shaped(ids, MODELS), zero,
    )  # fmt: skip


def _wave_size(ensemble: Ensemble) -> int:
    return ensemble.num_devices * ensemble.plan.width


def _fitting(ensemble: Ensemble, plan: Plan, num_examples: int, limit: int | None) -> Plan:
    """Halve a plan's width until its program fits the memory.

    Raises:
      UserError: If not even one model a device fits.
    """
    while limit is not None:
        needed = memory_needed(dataclasses.replace(ensemble, plan=plan), num_examples)
        if needed <= limit:
            break
        if plan.width == 1:
            raise checks.UserError(
                f"training one model at a time needs {needed / BYTES_A_GIB:.2f} GiB on each device, which has "
                f"{limit / BYTES_A_GIB:.2f} GiB: make the batch, the images or the model smaller, use fewer devices of "
                "one machine (--devices), or give the source a smaller pool (--memory-budget)."
            )
        logger.info("plan %s at width %d needs %d of %d bytes: halved", plan.name, plan.width, needed, limit)
        plan = dataclasses.replace(plan, width=plan.width // 2)
    return plan


def _time_candidates(
    ensemble: Ensemble, plans: Sequence[Plan], num_examples: int, limit: int | None, begun: float
) -> tuple[Timing, ...]:
    """Compile and time candidates, the likeliest first, until the budget is spent; the first is always timed."""
    timings: list[Timing] = []
    samples: list[_Sample] = []

    def spent() -> float:
        return time.perf_counter() - begun

    last = 0.0
    for plan in plans:
        if spent() + last > BUDGET_SECONDS:
            logger.info("plan %s is not timed: %.1f s are spent already", plan.name, spent())
            break
        start = time.perf_counter()
        fitted = dataclasses.replace(ensemble, plan=_fitting(ensemble, plan, num_examples, limit))
        sample, timing = _first_timing(fitted, num_examples, start)
        timings.append(timing)
        samples.append(sample)
        last = time.perf_counter() - start
    # Round robin, and the fastest of each: what else the machine does hits all candidates alike.
    for i, sample in [*enumerate(samples)] * (_ROUNDS if len(samples) > 1 else 0):
        if spent() > BUDGET_SECONDS:
            break
        seconds = sample.seconds_per_step(sample.steps_in(_SAMPLE_SECONDS))
        timings[i] = timings[i]._replace(seconds_per_step=min(seconds, timings[i].seconds_per_step))
    return tuple(timings)


def _first_timing(ensemble: Ensemble, num_examples: int, start: float) -> tuple["_Sample", Timing]:
    """Compile a plan's program and time one step; what led to it since `start` counts as compilation."""
    sample = _Sample(ensemble, num_examples)
    sample.seconds_per_step(1)
    compiled = time.perf_counter() - start
    return sample, Timing(ensemble.plan.name, ensemble.plan.width, sample.seconds_per_step(1), compiled)


class _Sample:
    """The real program of a candidate on made-up pixels; calling it a few times tells its speed."""

    def __init__(self, ensemble: Ensemble, num_examples: int) -> None:
        self._ensemble = ensemble
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (num_examples, *ensemble.training_shape), np.uint8)
        length = ensemble.objective.token_length
        tokens: Any = draw.integers(0, 256, (num_examples, length)).astype(np.int32) if length else None
        labels: Any = np.zeros(num_examples, np.int32)
        source = SourceData(images, labels, tokens=tokens)  # pyright: ignore[reportArgumentType]
        self._source = place(source, ensemble.num_devices, SHARED)
        models, size = _wave_size(ensemble), ensemble.steps_per_call
        self._ids = place(np.arange(models, dtype=np.int32), ensemble.num_devices, MODELS)
        rows = draw.integers(0, num_examples, (size, models, ensemble.batch_size)).astype(np.int32)
        self._indices = place(rows, ensemble.num_devices, PartitionSpec(None, "models"))
        self._states = TrainState(*engine._initial_states(ensemble.program, jnp.asarray(0), self._ids))
        self._step_seconds = 0.0

    def seconds_per_step(self, steps: int) -> float:
        """Run at least so many steps of every model; seconds for one step of one model."""
        size, zero = len(self._indices), jnp.asarray(0)
        start = time.perf_counter()
        for first in range(0, steps, size):
            count = jnp.asarray(min(size, steps - first))
            rates = np.full(size, self._ensemble.recipe.learning_rate, np.float32)
            self._states, _ = engine._run_steps(
                self._ensemble.program, self._states, self._source, self._indices, rates, count, zero, self._ids, zero
            )
        jax.block_until_ready(self._states)
        self._step_seconds = (time.perf_counter() - start) / steps
        return self._step_seconds / _wave_size(self._ensemble)

    def steps_in(self, seconds: float) -> int:
        """Steps that take about so long, going by the last call."""
        return max(1, round(seconds / self._step_seconds))


def _key(ensemble: Ensemble, plans: Sequence[Plan], num_examples: int, limit: int | None) -> str:
    """What the times depend on: device, versions, model and shapes, and this library's candidates."""
    device = jax.local_devices()[0]
    return config.fingerprint(
        {
            "device": [device.platform, device.device_kind, ensemble.num_devices, limit],
            "versions": [jax.__version__, importlib.metadata.version("jaxlib")],
            "network": repr(ensemble.network),
            "recipe": config.to_plain(ensemble.program.recipe),
            "shapes": [*ensemble.image_shape, *ensemble.training_shape, ensemble.batch_size, num_examples],
            "steps_per_call": [dataclasses.replace(ensemble, plan=plan).steps_per_call for plan in plans],
            "precision": ensemble.precision,
            **({} if ensemble.objective == SUPERVISED else {"objective": described(ensemble.objective)}),
            "plans": [config.to_plain(plan) for plan in plans],
        }
    )


def _recall(path: pathlib.Path, key: str) -> tuple[Timing, ...]:
    return tuple(Timing(**entry) for entry in _read(path).get(key, []))


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read (%s): plans are timed again.", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def _remember(path: pathlib.Path, key: str, timings: Sequence[Timing]) -> None:
    """Add an entry; a reader sees the old file or the new one, and a cache that cannot be written costs only time."""
    entries = {**_read(path), key: [timing._asdict() for timing in timings]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".partial", delete=False) as file:
            json.dump(entries, file, indent=1)
        os.replace(file.name, path)
    except OSError as error:
        logger.warning("%s cannot be written (%s): plans will be timed again next time.", path, error)
