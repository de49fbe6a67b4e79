"""What a study of pre-training data must show, and whether it does.

The bars are D0 to D8 of section 6 of the specification of arXiv 2302.13602. They are not to be tuned: where one is
missed, that is the result.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats

import jdt
from experiments.noise_bars import points
from experiments.noise_measures import by_class
from experiments.pretraining_families import clean_of, count_of, family
from experiments.pretraining_measures import Measured, mean_of, rule_of, shots_name, trained
from experiments.pretraining_setup import OWN, SCRATCH, VALIDATION, Config, Study, near_of
from experiments.pretraining_worth import Worth
from experiments.verdicts import Verdict

FEW = 20
"""Shots up to this are few (section 3.3)."""
ABOVE_CHANCE, NEAR_CHANCE = 5.0, 3.0
"""D1 and the control: standard errors."""
BY_CHANCE = 0.01
"""The control: share of studies without any leak that may miss it."""
ORDER_SHOTS, LEAST_SEEDS, MOST_SEEDS, LEFT = (5, 20), 5, 0.8, 0.5
"""D3: where near beats far, of how many seeds at least, in which share of them, and how much of the 20-shot gap may be
left with all data."""
BY_INTERVAL = ("the near source", "D2, the spread", "D6", "SimCLR learns")
"""Beginnings of the names of bars that an interval decides: over test images alone it says nothing of other models."""
WITHIN = 1.5
"""D5: factor of the planted ratio."""


def judge(config: Config, study: Study, measured: Measured, worth: Sequence[Worth]) -> list[Verdict]:
    """Every requirement, those that a study does not ask for with their reason."""
    found = [
        protocol(config, study),
        sound(config, study, measured),
        alignment(config, study, measured),
        *fading(study, measured),
        null(study, measured),
        order(config, study, measured),
        size(config, study, measured),
        *planted(worth),
        labels(study, measured, worth),
        *methods(config, study, measured),
        honesty(measured),
        control(measured),
    ]
    if config.seeds > 1:
        return found
    return [
        dataclasses.replace(one, passed=None, words=f"{one.words}; no interval over seeds, which takes two")
        if one.passed is not None and one.name.startswith(BY_INTERVAL) else one
        for one in found
    ]  # fmt: skip


def words(found: jdt.analyses.Estimate) -> str:
    """A difference in points with its interval, where there is one."""
    if not np.isfinite(found.low):
        return f"{points(found.value)} points (no interval)"
    return f"{points(found.value)} points ({points(found.low)} to {points(found.high)})"


def difference(first: jdt.analyses.Resampled, second: jdt.analyses.Resampled) -> jdt.analyses.Estimate:
    """First minus second, of one source each."""
    return jdt.analyses.estimate(lambda a, b: a[..., 0] - b[..., 0], first, second)


def protocol(config: Config, study: Study) -> Verdict:
    """D0: no image is trained with and tested on, and all numbers of shots are tested on the same images."""
    name = "D0, nothing is trained with what it is tested on"
    wrong, told, counted = [], [], {}
    targets = {target.name: target for target in study.blocks[0].task.targets}
    for target in study.targets:
        whole = targets[target]
        validation = dict(whole.views)[VALIDATION]
        parts = {"training": whole.train, VALIDATION: validation, "test": whole.test}
        for first, second in (("training", VALIDATION), ("training", "test"), (VALIDATION, "test")):
            shared = len(jdt.data.overlap(parts[first].images, parts[second].images))
            counted[f"{target}: {first} and {second}"] = shared
            wrong += [f"{target} has {shared} {first} images among its {second} images"] if shared else []
        for one in study.variants:
            if one.target == target and targets[one.name].test.fingerprint != whole.test.fingerprint:
                wrong.append(f"{one.name} is tested on other images")
        nested = _nested(config, study, whole)
        wrong += [] if nested else [f"draws of {target} are not nested"]
        told.append(
            f"{target}: {len(whole.train):,} to train, {len(validation):,} to choose, {len(whole.test):,} to test"
        )
    is_so = f"wrong: {'; '.join(wrong)}" if wrong else "no image in two of them, equal test images at all shots"
    return Verdict(name, not wrong, f"{'; '.join(told)}; {is_so}", figures=counted)


def _nested(config: Config, study: Study, whole: jdt.pipeline.TargetData) -> bool:
    """Whether the images of fewer shots are among those of more, in every seed and draw."""
    labels, classes = np.asarray(whole.train.labels), len(whole.train.class_names)
    ids = np.arange(config.seeds)
    for draw in range(config.draws):
        before: list[set[int]] = [set() for _ in ids]
        for shots in (k for k in study.shots if k is not None):
            rows = jdt.transfer.drawn_rows(
                labels, classes, shots, seed=study.blocks[0].task.design.seed, randomness_ids=ids, number=draw
            )
            now = [set(row.tolist()) for row in rows]
            if not all(old <= new and len(new) == classes * shots for old, new in zip(before, now, strict=True)):
                return False
            before = now
    return True


def sound(config: Config, study: Study, measured: Measured) -> Verdict:
    """The near source is worth something, so that equal sources cannot pass for sources without a difference."""
    near, rule, method = near_of(config, study.compared), rule_of(study), study.blocks[0].method
    found, low = {}, []
    for target in study.targets:
        cell = measured.cell(method, target, config.at_shots, rule)
        if not cell.has(near, SCRATCH):
            return Verdict("the near source is worth something", None, "models diverged")
        gap = difference(mean_of(cell, near), mean_of(cell, SCRATCH))
        found[target] = gap
        low.append(gap.low)
    say = "; ".join(f"{target}: {words(gap)}" for target, gap in found.items())
    passed = None if not np.isfinite(low).all() else min(low) > 0
    return Verdict(
        "the near source is worth something", passed,
        f"at {shots_name(config.at_shots)}, over models that saw no source: {say}",
        figures={name: gap.value for name, gap in found.items()},
    )  # fmt: skip


def alignment(config: Config, study: Study, measured: Measured) -> Verdict:
    """D1: zero-shot heads beat chance on the near source's own classes, and not with permuted names."""
    name = "D1, zero-shot heads are aligned"
    found = [one for one in measured.zero_shot if one.target == OWN]
    if not found:
        return Verdict(name, None, "no CLIP models with zero-shot heads: --methods ... clip --rules ... zero-shot")
    one, near = found[0], near_of(config, study.compared)
    if near not in one.arms:
        return Verdict(name, None, f"no CLIP models of {near}, whose classes they are: add it to --method-sources")
    row = one.arms.index(near)
    aligned, permuted = float(one.aligned[row].mean()), float(one.permuted[row].mean())
    chance = 1 / one.classes
    error = float(np.sqrt(chance * (1 - chance) / one.examples))
    passed = aligned > chance + ABOVE_CHANCE * error and permuted < chance + NEAR_CHANCE * error
    say = (
        f"{aligned:.1%} on {one.examples:,} test images of {one.classes} classes, chance {chance:.1%} "
        f"(+{ABOVE_CHANCE:g} SE: {chance + ABOVE_CHANCE * error:.1%}); with permuted names {permuted:.1%} "
        f"(+{NEAR_CHANCE:g} SE: {chance + NEAR_CHANCE * error:.1%})"
    )
    told = {"aligned": aligned, "permuted": permuted, "chance": chance, "standard error": error}
    return Verdict(name, passed, say, figures=told)


