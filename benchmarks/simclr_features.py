"""Do SimCLR's features say more than random ones, and than a control whose pairs are shuffled?

Models are trained without labels on some images of one dataset; a linear head is then fitted on their frozen features
on another. Beside SimCLR stand models as they were drawn, and models whose positive pairs are of two different images.
Settings are arguments, so that a recipe can be searched; every arm has the same seeds.

Run  python benchmarks/simclr_features.py --data-dir DIR
     python benchmarks/simclr_features.py --data-dir DIR --epochs 20 --crop 0.08 --temperature 0.1 --seeds 3
"""

import argparse
import dataclasses
import json
import time

import numpy as np
from machine import aligned, note

import jdt


def main() -> None:
    """Train the arms in turn and print accuracies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--source", default="tiny_imagenet32")
    parser.add_argument("--target", default="cifar10_32")
    parser.add_argument("--side", type=int, default=16)
    parser.add_argument("--width", type=int, default=16, help="of small_cnn")
    parser.add_argument("--examples", type=int, default=3000)
    parser.add_argument("--target-train", type=int, default=2000)
    parser.add_argument("--target-test", type=int, default=2000)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--decay", type=float, default=0.01)
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--crop", type=float, default=0.2, help="least area of a crop")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--arms", nargs="+", default=["random", "simclr", "shuffled"])
    arguments = parser.parse_args()
    jdt.devices.prepare()
    source, training, test = datasets(arguments)
    rows = [["arm", "accuracy by seed", "loss", "seconds"]]
    for arm in arguments.arms:
        begun = time.perf_counter()
        accuracy, loss = measured(arm, arguments, source, training, test)
        rows.append([arm, " ".join(f"{a:.4f}" for a in accuracy), f"{loss:.3f}", f"{time.perf_counter() - begun:.0f}"])
        note(json.dumps(dict(zip(rows[0], rows[-1], strict=True))))
    print(aligned(rows))


def datasets(arguments: argparse.Namespace) -> "tuple[jdt.data.Dataset, jdt.data.Dataset, jdt.data.Dataset]":
    """Random images of the source, of the target's training split and of its test split."""
    draw, found = np.random.default_rng(0), []
    for name, split, count in (
        (arguments.source, "train", arguments.examples),
        (arguments.target, "train", arguments.target_train),
        (arguments.target, "test", arguments.target_test),
    ):
        whole = jdt.data.load(name, data_dir=arguments.data_dir, split=split, image_size=arguments.side)
        found.append(whole.part(np.sort(draw.choice(len(whole), count, replace=False))))
    return found[0], found[1], found[2]


def measured(
    arm: str, arguments: argparse.Namespace, source: "jdt.data.Dataset", training: "jdt.data.Dataset",
    test: "jdt.data.Dataset",
) -> tuple[list[float], float]:  # fmt: skip
    """Accuracy on the target by seed, and the mean training loss of the last epoch."""
    ensemble = jdt.train.Ensemble(
        network=jdt.models.make("small_cnn", len(source.class_names), arguments={"width": arguments.width}),
        recipe=jdt.train.Recipe(
            epochs=arguments.epochs, batch_size=arguments.batch, learning_rate=arguments.rate, decay="cosine",
            algorithm="adamw", weight_decay=arguments.decay, warmup_epochs=arguments.epochs / 10,
        ),
        plan=jdt.train.PLANS["winograd"],
        image_shape=source.image_shape,
        mean_subset_size=float(len(source)),
        smallest_subset=len(source),
        objective=jdt.train.SimCLR(
            temperature=arguments.temperature, augmentation=jdt.data.Augmentation(crop_scale=(arguments.crop, 1.0))
        ),
    )  # fmt: skip
    if arm == "shuffled":
        ensemble = dataclasses.replace(ensemble, objective=dataclasses.replace(ensemble.objective, shuffled_pairs=True))
    seeds, loss = np.arange(arguments.seeds), np.nan
    if arm == "random":
        variables = jdt.train.initial_variables(ensemble, 0, seeds)
    else:
        members = np.ones((len(seeds), len(source)), bool)
        trained = jdt.train.train(ensemble, jdt.train.source_data(source), members, seeds, seed=0)
        variables, loss = trained.variables, float(trained.loss.mean())
    said = jdt.transfer.transfer_fixed(ensemble, variables, training, test, jdt.transfer.FixedFeature()).logits
    return (np.asarray(said).argmax(axis=-1) == test.labels).mean(axis=1).tolist(), loss


if __name__ == "__main__":
    main()
