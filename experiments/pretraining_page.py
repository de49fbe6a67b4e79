"""What the page shows of a study of pre-training data: figures with intervals, from what was measured."""

from collections.abc import Callable, Sequence

import numpy as np

import jdt
from experiments.pretraining_bars import difference
from experiments.pretraining_families import count_of, family, text_of
from experiments.pretraining_measures import Cell, Measured, mean_of, rule_of, shots_name, trained
from experiments.pretraining_setup import OWN, SCRATCH, Config, Study, near_of
from experiments.pretraining_worth import Worth
from experiments.verdicts import Verdict

HEADLINES = ("D2", "D3")
"""Bars that the head of the page says."""


def figure(found: jdt.analyses.Estimate, unit: str, n: int, text: str) -> jdt.report.Figure:
    """An estimate as the page has it."""
    ends = (None, None) if np.isnan(found.low) else (found.low, found.high)
    return jdt.report.Figure(found.value, *ends, n, unit, text)


def accuracy_of(cell: Cell, arm: str) -> jdt.report.Figure:
    """Accuracy of one source with its interval; NaN where every setting diverged."""
    text = f"accuracy of {arm} ({cell.method}) on {cell.target}, {shots_name(cell.shots)}, {cell.rule}"
    if not cell.has(arm):
        return jdt.report.Figure(float("nan"), None, None, 0, jdt.report.SHARE, text)
    found = jdt.analyses.estimate(lambda a: a[..., 0], mean_of(cell, arm), least=0.0, most=1.0)
    return figure(found, jdt.report.SHARE, cell.correct.shape[1] * cell.correct.shape[2], text)


def gap_of(first: Cell, arm: str, second: Cell, other: str, text: str) -> jdt.report.Figure:
    """Accuracy of one source minus that of another."""
    found = difference(mean_of(first, arm), mean_of(second, other))
    return figure(found, jdt.report.DIFFERENCE, first.correct.shape[1], text)


def bars(verdicts: Sequence[Verdict]) -> tuple[jdt.report.Requirement, ...]:
    """Requirements as the page has them."""
    found = []
    for one in verdicts:
        name, _, asked = one.name.partition(", ") if one.name.startswith("D") else ("control", "", one.name)
        verdict = "exploratory" if one.exploratory else {True: "reached", False: "missed", None: "not run"}[one.passed]
        headline = name in HEADLINES and not one.exploratory and one.passed is not None
        found.append(jdt.report.Requirement(name, asked, one.words, verdict, headline=headline))
    return tuple(found)


def sources(study: Study) -> tuple[jdt.report.PretrainingSource, ...]:
    """What each source is."""
    names = dict.fromkeys(arm for block in study.blocks for arm in block.arms)
    found = []
    for name in names:
        if name == SCRATCH:
            found.append(jdt.report.PretrainingSource(name, "no source image", 0))
        elif study.twin and name == study.twin[0]:
            of = study.twin[1]
            found.append(jdt.report.PretrainingSource(name, f"{of} with other seeds", count_of(study.sources, of)))
        else:
            found.append(
                jdt.report.PretrainingSource(name, text_of(study.sources, name), count_of(study.sources, name))
            )
    return tuple(found)