def fading(study: Study, measured: Measured) -> list[Verdict]:
    """D2: the spread between sources at few shots is larger than with all images, on every target."""
    method, rule, found = study.blocks[0].method, rule_of(study), []
    for target in study.targets:
        name = f"D2, the spread fades on {target}"
        few = [k for k in study.shots if k is not None and k <= FEW]
        cells = [measured.cell(method, target, shots, rule) for shots in (*few, None)]
        if not few or len(study.compared) < 2 or not all(cell.has(*study.compared) for cell in cells):
            found.append(Verdict(name, None, "needs two sources of equal size and few shots, without diverged models"))
            continue
        parts = [mean_of(cell, *study.compared) for cell in cells]

        def gap(*accuracies: np.ndarray) -> np.ndarray:
            spreads = np.stack([jdt.analyses.spread(one) for one in accuracies], axis=-1)
            return jdt.analyses.fade_gap(spreads[..., :-1], spreads[..., -1])

        fall = jdt.analyses.estimate(gap, *parts)
        spreads = [float(jdt.analyses.spread(part.value)) for part in parts]
        said = ", ".join(f"{100 * one:.1f} at {shots_name(k)}" for one, k in zip(spreads, (*few, None), strict=True))
        passed = None if not np.isfinite(fall.low) else fall.low > 0
        say = f"best minus worst of {len(study.compared)} sources {said}; the largest minus the last {words(fall)}"
        told = {shots_name(k): one for one, k in zip(spreads, (*few, None), strict=True)}
        found.append(
            Verdict(name, passed, say, figures={**told, "fall": fall.value, "low": fall.low, "high": fall.high})
        )
    return found


