"""What do variants of a target cost with fixed features, when they share features of equal data and when they do not?

Run       python benchmarks/shared_features.py --json shared_features.json
Small     python benchmarks/shared_features.py --train 200 --test 300 --repeats 1

A block of untrained models is transferred to one target and its weight-decay variants, whose images are the same, as a
study of bias transfer does. Both ways run in turn in one process, after one round of each that is not counted; heads
are fitted in either.
"""

import argparse
import json
import pathlib
import statistics
import time
from collections.abc import Mapping

import jax
import numpy as np
from machine import aligned, device_name, versions

import jdt
from jdt.train import initial_variables
from jdt.transfer import FixedFeature, FrozenFeatures, transfer_fixed


def main() -> None:
    """Time both ways and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=2)
    parser.add_argument("--train", type=int, default=5000, help="target training images")
    parser.add_argument("--test", type=int, default=7500, help="test images, looks at them included")
    parser.add_argument("--variants", type=int, default=6)
    parser.add_argument("--side", type=int, default=16, help="pixels")
    parser.add_argument("--plan", default="winograd")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()
    rng = np.random.default_rng(0)

    def made(name: str, count: int) -> jdt.data.Dataset:
        images = rng.integers(0, 256, (count, args.side, args.side, 3), np.uint8)
        return jdt.data.from_arrays(name, images, np.arange(count) % 10, [str(c) for c in range(10)])

    train, test = made("train", args.train), made("test", args.test)
    network = jdt.models.make("small_cnn", 10)
    recipe, plan = jdt.train.Recipe(), jdt.train.PLANS[args.plan]
    ensemble = jdt.train.Ensemble(network, recipe, plan, train.image_shape, float(args.train), args.train)
    variables = initial_variables(ensemble, 0, np.arange(args.models))
    heads = [FixedFeature(inverse_penalty=10.0**-i) for i in range(args.variants)]

    def sweep(uses: Mapping[str, int]) -> float:
        start, features = time.perf_counter(), FrozenFeatures(ensemble, variables, uses)
        for head in heads:
            jax.block_until_ready(transfer_fixed(ensemble, variables, train, test, head, features).logits)
        return time.perf_counter() - start

    both: dict[str, int] = {train.fingerprint: len(heads), test.fingerprint: len(heads)}
    rounds = [(sweep({}), sweep(both)) for _ in range(args.repeats + 1)][1:]
    apart, together = (statistics.median(column) for column in zip(*rounds, strict=True))
    record = {
        "device": device_name(),
        "versions": versions("jax", "jaxlib"),
        "settings": {name: value for name, value in vars(args).items() if name != "json"},
        "seconds": {"each its own": [a for a, _ in rounds], "shared": [b for _, b in rounds]},
        "ratio": statistics.median(a / b for a, b in rounds),
    }
    print(aligned([["features", "seconds"], ["each its own", f"{apart:.2f}"], ["shared", f"{together:.2f}"]]))
    print(f"ratio {record['ratio']:.2f}")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
