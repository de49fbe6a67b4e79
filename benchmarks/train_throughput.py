"""How many images a second do many small models train on, in jdt and in PyTorch?

Run       python benchmarks/train_throughput.py --network small_cnn --models 16 --json small_cnn.json
Sweeps    python benchmarks/train_throughput.py --network small_cnn --models 64 --sweep models
          python benchmarks/train_throughput.py --network small_cnn --image-size 64 --sweep image-size
Needs     jdt; torch for the variants of that name, which are left out without it (`pip install -e '.[bench]'`)

All variants do the same work on the same random images: see `workload.Workload`. They are compiled first, then timed
in turn, so that whatever else the machine does hits all of them alike; figures are medians over repeats. Not quite
alike: PyTorch's CPU threads wait for each other by spinning, and lose a factor of ten where another process takes one
of their cores. Trust medians whose range is narrow, and otherwise `ratio_of_best`, which compares best repeats.

`fraction_of_arithmetic_floor` is the time that a step's convolutions and matrix products would take at the rate of a
2048^3 float32 matrix product on the same device, divided by the time that the step takes. Multiplications by padding
are counted. A method with fewer multiplications than the definition of a convolution can pass 1, and so can half
precision.
"""

# pyright: reportMissingImports=false

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # Leaves memory of an accelerator to PyTorch.

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from machine import aligned, device_name, note, versions
from workload import EXAMPLES, LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, Run, Workload

import jdt.devices
import jdt.models
import jdt.sharding
import jdt.train

IMAGE_SIZES = {"small_cnn": 16, "resnet9": 32, "resnet18": 64, "resnet50": 64, "wrn16": 32, "vit_tiny": 32}
SMALLEST = {"small_cnn": 8, "resnet9": 16, "resnet18": 16, "resnet50": 16, "wrn16": 8, "vit_tiny": 8}
PRECISIONS = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16", "float16": "bfloat16"}
"""What `jax.default_matmul_precision` calls them; JAX has no float16 there, so jdt computes in bfloat16."""


def jdt_variant(name: str, workload: Workload) -> tuple[Run, int]:
    """Build a variant `jdt PLAN` with the public engine and compile it.

    One wave of models is trained, for as many steps as all waves together have.

    Returns:
      The workload as a function to be timed, and how many models it trains at a time.
    """
    devices = workload.devices or len(jax.local_devices())
    subset = EXAMPLES // 2

    def ensemble_of(plan: jdt.train.Plan, steps: int) -> jdt.train.Ensemble:
        recipe = jdt.train.Recipe(
            epochs=steps * workload.batch_size / subset, batch_size=workload.batch_size, learning_rate=LEARNING_RATE,
            warmup_epochs=0.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, mean=(MEAN,), std=(STD,),
        )  # fmt: skip
        return jdt.train.Ensemble(
            jdt.models.make(workload.network, workload.classes), recipe, plan,
            (workload.image_size, workload.image_size, 3), float(subset), subset,
            precision="float32" if workload.precision in ("float32", "tf32") else "bfloat16", num_devices=devices,
        )  # fmt: skip

    choice = jdt.train.choose(
        name.removeprefix("jdt "), ensemble_of(jdt.train.PLANS["native"], workload.steps),
        num_models=workload.models * 1000, num_examples=EXAMPLES, block_size=workload.models,
    )  # fmt: skip
    if choice.reason in ("timed", "remembered"):
        note(f"{name} is {choice.plan.name}, {choice.reason} in {choice.seconds:.1f} s")
    together = min(workload.models, devices * choice.plan.width)
    steps = workload.steps_of(together)
    ensemble = ensemble_of(choice.plan, steps)
    assert ensemble.num_steps == steps
    images, labels = workload.data()
    source = jdt.sharding.place(
        jdt.train.SourceData(jnp.asarray(images), jnp.asarray(labels)), devices, jdt.sharding.SHARED
    )
    members, ids = workload.members(together), np.arange(together)

    def run() -> tuple[int, float]:
        begun = time.perf_counter()
        with jax.default_matmul_precision(PRECISIONS[workload.precision]):
            trained = jdt.train.train(ensemble, source, members, ids, seed=0)
        jax.block_until_ready(trained.variables)
        return together * steps, time.perf_counter() - begun

    run()
    return run, together


