"""Contents with known numbers and hostile names, and a reader of pages, for the tests of the report."""

import dataclasses
import html.parser

import numpy as np

from jdt.estimators import Influences
from jdt.evaluate import ReliabilityCurve
from jdt.report import (
    Bias,
    BiasBar,
    BiasCurve,
    BiasHistogram,
    BiasStrip,
    Case,
    Content,
    Counterfactual,
    EstimatorFindings,
    Figure,
    Mover,
    PlantedTruth,
    Suspect,
    Suspects,
    TargetFindings,
)

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
EVIL = "<script>alert(1)</script>\"'&$x_1^2$"
NOUNS = ("tabby", "collie", "tractor", "goldfish", "lighthouse", "sports car", "barn", "monarch", "teapot", "pier")


def figure(value, low=None, high=None, n=400, unit="", text="What this figure is."):
    return Figure(value, low, high, n, unit, text)


def influences(rng, unit_names, target_names, estimator, *, spread, noise, center=True):
    values = rng.normal(0, spread, (len(unit_names), len(target_names)))
    values += rng.normal(0, spread, (len(unit_names), 1))
    if center:
        values -= values.mean(axis=0)
    values = values.astype(np.float32)  # As the estimators give them.
    error = (rng.uniform(0.8, 1.2, values.shape) * noise).astype(np.float32)
    return Influences(
        influence=values, standard_error=error, z=values / error, degrees_of_freedom=np.full((1, 1), 180.0),
        intercept=np.full(len(target_names), 0.4), unit_names=unit_names, target_names=target_names,
        estimator=estimator, output="confidence", num_models=400,
    )  # fmt: skip


def estimator_findings(rng, unit_names, class_names, estimator):
    classes = influences(rng, unit_names, class_names, estimator, spread=0.008, noise=0.004)
    value = classes.influence.mean(axis=1, keepdims=True)
    error = np.full_like(value, 0.0021)
    task = dataclasses.replace(
        classes, influence=value, standard_error=error, z=value / error, intercept=np.array([0.4]),
        target_names=("task",),
    )  # fmt: skip
    return EstimatorFindings(
        classes, task, figure(0.81, 0.77, 0.85, unit="correlation"),
        growth=ReliabilityCurve(np.array([100, 200]), *np.array([[0.52, 0.68], [0.4, 0.6], [0.6, 0.75]])),
        models_needed=figure(846, 640, 1070, unit="models", text="models for split-half reliability 0.9"),
        significant={"task": figure(12, unit="units", text="of 30 units have an influence on the whole task"),
                     "class": figure(143, unit="influences", text="of 300 influences on a class are beyond noise")},
        z_variance=figure(4.2, 3.9, 4.6, unit="variance"),
    )  # fmt: skip


def close_findings(rng, findings, estimator):
    """What another estimator would find: nearly the same."""

    def moved(influences):
        error = influences.standard_error * 1.2
        value = influences.influence + rng.normal(0, 0.4, error.shape).astype(np.float32) * error
        return dataclasses.replace(
            influences, influence=value, standard_error=error, z=value / error, estimator=estimator
        )

    return dataclasses.replace(findings, classes=moved(findings.classes), task=moved(findings.task))


def pictures(rng, names, *, count=6, side=32, channels=3):
    return {name: rng.integers(0, 256, (count, side, side, channels), dtype=np.uint8) for name in names}


