"""Are the figures of a study of bias transfer those that its stored predictions give?

Computes every figure of a run of experiments.bias_transfer again, from the predictions with and without the pattern
that its store holds, and compares it with what `bias.json` and `summary.json` claim. Nothing here comes from jdt or
from experiments: the store is read as the Zarr v3 that it is, and the formulas are written a second time, after
section 3.3 of the specification of arXiv 2207.02842.

Whole numbers must be equal, shares and t intervals to rounding. Intervals over test images are drawn anew, by another
generator: their ends must be as near as the number of resamples lets two draws be. Which model is which, and what it
was trained without, is read from the masks in the store; which units were to carry the pattern is drawn again from the
run's number; the class that a model is pushed to is chosen again, by each model on the images that do not report. Taken
from `bias.json` as it is: which test images report (checked to be half of every class), groups of test images (checked
to be balanced), and planted units where they were not drawn. Not computed again: what needs the estimator, which are
influences (checked to average to the shift that they are of) and the control with permuted masks, and the words of
verdicts, which put these figures beside their bars.

Run       python benchmarks/recompute_bias.py runs/bias           # exit status 1 where anything disagrees
"""

import argparse
import functools
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats
from stored_figures import (
    FLOAT32,
    MISSING,
    Figure,
    Near,
    Store,
    compared,
    difference,
    known,
    names_figure,
    read_array,
    read_names,
)

ASR, ASR_OTHERS, SHIFT = "attack success rate", "attack success rate, images of other classes", "total shift"
FLIPS, ACCURACY, DROP = "flip rate", "accuracy", "accuracy drop"
SKEW, GAPS, WORST = "group skew", "equal-opportunity gap, y = ", "worst group"
METRICS = {
    "pattern": (ASR, ASR_OTHERS, FLIPS, ACCURACY, DROP, SHIFT),
    "group": (SKEW, f"{GAPS}0", f"{GAPS}1", WORST, ACCURACY),
}
OVER_EXAMPLES = (ASR, SKEW)
"""Metrics with an interval over test images as well."""
CLEAN, SCRATCH, GIVEN, TWIN = "clean", "scratch", "given", "twin"
WITHOUT = ("all units", "without blamed units", "without random units")
CORNERS, COLOURS, STREAM = 4, 6, 2207_02842
"""What is drawn from a number before the units that carry the pattern, and the stream that it is drawn from."""
PAIRED = ("antithetic", "balanced-pairs")
"""Designs whose models come in pairs, and are left out in pairs."""
CLAIMED_RESAMPLES, RESAMPLES, ERRORS = 1000, 2000, 5.0
"""Draws behind an interval of `bias.json`, and here; how many standard errors two ends may be apart."""

Parts = list[tuple[np.ndarray, np.ndarray]]
"""Shares before their sums over images: what counts, bool `[examples]`, and among which images, bool `[examples]`."""


def parts_of(
    metric: str,
    clean: np.ndarray,
    shown: np.ndarray,
    labels: np.ndarray,
    attacked: Sequence[int],
    groups: np.ndarray,
) -> Parts:
    """What a metric of one model is counted from; nothing counts where the model diverged.

    Args:
      metric: Its name.
      clean: int `[examples]`, predictions without the pattern.
      shown: int `[examples]`, predictions with it; the same where a group is studied.
      labels: int `[examples]`.
      attacked: Classes that the pattern pushes to.
      groups: `[examples]`, 0 or 1; empty where a pattern is studied.
    """
    everywhere = np.full(clean.shape, bool((clean >= 0).all()))
    paired = everywhere & bool((shown >= 0).all())
    free = paired & ~np.isin(clean, attacked)
    hit = np.isin(shown, attacked)
    if metric == ASR:
        return [(hit, free)]
    if metric == ASR_OTHERS:
        return [(hit, free & ~np.isin(labels, attacked))]
    if metric == FLIPS:
        return [(clean != shown, paired)]
    if metric == ACCURACY:
        return [(clean == labels, everywhere & (labels >= 0))]
    if metric == DROP:
        also = np.full(clean.shape, bool((shown >= 0).all()))
        return [(clean == labels, everywhere & (labels >= 0)), (shown == labels, also & (labels >= 0))]
    if metric == SKEW:
        return [(clean == 1, everywhere & (groups == group)) for group in (1, 0)]
    if metric.startswith(GAPS):
        label = int(metric[len(GAPS) :])
        return [(clean == 1, everywhere & (groups == group) & (labels == label)) for group in (1, 0)]
    cells = itertools.product((0, 1), (0, 1))
    return [(clean == labels, everywhere & (labels == label) & (groups == group)) for label, group in cells]


