"""How long does the LASSO path of all targets take, in jdt and in the solvers in use, and how right is the answer?

Run       python benchmarks/solvers.py --models 4000 --units 200 --targets 1000 --json solvers.json
Singular  python benchmarks/solvers.py --models 3000 --units 240 --targets 600 --design antithetic
Needs     jdt; celer and skglm for the rows of that name, which are left out without them (`pip install -e '.[bench]'`)

One problem for all: masks of the design, effects of a tenth of the units planted on every target, noise, float32
outputs. Per target, with X the standardised masks: minimise (1/2m)|y - b - X w|^2 + penalty |w|_1 at penalties spaced
evenly in logarithm from the smallest that makes w zero down to `--min-ratio` of it. `jdt-select` and `scikit-learn-cv`
choose one penalty a target by a hold-out of a tenth, and fit it on all rows; `jdt-saga-parity` repeats the procedure of
fast_l1, and chooses by its own rules.

After a first call (`seconds_cold`: compilation included, nothing kept from earlier runs) solvers are timed in turn, so
that whatever else the machine does hits all of them alike; `seconds` is the median. Slow peers get the first
`--peer-targets` targets only, and their seconds are multiplied up: `targets_timed` says so, and their gap and objective
are those of the targets they got. One float64 function computes all of these from the weights that were returned:

  gap                   largest certified duality gap over targets and penalties, over the null objective
  objective_difference  largest excess over the objective of scikit-learn at tol 1e-10, relative, on a few targets
  ratio                 seconds of scikit-learn (`scikit-learn-cv` for solvers that choose a penalty) over own seconds
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any, get_args

import jax
import numpy as np
from lasso_peers import SOLVERS, Solver, missing
from lasso_problem import Problem, judge, make_problem, objective_difference, reference_objective
from machine import aligned, device_name, note, versions

import jdt.devices
from jdt.masks import DesignKind

REFERENCE_TARGETS = 5
REST = 1.0
"""Seconds before each call: the threads of the BLAS that the last solver used spin on, and would take a core away."""


def timed(solver: Solver) -> tuple[Any, float]:
    """What a solver returns, and the seconds it takes."""
    time.sleep(REST)
    return timed_at_once(solver)


def timed_at_once(solver: Solver) -> tuple[Any, float]:
    """The same without a rest."""
    begun = time.perf_counter()
    raw = solver.solve()
    return raw, time.perf_counter() - begun


def timed_round(solver: Solver) -> tuple[Any, float]:
    """What a solver returns, and the median of its calls in one second, ten at most and one at least."""
    found: list[float] = []
    while True:
        raw, seconds = timed(solver) if not found else timed_at_once(solver)
        found.append(seconds)
        if sum(found) > 1.0 or len(found) == 10:
            return raw, statistics.median(found)


def measure(problem: Problem, names: list[str], repeats: int, peer_targets: int) -> list[dict[str, Any]]:
    """Time every solver `repeats` times, in turn, after a first call each, and judge what it returned last.

    Args:
      problem: What all of them solve.
      names: Keys of `SOLVERS`.
      repeats: Rounds over all solvers.
      peer_targets: Targets that slow solvers get.

    Returns:
      One record a solver; its ratio is None where the solver to compare with was not timed.
    """
    targets = problem.outputs.shape[1]
    few = problem.first(min(peer_targets, targets))
    solvers = {name: SOLVERS[name](few if getattr(SOLVERS[name], "slow", False) else problem) for name in names}
    cold, warm = dict[str, float](), {name: list[float]() for name in names}
    for name, solver in solvers.items():
        note(f"first call of {name} ...")
        _, cold[name] = timed(solver)
        solver.tune()
    accuracy = {}
    for repeat in range(repeats):
        note(f"round {repeat + 1} of {repeats} ...")
        for name, solver in solvers.items():
            raw, seconds = timed_round(solver)
            warm[name].append(seconds)
            if repeat == repeats - 1:
                accuracy[name] = accuracy_of(solver, raw)
    records = []
    for name, solver in solvers.items():
        count = solver.problem.outputs.shape[1]
        scaled = sorted(seconds * targets / count for seconds in warm[name])
        median = statistics.median(scaled)
        records.append(
            {
                "solver": name,
                "seconds": median,
                "seconds_range": [scaled[0], scaled[-1]],
                # Compiling takes as long for a few targets as for all.
                "seconds_cold": median + max(cold[name] - statistics.median(warm[name]), 0.0),
                **accuracy[name],
                "ratio": None,
                "ratio_to": "scikit-learn-cv" if solver.selects else "scikit-learn",
                "targets_timed": count,
                "models": len(problem.masks),
                "units": problem.masks.shape[1],
                "targets": targets,
                "penalties": len(problem.penalties),
                "min_ratio": problem.min_ratio,
                "gap_asked": problem.gap,
                "repeats": repeats,
                "device": device_name(),
                "jax_devices": len(jax.local_devices()),
                "versions": versions("jdt", "jax", "jaxlib", "numpy", "scikit-learn", "celer", "skglm"),
            }
        )
    seconds = {record["solver"]: record["seconds"] for record in records}
    for record in records:
        if record["ratio_to"] in seconds:
            record["ratio"] = seconds[record["ratio_to"]] / record["seconds"]
    return records


def accuracy_of(solver: Solver, raw: Any) -> dict[str, float]:
    """Gap over all targets that a solver got, and its objective beside the reference on a few of them."""
    problem, solution = solver.problem, solver.read(raw)
    found = judge(problem, solution)
    sample = np.unique(np.linspace(0, problem.y.shape[1] - 1, REFERENCE_TARGETS).astype(int))
    reference = reference_objective(problem.at(sample), solution.penalties[:, sample])
    return {
        "gap": float(found.gap[solution.penalties > 0].max(initial=0.0)),  # There is none at penalty 0.
        "objective_difference": objective_difference(found.objective[:, sample], reference),
    }


def table(records: list[dict[str, Any]]) -> str:
    """Records as aligned text, one line each."""
    head = ["solver", "seconds", "range", "cold", "gap", "objective", "ratio", "to", "targets timed"]
    rows = [
        [
            r["solver"], f"{r['seconds']:.3f}", "{:.3f} to {:.3f}".format(*r["seconds_range"]),
            f"{r['seconds_cold']:.3f}", f"{r['gap']:.1e}", f"{r['objective_difference']:.1e}",
            "-" if r["ratio"] is None else f"{r['ratio']:.2f}", r["ratio_to"], str(r["targets_timed"]),
        ]
        for r in records
    ]  # fmt: skip
    return aligned([head, *rows])


def default_names() -> list[str]:
    """All solvers that can run here; the published procedure takes minutes on a CPU, and is left to those who ask."""
    names = [name for name in SOLVERS if name != "jdt-saga-parity" or jax.default_backend() != "cpu"]
    for name in names:
        if reason := missing(name):
            note(f"{name} is left out: {reason}.")
    return [name for name in names if not missing(name)]


def parse() -> argparse.Namespace:
    """Read the command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4000)
    parser.add_argument("--units", type=int, default=200)
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--design", choices=get_args(DesignKind), default="bernoulli")
    parser.add_argument("--penalties", type=int, default=50)
    parser.add_argument("--min-ratio", type=float, default=1e-3)
    parser.add_argument("--gap", type=float, default=1e-5, help="duality gap over null objective to ask for")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", nargs="+", metavar="NAME", help=f"of {', '.join(SOLVERS)}; default: all that fit")
    parser.add_argument("--peer-targets", type=int, default=50, help="targets that slow peers get")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=pathlib.Path, help="where the records go")
    return parser.parse_args()


def main() -> None:
    """Measure what the command line asks for, print the table and write the records."""
    args = parse()
    if unknown := set(args.peers or ()) - set(SOLVERS):
        raise SystemExit(f"unknown solver {', '.join(sorted(unknown))}; known: {', '.join(SOLVERS)}.")
    for name in args.peers or ():
        if reason := missing(name):
            raise SystemExit(f"{name} cannot run: {reason}: pip install -e '.[bench]'.")
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JDT_CACHE"] = cache  # Programs compiled by earlier runs would make a first call look warm.
        jdt.devices.prepare()
        problem = make_problem(
            args.models, args.units, args.targets, design=args.design, num_penalties=args.penalties,
            min_ratio=args.min_ratio, gap=args.gap, seed=args.seed,
        )  # fmt: skip
        records = measure(problem, args.peers or default_names(), args.repeats, args.peer_targets)
        records = [{**record, "design": args.design, "seed": args.seed} for record in records]
    if args.json is not None:
        args.json.write_text(json.dumps(records, indent=2) + "\n", encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
