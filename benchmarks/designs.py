"""Which design of subsets gives the best influences for a number of models? Planted linear worlds, nothing is trained.

Run       python benchmarks/designs.py --json designs.json
Small     python benchmarks/designs.py --models 48 96 --repeats 4 --targets 5

A world is y = level + sum_k beta_k a_k + noise, beta Gaussian (or zero but for `--sparse` of the units), its noise as
large as what the units explain over `--signal`. Of the noise variance, the share rho belongs to a model's randomness
id: the two models of an antithetic pair have it in common, all other models have their own. Even interactions between
units, which a subset and its complement have in common as well, act in the same way as rho does.

error      mean squared error of the influences relative to the average unit, over their true variance: the same
           quantity for all designs (differences of means of subsets of one size are divided by K / (K - 1) first)
retest     correlation over units of two sets of influences from independent runs with this many models each
split_half what `jdt.evaluate.split_half` reports from one of the runs alone
ratio      error over that of the fixed-size design in the same worlds

All are means over worlds; intervals are percentile bootstraps over worlds, 95 %.
"""

import argparse
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import jdt
from jdt.types import Bool, Float

REFERENCE = "fixed-size"


@dataclasses.dataclass(frozen=True)
class World:
    """What all worlds of one comparison share.

    Attributes:
      units: K.
      targets: Targets, each with effects of its own.
      signal: Variance that random halves of the units explain, over the variance of the noise.
      rho: Share of the noise that belongs to the randomness id.
      sparse: Share of the units that have an effect.
    """

    units: int = 30
    targets: int = 20
    signal: float = 1.0
    rho: float = 0.0
    sparse: float = 1.0


def effects(world: World, rng: np.random.Generator) -> Float[np.ndarray, "units targets"]:
    """True effects: those of half of all units together have variance `signal`."""
    shape = (world.units, world.targets)
    beta = rng.normal(size=shape) * (rng.random(shape) < world.sparse)
    return beta * np.sqrt(4 * world.signal / (world.units * world.sparse))


def run(
    world: World, design: jdt.masks.Design, models: int, beta: Float[np.ndarray, "units targets"], seed: int
) -> tuple[Bool[np.ndarray, "models units"], Float[np.ndarray, "models targets"]]:
    """Masks and outputs of one run in a world with these effects."""
    ids = np.arange(models)
    masks = jdt.masks.sample(design, ids, world.units)
    rng = np.random.default_rng([seed, design.seed])
    own, of_id = rng.normal(size=(2, models, world.targets))
    noise = np.sqrt(1 - world.rho) * own + np.sqrt(world.rho) * of_id[design.randomness_id(ids)]
    return masks, masks @ beta + noise


def relative(
    influence: Float[np.ndarray, "units targets"], design: jdt.masks.Design, estimator: str
) -> Float[np.ndarray, "units targets"]:
    """Influences as estimates of beta - mean(beta), whatever the design (docs/glossary.md, "relative influence")."""
    units = len(influence)
    factor = 1.0
    if estimator == "difference" and design.kind != "bernoulli":
        factor = (units + 1) / units if design.is_paired and units % 2 else units / (units - 1)
    return (influence - influence.mean(axis=0)) / factor


def measure(
    world: World, kind: jdt.masks.DesignKind, estimator: jdt.estimators.Estimator, models: int, repeat: int, splits: int
) -> dict[str, float]:
    """Error, retest correlation and split-half reliability in one world."""
    beta = effects(world, np.random.default_rng(repeat))
    truth = beta - beta.mean(axis=0)
    found = []
    for seed in (2 * repeat, 2 * repeat + 1):
        design = jdt.masks.Design(kind, seed=seed)
        masks, outputs = run(world, design, models, beta, repeat)
        fit = estimator.fit(masks, outputs, paired=design.is_paired)
        found.append(relative(np.asarray(fit.influence), design, estimator.name))
    reported = jdt.evaluate.split_half(estimator, masks, outputs, paired=design.is_paired, repeats=splits)
    return {
        "error": float(np.mean([(one - truth) ** 2 for one in found]) / truth.var()),
        "retest": float(jdt.evaluate.column_correlation(*found).mean()),
        "split_half": reported[0],
    }


def over_worlds(values: Float[np.ndarray, " worlds"], of: Float[np.ndarray, " worlds"] | None = None) -> dict[str, Any]:
    """Mean over worlds, or ratio of two means, with its bootstrap interval."""
    drawn = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    below = 1.0 if of is None else of.mean()
    draws = values[drawn].mean(axis=1) / (1.0 if of is None else of[drawn].mean(axis=1))
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": float(values.mean() / below), "low": float(low), "high": float(high), "n": len(values)}


def compare(
    world: World, models: Sequence[int], estimators: Sequence[jdt.estimators.Estimator], repeats: int, splits: int
) -> Iterator[dict[str, Any]]:
    """One record for each number of models, estimator and design, those of one number of models together."""
    for count, estimator in itertools.product(models, estimators):
        measured: dict[str, list[dict[str, float]]] = {
            kind: [measure(world, kind, estimator, count, repeat, splits) for repeat in range(repeats)]
            for kind in jdt.masks.KINDS
        }
        for kind, rows in measured.items():
            column = {name: np.array([row[name] for row in rows]) for name in rows[0]}
            reference = np.array([row["error"] for row in measured[REFERENCE]])
            yield {
                **dataclasses.asdict(world), "models": count, "estimator": estimator.name, "design": kind,
                **{name: over_worlds(values) for name, values in column.items()},
                "ratio": over_worlds(column["error"], reference),
            }  # fmt: skip


def line(record: dict[str, Any]) -> str:
    """A record as a row of the table."""
    cells = [
        f"{record[name]['value']:.3f} ({record[name]['low']:.3f}-{record[name]['high']:.3f})"
        for name in ("error", "ratio", "retest", "split_half")
    ]
    return f"{record['rho']:>4} {record['models']:>6} {record['estimator']:10} {record['design']:10} " + "  ".join(
        f"{cell:20}" for cell in cells
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=30)
    parser.add_argument("--models", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--signal", type=float, default=1.0, help="explained over unexplained variance between models")
    parser.add_argument("--sparse", type=float, default=1.0, help="share of the units that have an effect")
    parser.add_argument("--rho", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--repeats", type=int, default=20, help="worlds")
    parser.add_argument("--splits", type=int, default=4, help="random halvings of a run")
    parser.add_argument("--estimators", nargs="+", default=[estimator.name for estimator in jdt.estimators.TABLE])
    parser.add_argument("--json", type=pathlib.Path, help="file for the records")
    args = parser.parse_args(argv)
    known = {estimator.name: estimator for estimator in jdt.estimators.TABLE}
    for name in args.estimators:
        jdt.checks.require_known("estimator", name, known)
    estimators = [known[name] for name in args.estimators]
    titles = "  ".join(f"{name:20}" for name in ("error", "error / fixed-size", "retest r", "split half"))
    print(f"{'rho':>4} {'models':>6} {'estimator':10} {'design':10} {titles}")
    records = []
    for rho in args.rho:
        world = World(args.units, args.targets, args.signal, rho, args.sparse)
        for record in compare(world, args.models, estimators, args.repeats, args.splits):
            records.append(record)
            print(line(record), flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