def value_of(metric: str, shares: np.ndarray) -> np.ndarray:
    """A share, a difference of two, or the least of four: `[parts, ...]` -> `[...]`, NaN where it is missing."""
    if metric == WORST:
        least = np.where(np.isnan(shares), np.inf, shares).min(axis=0)
        return np.where(np.isinf(least), np.nan, least)
    return shares[0] - shares[1] if len(shares) == 2 else shares[0]


def share(hits: np.ndarray, of: np.ndarray) -> np.ndarray:
    """Hits over denominators; NaN, never 0, where there is nothing to count."""
    with np.errstate(invalid="ignore"):
        return np.where(of > 0, np.divide(hits, np.where(of > 0, of, 1)), np.nan)


def total_shift(clean: np.ndarray, shown: np.ndarray, num_classes: int) -> float:
    """Half of the sum over classes of |P(with the pattern) - P(without)|; NaN where the model diverged."""
    if not len(clean) or min(clean.min(), shown.min()) < 0:
        return math.nan
    return 0.5 * sum(abs(np.mean(shown == c) - np.mean(clean == c)) for c in range(num_classes))


def gained_most(clean: np.ndarray, shown: np.ndarray, num_classes: int) -> int:
    """The class that most more images are taken for with the pattern; 0 where the model diverged.

    >>> gained_most(np.array([0, 1, 2]), np.array([0, 2, 2]), 3)
    2
    """
    if min(clean.min(), shown.min()) < 0:
        return 0
    more = np.bincount(shown, minlength=num_classes) - np.bincount(clean, minlength=num_classes)
    return int(more.argmax())  # Of whole numbers, so that equals are equal.


@functools.lru_cache(maxsize=4)
def draws(num_examples: int) -> np.ndarray:
    """How often each image is in each resample: float32 `[resamples, examples]`."""
    rng = np.random.default_rng(20220704)
    return rng.multinomial(num_examples, np.full(num_examples, 1 / num_examples), RESAMPLES).astype(np.float32)


def over_examples(metric: str, biased: Sequence[Parts], twin: Sequence[Parts]) -> dict[str, Any]:
    """Mean difference of pairs with its bootstrap interval at 95 % over test images, one draw for all models."""

    def values(models: Sequence[Parts], weights: np.ndarray) -> np.ndarray:
        # [parts, examples, models]; whole numbers far below 2**24, so that float32 adds them exactly.
        of = np.array([[part[1] for part in parts] for parts in models], np.float32).transpose(1, 2, 0)
        hits = np.array([[part[0] & part[1] for part in parts] for parts in models], np.float32).transpose(1, 2, 0)
        return value_of(metric, np.stack([share(weights @ h, weights @ o) for h, o in zip(hits, of, strict=True)]))

    examples = biased[0][0][0].size
    all_once = np.ones((1, examples), np.float32)
    apart = (values(biased, all_once).astype(np.float64) - values(twin, all_once).astype(np.float64))[0]
    there = apart[~np.isnan(apart)]
    drawn = values(biased, draws(examples)) - values(twin, draws(examples))
    drawn = drawn[~np.isnan(drawn).all(axis=1)]
    means = np.nanmean(drawn, axis=1) if len(drawn) else np.empty(0)
    found: dict[str, Any] = {
        "mean": Near(float(there.mean()), 1e-6) if len(there) else None,
        "low": None,
        "high": None,
        "pairs": len(there),
        "left_out": len(apart) - len(there),
    }
    if len(means):
        low, high = np.quantile(means, [0.025, 0.975]).tolist()
        # The standard error of a normal's 2.5 % point among n draws, for the difference of two such points.
        tail = math.sqrt(0.025 * 0.975) / float(stats.norm.pdf(stats.norm.ppf(0.025)))
        error = tail * float(means.std()) * math.sqrt(1 / CLAIMED_RESAMPLES + 1 / RESAMPLES)
        least = min(int(part[1].sum()) for parts in (*biased, *twin) for part in parts)
        step = 1 / max(least * len(there), 1)  # Shares come in steps.
        within = ERRORS * error + (step if means.std() > 0 else 0) + 1e-6
        found |= {"low": Near(low, within), "high": Near(high, within)}
    return found