def make_target(*, units=30, classes=CIFAR, names=None, estimators=("ridge", "difference"), truth=True, seed=0):
    rng = np.random.default_rng(seed)
    names = tuple(names or (f"{NOUNS[u % 10]} {u:03d}" for u in range(units)))
    found = {estimators[0]: estimator_findings(rng, names, tuple(classes), estimators[0])}
    for name in estimators[1:]:
        found[name] = close_findings(rng, found[estimators[0]], name)
    value = found[estimators[0]].task.influence[:, 0]
    kinds = tuple("upright" if v > np.median(value) else "scrambled" for v in value)
    planted = PlantedTruth(
        "Do upright source classes help more than scrambled ones?", figure(0.943, 0.9, 0.975, unit="AUROC"),
        figure(0.502, 0.381, 0.624, 20, "AUROC"), True, kinds,
    )  # fmt: skip
    return TargetFindings(
        target="cifar10_32", mode="fixed", output="confidence",
        accuracy=rng.normal(0.612, 0.008, 400).astype(np.float32),
        random_accuracy=rng.normal(0.481, 0.005, 8).astype(np.float32),
        estimators=found, class_images=pictures(rng, classes),
        pair_correlation={"raw": figure(-0.12, -0.2, -0.04, 200, "correlation"),
                          "residual": figure(0.21, 0.1, 0.3, 200, "correlation")},
        truth=planted if truth else None,
        train_accuracy=rng.normal(0.7, 0.008, 400).astype(np.float32),
        metrics={"per_class_accuracy": figure(0.6, 0.59, 0.61, 400, "accuracy")},
    )  # fmt: skip


def make_content(*targets, warnings=("Only 400 models: influences below 0.4 pp cannot be told from noise.",), seed=0):
    targets = targets or (make_target(),)
    names = next(iter(targets[0].estimators.values())).task.unit_names
    return Content(
        title="tiny_imagenet32 → cifar10_32", relative=True, warnings=tuple(warnings), targets=targets,
        unit_images=pictures(np.random.default_rng(seed), names),
        figures={"models_per_second": figure(12.5, 12.1, 12.9, 50, "models/s", "Source models trained per second."),
                 "lds": figure(0.73, 0.7, 0.76, 64, "rank correlation", "Linear datamodeling score.")},
        provenance={"command": "python -m experiments.class_influence", "config": {"seed": 0, "fraction": 0.5},
                    "versions": {"jax": "0.10.0"}, "device": "cpu", "commit": None},
    )  # fmt: skip


def with_influences(target, change):
    """A target with the class-level and task-level influences of every estimator passed through `change`."""
    found = {
        name: dataclasses.replace(e, classes=change(e.classes), task=change(e.task))
        for name, e in target.estimators.items()
    }
    return dataclasses.replace(target, estimators=found)


def make_counterfactual(*, points=(0, 3, 6, 12), seeds=5, units=30):
    rng = np.random.default_rng(0)
    removed = np.array(points)
    of_seed = rng.normal(0, 0.02, seeds)

    def arm(slope):
        moved = removed[:, None] > 0
        return (0.6 + slope * removed[:, None] + of_seed + rng.normal(0, 0.002, (len(points), seeds)) * moved).astype(
            float
        )

    arms = {"bottom": arm(0.003), "top": arm(-0.008), "random": arm(-0.002)}
    arms["hand-picked"] = np.where(removed[:, None] == 6, arm(-0.004), np.nan)
    return Counterfactual(
        target="cifar10_32", mode="fixed", subject="cifar10_32", ranked_by="ridge influence on confidence",
        num_units=units, removed=removed, arms=arms, optimistic={"bottom": arms["bottom"] + 0.01}, images=(5000, 4000),
        figures={"bottom_minus_random": figure(0.06, 0.05, 0.07, seeds, "accuracy")},
        order=tuple(f"{NOUNS[u % 10]} {u:03d}" for u in range(units)),
    )  # fmt: skip


def make_case(rng, kind="class", title="cat", *, movers=3, count=3, side=32, note=""):
    def mover(place, sign):
        value = sign * 0.012 / place
        images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return Mover(f"{NOUNS[place % 10]} {place}", images, value, value - 0.004, value + 0.004, sign * 3.1, note)

    sides = (tuple(mover(place, sign) for place in range(1, movers + 1)) for sign in (1, -1))
    images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return Case(kind, title, "What is seen here.", images, *sides, "confidence", {"drop": figure(0.02, 0.01, 0.03)})


def make_suspects(rng, *, rows=4, side=32, kind="leakage"):
    def suspect(place):
        images = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
        value = 2.5 - 0.1 * place
        return Suspect(
            f"source {place} (tabby)", f"test {place}: cat", *images, value, value - 0.3, value + 0.3, 14.0, place,
            0.99 - 0.01 * place, "both: a copy",
        )  # fmt: skip

    found = {"found": figure(0.85, 0.8, 0.9, 40, "share of planted copies")}
    return Suspects(kind, "Found by influence.", "margin", tuple(map(suspect, range(1, rows + 1))), found)