def variant_names(device: str, network: str) -> list[str]:
    """Names of all variants of a network that can run here."""
    torch_names = []
    if importlib.util.find_spec("torch") is None:
        note("torch is not installed: its variants are left out.")
    else:
        import torch
        import torch_peers

        if device == "cuda" and not torch.cuda.is_available():
            note("this torch cannot use the GPU: its variants are left out.")
        elif network not in torch_peers.NETWORKS:
            note(f"{network} has no peer in PyTorch here: its variants are left out.")
        else:
            torch_names = torch_peers.names(device)
    return [*torch_names, *(f"jdt {plan}" for plan in jdt.train.PLANS), "jdt auto"]


def measure(workload: Workload, names: list[str], repeats: int) -> list[dict[str, Any]]:
    """Time every variant `repeats` times, in turn.

    Args:
      workload: What all of them train.
      names: Of the variants.
      repeats: Rounds over all variants.

    Returns:
      One record a variant.
    """
    with contextlib.ExitStack() as resources:
        runs, together, compile_seconds = {}, {}, {}
        for name in names:
            note(f"compiling {name} ...")
            begun = time.perf_counter()
            if name.startswith("torch "):
                import torch_peers

                runs[name], together[name] = torch_peers.prepare(name, workload, resources)
            else:
                runs[name], together[name] = jdt_variant(name, workload)
            compile_seconds[name] = time.perf_counter() - begun
        rate, rates = 0.0, {name: list[float]() for name in names}
        for repeat in range(repeats + 1):
            note(f"round {repeat} of {repeats} ..." if repeat else "a round to warm up ...")
            for name, run in runs.items():
                model_steps, seconds = run()
                if repeat:
                    rates[name].append(model_steps * workload.batch_size / seconds)
            rate = max(rate, product_rate(workload))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peers = [name for name in names if is_sequential_torch(name)]
    best_torch = max((medians[name] for name in peers), default=None)
    best_ever = max((max(rates[name]) for name in peers), default=None)
    if shaky := [name for name, values in rates.items() if max(values) > 1.5 * min(values)]:
        note(f"repeats differ by more than half, so the machine was busy: {', '.join(shaky)}.")
    flops = step_flops(workload)
    return [
        {
            "network": workload.network,
            "models": workload.models,
            "variant": name,
            "device": device_name(),
            "images_per_second": medians[name],
            "images_per_second_range": [min(rates[name]), max(rates[name])],
            "seconds_per_step": workload.batch_size / medians[name],
            "ratio_to_best_torch": None if best_torch is None else medians[name] / best_torch,
            "ratio_of_best": None if best_ever is None else max(rates[name]) / best_ever,
            "batch_size": workload.batch_size,
            "image_size": workload.image_size,
            "classes": workload.classes,
            "models_together": together[name],
            "devices": workload.devices,
            "steps_per_model": workload.steps,
            "repeats": repeats,
            "compile_seconds": compile_seconds[name],
            "precision": workload.precision,
            "flops_per_step": flops,
            "matrix_product_flops_per_second": rate,
            "fraction_of_arithmetic_floor": flops / rate * medians[name] / workload.batch_size,
            "versions": versions("jdt", "jax", "jaxlib", "flax", "torch"),
        }
        for name in names
    ]


def is_sequential_torch(name: str) -> bool:
    """Whether a variant is PyTorch, one model after another: what jdt is compared with."""
    return name.startswith("torch ") and "vmap" not in name and "processes" not in name


def step_flops(workload: Workload) -> float:
    """Floating point operations in convolutions and matrix products of one training step of one model.

    The gradients of inputs and of weights take one forward pass each, except that nothing asks for the gradient of
    the first layer's input.
    """
    shape = (workload.image_size, workload.image_size, 3)
    network = jdt.models.make(workload.network, workload.classes)
    variables = jax.eval_shape(lambda key: network.init(key, shape), jax.random.key(0))
    images = jax.ShapeDtypeStruct((workload.batch_size, *shape), jnp.float32)
    layers = list(layer_flops(jax.make_jaxpr(network.apply)(variables, images).jaxpr))
    return 3 * sum(layers) - layers[0]