class Study:
    """A run with what it claims of itself."""

    def __init__(self, run: pathlib.Path) -> None:
        """Open it."""
        self.run, self.store = run, Store(run)
        self.claims, self.summary = (
            json.loads((run / name).read_text(encoding="utf-8")) for name in ("bias.json", "summary.json")
        )
        config = self.store.config
        self.kind, self.modes, self.variants = config["bias"], config["transfer"], config["variants"]
        self.patterns = config["patterns"] or [""]
        self.per_seed: list[str] = config["arms"]
        self.seeds = self.store.num_models // len(self.per_seed)
        self.triggers = [pattern for pattern in self.patterns if pattern in self.per_seed]
        others = (TWIN, SCRATCH) if self.per_seed == [GIVEN] else ()
        self.others = {arm: Store(run / arm) for arm in others if (run / arm / "run.json").exists()}

    @property
    def arms(self) -> list[str]:
        """Source variants."""
        return [*self.per_seed, *self.others]

    @property
    def named(self) -> list[str]:
        """The classes that all models are pushed to, where they were named.

        The last command says, which `bias.json` tells of; earlier ones told it in the first command's settings alone.
        """
        return self.claims.get("attacked", self.store.settings["attacked"])

    @property
    def is_one_model(self) -> bool:
        """Whether all seeds are a given model under a convex head: they do not differ, and there is no interval."""
        return self.per_seed == [GIVEN] and self.store.settings["head"].get("solver", "convex") == "convex"

    @property
    def twin(self) -> str:
        """The source variant that others are compared with."""
        if self.per_seed == [GIVEN]:
            return TWIN if TWIN in self.others else SCRATCH
        return self.per_seed[0]

    def predictions(self, target: str, mode: str, arm: str) -> np.ndarray:
        """int32 `[seeds, examples]`."""
        if arm in self.others:
            return self.others[arm].predictions(target, mode)
        return self.store.predictions(target, mode)[self.per_seed.index(arm) :: len(self.per_seed)]

    def reporting(self, target: str) -> np.ndarray:
        """Which test images of a target report, bool `[examples]`; the others choose the class that is attacked."""
        rows = np.zeros(len(self.store.labels(target)), bool)
        rows[self.claims["reporting_images"][target]] = True
        return rows

    def attacked(self, name: str, mode: str, pattern: str, arm: str) -> list[list[int]]:
        """The classes that a pattern pushes each model of a source variant to, each `[attacked]`."""
        target = next(one["target"] for one in self.variants if one["name"] == name)
        clean, shown = (self.predictions(one, mode, arm) for one in (name, f"{name}+{pattern}"))
        return self.pushed_to(target, clean, shown)

    def pushed_to(self, target: str, clean: np.ndarray, shown: np.ndarray) -> list[list[int]]:
        """The same of any models, from their predictions on all test images: the classes that were named, or its own.

        A model's own is the class c with the largest P(with the pattern = c) - P(without = c) on the images that
        choose, the first of equals.
        """
        classes = self.store.classes(target)
        if self.named:
            return [[classes.index(name) for name in self.named]] * len(clean)
        chooses = ~self.reporting(target)
        return [[gained_most(*pair, len(classes))] for pair in zip(clean[:, chooses], shown[:, chooses], strict=True)]


