"""Are the figures of a study of noisy pre-training those that its store gives?

Computes the figures of a run of experiments.noisy_pretraining again, and compares them with what `noise.json`,
`suspects.json` and `summary.json` claim: wrong labels from `labels.zarr`, accuracies from stored predictions, singular
value entropy and LSVR from stored singular values, intervals, correlations and every bar of section 6 of the
specification of arXiv 2309.17002 from these. Nothing here comes from jdt or from experiments: stores are read as the
Zarr v3 that they are, and the formulas are written a second time.

Whole numbers must be equal, the others so to rounding. What rests on draws (rates and truths that are permuted) is
drawn anew, by another generator, and must be as near as so many draws let it be. That `labels.zarr` holds what models
were trained on is read from the masks: they divide the pool of versions as its labels do. Taken as they are, since the
store has no predictions behind them: accuracies on the source, the scores of suspects and the labels that they are
likely to have; and of suspects that were dropped at random, how many had a wrong label.

Run       python benchmarks/recompute_noise.py runs/noise         # exit status 1 where anything disagrees
"""

import argparse
import functools
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from stored_figures import (
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

SCRATCH, LINEAR, MLP, PAPER, CODE = "scratch", "linear", "mlp", "nmtune", "nmtune-code"
TERMS = {"consistency": "nmtune-no-consistency", "covariance": "nmtune-no-covariance",
         "dominance": "nmtune-no-dominance"}  # fmt: skip
SPECTRA = {"column": "singular_values", "row": "singular_values_row"}
ROLES = {"ID": False, "OOD": True}
FALLS, RISES, REPAIR, NOT_WORSE, CHANCE_ERRORS, BY_CHANCE, SLIGHT = -0.8, 0.8, 0.005, -0.003, 3.0, 0.1, 0.1
"""The bars of section 6: C3, C4, C6, C8 and C5."""
RELABELLINGS, TRUTHS, ERRORS = 2000, 50, 5.0
"""Draws behind figures that rest on them, and how many standard errors two such figures may be apart."""
STORED = 2e-7
"""What float32 leaves of an accuracy: a few units of its last place."""
RATES = {LINEAR: 1e-2, MLP: 1e-3, PAPER: 1e-3, CODE: 1e-3}
WEIGHTS = {PAPER: (0.01, 0.01, 0.01), CODE: (1.0, 0.04, 0.001)}
"""As published: learning rates, and weights of the terms of NMTune."""
NOISY, ORACLE, RANDOM = "noisy", "true flips dropped", "random dropped"


class Study:
    """A run with what it claims of itself."""

    def __init__(self, run: pathlib.Path) -> None:
        """Open it."""
        self.run, self.store = run, Store(run)
        self.claims, self.summary = (
            json.loads((run / name).read_text(encoding="utf-8")) for name in ("noise.json", "summary.json")
        )
        config = self.store.config
        self.arms: list[str] = config["arms"]
        self.modes: list[str] = config["transfer"]
        self.variants: list[dict[str, Any]] = config["variants"]
        self.rates = sorted(self.store.settings["rates"])
        self.seeds = self.store.num_models // len(self.arms)
        self.kind, _, self.map = self.store.settings["noise"].partition(":")
        self.labels = {name: read_array(run / "labels.zarr" / name)
                       for name in ("true", "given", "is_wrong", "is_drawn", "rate", "seed")}  # fmt: skip
        self.source_classes = read_names(run / "labels.zarr" / "class_name")
        # Who is in a unit; where everyone is, nothing says so.
        self.inside = np.ones(len(self.labels["true"]), bool)
        if (run / "labels.zarr" / "is_inside").exists():
            self.inside = read_array(run / "labels.zarr" / "is_inside")

    def views(self, target: str) -> list[str]:
        """The empty name of the test split, and those of the renderings that are out of distribution."""
        return ["", *self.claims["views"][target]]

    def by_arm(self, values: np.ndarray) -> np.ndarray:
        """Of all models, as float64 `[arms, seeds]`; models stand seed by seed."""
        return np.stack([values[arm :: len(self.arms)] for arm in range(len(self.arms))]).astype(np.float64)

    @functools.cache  # noqa: B019  # A study lives as long as the program.
    def accuracy(self, variant: str, mode: str, view: str) -> np.ndarray:
        """float64 `[arms, seeds]`, counted; NaN where a model diverged."""
        return self.by_arm(accuracies(self.store, seen(variant, view), mode))

    @functools.cache  # noqa: B019
    def spectrum(self, variant: str, mode: str, view: str, center: str) -> Mapping[str, np.ndarray]:
        """SVE and LSVR, float64 `[arms, seeds]`."""
        sigma = self.store.of_target(seen(variant, view), mode, SPECTRA[center])
        found = {"sve": [], "lsvr": []}
        for row in sigma:
            there = bool(np.isfinite(row).all() and row.max() > 0)
            p = row[row > 0] / row.sum() if there else np.array([np.nan])
            found["sve"].append(-float((p * np.log(p)).sum()))
            found["lsvr"].append(-math.log(p.max()) if there else math.nan)
        return {what: self.by_arm(np.array(values)) for what, values in found.items()}

    @property
    def has_ood(self) -> bool:
        """Whether there is a test set out of distribution."""
        return any(len(self.views(one["target"])) > 1 for one in self.variants)

    def sets(self, *, ood: bool, fraction: float = 1.0) -> list[tuple[str, str]]:
        """Variant and view of every test set of one role."""
        return [
            (one["name"], view)
            for one in self.variants
            if one["fraction"] == fraction and not one["is_shuffled"]
            for view in self.views(one["target"])
            if bool(view) == ood
        ]

    def scores(self, mode: str, *, ood: bool, fraction: float = 1.0) -> np.ndarray:
        """float64 `[arms, seeds]`: mean over test sets, each with one weight (section 3.6)."""
        sets = self.sets(ood=ood, fraction=fraction)
        return np.stack([self.accuracy(name, mode, view) for name, view in sets]).mean(axis=0)

    def of_rates(self, mode: str, *, ood: bool, fraction: float = 1.0) -> np.ndarray:
        """The same without models from scratch: float64 `[rates, seeds]`."""
        return self.scores(mode, ood=ood, fraction=fraction)[: len(self.rates)]

    def lsvr(self, center: str) -> np.ndarray:
        """float64 `[rates, seeds]`: LSVR of the frozen features, mean over test sets out of distribution."""
        found = [self.spectrum(name, LINEAR, view, center)["lsvr"] for name, view in self.sets(ood=True)]
        return np.stack(found).mean(axis=0)[: len(self.rates)]

    def gain(self, mode: str, other: str, *, ood: bool) -> dict[str, Any]:
        """What a tuner gains on another one at the largest rate."""
        return difference(*(self.of_rates(one, ood=ood)[-1].tolist() for one in (mode, other)))


def seen(variant: str, view: str) -> str:
    """What the store calls a test set."""
    return f"{variant}+{view}" if view else variant


def accuracies(store: Store, target: str, mode: str) -> np.ndarray:
    """float64 `[models]`, from predictions; NaN where a model diverged."""
    told = store.predictions(target, mode)
    return np.where((told >= 0).all(axis=1), (told == store.labels(target)).mean(axis=1), np.nan)


def nested(values: np.ndarray) -> Any:
    """An array as lists of lists; float32 was kept."""
    if values.ndim:
        return [nested(row) for row in values]
    return None if np.isnan(values) else Near(float(values), STORED)


def loose(found: Mapping[str, Any]) -> dict[str, Any]:
    """An interval of what was kept in float32: ends move as accuracies do, and more the fewer pairs there are."""
    by = 13 * STORED  # Of two pairs t is 12.7.
    return {name: Near(value, by) if isinstance(value, float) else value for name, value in found.items()}


def percent(rate: float) -> str:
    """What an arm is called."""
    return f"{100 * rate:g}%"


def spearman(amounts: np.ndarray, values: np.ndarray) -> float:
    """Pearson's correlation of ranks, of points where a value is there; NaN below three or where nothing changes."""
    there = np.isfinite(values)
    if there.sum() < 3 or np.ptp(values[there]) == 0 or np.ptp(amounts[there]) == 0:
        return math.nan
    return float(np.corrcoef(stats.rankdata(amounts[there]), stats.rankdata(values[there]))[0, 1])


def figures(study: Study) -> Iterator[Figure]:
    """Everything that a run claims, computed again."""
    yield from arms_figures(study)
    yield from label_figures(study)
    yield from measured_figures(study)
    yield from verdict_figures(study)
    yield from choice_figures(study)
    yield from summary_figures(study)
    path = study.run / "suspects.json"
    if path.exists():
        yield from suspects_figures(study, json.loads(path.read_text(encoding="utf-8")))


def arms_figures(study: Study) -> Iterator[Figure]:
    """Which models are those of which rate and seed, from the masks."""
    claims, store = study.claims, study.store
    about = {"noise": store.settings["noise"], "nonce": store.settings["nonce"], "seeds": study.seeds,
             "arms": study.arms, "rates": study.rates, "variants": study.variants}  # fmt: skip
    for name, value in about.items():
        yield Figure(name, claims.get(name, MISSING), value)
    yield Figure("arms are the rates and models from scratch", study.arms, [*map(percent, study.rates), SCRATCH])
    names = [f"{arm}, seed {seed}" for seed in range(study.seeds) for arm in study.arms]
    yield names_figure("units are named after the models whose masks hold them", store, store.masks, names)
    yield Figure("units of models from scratch", int(study.by_arm(store.masks.sum(axis=1))[-1].sum()), 0)
    there = {seen(one["name"], view) for one in study.variants for view in study.views(one["target"])}
    yield Figure("test sets", sorted(there), sorted(store.targets))


def label_figures(study: Study) -> Iterator[Figure]:
    """C0: which labels are wrong, how many, that smaller rates are inside larger ones, and who trained on them."""
    true, given, is_wrong, is_drawn, rate, seed = study.labels.values()
    pairs = list(zip(rate.tolist(), seed.tolist(), strict=True))
    everyone = itertools.product(study.rates, range(study.seeds))
    yield Figure("labels: draws", [list(pair) for pair in sorted(pairs)], [list(pair) for pair in sorted(everyone)])
    outside = (given < 0) | (given >= len(study.source_classes))
    yield Figure("labels: outside the classes", int(outside.sum()), 0)
    yield Figure("labels: marked as wrong though right, or the reverse", int((is_wrong != (given != true)).sum()), 0)
    yield Figure("labels: wrong though not drawn", int((is_wrong & ~is_drawn).sum()), 0)
    for row, (one, draw) in enumerate(pairs):
        what = f"labels at {percent(one)}, seed {draw}"
        drawn = sum(round(one * size) for size in strata(study))
        yield Figure(f"{what}: drawn", int(is_drawn[row].sum()), drawn)
        if study.kind != "uniform":
            yield Figure(f"{what}: wrong", int(is_wrong[row].sum()), drawn)
    for draw in range(study.seeds):
        rows = [pairs.index((one, draw)) for one in study.rates]
        lost = [int((is_drawn[a] & ~(is_drawn[b] & (given[a] == given[b]))).sum())
                for a, b in itertools.pairwise(rows)]  # fmt: skip
        yield Figure(f"labels of seed {draw}: at a rate, and not at the next, or another there", lost, [0] * len(lost))
    # A version of an example is a label that somebody gives it; its pattern is whose it is.
    patterns: set[bytes] = set()
    model_of = {pair: pair[1] * len(study.arms) + study.rates.index(pair[0]) for pair in pairs}
    holds = np.zeros((study.store.num_models, len(true)), bool)
    for label in range(len(study.source_classes)):
        for row, pair in enumerate(pairs):
            holds[model_of[pair]] = (given[row] == label) & study.inside
        patterns |= {column.tobytes() for column in np.unique(holds.T, axis=0) if column.any()}
    trained = {np.ascontiguousarray(column).tobytes() for column in study.store.masks.T.astype(bool)}
    yield Figure("labels: divisions of the pool that no mask has", len(patterns - trained) if all_in(study) else 0, 0)
    yield Figure("labels: masks that divide the pool otherwise", len(trained - patterns), 0)


def all_in(study: Study) -> bool:
    """Whether every example of the source is in a unit."""
    return study.store.settings["units"] in ("classes", "examples")


def strata(study: Study) -> list[int]:
    """Examples of which the rate takes its share exactly."""
    true = study.labels["true"][study.inside]
    if study.kind != "asymmetric":
        return [len(true)]
    mapped = json.loads(pathlib.Path(study.map).read_text(encoding="utf-8"))
    return [int((true == study.source_classes.index(name)).sum()) for name in mapped]


def measured_figures(study: Study) -> Iterator[Figure]:
    """Accuracies and spectra of every variant, tuner and test set."""
    source = study.by_arm(study.store.column("source/accuracy"))
    yield Figure("source accuracy", study.claims["source_accuracy"], nested(source))
    claims = {key_of(one): one["values"] for one in study.claims["accuracies"]}
    yield Figure("accuracies, each once", len(study.claims["accuracies"]), len(claims))
    expected = set()
    pairs = [(variant, mode) for variant in study.variants for mode in study.modes]
    for variant, mode in pairs:
        for view in study.views(variant["target"]):
            key = (variant["name"], mode, view, "")
            expected.add(key)
            values = study.accuracy(variant["name"], mode, view)
            yield Figure(f"accuracy / {slashed(key)}", claims.get(key, MISSING), nested(values))
    yield Figure("accuracies that the store cannot give", [slashed(key) for key in claims if key not in expected], [])
    spectra = {key_of(one): one for one in study.claims["spectra"]}
    yield Figure("spectra, each once", len(study.claims["spectra"]), len(spectra))
    expected = set()
    for variant, mode in pairs:
        if mode not in study.claims["tuners"] or variant["fraction"] != 1 or variant["is_shuffled"]:
            continue
        for view, center in itertools.product(study.views(variant["target"]), SPECTRA):
            key = (variant["name"], mode, view, center)
            expected.add(key)
            for what, values in study.spectrum(*key).items():
                told = spectra.get(key, {}).get(what, MISSING)
                yield Figure(f"{what} / {slashed(key)}", told, [[known(one) for one in row] for row in values])
    yield Figure("spectra that the store cannot give", [slashed(key) for key in spectra if key not in expected], [])


def key_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What an accuracy or a spectrum is about."""
    return entry["variant"], entry["mode"], entry["view"], entry.get("center", "")


def slashed(parts: Sequence[str]) -> str:
    """A name of names."""
    return " / ".join(part for part in parts if part)


def verdict_figures(study: Study) -> Iterator[Figure]:
    """Every bar, by its figures, and whether it is reached."""
    claims = {one["name"]: one for one in study.claims["verdicts"]}
    yield Figure("verdicts, each once", len(study.claims["verdicts"]), len(claims))
    expected = list(verdicts(study, claims))
    yield Figure("verdicts", sorted(claims), sorted(name for name, *_ in expected))
    for name, passed, found in expected:
        one = claims.get(name, {})
        yield Figure(f"verdict / {name}", one.get("figures", MISSING), found)
        yield Figure(f"verdict / {name}: reached", one.get("passed", MISSING), passed)


def verdicts(study: Study, claims: Mapping[str, Any]) -> Iterator[tuple[str, bool | None, dict[str, Any]]]:
    """Name, whether it is reached (None where nothing is asked), and figures."""
    last, rates = percent(study.rates[-1]), np.array(study.rates)
    yield c0(study)
    value, bar = float(np.nanmean(study.by_arm(study.store.column("source/accuracy"))[0])), min(
        3 / len(study.source_classes), 0.9
    )  # fmt: skip
    scores = study.scores(LINEAR, ood=False)
    above = difference(scores[0].tolist(), scores[-1].tolist())
    passed = tested((above["low"] or 0) > 0, above["low"]) if value >= bar else False
    told = {"source accuracy": Near(value, STORED), "bar": bar, "above scratch": loose(above)}
    yield "models without noise are sound", passed, told
    lack = not study.has_ood
    name = "C3, noise harms out of distribution"
    if lack:
        yield name, None, {}
    else:
        values = study.of_rates(LINEAR, ood=True)
        cost, falls = difference(values[0].tolist(), values[-1].tolist()), spearman(rates, mean(values))
        yield (
            name,
            tested((cost["low"] or 0) > 0 and falls <= FALLS, cost["low"], falls),
            {"cost": loose(cost), "spearman": known(falls)},
        )
    name = "C4, noise raises LSVR = -ln(s1 / sum s) out of distribution"
    if lack:
        yield name, None, {}
    else:
        means = {center: mean(study.lsvr(center)) for center in SPECTRA}
        found = {center: {"spearman": known(spearman(rates, one)), "lsvr": [known(value) for value in one]}
                 for center, one in means.items()}  # fmt: skip
        rises = spearman(rates, means["column"])
        yield name, tested(rises >= RISES, rises), found
    values = study.of_rates(LINEAR, ood=False)
    for rate, row in zip(study.rates[1:], values[1:], strict=True):
        if rate <= SLIGHT:
            effect = loose(difference(row.tolist(), values[0].tolist()))
            yield f"C5, {percent(rate)} noise in distribution", None, {"effect": effect}
    for mode in (PAPER, CODE):
        name = f"C6, {mode} repairs at {last}"
        if lack:
            yield name, None, {}
            continue
        gains = {other: study.gain(mode, other, ood=True) for other in (LINEAR, MLP)}
        passed = (
            gains[LINEAR]["mean"] is not None
            and gains[LINEAR]["mean"] >= REPAIR
            and (gains[LINEAR]["low"] or 0) > 0
            and gains[MLP]["mean"] >= NOT_WORSE
        )
        yield name, tested(passed, gains[LINEAR]["low"]), {other: loose(gain) for other, gain in gains.items()}
    yield f"C7, paper form minus code form at {last}", None, by_role(study, PAPER, CODE)
    for term, mode in TERMS.items():
        if mode in study.modes:
            yield f"C6, what the {term} term is worth", None, by_role(study, PAPER, mode)
    yield from shuffled(study)
    if not lack:
        yield from relabelled(study, claims)
    yield from fractions(study)


def tested(passed: bool, *figures: float | None) -> bool | None:
    """Whether a bar is reached; None where a figure that it is about does not exist: one seed, or two rates."""
    return None if any(one is None or math.isnan(one) for one in figures) else bool(passed)


def mean(values: np.ndarray) -> np.ndarray:
    """Over seeds: `[rates, seeds]` -> `[rates]`, of models that did not diverge."""
    return np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else np.nan for row in values])


def by_role(study: Study, mode: str, other: str) -> dict[str, Any]:
    """What a tuner gains on another one in and out of distribution."""
    return {role: loose(study.gain(mode, other, ood=ood)) for role, ood in ROLES.items() if study.has_ood or not ood}


def c0(study: Study) -> tuple[str, bool, dict[str, Any]]:
    """Counts of wrong labels."""
    rates, seeds, wrong = study.labels["rate"].tolist(), study.labels["seed"].tolist(), study.labels["is_wrong"]
    counts = wrong.sum(axis=1).tolist()
    total, classes = int(study.inside.sum()), len(study.source_classes)
    if total < len(study.inside):
        classes = len(set(study.labels["true"][study.inside].tolist()))
    good = []
    for rate, count in zip(rates, counts, strict=True):
        if study.kind == "uniform":
            # As many are drawn as the rate says, and one in C of them keeps its label: binomial.
            drawn, right = round(rate * total), 1 / classes
            spread = math.sqrt(drawn * right * (1 - right))
            good.append(abs(count - drawn * (1 - right)) <= max(3 * spread, 0.5))
        else:
            good.append(count == sum(round(rate * size) for size in strata(study)))
    told = {f"{percent(rate)}, seed {seed}": int(count)
            for rate, seed, count in zip(rates, seeds, counts, strict=True)}  # fmt: skip
    return f"C0, {study.kind} noise has its rate", all(good), told


def shuffled(study: Study) -> Iterator[tuple[str, bool | None, dict[str, Any]]]:
    """C8: nothing is learnt from shuffled labels."""
    for variant in study.variants:
        for mode in (LINEAR, MLP, PAPER):
            if not variant["is_shuffled"]:
                continue
            labels = study.store.labels(variant["name"])
            told = study.store.predictions(variant["name"], mode)
            told = told[(told >= 0).all(axis=1)]  # Without models that diverged.
            present, count = np.unique(labels, return_counts=True)
            chance = sum(
                float((told == one).mean()) * int(n) / len(labels) for one, n in zip(present, count, strict=True)
            )
            accuracy = float(np.nanmean(study.accuracy(variant["name"], mode, "")))
            right = (told == labels).mean(axis=0)
            classes = np.array([right[labels == label].mean() for label in present])
            over_classes = float(classes.std(ddof=1)) / math.sqrt(len(classes))
            error = max(over_classes, math.sqrt(chance * (1 - chance) / len(labels)))
            away = (accuracy - chance) / error
            told = {"accuracy": Near(accuracy, STORED), "chance": chance, "standard error": error,
                    "away": Near(away, STORED / error)}  # fmt: skip
            passed = abs(away) <= CHANCE_ERRORS if math.isfinite(away) else None
            yield f"C8, {mode} with labels of {variant['target']} shuffled", passed, told


def relabelled(study: Study, claims: Mapping[str, Any]) -> Iterator[tuple[str, bool | None, dict[str, Any]]]:
    """C8: whether rates that are given to models at random pass; drawn anew, so that the first draw is as claimed."""
    accuracy, lsvr = study.of_rates(LINEAR, ood=True), study.lsvr("column")
    rates, rng = np.array(study.rates), np.random.default_rng(20240116)
    cost = difference(accuracy[0].tolist(), accuracy[-1].tolist())["low"]
    needed = {"C3": (cost, spearman(rates, mean(accuracy))), "C4": (spearman(rates, mean(lsvr)),)}
    passes = {"C3": 0, "C4": 0}
    for _ in range(RELABELLINGS):
        rows = rng.permuted(np.tile(np.arange(len(rates))[:, None], (1, study.seeds)), axis=0)
        now, spectra = (np.take_along_axis(values, rows, axis=0) for values in (accuracy, lsvr))
        low = difference(now[0].tolist(), now[-1].tolist())["low"] or 0
        passes["C3"] += low > 0 and spearman(rates, mean(now)) <= FALLS
        passes["C4"] += spearman(rates, mean(spectra)) >= RISES
    for name, count in passes.items():
        full = f"C8, {name} with rates given to models at random"
        share = count / RELABELLINGS
        told = claims.get(full, {}).get("figures", {})
        first, claimed = told.get("the first draw passes", MISSING), told.get("draws that pass", math.nan)
        error = math.sqrt(2 * max(share * (1 - share), 1 / RELABELLINGS) / RELABELLINGS)
        found = {"the first draw passes": bool(first), "draws that pass": Near(share, ERRORS * error)}
        yield full, tested(first is False and claimed <= BY_CHANCE, *needed[name]), found


def fractions(study: Study) -> Iterator[tuple[str, bool | None, dict[str, Any]]]:
    """C9: more target images are not worse, beyond noise."""
    shares = sorted({one["fraction"] for one in study.variants if not one["is_shuffled"]})
    if len(shares) < 2:
        return
    for mode in (LINEAR, MLP, PAPER):
        curves = [study.of_rates(mode, ood=False, fraction=share) for share in shares]
        falls, tops = 0, []
        for row, (low, high) in itertools.product((0, -1), itertools.pairwise(curves)):
            top = difference(high[row].tolist(), low[row].tolist())["high"]
            tops.append(top)
            falls += top is not None and top < 0
        ends = {
            end: [Near(float(mean(curve)[row]), STORED) for curve in curves]
            for end, row in (("least", 0), ("most", -1))
        }
        yield f"C9, {mode} and more target images", tested(not falls, *tops), {"shares": shares, **ends, "falls": falls}


def choice_figures(study: Study) -> Iterator[Figure]:
    """Settings of the tuners: accuracies on held-out images, the best of them, and what it makes of the tuners."""
    tried, asked = study.claims["tried"], study.store.settings["tuning"]
    taken: dict[str, tuple[float, float]] = dict.fromkeys(RATES, (1.0, 1.0))
    if study.store.settings["selection_seeds"]:
        folder = study.run / "selection"
        saved = json.loads((folder / "selection.json").read_text(encoding="utf-8"))
        yield Figure("settings: noise.json has what selection.json has", tried, saved)
        store = Store(folder)
        best: dict[str, Mapping[str, Any]] = {}
        for one in tried:
            mode = f"{one['tuner']}-lr{one['rate']:g}-w{one['weight']:g}"
            values = [accuracies(store, target, mode) for target in store.targets]
            found = float(np.mean(np.stack(values)))  # NaN where a model diverged: such settings are out.
            yield Figure(f"settings: accuracy of {mode}", one["accuracy"], Near(found, STORED))
            if one["accuracy"] is not None:
                first = best.setdefault(one["tuner"], one)
                best[one["tuner"]] = one if one["accuracy"] > first["accuracy"] else first
        chosen = {one["tuner"]: [one["rate"], one["weight"]] for one in tried if one["chosen"]}
        yield Figure("settings: one is chosen for each tuner", sum(one["chosen"] for one in tried), len(best))
        yield Figure("settings: the best of each tuner", chosen,
                     {name: [one["rate"], one["weight"]] for name, one in best.items()})  # fmt: skip
        taken = {name: (one["rate"], one["weight"]) for name, one in best.items()}
    told = study.claims["tuners"]
    for name, (rate, weight) in taken.items():
        of_rate = rate * (asked["learning_rate"] or RATES[name])
        yield Figure(f"settings: learning rate of {name}", told[name]["learning_rate"] or RATES[name], of_rate)
        if name in WEIGHTS:
            pairs = zip(TERMS, WEIGHTS[name], strict=True)
            weights = {term: weight * (one if asked[term] is None else asked[term]) for term, one in pairs}
            used = {term: weights[term] if told[name][term] is None else told[name][term] for term in TERMS}
            yield Figure(f"settings: weights of {name}", used, weights)
            for term, mode in TERMS.items() if name == PAPER else ():
                if mode in told:
                    yield Figure(f"settings: {term} of {mode}", told[mode][term], 0.0)


def summary_figures(study: Study) -> Iterator[Figure]:
    """Key figures of `summary.json`: what the largest rate costs, and what NMTune gives back."""
    last = percent(study.rates[-1])
    for role, ood in ROLES.items():
        if ood and not study.has_ood:
            continue
        rows = study.of_rates(LINEAR, ood=ood)
        effect = difference(rows[-1].tolist(), rows[0].tolist())
        yield summary_figure(study, f"{role}/{LINEAR}/effect of {last}", effect)
        for mode, other in itertools.product((PAPER, CODE), (LINEAR, MLP)):
            yield summary_figure(study, f"{role}/{mode} minus {other} at {last}", study.gain(mode, other, ood=ood))


def summary_figure(study: Study, name: str, found: Mapping[str, Any]) -> Figure:
    """One of them."""
    fields = {"value": "mean", "low": "low", "high": "high", "n": "pairs"}
    told = {new: study.summary.get(name, {}).get(new, MISSING) for new in fields}
    return Figure(f"summary.json, {name}", told, loose({new: found[old] for new, old in fields.items()}))


def suspects_figures(study: Study, claims: Mapping[str, Any]) -> Iterator[Figure]:
    """How well suspects were found, and what it is worth to drop them or to correct their labels."""
    for what in ("examples", "units"):
        if claims[what] is not None:
            yield from found_figures(study, what, claims[what])
    if "repair" in claims:
        yield from repair_figures(study, claims["repair"], claims["examples"])


def found_figures(study: Study, what: str, claim: Mapping[str, Any]) -> Iterator[Figure]:
    """Rankings of examples or of units, against what was planted."""
    true, given = study.labels["true"], np.array(claim["given"])
    wrong, settings = given != true, study.store.settings
    store = Store(study.run / claim["run"])
    yield Figure(f"suspects / {what}: models", claim["models"] + len(claim["left_out"]), store.num_models)
    if what == "examples":
        planted = wrong
        if all_in(study) and study.kind == "flip_to_other":
            count = round(settings["suspect_rate"] * len(true))
            yield Figure(f"suspects / {what}: wrong labels", int(wrong.sum()), count)
    elif settings["units"] == "classes":
        planted = np.bincount(true, wrong, len(study.source_classes)) > 0
        yield Figure(f"suspects / {what}: names", claim["names"], study.source_classes)
        yield Figure(f"suspects / {what}: planted", len(claim["planted"]), settings["noisy_units"])
    else:
        planted = np.zeros(len(claim["names"]), bool)
        planted[claim["planted"]] = True
    yield Figure(f"suspects / {what}: who is planted", claim["planted"], np.flatnonzero(planted).tolist())
    if all_in(study):
        yield Figure(f"suspects / {what}: share of wrong labels", claim["noise_rate"]["true"], float(wrong.mean()))
    for name, ranking in claim["rankings"].items():
        scores = np.array([math.nan if one is None else one for one in ranking["scores"]], np.float64)
        found, precision, spread = detection(scores, planted)
        yield Figure(f"suspects / {what} / {name}: AUROC", ranking["auroc"], found)
        yield Figure(f"suspects / {what} / {name}: precision", ranking["precision"], precision)
        if spread is not None:
            yield Figure(f"suspects / {what} / {name}: AUROC with permuted truth", ranking["control"]["value"],
                         Near(0.5, ERRORS * spread / math.sqrt(TRUTHS)))  # fmt: skip
        key = f"suspects/{what}/{name}/auroc"
        if key in study.summary:
            told = {end: study.summary[key].get(end, MISSING) for end in ("value", "low", "high")}
            yield Figure(f"summary.json, {key}", told, {end: found[end] for end in told})


def detection(scores: np.ndarray, planted: np.ndarray) -> tuple[dict[str, Any], float | None, float | None]:
    """Area under the ROC curve with DeLong's interval; precision among as many as are planted; spread by chance."""
    there = np.isfinite(scores)
    ours, others = scores[there & planted], scores[there & ~planted]
    m, n = len(ours), len(others)
    found: dict[str, Any] = {"value": None, "low": None, "high": None, "positives": m, "negatives": n,
                             "left_out": int((~there).sum())}  # fmt: skip
    if not m:
        return found, None, None
    order = np.sort(scores[there])[::-1]
    above, at = scores[there] > order[m - 1], scores[there] == order[m - 1]
    who = planted[there]
    precision = float((who[above].sum() + (m - above.sum()) * who[at].mean()) / m)
    if not n:
        return found, precision, None
    # How often each one wins against the other kind, ties half.
    rights, wrongs = np.sort(others), np.sort(ours)
    wins = (np.searchsorted(rights, ours, "left") + np.searchsorted(rights, ours, "right")) / (2 * n)
    beaten = 1 - (np.searchsorted(wrongs, others, "left") + np.searchsorted(wrongs, others, "right")) / (2 * m)
    value = float(wins.mean())
    found["value"] = value
    if value in (0.0, 1.0):
        bound = 0.025 ** (1 / min(m, n))
        found |= {"low": bound, "high": 1.0} if value else {"low": 0.0, "high": 1 - bound}
    elif min(m, n) > 1:
        reach = 1.959963984540054 * math.sqrt(wins.var(ddof=1) / m + beaten.var(ddof=1) / n)
        found |= {"low": max(0.0, value - reach), "high": min(1.0, value + reach)}
    return found, precision, math.sqrt((m + n + 1) / (12 * m * n))


def repair_figures(study: Study, claim: Mapping[str, Any], examples: Mapping[str, Any]) -> Iterator[Figure]:
    """Models without the suspects: which they are, accuracies, wrong labels that are left, and what they gain."""
    store, arms = Store(study.run / pathlib.PurePath(claim["run"]).name), list(claim["accuracy"])
    names = [f"{arm} {i}" for i, arm in enumerate(arms * (store.num_models // len(arms)))]
    yield names_figure("repair: units are named after the models whose masks hold them", store, store.masks, names)
    if study.store.settings["drop"] is None:
        yield Figure("repair: as many are dropped as were picked", claim["dropped"], len(examples["picked"]))
    yield from left_figures(study, claim, examples)
    columns = {
        "accuracy": store.column("source/accuracy").astype(np.float64),
        "transfer": accuracies(store, claim["target"], claim["mode"]),
    }
    gains = {"accuracy": "gain", "transfer": "transfer_gain"}
    for field, values in columns.items():
        of = {arm: values[i :: len(arms)] for i, arm in enumerate(arms)}
        for arm, row in of.items():
            yield Figure(f"repair / {field} / {arm}", claim[field].get(arm, MISSING), nested(row))
            gain = difference(row.tolist(), of[NOISY].tolist())
            yield Figure(f"repair / {gains[field]} / {arm}", claim[gains[field]].get(arm, MISSING), loose(gain))
            if field == "accuracy" and arm != NOISY:
                yield summary_figure(study, f"suspects/{arm}/gain", gain)


def left_figures(study: Study, claim: Mapping[str, Any], examples: Mapping[str, Any]) -> Iterator[Figure]:
    """Wrong labels that are left in each arm."""
    true, given, likely = study.labels["true"], np.array(examples["given"]), np.array(examples["likely"])
    wrong = given != true
    left = {NOISY: int(wrong.sum()), ORACLE: 0}
    for name, ranking in examples["rankings"].items():
        scores = np.array([-math.inf if one is None else one for one in ranking["scores"]], np.float64)
        taken = np.zeros(len(scores), bool)
        taken[np.argsort(-scores, kind="stable")[: claim["dropped"]]] = True
        taken &= np.isfinite(scores)
        left[f"dropped by {name}"] = int((wrong & ~taken).sum())
        left[f"relabelled by {name}"] = int((np.where(taken & (likely >= 0), likely, given) != true).sum())
    for arm, count in claim["wrong"].items():
        if arm != RANDOM:
            yield Figure(f"repair / wrong labels / {arm}", count, left.get(arm, MISSING))
    at_random = claim["wrong"].get(RANDOM, 0)
    yield Figure(f"repair / wrong labels / {RANDOM}: more than all", max(0, at_random - left[NOISY]), 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print; 1 where anything disagrees, 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="run directory of experiments.noisy_pretraining")
    parser.add_argument("--brief", action="store_true", help="print verdicts and what disagrees, nothing else")
    args = parser.parse_args(argv)
    return compared(args.run, lambda: figures(Study(args.run)), "verdict / " if args.brief else None)


if __name__ == "__main__":
    sys.exit(main())