def null(study: Study, measured: Measured) -> Verdict:
    """D2: a source and the same one with other seeds are no further apart than noise is."""
    name = "D2, the same source with other seeds is within the null band"
    if study.twin is None:
        return Verdict(name, None, "no twin")
    method, rule, outside, told, largest = study.blocks[0].method, rule_of(study), [], {}, ""
    for target in study.targets:
        for shots in study.shots:
            cell = measured.cell(method, target, shots, rule)
            if not cell.has(*study.twin):
                return Verdict(name, None, "models diverged")
            band = jdt.analyses.null_band(cell.accuracy(*study.twin))
            place = f"{target}, {shots_name(shots)}"
            told[place] = [band.spread, band.band]
            if not np.isfinite(band.band):
                return Verdict(name, None, "no band, which takes two seeds")
            outside += [place] if band.is_beyond_noise else []
    largest = max(told, key=lambda place: told[place][0] - told[place][1])
    spread, edge = told[largest]
    say = (
        f"{len(outside)} of {len(told)} spreads of {study.twin[1]} are beyond their 95 % band (one in twenty is by "
        f"chance); nearest to it, {largest}: {100 * spread:.1f} of {100 * edge:.1f} points"
    )
    return Verdict(
        name, len(outside) <= max(1, round(0.05 * len(told))) if len(told) > 1 else not outside, say, figures=told
    )


def order(config: Config, study: Study, measured: Measured) -> Verdict:
    """D3: the near source beats the far ones at few shots in most seeds, and the gap closes with all images."""
    name = "D3, near beats far at few shots"
    method, rule, near = study.blocks[0].method, rule_of(study), near_of(config, study.compared)
    if not config.far:
        return Verdict(name, None, "no --far source")
    if config.seeds < LEAST_SEEDS or not set(ORDER_SHOTS) <= set(study.shots):
        return Verdict(name, None, f"takes {LEAST_SEEDS} seeds, and 5 and 20 among the --shots")
    passed, said, told = True, [], {}
    for target in study.targets:
        cells = {k: measured.cell(method, target, k, rule) for k in (*ORDER_SHOTS, None)}
        if not all(cell.has(near, *config.far) for cell in cells.values()):
            return Verdict(name, None, "models diverged")
        for far in config.far:
            gaps = {}
            for k, cell in cells.items():
                values = cell.accuracy(near, far).mean(axis=2)  # [2, seeds]
                gaps[k] = values[0] - values[1]
                if k is not None:
                    wins = float(np.mean(gaps[k] > 0))
                    passed &= wins >= MOST_SEEDS
                    said.append(
                        f"{target}, {shots_name(k)}: over {far} {points(float(gaps[k].mean()))} points, "
                        f"{int(np.sum(gaps[k] > 0))} of {len(gaps[k])} seeds"
                    )
            few, full = float(gaps[ORDER_SHOTS[-1]].mean()), float(gaps[None].mean())
            passed &= full <= LEFT * few
            left = f", {full / few:.0%} of the gap at {shots_name(ORDER_SHOTS[-1])}" if few > 0 else ""
            said.append(f"with all images {points(full)}{left}")
            told |= {f"{target}, {far}, {shots_name(k)}": gap.tolist() for k, gap in gaps.items()}
    return Verdict(name, bool(passed), f"{near} {'; '.join(said)}; bar: {LEFT:.0%}", figures=told)


def size(config: Config, study: Study, measured: Measured) -> Verdict:
    """D4: accuracy does not fall with nested size, and size matters more at few shots than with all images."""
    name = "D4, more images of a source do not harm, and help most at few shots"
    near = near_of(config, study.compared)
    arms = family(study.sources, near)
    if len(arms) < 2:
        return Verdict(name, None, f"{near} has one size: name others with size: or times:")
    if config.seeds < 2:
        return Verdict(name, None, "no standard error, which takes two seeds")
    method, rule, passed, said, told = study.blocks[0].method, rule_of(study), True, [], {}
    for target in study.targets:
        gains = {}
        for shots in (config.at_shots, None):
            cell = measured.cell(method, target, shots, rule)
            if not cell.has(*arms):
                return Verdict(name, None, "models diverged")
            values = cell.accuracy(*arms).mean(axis=2)  # [sizes, seeds]
            means = values.mean(axis=1)
            steps = np.diff(values, axis=0)
            errors = steps.std(axis=1, ddof=1) / np.sqrt(steps.shape[1])
            passed &= bool(np.all(steps.mean(axis=1) >= -errors))
            gains[shots] = float(means[-1] - means[0])
            said.append(
                f"{target}, {shots_name(shots)}: "
                + ", ".join(
                    f"{mean:.1%} of {count_of(study.sources, arm):,}" for mean, arm in zip(means, arms, strict=True)
                )
            )
            told[f"{target}, {shots_name(shots)}"] = values.tolist()
        passed &= gains[config.at_shots] > gains[None]
        said.append(
            f"gain {points(gains[config.at_shots])} points at {shots_name(config.at_shots)}, {points(gains[None])} "
            "with all images"
        )
    return Verdict(name, passed, "; ".join(said), figures=told)


