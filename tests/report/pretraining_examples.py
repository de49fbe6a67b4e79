"""A study of pre-training data with known numbers."""

import math

import numpy as np
from report_examples import figure

from jdt.report import (
    Pretraining,
    PretrainingAccuracy,
    PretrainingGain,
    PretrainingGap,
    PretrainingOptimism,
    PretrainingRanked,
    PretrainingRanking,
    PretrainingReference,
    PretrainingSize,
    PretrainingSource,
    PretrainingSpread,
    PretrainingStability,
    PretrainingZeroShot,
    Requirement,
)

SHOTS = (1, 5, 10, 20, 100, None)
NAMES = ("near", "near, blurred", "near, grey", "noisy 40 %", "far", "textures", "pixels", "scratch")
SIZES = (500, 1000, 2000, 4000, 8000)


def share(value, reach=0.012, n=15):
    return figure(value, value - reach, value + reach, n, "share")


def change(value, reach=0.01, n=15):
    return figure(value, value - reach, value + reach, n, "difference of shares")


def quality(place, count):
    """From 1 for the best source down to 0."""
    return 1 - place / max(count - 1, 1)


def level(place, count, shots, method="supervised", transfer="LP"):
    """Accuracy: sources are far apart at few shots and close with all images."""
    base = {1: 0.2, 5: 0.32, 10: 0.39, 20: 0.45, 100: 0.56, None: 0.68}[shots]
    apart = {1: 0.05, 5: 0.1, 10: 0.12, 20: 0.13, 100: 0.09, None: 0.04}[shots]
    better = {"supervised": 0.0, "simclr": 0.015, "clip": -0.02}[method] + (0.03 if transfer == "FT" else 0.0)
    return base + apart * (quality(place, count) - 0.5) + better


def make_sizes(target="cifar10_32", shots=5):
    curve = [0.30, 0.335, 0.37, 0.39, 0.405]
    references = (
        PretrainingReference("near, grey", 2000, share(0.352), figure(1443, 980, 2210, 15, "images"),
                             figure(0.72, 0.49, 1.1, 15, "ratio"), tuple(change(x - 0.352) for x in curve)),
        PretrainingReference("near, clean labels", 4000, share(0.43), figure(math.inf, 7100.0, math.inf, 15, "images"),
                             figure(math.inf, 1.78, math.inf, 15, "ratio")),
    )  # fmt: skip
    return PretrainingSize("near", "supervised", target, "LP", shots, SIZES, tuple(map(share, curve)), references)


