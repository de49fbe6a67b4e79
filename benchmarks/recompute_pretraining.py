"""Are the figures of a study of pre-training data those that its stores give?

Computes the figures of a run of experiments.pretraining_data again, and compares them with what `pretraining.json` and
`summary.json` claim: accuracies from stored predictions of every method's run, settings from accuracies on validation
images, optimism, spreads and their fade, null bands, curves of size and what they are worth, gains, gaps, rankings,
zero-shot accuracies, and every bar of section 6 of the specification of arXiv 2302.13602 from these. Nothing here comes
from jdt or from experiments: stores are read as the Zarr v3 that they are, and the formulas are written a second time.

Whole numbers must be equal, the others so to rounding. Ends of intervals rest on draws: they are drawn anew, by another
generator, and must lie where order statistics of so many draws can. A bar that lies within that is taken as claimed.
Of the protocol: variants of a target have the same test and validation images, nested sources have nested masks, models
that saw nothing have empty ones. Taken as they are, since stores hold no images: which examples were drawn, overlaps of
training and test images, accuracies on the source.

Run       python benchmarks/recompute_pretraining.py runs/pretraining         # exit status 1 where anything disagrees
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
import pretraining_formulas as formulas
from pretraining_formulas import STORED, Resampled, decided, interval, is_above, is_below
from scipy import stats
from stored_figures import MISSING, Figure, Near, Store, compared, known, names_figure

SCRATCH, VALIDATION, OWN, PERMUTED = "scratch", "validation", "own", "zero-shot-permuted"
FEW, ABOVE_CHANCE, NEAR_CHANCE, BY_CHANCE = 20, 5.0, 3.0, 0.01
ORDER_SHOTS, LEAST_SEEDS, MOST_SEEDS, LEFT, WITHIN = (5, 20), 5, 0.8, 0.5, 1.5
"""The bars of section 6: D2, D1, the control, D3 and D5."""
BY_INTERVAL = ("the near source", "D2, the spread", "D6", "SimCLR learns")
"""Bars that are not judged with one seed."""
SLIGHT = 1e-6
"""What float32 leaves of a difference of accuracies: below it, it is nothing."""

Place = tuple[str, str, int | None, str]
"""Method, target, shots and rule of a cell."""


class Cell(NamedTuple):
    """Sources beside each other: accuracies `[settings, arms, seeds, draws]`, what was chosen, who is right."""

    modes: list[str]
    arms: list[str]
    validation: np.ndarray
    test: np.ndarray
    chosen: list[int]
    optimism: list[float]
    right: np.ndarray

    def has(self, *arms: str) -> bool:
        """Whether all are there, with a setting."""
        return all(arm in self.arms and self.chosen[self.arms.index(arm)] >= 0 for arm in arms)

    def accuracy(self, *arms: str) -> np.ndarray:
        """float64 `[arms, seeds, draws]` with the chosen settings; NaN where there is none."""
        rows = [self.arms.index(arm) for arm in arms]
        there = [self.test[self.chosen[row], row] if self.chosen[row] >= 0 else self.test[0, row] * np.nan
                 for row in rows]  # fmt: skip
        return np.stack(there)


class Study:
    """A run with what it claims of itself."""

    def __init__(self, run: pathlib.Path) -> None:
        """Open it and the runs of other methods in it."""
        self.run = run
        self.claims, self.summary = (
            json.loads((run / name).read_text(encoding="utf-8")) for name in ("pretraining.json", "summary.json")
        )
        first = Store(run)
        self.stores = {
            method: first if method == first.config["method"] else Store(run / method)
            for method in self.claims["methods"]
        }
        self.first: str = first.config["method"]
        self.config, self.store, self.asked = first.config, first, self.claims["asked"]
        self.variants: list[dict[str, Any]] = self.config["variants"]
        self.targets = list(dict.fromkeys(one["target"] for one in self.variants))
        shots = {one["shots"] for one in self.variants if not one["is_shuffled"]} - {None}
        self.shots: list[int | None] = [*sorted(shots), None]
        self.seeds = first.num_models // len(self.arms(self.first))
        self.sources = formulas.read_sources(self.config["sources"])
        self.twin: list[str] = self.config["twin"]
        self.claimed_cells = {key_of(one): one for one in self.claims["cells"]}
        self.claimed_shuffled = {key_of(one): one for one in self.claims["shuffled"]}

    def arms(self, method: str) -> list[str]:
        """Sources of a method, in the order of the models of a seed."""
        return self.stores[method].config["arms"]

    def rules(self, method: str) -> dict[str, list[str]]:
        """Modes of each rule."""
        found: dict[str, list[str]] = {}
        for mode in self.stores[method].config["transfer"]:
            if mode != PERMUTED:
                found.setdefault(mode.partition("@")[0], []).append(mode)
        return found

    @functools.cached_property
    def rule(self) -> str:
        """What bars are judged under: the first rule that trains a head."""
        every = [one["rule"] for one in settings_of(self)]
        return next((rule for rule in every if rule not in ("zero-shot", "prototype")), every[0])

    @functools.cached_property
    def equal_size(self) -> int:
        """Images of a source whose size was not changed."""
        asked = self.store.settings["source_size"]
        return asked or next(self.claims["sources"][name] for name, one in self.sources.items() if one.factor == 1)

    def count(self, name: str) -> int:
        """Images of a source, halves up."""
        return math.floor(self.sources[name].factor * self.equal_size + 0.5)

    def family(self, name: str) -> list[str]:
        """Sources that differ from one in size alone, ascending."""
        own = self.sources[name]
        kin = [one for one, of in self.sources.items() if (of.root, of.changes) == (own.root, own.changes)]
        return sorted(kin, key=self.count)

    def clean_of(self, name: str) -> str | None:
        """The source that a noisy one is without its noise, as large."""
        own = self.sources[name]
        clean = tuple(change for change in own.changes if change[0] != "noise")
        kin = [one for one, of in self.sources.items() if (of.root, of.changes) == (own.root, clean)]
        return next((one for one in kin if own.is_noisy and self.count(one) == self.count(name)), None)

    @functools.cached_property
    def compared(self) -> list[str]:
        """Sources of the equal size, all of whose images are what they say."""
        return [
            name for name, one in self.sources.items()
            if self.count(name) == self.equal_size and all(change[0] != "useful" for change in one.changes)
        ]  # fmt: skip

    def by_arm(self, method: str, values: np.ndarray) -> np.ndarray:
        """Of all models, as `[arms, seeds, ...]`; models stand seed by seed."""
        number = len(self.arms(method))
        return np.stack([values[arm::number] for arm in range(number)])

    @functools.cache  # noqa: B019  # A study lives as long as the program.
    def told(self, method: str, name: str, mode: str) -> tuple[np.ndarray, np.ndarray]:
        """Who is right, bool `[arms, seeds, examples]`, and accuracies `[arms, seeds]`, NaN where a model diverged."""
        said = self.by_arm(method, self.stores[method].predictions(name, mode))
        right = said == self.stores[method].labels(name)
        return right, np.where((said >= 0).all(axis=-1), right.mean(axis=-1), np.nan)

    @functools.cache  # noqa: B019
    def cell(self, method: str, target: str, shots: int | None, rule: str, *, is_shuffled: bool = False) -> Cell:
        """One method, target, number of shots and rule."""
        names = [
            one["name"] for one in self.variants
            if (one["target"], one["shots"], one["is_shuffled"]) == (target, shots, is_shuffled)
        ]  # fmt: skip
        modes, arms = self.rules(method)[rule], self.arms(method)
        validation, test = (
            np.array([np.stack([self.told(method, name + view, mode)[1] for name in names], axis=-1) for mode in modes])
            for view in (f"+{VALIDATION}", "")
        )
        there = np.isfinite(validation).all(axis=(2, 3)) & np.isfinite(test).all(axis=(2, 3))
        means = [np.where(there, one.mean(axis=(2, 3)), -np.inf) for one in (validation, test)]  # [settings, arms]
        best = np.where(there.any(axis=0), means[0].argmax(axis=0), -1)
        claim = (self.claimed_shuffled if is_shuffled else self.claimed_cells).get((method, target, shots, rule), {})
        chosen = [tied(means[0][:, row], int(own), claim.get("chosen", []), row) for row, own in enumerate(best)]
        optimism = [means[1][:, row].max() - means[1][one, row] if one >= 0 else math.nan
                    for row, one in enumerate(chosen)]  # fmt: skip
        right = np.stack([
            np.stack([self.told(method, name, modes[max(one, 0)])[0][row] for name in names], axis=1)
            for row, one in enumerate(chosen)
        ])  # fmt: skip
        return Cell(modes, arms, validation, test, chosen, optimism, right)

    @functools.cache  # noqa: B019
    def all_means(self, method: str, target: str, shots: int | None, rule: str) -> Resampled:
        """Accuracies of all arms, and their resamples."""
        return formulas.resampled(self.cell(method, target, shots, rule).right)

    def means(self, place: Place, *arms: str) -> Resampled:
        """Of some arms."""
        own = self.cell(*place).arms
        return self.all_means(*place).some([own.index(arm) for arm in arms])

    def gap(self, first: Place, arm: str, second: Place,
            other: str) -> tuple[float, Near | None, Near | None]:  # fmt: skip
        """Accuracy of one source minus that of another, with its interval."""
        return interval(formulas.apart, self.means(first, arm), self.means(second, other))

    def main(self, target: str, shots: int | None) -> Place:
        """Where bars are judged."""
        return self.first, target, shots, self.rule

    @property
    def few_and_full(self) -> list[int | None]:
        """Where sizes and methods are compared."""
        return [self.asked["at_shots"], None]


def tied(means: np.ndarray, own: int, claimed: Sequence[int], row: int) -> int:
    """The best setting; that which is claimed where it is as good but for rounding."""
    told = claimed[row] if row < len(claimed) else own
    is_setting = isinstance(told, int) and 0 <= told < len(means) and own >= 0
    return told if is_setting and means[told] >= means[own] - STORED else own


def key_of(entry: Mapping[str, Any]) -> Place:
    """What an entry of cells is about."""
    return entry["method"], entry["target"], entry["shots"], entry["rule"]


def slashed(key: Sequence[Any]) -> str:
    """The same in a name."""
    return " / ".join("all" if part is None else str(part) for part in key)


def shots_name(shots: int | None) -> str:
    """In words."""
    return "all images" if shots is None else f"{shots} shot{'s' if shots > 1 else ''}"


def nested(values: Any, slack: float = STORED) -> Any:
    """An array as lists of lists; float32 was kept."""
    if np.ndim(values):
        return [nested(row, slack) for row in values]
    return None if np.isnan(values) else Near(float(values), slack)


def settings_of(study: Study) -> list[dict[str, Any]]:
    """Points of all grids, from the names of modes; zero-shot heads are those of CLIP alone."""
    modes: dict[str, None] = {}
    for method in sorted(study.stores, key=lambda one: one != "clip"):  # CLIP has all of them.
        modes |= dict.fromkeys(study.stores[method].config["transfer"])
    return [
        {"rule": mode.partition("@")[0], "mode": mode, "value": float(mode.partition("@")[2]) if "@" in mode else None}
        for mode in modes if mode != PERMUTED
    ]  # fmt: skip


def figures(study: Study) -> Iterator[Figure]:
    """Everything that a run claims, computed again."""
    yield from about_figures(study)
    yield from protocol_figures(study)
    yield from mask_figures(study)
    yield from cell_figures(study)
    yield from zero_shot_figures(study)
    yield from worth_figures(study)
    yield from verdict_figures(study)
    yield from page_figures(study)
    yield from summary_figures(study)


def about_figures(study: Study) -> Iterator[Figure]:
    """What the study is made of, from identities of runs."""
    claims = study.claims
    about = {
        "seeds": study.seeds, "draws": 1 + max(one["draw"] for one in study.variants), "twin": study.twin,
        "methods": {method: study.arms(method) for method in study.stores}, "compared": study.compared,
        "sources": {name: study.count(name) for name in study.sources}, "variants": study.variants,
        "nonce": study.store.settings["nonce"], "settings": settings_of(study),
    }  # fmt: skip
    for name, value in about.items():
        yield Figure(name, claims.get(name, MISSING), value)
    for method, store in study.stores.items():
        yield Figure(f"{method}: method of its run", store.config["method"], method)
        yield Figure(f"{method}: seeds", store.num_models, study.seeds * len(study.arms(method)))
        for what in ("variants", "sources", "twin", "seed", "room"):
            yield Figure(f"{method}: {what} of its run", store.config.get(what), study.config.get(what))
        for mode, about_mode in store.config["modes"].items():
            rule, at, value = mode.partition("@")
            of = about_mode.get("recipe", {}).get("learning_rate") if rule != "LP" else about_mode["inverse_penalty"]
            if at:
                yield Figure(f"{method}: {mode} is what it is called", of, Near(float(value), 1e-6 * float(value)))


def protocol_figures(study: Study) -> Iterator[Figure]:
    """D0, what stores can say of it: the same test and validation images for every variant, shot and method."""
    for method, store in study.stores.items():
        names = [one["name"] + view for one in study.variants for view in ("", f"+{VALIDATION}")]
        names += [OWN] if PERMUTED in store.config["transfer"] else []
        yield Figure(f"{method}: test sets", sorted(store.targets), sorted(names))
        for target, view in itertools.product(study.targets, ("", f"+{VALIDATION}")):
            labels, classes = study.store.labels(target + view), study.store.classes(target)
            own = [one["name"] for one in study.variants if one["target"] == target]
            other = [name for name in own if not np.array_equal(store.labels(name + view), labels)
                     or store.classes(name + view) != classes]  # fmt: skip
            yield Figure(f"{method}: variants of {target}{view} with other labels", other, [])
            outside = int(((labels < 0) | (labels >= len(classes))).sum())
            yield Figure(f"{method}: labels of {target}{view} outside the classes", outside, 0)
    words = next((one["words"] for one in study.claims["verdicts"] if one["name"].startswith("D0")), "")
    for target in study.targets:
        train, *told = formulas.told_in(
            words.partition(f"{target}: ")[2], r"^([\d,]+) to train, ([\d,]+) to choose, ([\d,]+) to test"
        )
        sizes = [len(study.store.labels(target + view)) for view in (f"+{VALIDATION}", "")]
        yield Figure(f"images of {target} to choose and to test", told, sizes)
        held, classes = study.store.settings["validation"] * (train + sizes[0]), len(study.store.classes(target))
        yield Figure(f"images of {target} held out to choose", float(sizes[0]), Near(held, float(classes)))


def mask_figures(study: Study) -> Iterator[Figure]:
    """Who learns what: nothing from scratch, the twin as its source, smaller sources within larger ones."""
    for method, store in study.stores.items():
        arms, masks = study.arms(method), study.by_arm(method, store.masks)  # [arms, seeds, units]
        row = {arm: masks[place] for place, arm in enumerate(arms)}
        if method == study.first:
            yield Figure(f"{method}: units of {SCRATCH}", int(row[SCRATCH].sum()), 0)
        if study.twin and study.twin[0] in arms:
            same = bool(np.array_equal(row[study.twin[0]], row[study.twin[1]]))
            yield Figure(f"{method}: {study.twin[0]} learns what {study.twin[1]} learns", same, True)
        for arm in (arm for arm in arms if arm in study.sources):
            larger = [one for one in study.family(arm) if one in arms and study.count(one) > study.count(arm)]
            lost = [
                one for one in larger if (row[arm] & ~row[one]).any() or not (row[one] & ~row[arm]).any(axis=1).all()
            ]
            yield Figure(f"{method}: larger sources that {arm} is no part of", lost, [])
        room = store.config["room"]
        if room in (1, study.seeds):
            held = masks[:, :room].reshape(-1, masks.shape[-1])
            names = [f"{arm}, seed {seed}" if room > 1 else arm for arm in arms for seed in range(room)]
            yield names_figure(f"{method}: units are named after the sources that hold them", store, held, names)
            later = bool((masks == masks[:, :1]).all()) or room > 1
            yield Figure(f"{method}: seeds without noise learn the same", later, True)


def cell_figures(study: Study) -> Iterator[Figure]:
    """Accuracies, choices and optimism of every cell, and of the control."""
    for what, is_shuffled, claims in (
        ("cells", False, study.claimed_cells),
        ("shuffled", True, study.claimed_shuffled),
    ):
        yield Figure(f"{what}, each once", len(study.claims[what]), len(claims))
        expected = cells_of(study, is_shuffled=is_shuffled)
        yield Figure(f"{what}: which there are", sorted(map(slashed, claims)), sorted(map(slashed, expected)))
        for key in expected:
            cell, claim = study.cell(*key, is_shuffled=is_shuffled), claims.get(key, {})
            found = {
                "modes": cell.modes, "arms": cell.arms, "validation": nested(cell.validation),
                "test": nested(cell.test), "chosen": cell.chosen, "optimism": nested(cell.optimism),
            }  # fmt: skip
            for part, value in found.items():
                yield Figure(f"{what} / {slashed(key)} / {part}", claim.get(part, MISSING), value)
    for method, store in study.stores.items():
        source = nested(study.by_arm(method, store.column("source/accuracy")).astype(np.float64))
        yield Figure(f"source accuracy of {method}", study.claims["source_accuracy"].get(method, MISSING), source)


def cells_of(study: Study, *, is_shuffled: bool) -> list[Place]:
    """All cells."""
    there = {(one["target"], one["shots"]) for one in study.variants if one["is_shuffled"] == is_shuffled}
    return [
        (method, target, shots, rule)
        for method in study.stores for target in study.targets for shots in study.shots for rule in study.rules(method)
        if (target, shots) in there
    ]  # fmt: skip


def zero_shots(study: Study) -> dict[str, dict[str, Any]]:
    """Zero-shot accuracies by target; a model that diverged is never right."""
    found = {}
    for method, store in study.stores.items():
        for name in [OWN, *study.targets] if PERMUTED in store.config["transfer"] else []:
            aligned, permuted = (study.told(method, name, mode)[0].mean(axis=-1) for mode in ("zero-shot", PERMUTED))
            found[name] = {
                "target": name, "arms": study.arms(method), "classes": len(store.classes(name)),
                "examples": len(store.labels(name)), "aligned": aligned, "permuted": permuted,
            }  # fmt: skip
    return found


def zero_shot_figures(study: Study) -> Iterator[Figure]:
    """CLIP's heads of class names, and with names of other classes."""
    claims, found = {one["target"]: one for one in study.claims["zero_shot"]}, zero_shots(study)
    yield Figure("zero-shot: targets", list(claims), list(found))
    for name, one in found.items():
        value = {part: nested(of) if isinstance(of, np.ndarray) else of for part, of in one.items()}
        yield Figure(f"zero-shot / {name}", claims.get(name, MISSING), value)