def accuracies(measured: Measured) -> tuple[jdt.report.PretrainingAccuracy, ...]:
    """The table: every source, method, target and rule, at every number of shots."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in measured.cells:
        groups.setdefault((cell.method, cell.target, cell.rule), []).append(cell)
    return tuple(
        jdt.report.PretrainingAccuracy(
            method, arm, target, rule, {cell.shots: accuracy_of(cell, arm) for cell in cells if arm in cell.arms}
        )
        for (method, target, rule), cells in groups.items()
        for arm in cells[0].arms
    )


def spreads(study: Study, measured: Measured) -> tuple[jdt.report.PretrainingSpread, ...]:
    """How far sources of equal size are apart, for every method that learnt two or more of them, target and rule."""
    found = []
    for block in study.blocks:
        arms = [arm for arm in study.compared if arm in block.arms]
        rules = dict.fromkeys(cell.rule for cell in measured.cells if cell.method == block.method)
        for target in study.targets if len(arms) > 1 else ():
            for rule in rules:
                cells = {k: measured.cell(block.method, target, k, rule) for k in study.shots}
                if rule != "zero-shot" and all(cell.has(*arms) for cell in cells.values()):
                    found.append(_spread(block.method, target, rule, cells, arms))
    return tuple(found)


def _spread(
    method: str, target: str, rule: str, cells: dict[int | None, Cell], arms: Sequence[str]
) -> jdt.report.PretrainingSpread:
    parts = {k: mean_of(cell, *arms) for k, cell in cells.items()}
    seeds = next(iter(cells.values())).correct.shape[1]

    def figures(statistic: Callable[[np.ndarray], np.ndarray], unit: str, what: str) -> dict:
        return {
            k: figure(jdt.analyses.estimate(statistic, part, least=0.0), unit, seeds, f"{what}, {shots_name(k)}")
            for k, part in parts.items()
        }

    def spreads(*values: np.ndarray) -> np.ndarray:
        return np.stack([jdt.analyses.spread(one) for one in values], axis=-1)

    few = [part for k, part in parts.items() if k is not None and k <= 20]
    left = faded = None
    if few:
        every = (*few, parts[None])
        left = figure(
            jdt.analyses.estimate(lambda *v: jdt.analyses.fade(spreads(*v)[..., :-1], spreads(*v)[..., -1]), *every),
            "", seeds, "spread with all images over the largest at few shots",
        )  # fmt: skip
        faded = figure(
            jdt.analyses.estimate(
                lambda *v: jdt.analyses.fade_gap(spreads(*v)[..., :-1], spreads(*v)[..., -1]), *every
            ),
            jdt.report.DIFFERENCE, seeds, "largest spread at few shots minus that with all images",
        )  # fmt: skip
    null = {}
    for k, cell in cells.items():
        band = jdt.analyses.null_band(cell.accuracy(*arms))
        if np.isfinite(band.band):
            null[k] = jdt.report.Figure(
                jdt.analyses.null_band(cell.accuracy(*arms), level=0.5).band,
                0.0,
                band.band,
                seeds,
                jdt.report.DIFFERENCE,
                "spread of equal sources: half stay below the value, 95 % within",
            )
    ranked = {k: sorted(zip(part.value, arms, strict=True)) for k, part in parts.items()}
    return jdt.report.PretrainingSpread(
        target, method, rule,
        spread=figures(jdt.analyses.spread, jdt.report.DIFFERENCE, "best minus worst source"),
        relative=figures(jdt.analyses.relative_spread, jdt.report.SHARE, "the same over the best"),
        pairwise=figures(jdt.analyses.pairwise_difference, jdt.report.DIFFERENCE, "mean difference of two sources"),
        null=null,
        best={k: pairs[-1][1] for k, pairs in ranked.items()},
        worst={k: pairs[0][1] for k, pairs in ranked.items()},
        left=left, faded=faded,
    )  # fmt: skip


def sizes(
    config: Config, study: Study, measured: Measured, worth: Sequence[Worth]
) -> tuple[jdt.report.PretrainingSize, ...]:
    """Accuracy against the size of a family, with what other sources are worth in its images."""
    panels: dict[tuple[str, str, int | None], list[Worth]] = {}
    for one in worth:
        if one.found is not None:
            panels.setdefault((one.family, one.target, one.shots), []).append(one)
    method, rule, near = study.blocks[0].method, rule_of(study), near_of(config, study.compared)
    found = []
    for target in study.targets if len(family(study.sources, near)) > 1 else ():
        for shots in (config.at_shots, None):
            panels.setdefault((near, target, shots), [])
    for (name, target, shots), ones in panels.items():
        arms, cell = family(study.sources, name), measured.cell(method, target, shots, rule)
        planted = sorted({one.planted for one in ones if one.planted is not None})
        note = text_of(study.sources, name) + (
            f"; planted: {planted[0]:g} of its images are worth one" if planted else ""
        )
        found.append(
            jdt.report.PretrainingSize(
                name, method, target, rule, shots,
                tuple(count_of(study.sources, arm) for arm in arms),
                tuple(accuracy_of(cell, arm) for arm in arms),
                tuple(_reference(study, cell, one) for one in ones),
                note,
            )
        )  # fmt: skip
    return tuple(found)


def _reference(study: Study, cell: Cell, one: Worth) -> jdt.report.PretrainingReference:
    needed = ratio = None
    if one.found is not None:
        seeds = cell.correct.shape[1]
        needed = _size(one.found.size, one.found.size_low, one.found.size_high, seeds, "images", one.place)
        ratio = _size(one.found.ratio, one.found.ratio_low, one.found.ratio_high, seeds, "images for one", one.place)
    return jdt.report.PretrainingReference(
        one.reference, count_of(study.sources, one.reference), accuracy_of(cell, one.reference), needed, ratio,
        tuple(gap_of(cell, arm, cell, one.reference, f"{arm} minus {one.reference}") for arm in one.arms),
    )  # fmt: skip


def _size(
    value: jdt.analyses.Size, low: jdt.analyses.Size, high: jdt.analyses.Size, seeds: int, unit: str, text: str
) -> jdt.report.Figure:
    """A size as the page has it: infinite beyond the largest, the smallest where that is enough."""
    numbers = [max(one.value, one.smallest) for one in (value, low, high)]
    ends = (None, None) if np.isnan(numbers[1]) else (numbers[1], numbers[2])
    return jdt.report.Figure(numbers[0], *ends, seeds, unit, text)


def gaps(config: Config, measured: Measured) -> tuple[jdt.report.PretrainingGap, ...]:
    """Methods against the reference, on the same source under the same rule."""
    reference = config.reference_method or config.methods[0]
    found = []
    for cell in measured.cells:
        if cell.method == reference or cell.rule == "zero-shot":
            continue
        if cell.shots not in (config.at_shots, None):
            continue
        base = measured.cell(reference, cell.target, cell.shots, cell.rule)
        for arm in trained(cell.arms):
            if cell.has(arm) and base.has(arm):
                text = f"{cell.method} minus {reference}, {arm}, {cell.target}, {shots_name(cell.shots)}, {cell.rule}"
                found.append(
                    jdt.report.PretrainingGap(
                        cell.method, reference, arm, cell.target, cell.rule, cell.shots,
                        gap_of(cell, arm, base, arm, text),
                    )
                )  # fmt: skip
    return tuple(found)


def optimism(measured: Measured) -> tuple[jdt.report.PretrainingOptimism, ...]:
    """What choosing on test images would have claimed."""
    found = []
    for cell in measured.cells:
        if len(cell.modes) < 2:
            continue
        for row, arm in enumerate(cell.arms):
            if not cell.has(arm):
                continue
            chosen, means = int(cell.selected.chosen[row]), cell.test[:, row].mean(axis=(1, 2))
            flattering = int(np.nanargmax(means))
            runs = cell.correct.shape[1] * cell.correct.shape[2]
            more = jdt.report.Figure(
                float(cell.selected.optimism[row]), None, None, runs, jdt.report.DIFFERENCE,
                "accuracy of the setting that is best on test images, minus that of the chosen one",
            )  # fmt: skip
            found.append(
                jdt.report.PretrainingOptimism(
                    cell.method, arm, cell.target, cell.rule, cell.shots, cell.modes[chosen], cell.modes[flattering],
                    len(cell.modes), accuracy_of(cell, arm), more,
                )
            )  # fmt: skip
    return tuple(found)


def gains(config: Config, study: Study, measured: Measured) -> tuple[jdt.report.PretrainingGain, ...]:
    """Over models that saw no source image."""
    first, found = study.blocks[0].method, []
    for cell in measured.cells:
        if cell.shots not in (config.at_shots, None) or cell.rule == "zero-shot":
            continue
        base = measured.cell(first, cell.target, cell.shots, cell.rule)
        if not base.has(SCRATCH):
            continue
        scratch = mean_of(base, SCRATCH)
        for arm in trained(cell.arms):
            if not cell.has(arm):
                continue
            text = f"{arm} ({cell.method}) over no source, {cell.target}, {shots_name(cell.shots)}, {cell.rule}"
            own = mean_of(cell, arm)
            fewer = jdt.analyses.estimate(lambda a, b: jdt.analyses.error_reduction(a, b[..., 0])[..., 0], own, scratch)
            found.append(
                jdt.report.PretrainingGain(
                    cell.method, arm, cell.target, cell.rule, cell.shots, gap_of(cell, arm, base, SCRATCH, text),
                    figure(fewer, jdt.report.SHARE, cell.correct.shape[1], f"errors that are gone: {text}"),
                )
            )  # fmt: skip
    return tuple(found)


def stability(study: Study, measured: Measured) -> tuple[jdt.report.PretrainingStability, ...]:
    """Whether sources rank alike at each number of shots and with all images, and on each two targets."""
    method, rule, arms = study.blocks[0].method, rule_of(study), study.compared
    if len(arms) < 3:
        return ()
    cells = {(t, k): measured.cell(method, t, k, rule) for t in study.targets for k in study.shots}
    pairs = [((target, k), (target, None)) for target in study.targets for k in study.shots if k is not None]
    pairs += [
        ((first, None), (second, None)) for i, first in enumerate(study.targets) for second in study.targets[i + 1 :]
    ]
    found = []
    for first, second in pairs:
        if not (cells[first].has(*arms) and cells[second].has(*arms)):
            continue
        parts = [mean_of(cells[place], *arms) for place in (first, second)]
        estimate = jdt.analyses.estimate(
            lambda a, b: jdt.analyses.rank_stability(np.stack([a, b], axis=-2))[..., 0, 1], *parts, least=-1.0, most=1.0
        )
        one, other = (f"{target}, {shots_name(k)}" for target, k in (first, second))
        text = f"Spearman correlation of sources: {one} and {other}"
        found.append(
            jdt.report.PretrainingStability(
                one, other, figure(estimate, "", cells[first].correct.shape[1], text), len(arms)
            )
        )
    return tuple(found)


def zero_shot(config: Config, study: Study, measured: Measured) -> tuple[jdt.report.PretrainingZeroShot, ...]:
    """Heads of class names, aligned and permuted."""
    found = []
    near = near_of(config, study.compared)
    for one in measured.zero_shot:
        for row, arm in enumerate(one.arms):
            if one.target == OWN and arm != near:
                continue
            whose = f"classes of {near}" if one.target == OWN else one.target
            text = f"zero-shot accuracy on {whose}, {arm}"
            aligned, permuted = (_mean(values[row], text) for values in (one.aligned, one.permuted))
            found.append(
                jdt.report.PretrainingZeroShot(arm, whose, "zero-shot", one.classes, aligned, permuted, 1 / one.classes)
            )
    return tuple(found)


def _mean(values: np.ndarray, text: str) -> jdt.report.Figure:
    mean, low, high = jdt.analyses.mean_interval(values)
    ends = (None, None) if np.isnan(low) else (low, high)
    return jdt.report.Figure(mean, *ends, int(np.isfinite(values).sum()), jdt.report.SHARE, text)