def make_pretraining(names=NAMES, targets=("cifar10_32", "digits"), settings=(("supervised", "LP"), ("simclr", "LP"))):
    count = len(names)
    sources = tuple(PretrainingSource(name, f"what {name} holds", 0 if name == "scratch" else 5000) for name in names)
    accuracies = [
        PretrainingAccuracy(method, name, target, transfer, {
            k: share(level(place, count, k, method, transfer) + 0.05 * t + 0.004 * math.sin(9 * place + 3 * t))
            for k in SHOTS if name != "scratch" or k is None
        })
        for method, transfer in settings for t, target in enumerate(targets) for place, name in enumerate(names)
    ]  # fmt: skip
    apart = {k: level(0, count, k) - level(count - 1, count, k) for k in SHOTS}
    spreads = tuple(
        PretrainingSpread(
            target, method, transfer,
            {k: change(x, 0.012) for k, x in apart.items()},
            {k: share(x / level(0, count, k)) for k, x in apart.items()},
            {k: change(x / 3, 0.005) for k, x in apart.items()},
            {k: figure(0.012, 0.006, 0.024, 200, "difference of shares") for k in SHOTS},
            dict.fromkeys(SHOTS, names[0]), dict.fromkeys(SHOTS, names[-2]),
            figure(0.31, 0.18, 0.46, 15, "share"), change(0.09, 0.02),
        )
        for target in targets for method, transfer in settings
    )  # fmt: skip
    worth = PretrainingSize(
        "noisy 40 %", "supervised", targets[0], "LP", 5, (2000, 4000, 8000, 16000),
        tuple(map(share, (0.31, 0.34, 0.36, 0.372))),
        (PretrainingReference("clean labels", 2000, share(0.351), figure(5900, 4100, 9800, 15, "images"),
                              figure(2.95, 2.05, 4.9, 15, "ratio"),
                              tuple(map(change, (-0.041, -0.011, 0.009, 0.021)))),),
        "40 % of its labels are wrong",
    )  # fmt: skip
    trained = [name for name in names if name != "scratch"]
    gaps = tuple(
        PretrainingGap("simclr", "supervised", name, target, "LP", k, change(0.02 - 0.01 * i + 0.002 * s),
                       change(0.02 - 0.01 * i + 0.002 * s, 0.006), change(0.02 - 0.01 * i + 0.002 * s, 0.008))
        for target in targets for i, name in enumerate(trained) for s, k in enumerate(SHOTS)
    )  # fmt: skip
    gains = tuple(
        PretrainingGain("supervised", name, target, "FT", None, change(0.12 - 0.02 * i), share(0.3 - 0.05 * i))
        for target in targets for i, name in enumerate(trained)
    )  # fmt: skip
    rng = np.random.default_rng(0)
    optimism = tuple(
        PretrainingOptimism(method, name, target, transfer, k, f"{transfer}@0.1", f"{transfer}@1", 4, share(0.4),
                            figure(max(0.0, rng.normal(0.012, 0.008)) / (1 + s), 0.0, 0.03, 15, "difference of shares"))
        for method, transfer in settings for target in targets for name in trained for s, k in enumerate(SHOTS)
    )  # fmt: skip
    stability = tuple(
        PretrainingStability(f"{target}, 5 shots", f"{target}, full data", figure(0.79, 0.41, 0.96, 15, "rank"), count)
        for target in targets
    )  # fmt: skip
    zero_shot = (
        PretrainingZeroShot("near", "its own classes", "zero-shot", 20, share(0.31), share(0.049), 0.05),
        PretrainingZeroShot("near", targets[0], "prototype", 10, share(0.35), share(0.11), 0.1, "supervised"),
    )
    ranking = PretrainingRanking(
        targets[0], 5,
        (PretrainingRanked("near", share(0.42), 0.71, "simclr", "LP"),
         PretrainingRanked("near, grey", share(0.41), 0.27, "simclr", "LP", change(-0.01, 0.015), "not told apart"),
         PretrainingRanked("far", share(0.36), 0.0, "supervised", "LP", change(-0.06))),
        "Six more seeds, about 4 minutes, would tell the first two apart",
    )  # fmt: skip
    bars = (
        Requirement("D0", "training and test images are never the same", "0 of 1,440 cells", "reached"),
        Requirement("D2", "the spread fades from few shots to full data", "on both targets", "reached", change(0.09),
                    True),
        Requirement("D5", "a planted ratio is found within a factor 1.5", "planted 2.0", "missed",
                    figure(3.3, 2.1, 4.9, 5, "ratio")),
        Requirement("D7", "SimCLR against supervised", "", "exploratory", change(0.015)),
        Requirement("D1", "class names are where they belong", "", "not judged"),
    )  # fmt: skip
    return Pretraining(
        "What pre-training data are worth, tiny_imagenet32 → cifar10_32",
        "Sources of 5,000 images each, 5 seeds, nested few-shot draws; every test image in every cell.",
        SHOTS, bars, sources, tuple(accuracies), spreads, (make_sizes(targets[0]), make_sizes(targets[0], None)),
        (worth,), gaps, optimism, gains, stability, zero_shot, (ranking,),
        figures={"spread/cifar10_32/5 shots": change(0.1), "spread left with full data": share(0.31, 0.12)},
    )  # fmt: skip