class Worth(NamedTuple):
    """A size read off a curve, and between which values the ends of its interval are."""

    sizes: list[float]
    curve: np.ndarray
    value: tuple[float, float]
    low: tuple[float, float]
    high: tuple[float, float]
    past: float
    of: int

    def claimed(self, claim: Mapping[str, Any]) -> dict[str, Any]:
        """What `pretraining.json` should say, beside what it does say."""
        edge = self.sizes[0], self.sizes[-1]
        found: dict[str, Any] = {
            name: formulas.size_between(claim.get(name), *between, *edge)
            for name, between in (("size", self.value), ("low", self.low), ("high", self.high))
        }
        of = [one / self.of for one in (*self.value, *edge)]
        found["ratio"] = formulas.size_between(claim.get("ratio"), of[0], of[1], of[2], of[3])
        slack = 5 * math.sqrt(max(self.past * (1 - self.past), 1e-3) / formulas.CLAIMED)
        return found | {
            "reference_size": float(self.of), "sizes": self.sizes, "monotone": nested(self.curve, SLIGHT),
            "not_reached": Near(self.past, slack),
        }  # fmt: skip

    def shown(self, claim: Mapping[str, Any], seeds: int) -> dict[str, Any]:
        """The ratio as `summary.json` has it: the smallest where that is enough, nothing beyond the largest."""
        found: dict[str, Any] = {"n": seeds}
        for name, between in (("value", self.value), ("low", self.low), ("high", self.high)):
            low, high = (max(one, self.sizes[0]) / self.of for one in between)
            told = claim.get(name)
            if math.isinf(high):
                is_right = told is None or told >= low * (1 - 1e-6)
                found[name] = told if is_right and not math.isinf(low) else None
            else:
                found[name] = Near((low + high) / 2, (high - low) / 2 + 1e-6 * high)
        return found