def figures(study: Study) -> Iterator[Figure]:
    """Everything that a run claims, computed again."""
    yield from arms_figures(study)
    yield from division_figures(study)
    yield from measured_figures(study)
    if "blame" in study.claims:
        yield from blame_figures(study, study.claims["blame"])


def arms_figures(study: Study) -> Iterator[Figure]:
    """Which models are those of which source variant, from the masks: pairs of one seed are beside each other."""
    claims, store = study.claims, study.store
    yield Figure("kind", claims.get("kind", MISSING), study.kind)
    yield Figure("seeds", claims.get("seeds", MISSING), study.seeds)
    yield Figure("arms, model by model", claims.get("arms", MISSING), study.per_seed * study.seeds)
    yield Figure("twin", claims.get("twin", MISSING), study.twin)
    yield Figure("triggers", claims.get("triggers", MISSING), study.triggers)
    if study.per_seed != [GIVEN]:
        first = store.masks[: len(study.per_seed)]
        yield names_figure("units are named after the arms whose masks hold them", store, first, study.per_seed)
        repeated = np.array_equal(store.masks, np.tile(first, (study.seeds, 1)))
        yield Figure("masks are the same in every seed", repeated, True)
        if SCRATCH in study.per_seed:
            yield Figure("units of models from scratch", int(first[study.per_seed.index(SCRATCH)].sum()), 0)


