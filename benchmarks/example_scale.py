"""How do time and memory of the estimators grow when units are source examples?

Run       python benchmarks/example_scale.py --json example_scale.json
Small     python benchmarks/example_scale.py --models 200 --units 1000 2000 --targets 20

Masks keep half of the examples at random; a few examples have normal effects on every target, and there is as much
noise as effects. Every fit has a process of its own: `seconds` includes compilation, `peak_mib` is the largest
resident set of the process less what it held when masks and outputs were there. A fit that takes longer than `--limit`
seconds is stopped, and its seconds are null.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from machine import aligned, device_name, note, versions

import jdt
from jdt.estimators import explain_status

ESTIMATORS = {
    "difference": jdt.DifferenceOfMeans(),
    "ridge": jdt.Ridge(),
    "lasso": jdt.Lasso(select=jdt.HoldOut(0.1)),
}


def measure(name: str, models: int, units: int, targets: int) -> dict[str, Any]:
    """Fit one estimator here, and say what it took.

    Args:
      name: Key of `ESTIMATORS`.
      models: Rows of the masks.
      units: Source examples.
      targets: Target predictions.
    """
    rng = np.random.default_rng(0)
    masks = rng.random((models, units), dtype=np.float32) < 0.5
    effects = np.zeros((units, targets), np.float32)
    for t in range(targets):
        effects[rng.choice(units, min(20, units), replace=False), t] = rng.normal(size=min(20, units))
    signal = masks @ effects
    outputs = signal + signal.std(axis=0) * rng.normal(size=signal.shape).astype(np.float32)
    jax.block_until_ready(jax.numpy.zeros(()))
    before, begun = _peak(), time.perf_counter()
    found = ESTIMATORS[name].fit(masks, outputs.astype(np.float32))
    seconds = time.perf_counter() - begun
    record: dict[str, Any] = {"seconds": seconds, "peak_mib": _peak() - before, "result_mib": _size(found)}
    if "status" in found.info:
        record["status"] = explain_status(found.info["status"])
    return record


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024.0 if sys.platform == "linux" else 2.0**20)


def _size(found: jdt.Influences) -> float:
    grids = (found.influence, found.standard_error, found.z)
    return sum(grid.nbytes for grid in grids if grid is not None) / 2.0**20


def apart(name: str, models: int, units: int, targets: int, limit: float) -> dict[str, Any]:
    """The same in a process of its own, given up after `limit` seconds."""
    command = [sys.executable, __file__, "--one", name, "--models", str(models), "--targets", str(targets)]
    try:
        done = subprocess.run(
            [*command, "--units", str(units)], capture_output=True, text=True, check=True, timeout=limit
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"seconds": None, "peak_mib": None, "result_mib": None}
    return json.loads(done.stdout)


def main(argv: list[str] | None = None) -> None:
    """Measure every estimator at every number of units, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--units", type=int, nargs="+", default=[2000, 10_000, 50_000])
    parser.add_argument("--targets", type=int, default=100)
    parser.add_argument("--estimators", nargs="+", choices=sorted(ESTIMATORS), default=list(ESTIMATORS))
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a fit is stopped")
    parser.add_argument("--one", choices=sorted(ESTIMATORS), help="measure one fit in this process, for the others")
    parser.add_argument("--json", type=pathlib.Path, help="where the records go")
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(args.one, args.models, args.units[0], args.targets)))
        return
    records: list[dict[str, Any]] = []
    for units in args.units:
        for name in args.estimators:
            note(f"{name}, {units:,} units ...")
            shape = {"models": args.models, "units": units, "targets": args.targets}
            found = apart(name, args.models, units, args.targets, args.limit)
            place = {"device": device_name(), "versions": versions("jdt", "jax", "jaxlib", "numpy")}
            records.append({"estimator": name, **shape, **found, **place})
    cells = [["estimator", "units", "seconds", "peak MiB", "result MiB", "status"]]
    for r in records:
        figures = ["-" if r[key] is None else f"{r[key]:.1f}" for key in ("seconds", "peak_mib", "result_mib")]
        status = "; ".join(f"{count} {meaning.split(':')[0]}" for meaning, count in r.get("status", {}).items())
        cells.append([r["estimator"], f"{r['units']:,}", *figures, status])
    print(aligned(cells))
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