def worth(study: Study, family: str, reference: str, target: str, shots: int | None) -> Worth | None:
    """How many images of a family equal a reference; None where models diverged."""
    arms, place = study.family(family), study.main(target, shots)
    if not study.cell(*place).has(*arms, reference):
        return None
    sizes = [float(study.count(arm)) for arm in arms]
    curve, wanted = study.means(place, *arms), study.means(place, reference)
    between = [float(formulas.needed(sizes, curve.value, wanted.value[0] + by)) for by in (-1e-9, 1e-9)]
    drawn = np.sort(formulas.needed(sizes, curve.drawn, wanted.drawn[:, 0]))
    tail = 0.5 - formulas.LEVEL / 2
    low, high = (formulas.ends(drawn, share) for share in (tail, 1 - tail))
    past = float((drawn == np.inf).mean())
    return Worth(sizes, formulas.rising(curve.value), (between[0], between[1]), low, high, past, study.count(reference))


def asked_worth(study: Study) -> Iterator[tuple[str, str, float | None, str, int | None]]:
    """FAMILY:SOURCE[:RATIO] on every target at few shots and with all images."""
    for text in study.asked["equivalents"]:
        family, reference, *ratio = text.split(":")
        planted = float(ratio[0]) if ratio and ratio[0] else None
        for target, shots in itertools.product(study.targets, study.few_and_full):
            yield family, reference, planted, target, shots