def division_figures(study: Study) -> Iterator[Figure]:
    """Test images that report are half of every class; groups are balanced over classes."""
    for target in dict.fromkeys(variant["target"] for variant in study.variants):
        name = next(variant["name"] for variant in study.variants if variant["target"] == target)
        labels = study.store.labels(name)
        if study.kind == "group":
            groups = np.array(study.claims["groups"][target])
            cells = [int(((labels == label) & (groups == group)).sum())
                     for label in np.unique(labels) for group in (0, 1)]  # fmt: skip
            yield Figure(f"{target}: test images of every class and group", cells, [cells[0]] * len(cells))
            yield Figure(f"{target}: test images in groups", len(groups), len(labels))
            continue
        there = study.claims["reporting_images"][target]
        yield Figure(f"{target}: images report once", there, np.unique(there).tolist())
        half = [int((study.reporting(target) & (labels == label)).sum()) for label in np.unique(labels)]
        whole = [int((labels == label).sum() + 1) // 2 for label in np.unique(labels)]
        yield Figure(f"{target}: images that report, by class", half, whole)


def measured_figures(study: Study) -> Iterator[Figure]:
    """Metrics of every arm, and their differences to the twin of the same seed."""
    claims = {key_of(one): one for one in study.claims["measured"]}
    yield Figure("entries, each once", len(study.claims["measured"]), len(claims))
    expected = set()
    for variant, mode, pattern in itertools.product(study.variants, study.modes, study.patterns):
        classes = study.store.classes(variant["name"])
        place = (variant["name"], mode, pattern)
        arms = [arm for arm in study.arms
                if pattern not in study.triggers or arm not in study.triggers or arm == pattern]  # fmt: skip
        attacked = {arm: study.attacked(*place, arm) if pattern else [[]] * study.seeds for arm in arms}
        names = {arm: [classes[c] for c in (rows[0] if study.named else itertools.chain(*rows))]
                 for arm, rows in attacked.items()}  # fmt: skip
        if pattern:
            for arm in arms:
                pushed_to = [one.get("attacked") for key, one in claims.items() if (*key[:3], key[4]) == (*place, arm)]
                unique = pushed_to[0] if pushed_to and all(one == pushed_to[0] for one in pushed_to) else pushed_to
                yield Figure(f"{slashed((*place, arm))}: attacked class of each seed", unique, names[arm])
        for metric in METRICS[study.kind]:
            counted = {arm: Counted.of(study, variant, mode, pattern, metric, arm, attacked[arm]) for arm in arms}
            for arm in arms:
                key = (*place, metric, arm)
                expected.add(key)
                yield from entry_figures(study, variant, names[arm], key, claims.get(key), counted)
    yield Figure("entries that the store cannot give", [slashed(key) for key in claims if key not in expected], [])


def key_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What an entry of `measured` is about."""
    return tuple(entry[name] for name in ("variant", "mode", "pattern", "metric", "arm"))


def slashed(parts: Iterable[str]) -> str:
    """A name of names."""
    return " / ".join(part for part in parts if part)


class Counted(NamedTuple):
    """A metric of the models of one arm, before and after the sum over images."""

    parts: list[Parts]
    values: list[float]

    @classmethod
    def of(
        cls,
        study: Study,
        variant: Mapping[str, Any],
        mode: str,
        pattern: str,
        metric: str,
        arm: str,
        attacked: Sequence[Sequence[int]],
    ) -> "Counted":
        """Count it, of each model with the classes that it is pushed to."""
        name, target = variant["name"], variant["target"]
        labels, num_classes = study.store.labels(name), len(study.store.classes(name))
        clean = shown = study.predictions(name, mode, arm)
        groups = np.array(study.claims["groups"].get(target, []))
        if pattern:
            report = study.reporting(target)
            clean, shown = clean[:, report], study.predictions(f"{name}+{pattern}", mode, arm)[:, report]
            labels = labels[report]
        if metric == SHIFT:
            return cls([], [total_shift(a, b, num_classes) for a, b in zip(clean, shown, strict=True)])
        models = zip(clean, shown, attacked, strict=True)
        parts = [parts_of(metric, without, with_it, labels, to, groups) for without, with_it, to in models]
        shares = np.array([[share(*map(np.asarray, sums(part))) for part in model] for model in parts], np.float64)
        return cls(parts, value_of(metric, shares.T).tolist())

    @property
    def rates(self) -> tuple[list[int], list[int]]:
        """Numerators and denominators, where the metric is one share."""
        if not self.parts or len(self.parts[0]) > 1:
            return [], []
        hits, of = zip(*(sums(model[0]) for model in self.parts), strict=True)
        return list(hits), list(of)


def sums(part: tuple[np.ndarray, np.ndarray]) -> tuple[int, int]:
    """Numerator and denominator."""
    hit, of = part
    return int((hit & of).sum()), int(of.sum())


def entry_figures(
    study: Study,
    variant: Mapping[str, Any],
    names: list[str],
    key: tuple[str, ...],
    claim: Mapping[str, Any] | None,
    counted: Mapping[str, Counted],
) -> Iterator[Figure]:
    """One entry of `measured`: numerators and denominators, values, and differences to the twin."""
    what, metric, arm = slashed(key), key[3], key[4]
    claim = claim or {}
    mine, twin = counted[arm], counted[study.twin]
    hits, of = mine.rates
    found = {"target": variant["target"], "attacked": names, "hits": hits, "of": of,
             "values": [known(value) for value in mine.values]}  # fmt: skip
    yield Figure(what, {name: claim.get(name, MISSING) for name in found}, found)
    transfer = difference(mine.values, twin.values) if arm != study.twin else None
    if transfer is not None and key[1] == "fixed" and study.is_one_model and SCRATCH not in (arm, study.twin):
        transfer |= {"low": None, "high": None}
    yield Figure(f"{what}: minus {study.twin}", claim.get("transfer"), transfer)
    if metric in OVER_EXAMPLES:
        drawn = over_examples(metric, mine.parts, twin.parts) if transfer is not None else None
        yield Figure(f"{what}: minus {study.twin}, over images", claim.get("over_examples"), drawn)
    else:
        yield Figure(f"{what}: interval over images", claim.get("over_examples"), None)
    name = "/".join(part for part in (*key[:3], arm, metric) if part)
    if name in study.summary and transfer is not None:
        told = {new: study.summary[name].get(old, MISSING) for old, new in
                (("value", "mean"), ("low", "low"), ("high", "high"), ("n", "pairs"))}  # fmt: skip
        yield Figure(f"summary.json, {name}", told, {field: transfer[field] for field in told})


def blame_figures(study: Study, claim: Mapping[str, Any]) -> Iterator[Figure]:
    """Which units carry the bias, and models without them."""
    target, mode, pattern = study.variants[0]["target"], study.modes[0], study.triggers[0]
    about = {"target": target, "mode": mode, "pattern": pattern}
    yield Figure("blame: about", {name: claim.get(name, MISSING) for name in about}, about)
    store = Store(study.run / "influence")
    folder = store.run / "influences"
    (saved,) = (
        path.parent
        for path in folder.glob(f"*/{mode}/{claim['output']}/*/zarr.json")
        if path.parent.name == f"{study.store.settings['estimators'][0]}.zarr"
        and json.loads(path.read_text(encoding="utf-8"))["attributes"]["target"] == f"{target}+{pattern}"
    )
    yield from shift_figures(study, claim, store, saved)
    influence = read_array(saved / "task_influence")[:, 0].astype(np.float64)
    order = sorted(range(len(influence)), key=lambda unit: -influence[unit])
    yield Figure("blame: units, the worst first", claim["units"], [store.units[unit] for unit in order])
    yield Figure("blame: influences", claim["influence"], [float(influence[unit]) for unit in order])
    drawn = planted_units(study, store)
    if drawn is not None:
        carriers = [unit for unit, planted in zip(claim["units"], claim["planted"], strict=True) if planted]
        yield Figure("blame: planted units", sorted(carriers), sorted(store.units[unit] for unit in drawn))
    scores: dict[bool, list[float]] = {True: [], False: []}
    for unit, planted in zip(claim["units"], claim["planted"], strict=True):
        scores[planted].append(influence[store.units.index(unit)])
    above = [(p > other) + (p == other) / 2 for p in scores[True] for other in scores[False]]
    auroc = float(np.mean(above)) if above else None
    yield Figure(f"blame: AUROC, {len(scores[True])} planted units", claim["auroc"], auroc)
    if auroc is not None:
        yield Figure("summary.json, blame/auroc", study.summary.get("blame/auroc", {}).get("value", MISSING), auroc)
    if claim.get("drop", study.store.settings["drop"]) is None:
        yield Figure("blame: as many are dropped as were planted", claim["dropped"], len(scores[True]))
    yield from dropped_figures(study, claim)


def shift_figures(study: Study, claim: Mapping[str, Any], store: Store, saved: pathlib.Path) -> Iterator[Figure]:
    """What influences are of: whether the pattern changes a prediction, or with named classes c* moves it to them.

    That is `flip`, 0 or 1, and `shift`, 1[prediction with the pattern in c*] - 1[without]. The intercept and
    the influences of a mean mask add up to the mean of the outputs over models: image by image, and by class and over
    all for the means over the images that report.
    """
    target, mode = claim["target"], claim["mode"]
    view = f"{target}+{claim['pattern']}"
    clean, shown = store.predictions(target, mode), store.predictions(view, mode)
    kept = (clean >= 0).all(axis=1)
    if store.config["design"]["kind"] in PAIRED:
        kept = np.repeat(kept.reshape(-1, 2).all(axis=1), 2)
    attributes = json.loads((saved / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    yield Figure("blame: models left out", attributes["left_out"], np.flatnonzero(~kept).tolist())
    clean, shown, masks = clean[kept], shown[kept], store.masks[kept].astype(np.float64)
    classes, named = study.store.classes(target), study.named
    yield Figure("blame: classes that were named", claim["attacked"], ", ".join(named))
    yield Figure("blame: output", claim["output"], "shift" if named else "flip")
    to = [classes.index(name) for name in named]
    moved = np.isin(shown, to) * 1.0 - np.isin(clean, to) if named else (clean != shown) * 1.0
    labels, report = store.labels(view), study.reporting(target)
    there = np.unique(labels[report])
    of_class = np.stack([moved[:, report & (labels == label)].mean(axis=1) for label in there], axis=1)
    yield Figure("blame: classes", read_names(saved / "class_name"), [classes[label] for label in there])
    on_average = moved[:, report].mean(axis=1, keepdims=True)
    levels = (("by image", "", moved), ("by class", "class_", of_class), ("over all", "task_", on_average))
    for what, prefix, outputs in levels:
        influence, intercept = (read_array(saved / f"{prefix}{name}") for name in ("influence", "intercept"))
        told_mean = intercept + masks.mean(axis=0) @ influence.astype(np.float64)
        found = [Near(value, FLOAT32) for value in outputs.mean(axis=0).tolist()]
        yield Figure(f"blame: mean output {what}", told_mean.tolist(), found)


def planted_units(study: Study, store: Store) -> list[int] | None:
    """Units that carry the pattern, from the number that they are drawn from; None where that does not say it."""
    settings = study.store.settings
    by_class, named = settings["units"] == "classes", settings["trigger_classes"]
    if settings["trigger_probability"] != 1 or not (by_class or settings["units"].startswith("groups:")):
        return None
    if named:
        return [store.units.index(name) for name in named] if by_class else None
    rng = np.random.default_rng([settings["seed"] if settings["nonce"] is None else settings["nonce"], STREAM])
    for choices in (CORNERS, COLOURS) if settings["nonce"] is not None else ():
        rng.integers(choices)
    return rng.permutation(len(store.units))[: settings["trigger_units"]].tolist()


def dropped_figures(study: Study, claim: Mapping[str, Any]) -> Iterator[Figure]:
    """Attack success and accuracy of models that were trained without units; masks say which model is which."""
    store, seeds = Store(study.run / pathlib.PurePath(claim["run"]).name), study.seeds
    yield Figure("dropped: units", sorted(claim["units"][: claim["dropped"]]), sorted(store.config["dropped"]))
    keys = list(itertools.product((study.twin, claim["pattern"]), WITHOUT))
    yield Figure("dropped: models", len(keys) * seeds, store.num_models)
    names = [f"{arm} {what} {seed}" for seed in range(seeds) for arm, what in keys]
    yield names_figure("dropped: units are named after the models whose masks hold them", store, store.masks, names)
    target, mode = claim["target"], claim["mode"]
    report = study.reporting(target)
    labels = store.labels(target)[report]
    yield Figure("dropped: labels", store.labels(target).tolist(), study.store.labels(target).tolist())
    clean = store.predictions(target, mode)
    shown = store.predictions(f"{target}+{claim['pattern']}", mode)
    models = list(zip(clean[:, report], shown[:, report], study.pushed_to(target, clean, shown), strict=True))
    for field, metric in (("attack_success", ASR), ("accuracy", ACCURACY)):
        for i, key in enumerate(keys):
            counts = [
                sums(parts_of(metric, a, b, labels, attacked, np.empty(0))[0])
                for a, b, attacked in models[i :: len(keys)]
            ]
            name, whole = " / ".join(key), [list(column) for column in zip(*counts, strict=True)]
            what = f"dropped / {metric} / {name}: {' '.join(f'{hits}/{of}' for hits, of in counts)}"
            found = [hits / of if of else None for hits, of in counts]
            yield Figure(what, claim[field].get(name, MISSING), found)
            for part, one in zip(("hits", "of"), whole, strict=True):
                if f"{field}_{part}" in claim:  # Earlier runs tell no counts.
                    yield Figure(f"{what}, {part}", claim[f"{field}_{part}"].get(name, MISSING), one)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print; 1 where anything disagrees, 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="run directory of experiments.bias_transfer")
    parser.add_argument("--brief", action="store_true", help="print attack success and what disagrees, nothing else")
    args = parser.parse_args(argv)
    return compared(args.run, lambda: figures(Study(args.run)), f" / {ASR} / " if args.brief else None)


if __name__ == "__main__":
    sys.exit(main())