def planted(worth: Sequence[Worth]) -> list[Verdict]:
    """D5: a planted ratio is found within its factor, and what is beyond the largest size is said to be."""
    known = [one for one in worth if one.planted is not None]
    if not known:
        return [
            Verdict("D5, a planted equivalence is found", None, "none is planted: --equivalents FAMILY:SOURCE:RATIO")
        ]
    found = []
    for one in known:
        passed, figures = None, {}
        if one.found is not None and one.planted is not None:
            ratio, is_beyond = one.found.ratio, one.found.size.value == float("inf")
            within = ratio.is_measured and one.planted / WITHIN <= ratio.value <= one.planted * WITHIN
            passed = is_beyond if one.is_planted_beyond else bool(within)
            figures = {"ratio": ratio.text, "planted": one.planted, "beyond": is_beyond}
        more = ", more than there are" if one.is_planted_beyond else f"; bar: within a factor of {WITHIN:g}"
        found.append(Verdict("D5, a planted equivalence is found", passed, one.words + more, figures=figures))
    return found


def labels(study: Study, measured: Measured, worth: Sequence[Worth]) -> Verdict:
    """D6: at equal volume, wrong labels are worse; how many images with wrong labels equal clean ones is told."""
    name = "D6, at equal size wrong labels are worse"
    pairs = [(noisy, clean_of(study.sources, noisy)) for noisy in study.compared]
    pairs = [(noisy, clean) for noisy, clean in pairs if clean is not None]
    if not pairs:
        return Verdict(name, None, "no source of equal size with noise, such as noisy=near|noise:0.4")
    method, rule, passed, said, told = study.blocks[0].method, rule_of(study), True, [], {}
    for target in study.targets:
        for noisy, clean in pairs:
            cell = measured.cell(method, target, None, rule)
            if not cell.has(noisy, clean):
                return Verdict(name, None, "models diverged")
            gap = difference(mean_of(cell, noisy), mean_of(cell, clean))
            if not np.isfinite(gap.high):
                passed = None
            passed = passed and gap.high < 0
            said.append(f"{target}: {noisy} minus {clean} {words(gap)}")
            told[f"{target}, {noisy}"] = gap.value
    noisy = {name for name in study.sources.names if clean_of(study.sources, name) is not None}
    said += [one.words for one in worth if one.family in noisy and one.planted is None]
    return Verdict(name, None if passed is None else bool(passed), f"with all images, {'; '.join(said)}", figures=told)


def methods(config: Config, study: Study, measured: Measured) -> list[Verdict]:
    """D7: the gap between methods under equal transfer, whatever it is; SimCLR's features against their controls."""
    reference = config.reference_method or config.methods[0]
    others = [block for block in study.blocks if block.method not in (reference, "simclr-shuffled")]
    if not others:
        return [Verdict("D7, gap between methods", None, "one method")]
    found, rule = [], rule_of(study)
    for block in others:
        for target in study.targets:
            said, told = [], {}
            for shots in (config.at_shots, None):
                cell, base = (measured.cell(m, target, shots, rule) for m in (block.method, reference))
                for arm in (arm for arm in trained(block.arms) if cell.has(arm) and base.has(arm)):
                    gap = difference(mean_of(cell, arm), mean_of(base, arm))
                    said.append(f"{arm}, {shots_name(shots)}: {words(gap)}")
                    told[f"{arm}, {shots_name(shots)}"] = [gap.value, gap.low, gap.high]
            said = said or ["no source that both learnt, or models diverged"]
            title = f"D7, {block.method} minus {reference} under {rule} on {target}"
            found.append(Verdict(title, None, "; ".join(said), exploratory=True, figures=told))
    return [*found, *_contrastive(config, study, measured)]