def worth_figures(study: Study) -> Iterator[Figure]:
    """What sources are worth in images of others."""
    asked = list(asked_worth(study))
    yield Figure("equivalences", len(study.claims["equivalences"]), len(asked))
    for claim, (family, reference, planted, target, shots) in zip(study.claims["equivalences"], asked, strict=False):
        found = worth(study, family, reference, target, shots)
        value = {
            "family": family, "reference": reference, "target": target, "shots": shots, "method": study.first,
            "rule": study.rule, "arms": study.family(family), "planted": planted,
            **({} if found is None else found.claimed(claim)),
        }  # fmt: skip
        yield Figure(f"equivalence / {family} for {reference} / {target} / {shots_name(shots)}", claim, value)


def verdict_figures(study: Study) -> Iterator[Figure]:
    """Figures of every bar, and whether it is reached."""
    claims = numbered((one["name"], one) for one in study.claims["verdicts"])
    expected = numbered(
        (name, (None if study.seeds < 2 and name.startswith(BY_INTERVAL) else passed, found))
        for name, passed, found in verdicts(study, claims)
    )
    yield Figure("verdicts", sorted(claims), sorted(expected))
    for name, (passed, found) in expected.items():
        one = claims.get(name, {})
        yield Figure(f"verdict / {name}", one.get("figures", MISSING), found)
        yield Figure(f"verdict / {name}: reached", one.get("passed", MISSING), passed)
        is_open = name.startswith("D7, ") and " minus " in name
        yield Figure(f"verdict / {name}: exploratory", one.get("exploratory", MISSING), is_open)