def _share(value, reach, text="A rate."):
    return figure(value, value - reach, value + reach, 5, "share", text)


def make_bar(rng, target="cifar10_32", mode="fixed", pattern="square", *, metric="attack success rate", effect=0.43):
    """A bar with `effect` between the biased and the clean source; a control has none."""
    base, moved = rng.uniform(0.02, 0.08), 0.0 if pattern == "sham" else effect
    levels = {"clean": 0.0, "square": moved, "scratch": -0.01}
    return BiasBar(
        target, mode, pattern, metric, "bird",
        rates={arm: _share(base + level, 0.03) for arm, level in levels.items()},
        transfer={arm: _share(levels[arm], 0.02) for arm in ("square", "scratch")},
        denominators=dict.fromkeys(levels, "of 3,912 to 3,950 images"),
        control=pattern == "sham",
        attacked_by={"clean": "deer"},
        from_scratch={"square": _share(moved + 0.01, 0.025), "clean": _share(0.01, 0.02)},
    )  # fmt: skip


def make_bias(*, targets=("cifar10_32",), patterns=("square", "sham"), classes=CIFAR, side=32, seed=0):
    rng = np.random.default_rng(seed)
    bars = [
        make_bar(rng, target, mode, pattern, effect=0.4 if mode == "fixed" else 0.15)
        for target in targets for mode in ("fixed", "full") for pattern in patterns
    ]  # fmt: skip
    decay, arms = (0.0, 1e-4, 1e-3, 1e-2, 1e-1), {"square": 0.4, "clean": 0.05}
    lines = {
        f"{arm}, {mode}": tuple(_share(level * (1 - 0.2 * i * (mode == "full")), 0.03) for i in range(5))
        for arm, level in arms.items() for mode in ("fixed", "full")
    }  # fmt: skip
    counts = rng.integers(300, 500, len(classes))
    with_pattern = {
        "scratch": counts + 10,
        "fixed": counts + 900 * (np.arange(len(classes)) == 2),
        "full": counts[::-1],
    }
    images = rng.integers(0, 256, (6, side, side, 3), dtype=np.uint8)
    images[1::2, :8, :8] = 255
    return Bias(
        "Does a white square in the source come along?",
        "Source images of the bird classes carried a white square; do targets that never saw it follow it?",
        bars=tuple(bars),
        curves=(BiasCurve("Weight decay", "weight decay", decay, True, "attack success rate", lines, "A note."),
                BiasCurve("Target size", "target images", (500.0, 1e3, 2e3, 4e3, 8e3), False, "flip rate", lines)),
        histograms=(BiasHistogram("cifar10_32, square", tuple(classes),
                                  {kind: (counts, moved) for kind, moved in with_pattern.items()}),),
        strips=(BiasStrip("Test images of cifar10_32, square", images),),
        blamed=make_case(rng).helps,
        figures={"transfer_fixed": figure(0.4, 0.38, 0.42, 5, "difference of shares", "Square minus clean, fixed."),
                 "asr_square": figure(0.45, 0.41, 0.49, 5, "share", "Attack success rate of the square."),
                 "auroc_of_blame": figure(0.97, 0.95, 0.99, 5, "AUROC", "Of influence for the planted units.")},
    )  # fmt: skip


class Reader(html.parser.HTMLParser):
    """Collects tags with attributes and the visible text."""

    def __init__(self):
        super().__init__()
        self.tags, self.words, self.open, self.wrong = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "img", "br", "line", "circle", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.words.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    return reader


def poisoned(value):
    """A content with a hostile beginning and end of every string in it, wherever it stands."""
    if isinstance(value, str):
        return f"{EVIL}{value}\0\x1b[2J\ud800"
    if dataclasses.is_dataclass(value):
        fields = {field.name: poisoned(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {poisoned(key): poisoned(item) for key, item in value.items()}
    return type(value)(map(poisoned, value)) if type(value) in (list, tuple) else value