def layer_flops(jaxpr: Any) -> Iterator[float]:
    """Two operations a multiplication of every convolution and matrix product, in order; loops count once."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, out = equation.invars[1].aval, equation.outvars[0].aval
            channels = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
            yield 2.0 * out.size * kernel.size / channels
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            yield 2.0 * equation.outvars[0].aval.size * math.prod(left.shape[axis] for axis in contracted)
        for value in equation.params.values():
            inner = value.jaxpr if isinstance(value, jex_core.ClosedJaxpr) else value
            if isinstance(inner, jex_core.Jaxpr):
                yield from layer_flops(inner)


def product_rate(workload: Workload) -> float:
    """Operations a second in a 2048^3 float32 matrix product: the best of several, by JAX and by PyTorch."""
    n, repeats = 2048, 5
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, n, n), np.float32)

    def best(product: Any) -> float:
        seconds = []
        for _ in range(repeats + 1):
            begun = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - begun)
        return 2 * n**3 / min(seconds)

    with jax.default_matmul_precision("float32"):
        left, right, multiply = jnp.asarray(a), jnp.asarray(b), jax.jit(jnp.matmul)
        rate = best(lambda: multiply(left, right).block_until_ready())
    if workload.device == "cpu" and importlib.util.find_spec("torch") is not None:
        import torch

        rate = max(rate, best(lambda: torch.from_numpy(a) @ torch.from_numpy(b)))
    return rate


def default_steps(workload: Workload) -> int:
    """Steps a model so that one run takes a few seconds, judged by the arithmetic."""
    share = 0.3 if workload.device == "cpu" else 0.03  # Of the rate of a large matrix product.
    return max(2, round(3.0 * share * product_rate(workload) / (workload.models * step_flops(workload))))


def sweep(base: Workload, axis: str | None) -> list[Workload]:
    """Workloads of a sweep over `models` (1, 2, 4, ...), `image-size` or `devices`, up to the value given or there."""
    firsts = {
        "models": ("models", 1), "image-size": ("image_size", SMALLEST[base.network]), "devices": ("devices", 1),
    }  # fmt: skip
    field, first = firsts.get(axis or "", ("models", base.models))
    if axis == "devices":
        base = dataclasses.replace(base, devices=len(jax.local_devices()))
    last = getattr(base, field)
    values = [first * 2**i for i in range(16) if first * 2**i < last]
    return [dataclasses.replace(base, **{field: value}) for value in [*values, last]]


def table(records: list[dict[str, Any]]) -> str:
    """Records as aligned text, one line each."""
    head = [
        "network",
        "image",
        "models",
        "variant",
        "images/s",
        "range",
        "s/step",
        "to torch",
        "at best",
        "floor",
        "compile",
    ]
    rows = [
        [
            str(r["network"]), str(r["image_size"]), str(r["models"]), str(r["variant"]),
            f"{r['images_per_second']:,.0f}", "{:,.0f} to {:,.0f}".format(*r["images_per_second_range"]),
            f"{r['seconds_per_step']:.4f}",
            *("-" if r[key] is None else f"{r[key]:.2f}" for key in ("ratio_to_best_torch", "ratio_of_best")),
            f"{r['fraction_of_arithmetic_floor']:.0%}", f"{r['compile_seconds']:.1f} s",
        ]
        for r in records
    ]  # fmt: skip
    return aligned([head, *rows])


def parse() -> argparse.Namespace:
    """Read the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=IMAGE_SIZES, default="small_cnn")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--image-size", type=int, help=f"default: {IMAGE_SIZES}")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--steps", type=int, help="a model; default: so that a run takes a few seconds")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="default: all; in a sweep `jdt auto`")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: float32 on CPUs, bfloat16 elsewhere")
    parser.add_argument("--sweep", choices=["models", "image-size", "devices"], help="double it up to the value given")
    parser.add_argument("--json", type=pathlib.Path, help="where the records go")
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for, print the table and write the records."""
    args = parse()
    jdt.devices.prepare()
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    known = variant_names(device, args.network)
    names = args.variants or (["jdt auto"] if args.sweep else known)
    if unknown := set(names) - set(known):
        raise SystemExit(f"unknown variant {', '.join(sorted(unknown))}; here: {', '.join(known)}.")
    base = Workload(
        args.network, args.models, args.image_size or IMAGE_SIZES[args.network], args.batch_size, args.classes,
        args.steps or 0, args.precision or ("float32" if device == "cpu" else "bfloat16"), device,
    )  # fmt: skip
    records = []
    for workload in sweep(base, args.sweep):
        steps = args.steps or default_steps(workload)
        records += measure(dataclasses.replace(workload, steps=steps), names, args.repeats)
        if args.json is not None:
            args.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