def numbered(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Values by name, of a name that is there again with a number."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        again = sum(one == name or one.startswith(f"{name} (") for one in found)
        found[f"{name} ({again + 1})" if again else name] = value
    return found


Verdict = tuple[str, bool | None, dict[str, Any]]


def verdicts(study: Study, claims: Mapping[str, Any]) -> Iterator[Verdict]:
    """Name, whether it is reached (None where nothing is asked), and figures."""

    def told(name: str) -> Any:
        return claims.get(name, {}).get("passed")

    name = "D0, nothing is trained with what it is tested on"
    pairs = itertools.combinations(("training", VALIDATION, "test"), 2)
    yield name, True, {f"{target}: {' and '.join(pair)}": 0 for target, pair in itertools.product(study.targets, pairs)}
    yield sound(study, told)
    yield alignment(study)
    for target in study.targets:
        yield fading(study, target, told)
    yield null(study, told)
    yield order(study, told)
    yield size(study, told)
    yield from planted(study)
    yield labels(study, told)
    yield from methods(study, told)
    yield honesty(study)
    yield control(study)


def sound(study: Study, told: Any) -> Verdict:
    """The near source over models that saw nothing."""
    name, near = "the near source is worth something", study.asked["near"]
    places = {target: study.main(target, study.asked["at_shots"]) for target in study.targets}
    if not all(study.cell(*place).has(near, SCRATCH) for place in places.values()):
        return name, None, {}
    gaps = {target: study.gap(place, near, place, SCRATCH) for target, place in places.items()}
    passed = decided(told(name), [is_above(gap[1]) for gap in gaps.values()])
    return name, passed, {target: gap[0] for target, gap in gaps.items()}


def alignment(study: Study) -> Verdict:
    """D1."""
    name, one = "D1, zero-shot heads are aligned", zero_shots(study).get(OWN)
    if one is None:
        return name, None, {}
    if study.asked["near"] not in one["arms"]:
        return name, None, {}
    row = one["arms"].index(study.asked["near"])
    aligned, permuted = (float(one[which][row].mean()) for which in ("aligned", "permuted"))
    chance = 1 / one["classes"]
    error = math.sqrt(chance * (1 - chance) / one["examples"])
    passed = aligned > chance + ABOVE_CHANCE * error and permuted < chance + NEAR_CHANCE * error
    return name, passed, {"aligned": aligned, "permuted": permuted, "chance": chance, "standard error": error}


def fading(study: Study, target: str, told: Any) -> Verdict:
    """D2."""
    name = f"D2, the spread fades on {target}"
    few = [k for k in study.shots if k is not None and k <= FEW]
    places = [study.main(target, k) for k in (*few, None)]
    if not few or len(study.compared) < 2 or not all(study.cell(*place).has(*study.compared) for place in places):
        return name, None, {}
    parts = [study.means(place, *study.compared) for place in places]
    value, low, high = interval(formulas.fallen, *parts)
    found = {shots_name(k): float(formulas.spread(part.value)) for k, part in zip((*few, None), parts, strict=True)}
    passed = decided(told(name), [is_above(low)])
    return name, passed, {**found, "fall": value, "low": low, "high": high}


def null(study: Study, told: Any) -> Verdict:
    """D2, the same source with other seeds."""
    name, found = "D2, the same source with other seeds is within the null band", {}
    if not study.twin:
        return name, None, {}
    outside = unsure = 0
    for target, shots in itertools.product(study.targets, study.shots):
        cell = study.cell(*study.main(target, shots))
        if not cell.has(*study.twin):
            return name, None, {}
        spread, edge = formulas.band(cell.accuracy(*study.twin))
        if not math.isfinite(edge):
            return name, None, {}
        found[f"{target}, {shots_name(shots)}"] = [spread, edge]
        unsure += abs(spread - edge) < SLIGHT
        outside += spread >= edge + SLIGHT
    allowed = max(1, math.floor(0.05 * len(found) + 0.5)) if len(found) > 1 else 0
    is_sure = outside > allowed or outside + unsure <= allowed
    near = {place: [Near(one, SLIGHT) for one in pair] for place, pair in found.items()}
    return name, decided(told(name), [outside <= allowed if is_sure else None]), near


def order(study: Study, told: Any) -> Verdict:
    """D3."""
    name, near, found = "D3, near beats far at few shots", study.asked["near"], {}
    conditions: list[bool | None] = []
    if not study.asked["far"] or study.seeds < LEAST_SEEDS or not set(ORDER_SHOTS) <= set(study.shots):
        return name, None, {}
    places = [study.main(target, k) for target in study.targets for k in (*ORDER_SHOTS, None)]
    if not all(study.cell(*place).has(near, *study.asked["far"]) for place in places):
        return name, None, found
    for target, far in itertools.product(study.targets, study.asked["far"]):
        gaps = {}
        for k in (*ORDER_SHOTS, None):
            pair = study.cell(*study.main(target, k)).accuracy(near, far).mean(axis=2)
            gaps[k] = pair[0] - pair[1]
            found[f"{target}, {far}, {shots_name(k)}"] = nested(gaps[k], SLIGHT)
            if k is not None:
                wins = [float(np.mean(gaps[k] > by)) >= MOST_SEEDS for by in (SLIGHT, -SLIGHT)]
                conditions.append(wins[0] if wins[0] == wins[1] else None)
        over = LEFT * gaps[ORDER_SHOTS[-1]].mean() - gaps[None].mean()
        conditions.append(None if abs(over) < SLIGHT else bool(over > 0))
    return name, decided(told(name), conditions), found


def size(study: Study, told: Any) -> Verdict:
    """D4."""
    name, arms = (
        "D4, more images of a source do not harm, and help most at few shots",
        study.family(study.asked["near"]),
    )
    places = [study.main(target, k) for target in study.targets for k in study.few_and_full]
    if len(arms) < 2 or study.seeds < 2 or not all(study.cell(*place).has(*arms) for place in places):
        return name, None, {}
    found, conditions = {}, []
    for target in study.targets:
        gains = []
        for shots in study.few_and_full:
            values = study.cell(*study.main(target, shots)).accuracy(*arms).mean(axis=2)
            steps = values[1:] - values[:-1]
            error = steps.std(axis=1, ddof=1) / math.sqrt(study.seeds)
            over = steps.mean(axis=1) + error
            conditions += [None if abs(one) < SLIGHT else bool(one > 0) for one in over.tolist()]
            gains.append(float((values[-1] - values[0]).mean()))
            found[f"{target}, {shots_name(shots)}"] = nested(values)
        more = gains[0] - gains[1]
        conditions.append(None if abs(more) < SLIGHT else more > 0)
    return name, decided(told(name), conditions), found


def planted(study: Study) -> Iterator[Verdict]:
    """D5."""
    claims = {(one["family"], one["reference"], one["target"], one["shots"]): one
              for one in study.claims["equivalences"]}  # fmt: skip
    known_ones = [one for one in asked_worth(study) if one[2] is not None]
    if not known_ones:
        yield "D5, a planted equivalence is found", None, {}
    for family, reference, ratio, target, shots in known_ones:
        name = "D5, a planted equivalence is found"
        found = worth(study, family, reference, target, shots)
        if found is None or ratio is None:
            yield name, None, {}
            continue
        claim = claims.get((family, reference, target, shots), {})
        own = formulas.size_of(claim.get("size"), found.sizes[0], found.sizes[-1])
        value = own if found.value[0] * (1 - 1e-6) <= own <= found.value[1] * (1 + 1e-6) else found.value[0]
        is_inside = 0 < value < math.inf and ratio / WITHIN <= value / found.of <= ratio * WITHIN
        passed = value == math.inf if ratio * found.of > found.sizes[-1] else is_inside
        edges = [one / found.of for one in (found.sizes[0], found.sizes[-1])]
        text = {math.inf: formulas.beyond(edges[1], ">"), 0.0: formulas.beyond(edges[0], "<=")}.get(
            value, formulas.beyond(value / found.of, "").strip()
        )
        yield name, passed, {"ratio": text, "planted": ratio, "beyond": value == math.inf}


def labels(study: Study, told: Any) -> Verdict:
    """D6."""
    name, found, conditions = "D6, at equal size wrong labels are worse", {}, []
    pairs = [(noisy, clean) for noisy in study.compared if (clean := study.clean_of(noisy))]
    for target, (noisy, clean) in itertools.product(study.targets, pairs):
        place = study.main(target, None)
        if not study.cell(*place).has(noisy, clean):
            return name, None, {}
        value, _, high = study.gap(place, noisy, place, clean)
        found[f"{target}, {noisy}"] = value
        conditions.append(is_below(high))
    return name, decided(told(name), conditions) if pairs else None, found


def methods(study: Study, told: Any) -> Iterator[Verdict]:
    """D7, and SimCLR against its controls."""
    reference = study.asked["reference"]
    others = [method for method in study.stores if method not in (reference, "simclr-shuffled")]
    if not others:
        yield "D7, gap between methods", None, {}
        return
    for method, target in itertools.product(others, study.targets):
        found = {}
        for shots in study.few_and_full:
            own, base = (method, target, shots, study.rule), (reference, target, shots, study.rule)
            for arm in shared(study, own, base):
                found[f"{arm}, {shots_name(shots)}"] = list(study.gap(own, arm, base, arm))
        yield f"D7, {method} minus {reference} under {study.rule} on {target}", None, found
    for target in study.targets if "simclr" in study.stores else []:
        name, near = f"SimCLR learns from its pairs on {target}", study.asked["near"]
        own = "simclr", target, None, study.rule
        controls = {"random features": (study.main(target, None), SCRATCH)}
        if "simclr-shuffled" in study.stores:
            controls["shuffled pairs"] = ("simclr-shuffled", *own[1:]), near
        if not study.cell(*own).has(near) or not all(study.cell(*place).has(arm) for place, arm in controls.values()):
            yield name, None, {}
            continue
        gaps = {what: study.gap(own, near, place, arm) for what, (place, arm) in controls.items()}
        passed = decided(told(name), [is_above(gap[1]) for gap in gaps.values()]) if len(gaps) > 1 else None
        yield name, passed, {what: list(gap) for what, gap in gaps.items()}


def shared(study: Study, first: Place, second: Place) -> list[str]:
    """Sources that two methods learnt and that have a setting under both."""
    cells = [study.cell(*first), study.cell(*second)]
    return [arm for arm in cells[0].arms if arm != SCRATCH and all(cell.has(arm) for cell in cells)]


def honesty(study: Study) -> Verdict:
    """D8."""
    name = "D8, settings are chosen on validation images"
    cells = [study.cell(*key) for key in cells_of(study, is_shuffled=False)]
    gains = [one for cell in cells if len(cell.modes) > 1 for one in cell.optimism if not math.isnan(one)]
    if not gains:
        return name, None, {}
    mean, most = (Near(float(value), STORED) for value in (np.mean(gains), max(gains)))
    return name, True, {"choices": len(gains), "mean": mean, "most": most}


def control(study: Study) -> Verdict:
    """Models that learn shuffled labels: errors are over classes, of which the shuffle favours some."""
    name, scores = "models that learn shuffled labels are at chance", []
    if not study.claimed_shuffled and not cells_of(study, is_shuffled=True):
        return name, None, {}
    for method, target, shots, rule in cells_of(study, is_shuffled=True):
        if rule == "zero-shot":
            continue
        cell, truth = study.cell(method, target, shots, rule, is_shuffled=True), study.store.labels(target)
        names = [one["name"] for one in study.variants
                 if (one["target"], one["shots"], one["is_shuffled"]) == (target, shots, True)]  # fmt: skip
        for row, chosen in enumerate(cell.chosen):
            said = [study.by_arm(method, study.stores[method].predictions(one, cell.modes[max(chosen, 0)]))[row]
                    for one in names]  # fmt: skip
            table = formulas.confusion(truth, np.concatenate(said))
            if table.any():  # Else all models diverged.
                scores.append((formulas.above_chance(table), len(table) - 1))
    if not scores:
        return name, None, {}
    far = sum(abs(score) > NEAR_CHANCE for score, _ in scores)
    limits = [float(stats.t.isf(BY_CHANCE / 2 / len(scores), freedom)) for _, freedom in scores]
    (furthest, _), limit = max(zip(scores, limits, strict=True), key=lambda pair: abs(pair[0][0]) / pair[1])
    told = {"beyond": far, "means": len(scores), "furthest": furthest, "limit": limit}
    return name, abs(furthest) <= limit, told


Page = Iterator[tuple[tuple[Any, ...], dict[str, Any]]]
"""Entries: what each is about, and its figures."""
INTERVALS = ("value", "low", "high", "n")


def page_figures(study: Study) -> Iterator[Figure]:
    """Figures of the page, with their intervals."""
    parts = {
        "accuracies": (page_accuracies, ("method", "source", "target", "transfer")),
        "spreads": (page_spreads, ("method", "target", "transfer")),
        "gaps": (page_gaps, ("method", "other", "source", "target", "transfer", "shots")),
        "gains": (page_gains, ("method", "source", "target", "transfer", "shots")),
        "stability": (page_stability, ("first", "second")),
        "zero_shot": (page_zero_shot, ("source", "classes_of")),
    }
    for part, (made, names) in parts.items():
        claims = {tuple(entry[name] for name in names): entry for entry in study.claims["page"][part]}
        found = dict(made(study))
        there = [sorted(map(slashed, one)) for one in (claims, found)]
        yield Figure(f"page / {part}: which there are", there[0], there[1])
        yield Figure(f"page / {part}, each once", len(study.claims["page"][part]), len(claims))
        for key, figures_of in found.items():
            for name, value in figures_of.items():
                field, _, at = name.partition(", ")
                claim = claims.get(key, {}).get(field, MISSING)
                if at and isinstance(claim, dict):
                    claim = claim.get(at, MISSING)
                told = {one: claim.get(one) for one in INTERVALS} if isinstance(claim, dict) else claim
                yield Figure(f"page / {part} / {slashed(key)} / {name}", told, value)


def figure(found: tuple[float, Any, Any], n: int) -> dict[str, Any]:
    """As the page and `summary.json` have them, without words."""
    return dict(zip(INTERVALS, (known(found[0]), *found[1:], n), strict=True))


def page_accuracies(study: Study) -> Page:
    """By shots."""
    of: dict[tuple[Any, ...], dict[str, Any]] = {}
    for method, target, shots, rule in cells_of(study, is_shuffled=False):
        place = method, target, shots, rule
        for arm in study.arms(method):
            of.setdefault((method, arm, target, rule), {})[f"accuracy, {shots}"] = accuracy(study, place, arm)
    yield from of.items()


def accuracy(study: Study, place: Place, arm: str) -> dict[str, Any]:
    """Of one source."""
    cell = study.cell(*place)
    if not cell.has(arm):
        return figure((math.nan, None, None), 0)
    found = interval(lambda a: a[..., 0], study.means(place, arm), least=0.0, most=1.0)
    return figure(found, cell.right.shape[1] * cell.right.shape[2])


def page_spreads(study: Study) -> Page:
    """Of every method that learnt two sources of equal size."""
    for method, target in itertools.product(study.stores, study.targets):
        arms = [arm for arm in study.compared if arm in study.arms(method)]
        for rule in study.rules(method):
            places = {k: (method, target, k, rule) for k in study.shots}
            if len(arms) < 2 or rule == "zero-shot" or not all(study.cell(*one).has(*arms) for one in places.values()):
                continue
            found: dict[str, Any] = {}
            parts = {k: study.means(place, *arms) for k, place in places.items()}
            for k, part in parts.items():
                for name in ("spread", "relative", "pairwise"):
                    found[f"{name}, {k}"] = figure(interval(getattr(formulas, name), part, least=0.0), study.seeds)
                values = study.cell(*places[k]).accuracy(*arms)
                bands = [Near(formulas.band(values, level)[1], SLIGHT) for level in (0.5, formulas.LEVEL)]
                if math.isfinite(bands[0].value):
                    found[f"null, {k}"] = figure((0.0, 0.0, bands[1]), study.seeds) | {"value": bands[0]}
                order = sorted(zip(part.value.tolist(), arms, strict=True))
                found |= {f"best, {k}": order[-1][1], f"worst, {k}": order[0][1]}
            few = [part for k, part in parts.items() if k is not None and k <= FEW]
            for name, statistic in (("left", formulas.left), ("faded", formulas.fallen)) if few else ():
                found[name] = figure(interval(statistic, *few, parts[None]), study.seeds)
            yield (method, target, rule), found


def page_gaps(study: Study) -> Page:
    """Methods on the same source."""
    other = study.asked["reference"]
    for place in cells_of(study, is_shuffled=False):
        method, target, shots, rule = place
        if method == other or rule == "zero-shot" or shots not in study.few_and_full:
            continue
        base = other, target, shots, rule
        for arm in (arm for arm in study.arms(method) if arm != SCRATCH):
            if study.cell(*place).has(arm) and study.cell(*base).has(arm):
                gap = figure(study.gap(place, arm, base, arm), study.seeds)
                yield (method, other, arm, target, rule, shots), {"gap": gap}


def page_gains(study: Study) -> Page:
    """Over models that saw no source image."""
    for place in cells_of(study, is_shuffled=False):
        method, target, shots, rule = place
        if rule == "zero-shot" or shots not in study.few_and_full:
            continue
        base = study.first, target, shots, rule
        for arm in (arm for arm in study.arms(method) if arm != SCRATCH):
            if study.cell(*place).has(arm) and study.cell(*base).has(SCRATCH):
                fewer = interval(formulas.fewer_errors, study.means(place, arm), study.means(base, SCRATCH))
                yield (method, arm, target, rule, shots), {
                    "gain": figure(study.gap(place, arm, base, SCRATCH), study.seeds),
                    "error_reduction": figure(fewer, study.seeds),
                }  # fmt: skip


def page_stability(study: Study) -> Page:
    """Whether sources rank alike."""
    pairs = [((target, k), (target, None)) for target in study.targets for k in study.shots if k is not None]
    pairs += [((a, None), (b, None)) for a, b in itertools.combinations(study.targets, 2)]
    for pair in pairs if len(study.compared) > 2 else []:
        places = [study.main(target, k) for target, k in pair]
        if all(study.cell(*place).has(*study.compared) for place in places):
            parts = [study.means(place, *study.compared) for place in places]
            found = interval(formulas.ranked_alike, *parts, least=-1.0, most=1.0)
            first, second = (f"{target}, {shots_name(k)}" for target, k in pair)
            yield (first, second), {"correlation": figure(found, study.seeds), "sources": len(study.compared)}


def page_zero_shot(study: Study) -> Page:
    """Means over seeds with their t intervals."""
    for name, one in zero_shots(study).items():
        for row, arm in enumerate(one["arms"]):
            if name == OWN and arm != study.asked["near"]:
                continue
            found: dict[str, Any] = {"classes": one["classes"], "chance": 1 / one["classes"]}
            for which in ("aligned", "permuted"):
                values = one[which][row]
                mean, reach = float(values.mean()), math.nan
                if len(values) > 1:
                    reach = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
                found[which] = figure((mean, known(mean - reach), known(mean + reach)), len(values))
            yield (arm, f"classes of {study.asked['near']}" if name == OWN else name), found


def summary_figures(study: Study) -> Iterator[Figure]:
    """Key figures: of the first method and rule."""
    expected: dict[str, Any] = {}
    for (method, target, rule), found in page_spreads(study):
        if (method, rule) == (study.first, study.rule):
            for k in study.shots:
                expected[f"spread on {target}, {shots_name(k)}"] = found[f"spread, {k}"]
            if "faded" in found:
                expected[f"fade of the spread on {target}"] = found["faded"]
    for family, reference, _, target, shots in asked_worth(study):
        found = worth(study, family, reference, target, shots)
        name = f"images of {family} for one of {reference}, {target}, {shots_name(shots)}"
        if found is not None and (name in study.summary or math.isfinite(found.value[0])):
            expected[name] = found.shown(study.summary.get(name, {}), study.seeds)
    for target, arm in itertools.product(study.targets, study.compared):
        one = accuracy(study, study.main(target, None), arm)
        if one["value"] is not None:
            expected[f"accuracy of {arm} on {target}, {shots_name(None)}"] = one
    yield Figure("summary.json: figures", sorted(study.summary), sorted(expected))
    for name, value in expected.items():
        claim = study.summary.get(name)
        told = {one: claim.get(one) for one in INTERVALS} if claim else MISSING
        yield Figure(f"summary.json: {name}", told, value)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print; 1 where anything disagrees, 2 where there is nothing to compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="run directory of experiments.pretraining_data")
    parser.add_argument("--brief", action="store_true", help="print verdicts and what disagrees, nothing else")
    args = parser.parse_args(argv)
    return compared(args.run, lambda: figures(Study(args.run)), "verdict / " if args.brief else None)


if __name__ == "__main__":
    sys.exit(main())
