"""Do all plans find the same influences, and if not, is it the plan or the chaos of training?

Trains the digits demo's models under several plans with equal seeds, and once more under `matmul` from initial
parameters that are moved by one unit in the last place: what two plans may differ by without either being wrong.

Run       python benchmarks/plan_agreement.py --models 64
"""

import argparse
import dataclasses
import pathlib
import tempfile

import jax
import numpy as np
from scipy.stats import spearmanr

import jdt
from experiments import class_influence, influence_setup
from jdt.train import engine

REFERENCE = "matmul"
CONTROL = "matmul, start moved by 1 ulp"


def run(plan: str, folder: pathlib.Path, models: int, epochs: float) -> jdt.store.Run:
    """Train all models of the demo under one plan."""
    recipe = dataclasses.replace(class_influence.DEMO.recipe, epochs=epochs)
    config = dataclasses.replace(
        class_influence.DEMO, out=folder, num_models=models, plan=plan, block_size=8, recipe=recipe
    )
    task, choice = influence_setup.load_task(config)
    writer = jdt.store.create_or_open(
        folder, config=influence_setup.identity(config, task), provenance={"plan": choice.record()},
        schema=task.schema(), overwrite=True,
    )  # fmt: skip
    jdt.pipeline.train_missing_blocks(task, writer, writer.missing_blocks())
    return jdt.store.open_run(folder)


def influence(finished: jdt.store.Run, level: str) -> np.ndarray:
    """Difference-of-means influence `[units, targets]` of confidence, per class or for the whole task."""
    rows = jdt.pipeline.usable_rows(finished, "jdt_digits", "fixed")
    outputs = rows.outputs["confidence"]
    if level == "task":
        outputs = outputs.mean(axis=1, keepdims=True)
    elif level == "class":
        labels = np.asarray(jdt.data.load("jdt_digits", "test").labels)
        outputs = np.stack([outputs[:, labels == c].mean(axis=1) for c in range(10)], axis=1)
    return np.asarray(jdt.DifferenceOfMeans().fit(rows.masks, outputs, paired=rows.paired).influence)


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=64)
    parser.add_argument("--epochs", type=float, default=class_influence.DEMO.recipe.epochs)
    parser.add_argument("--plans", nargs="+", default=["winograd", "native"])
    args = parser.parse_args()
    jdt.devices.prepare()
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, plan in enumerate([REFERENCE, *args.plans]):
            runs[plan] = run(plan, pathlib.Path(folder) / str(number), args.models, args.epochs)
        original = engine._initial_states

        def moved(*arguments: object) -> tuple:
            variables, optimizer = original(*arguments)
            params = jax.tree.map(lambda leaf: jax.numpy.nextafter(leaf, 2 * leaf), variables.params)
            return variables._replace(params=params), optimizer

        engine._initial_states = moved
        runs[CONTROL] = run(REFERENCE, pathlib.Path(folder) / "control", args.models, args.epochs)
        print(f"{'plan':32} accuracy (error)   rank correlation of influence with {REFERENCE}: task, class, example")
        for name, finished in runs.items():
            accuracy = finished.column("targets/jdt_digits/fixed/accuracy")
            error = accuracy.std(ddof=1) / np.sqrt(len(accuracy))
            agreement = [
                spearmanr(influence(finished, level).ravel(), influence(runs[REFERENCE], level).ravel())[0]
                for level in ("task", "class", "example")
            ]
            print(f"{name:32} {accuracy.mean():.4f} ({error:.4f})    " + "  ".join(f"{a:.4f}" for a in agreement))


if __name__ == "__main__":
    main()