def _contrastive(config: Config, study: Study, measured: Measured) -> list[Verdict]:
    """SimCLR's features are better than random ones, and than those of pairs that do not belong together."""
    if "simclr" not in config.methods:
        return []
    near, rule, found = near_of(config, study.compared), rule_of(study), []
    first = study.blocks[0].method
    for target in study.targets:
        name = f"SimCLR learns from its pairs on {target}"
        cell = measured.cell("simclr", target, None, rule)
        others = {"random features": (measured.cell(first, target, None, rule), SCRATCH)}
        if "simclr-shuffled" in config.methods:
            others["shuffled pairs"] = (measured.cell("simclr-shuffled", target, None, rule), near)
        if not cell.has(near) or not all(other.has(arm) for other, arm in others.values()):
            found.append(Verdict(name, None, f"{near} was not learnt by all of them, or models diverged"))
            continue
        own = mean_of(cell, near)
        gaps = {what: difference(own, mean_of(other, arm)) for what, (other, arm) in others.items()}
        passed = all(gap.low > 0 for gap in gaps.values()) if len(gaps) > 1 else None
        say = "; ".join(f"over {what} {words(gap)}" for what, gap in gaps.items())
        say += "" if len(gaps) > 1 else "; the control is --methods simclr-shuffled"
        told = {what: [gap.value, gap.low, gap.high] for what, gap in gaps.items()}
        found.append(Verdict(name, passed, f"{near}, {say}", figures=told))
    return found


def honesty(measured: Measured) -> Verdict:
    """D8: settings are chosen on validation images; what choosing on test images would have claimed is never less."""
    optimism = np.concatenate(
        [cell.selected.optimism for cell in measured.cells if len(cell.modes) > 1] or [np.empty(0)]
    )
    optimism = optimism[np.isfinite(optimism)]
    name = "D8, settings are chosen on validation images"
    if not len(optimism):
        return Verdict(name, None, "no rule has a grid")
    say = (
        f"of {len(optimism):,} choices; choosing on test images would have claimed {points(float(optimism.mean()))} "
        f"points more on average, {points(float(optimism.max()))} at most, never less"
    )
    told = {"choices": len(optimism), "mean": float(optimism.mean()), "most": float(optimism.max())}
    return Verdict(name, bool(optimism.min() >= 0), say, figures=told)


def control(measured: Measured) -> Verdict:
    """Trained on shuffled labels, every source is at chance at every number of shots.

    After a shuffle some label is a class's most frequent one by chance, which a head learns: a lottery over classes,
    the same for all models that share the shuffle. So errors are over classes. The furthest of many means is compared
    with what so many keep within in 99 of 100 studies, however they depend on one another.
    """
    name = "models that learn shuffled labels are at chance"
    if not measured.shuffled:
        return Verdict(name, None, "no control: --control")
    told: dict[str, tuple[float, int]] = {}  # Standard errors from chance, and their degrees of freedom.
    for cell in (cell for cell in measured.shuffled if cell.rule != "zero-shot"):
        for arm, predictions in zip(cell.arms, cell.told, strict=True):
            images = predictions.reshape(-1, predictions.shape[-1])
            found = by_class(cell.labels, images[(images >= 0).all(axis=1)])
            classes = len(found.right)
            error = float(found.right.std(ddof=1) / np.sqrt(classes))
            place = f"{cell.method}, {arm}, {cell.target}, {shots_name(cell.shots)}, {cell.rule}"
            # No class differs from another where every image is told the same: that is chance itself.
            told[place] = ((float(found.right.mean()) - found.chance) / error if error else 0.0, classes - 1)
    told = {place: one for place, one in told.items() if np.isfinite(one[0])}  # Others have no model that is left.
    if not told:
        return Verdict(name, None, "models diverged")
    limits = {place: float(stats.t.isf(BY_CHANCE / 2 / len(told), freedom)) for place, (_, freedom) in told.items()}
    far = sum(abs(value) > NEAR_CHANCE for value, _ in told.values())
    expected = sum(2 * stats.t.sf(NEAR_CHANCE, freedom) for _, freedom in told.values())
    worst = max(told, key=lambda place: abs(told[place][0]) / limits[place])  # Targets have classes of their own.
    furthest, limit = told[worst][0], limits[worst]
    say = (
        f"{far} of {len(told)} means are further than {NEAR_CHANCE:g} SE over classes from chance ({expected:.1f} are "
        f"expected to be); the furthest, {worst}: {furthest:+.1f} SE, which so many means keep within {limit:.1f}"
    )
    figures = {"beyond": far, "means": len(told), "furthest": furthest, "limit": limit}
    return Verdict(name, abs(furthest) <= limit, say, figures=figures)
