"""What the page of a study of bias transfer shows: bars, curves, predictions, images, the units to blame."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

import jdt
from experiments.bias_blame import ALL, BLAMED, RANDOM, Blame
from experiments.bias_measures import (
    ACCURACY,
    ASR,
    ASR_OTHERS,
    FLIPS,
    GAP_0,
    GAP_1,
    SKEW,
    WORST,
    Measured,
    Predictions,
    find,
)  # fmt: skip
from experiments.bias_setup import GIVEN, SCRATCH, TWIN, Study, Variant

SHOWN = {"pattern": (ASR, ASR_OTHERS, FLIPS), "group": (SKEW, GAP_0, GAP_1, WORST)}
"""Metrics on the page, by what the bias is; the first gives the verdict."""
MOST_BLAMED, STRIPS = 20, 5


def twin_words(one: Measured) -> str:
    """What the models of a rate are compared with."""
    return "models from scratch" if one.twin == SCRATCH else "their twins"


def mean_figure(values: np.ndarray, unit: str, text: str) -> jdt.report.Figure:
    """Mean over seeds with its interval, NaN left out."""
    mean, low, high = jdt.analyses.mean_interval(values)
    ends = (None, None) if np.isnan(low) else (low, high)
    return jdt.report.Figure(mean, *ends, int(np.isfinite(values).sum()), unit, text)


def gap_figure(found: jdt.analyses.Difference, text: str) -> jdt.report.Figure:
    """A difference as the page shows it."""
    ends = (None, None) if np.isnan(found.low) else (found.low, found.high)
    return jdt.report.Figure(found.mean, *ends, found.pairs, "difference of shares", text)


def bars(study: Study, measured: Sequence[Measured]) -> list[jdt.report.BiasBar]:
    """Of plain targets, for every mode, pattern and metric that the page shows."""
    bars: dict[tuple[str, str, str, str], list[Measured]] = {}
    for one in measured:
        shown = one.variant.is_plain or (study.kind == "group" and one.variant.decay is None)
        if shown and one.metric in SHOWN[study.kind]:
            bars.setdefault((one.variant.name, one.mode, one.pattern, one.metric), []).append(one)
    order = {metric: i for i, metric in enumerate(SHOWN[study.kind])}
    found = []
    for (target, mode, pattern, metric), arms in sorted(bars.items(), key=lambda item: order[item[0][3]]):
        found.append(
            jdt.report.BiasBar(
                target=target,
                mode=mode,
                pattern=pattern or "group",
                metric=metric,
                attacked=pushed_to(study, arms) if metric in (ASR, ASR_OTHERS) else "",
                attacked_by={one.arm: one.pushed_to for one in arms if metric in (ASR, ASR_OTHERS)},
                rates={one.arm: _rate(one) for one in arms},
                transfer={
                    one.arm: gap_figure(gap, f"{metric} of {one.arm} models minus that of {twin_words(one)}")
                    for one in arms
                    if (gap := transfer_of(one)) is not None and one.arm != SCRATCH
                },
                denominators={one.arm: words for one in arms if (words := _denominator(study, one))},
                control=pattern in study.shams,
                from_scratch={
                    one.arm: gap_figure(
                        one.from_scratch, f"{metric} of {one.arm} models minus that of models from scratch"
                    )
                    for one in arms
                    if one.from_scratch is not None
                },
                over="test images" if any(map(is_one_model, arms)) else "seeds",
            )
        )
    return found


def _rate(one: Measured) -> jdt.report.Figure:
    figure = mean_figure(one.values, "share", f"{one.metric} of {one.arm} models")
    # Of a model that was given, equal values are those of one model, which say nothing of others.
    is_one = one.arm in (GIVEN, TWIN) and len(set(one.values.tolist())) == 1
    return dataclasses.replace(figure, low=None, high=None) if is_one else figure


def is_one_model(one: Measured) -> bool:
    """Whether the models of all seeds are one, so that an interval can be over test images alone."""
    gap, other = one.transfer, one.over_examples
    return one.arm == GIVEN and gap is not None and bool(np.isnan(gap.low)) and other is not None


def transfer_of(one: Measured) -> jdt.analyses.Difference | None:
    """The difference to the twin, with the interval that there is."""
    return one.over_examples if is_one_model(one) else one.transfer


def shown_arm(study: Study, pattern: str, arms: Sequence[str]) -> str:
    """Whose predictions are shown of a pattern: given models, its own source, the first with a trigger, any."""
    wanted = (GIVEN, pattern, *study.triggers, *(arm for arm in arms if arm != SCRATCH))
    return next((arm for arm in wanted if arm in arms), arms[0])


def pushed_to(study: Study, arms: Sequence[Measured]) -> str:
    """Classes that the pattern pushes models to."""
    by_arm = {one.arm: one for one in arms}
    return by_arm[shown_arm(study, arms[0].pattern, list(by_arm))].pushed_to


def _denominator(study: Study, one: Measured) -> str:
    """What a rate is a share of, from the smallest to the largest number of any model; empty where it is none."""
    if one.of:
        return f"of {range_words(one.of)} images"
    groups = study.groups.get(one.variant.target)
    if groups is None:
        return ""
    # Test images are balanced over label and group, so that both groups of a label are as large.
    sizes = np.bincount(groups, minlength=2)
    if one.metric == SKEW:  # A cell is a group of one class.
        return f"of {range_words(sizes.tolist())} a group"
    return f"of {range_words((sizes // 2).tolist())} a cell"


def range_words(of: Sequence[int]) -> str:
    """Smallest to largest, e.g. "3,912 to 4,000"."""
    low, high = min(of), max(of)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def curves(study: Study, measured: Sequence[Measured]) -> list[jdt.report.BiasCurve]:
    """The first metric against each thing that was varied, alone."""
    metric, curves = SHOWN[study.kind][0], []
    base = base_composition(study)
    sweeps: tuple[tuple[str, str, bool, Callable[[Variant], float | None]], ...] = (
        ("Weight decay", "weight decay", True, lambda v: v.decay if _only(v, "decay", base) else None),
        ("Target size", "share of the target's training images", False,
         lambda v: v.fraction if _only(v, "fraction", base) else None),
        ("De-biasing", "share of the target's training images with the pattern", False,
         lambda v: v.debias if _only(v, "debias", base) else None),
        ("Composition", "share of group 1 in the target's training images", False,
         lambda v: v.composition if v.decay is None else None),
    )  # fmt: skip
    for target in [one.name for one in study.base.targets]:
        for pattern in study.triggers or ("",):
            for title, label, log_x, position in sweeps:
                mine = [one for one in find(measured, metric=metric, pattern=pattern, target=target)
                        if not one.variant.pattern or one.variant.pattern == pattern]  # fmt: skip
                places = {one.variant.name: x for one in mine if (x := position(one.variant)) is not None}
                if len(places) < 2:
                    continue
                lines: dict[str, list[tuple[float, Measured]]] = {}
                for one in mine:
                    if one.variant.name in places and one.arm != SCRATCH:
                        lines.setdefault(f"{one.arm}, {one.mode}", []).append((places[one.variant.name], one))
                curves.append(
                    jdt.report.BiasCurve(
                        title=f"{title}, {target}" + (f", {pattern}" if len(study.triggers) > 1 else ""),
                        x_label=label,
                        x=tuple(sorted(places.values())),
                        log_x=log_x,
                        metric=metric,
                        lines={
                            name: tuple(
                                mean_figure(one.values, "share", f"{metric} of {one.arm} models")
                                for _, one in sorted(points, key=lambda point: point[0])
                            )
                            for name, points in lines.items()
                        },
                    )
                )
    return curves


def base_composition(study: Study) -> float | None:
    """Of the sweeps in which something else is varied."""
    shares = [variant.composition for variant in study.variants if variant.composition is not None]
    return 0.5 if 0.5 in shares else next(iter(shares), None)


def _only(variant: Variant, name: str, composition: float | None) -> bool:
    """Whether this is the only thing that was varied, or the variant is the plain one that a sweep starts from.

    Of a study of groups, every variant has a composition: a sweep of something else is at one of them.
    """
    plain = dataclasses.replace(variant, **{field: getattr(_PLAIN, field) for field in (name, "pattern")})
    if variant.composition is not None and variant.composition == composition:
        plain = dataclasses.replace(plain, composition=None)
    if name == "decay" and variant.decay is None:
        return False  # The recipe's own decay is no point of the sweep.
    return plain.is_plain


_PLAIN = Variant("", "")


def histograms(study: Study, predictions: Predictions) -> list[jdt.report.BiasHistogram]:
    """What models predict without and with each pattern, by mode, beside models from scratch."""
    found = []
    for target in study.base.targets if study.kind == "pattern" else ():
        names = target.test.class_names
        for pattern in study.stamps:
            arm = shown_arm(study, pattern, predictions.arms)
            panels = {}
            modes = study.task.modes
            # A head on features that nothing trained is no model from scratch.
            kinds = [(SCRATCH, SCRATCH, "full") if "full" in modes else ("untrained", SCRATCH, modes[-1])]
            kinds = kinds if SCRATCH in predictions.arms else []
            for kind, of, mode in [*kinds, *((mode, arm, mode) for mode in modes)]:
                view = jdt.pipeline.view_name(target.name, pattern)
                panels[kind] = tuple(
                    np.bincount(own[own >= 0], minlength=len(names))
                    for own in (predictions.of(name, mode, of) for name in (target.name, view))
                )
            whose = "" if arm == pattern else f" ({arm} models)"
            found.append(jdt.report.BiasHistogram(f"{target.name}, {pattern}{whose}", tuple(names), panels))
    return found


def strips(study: Study) -> list[jdt.report.BiasStrip]:
    """A few test images of every target, without and with each pattern or by group."""
    if study.kind == "group":
        return [strip for target in study.base.targets for strip in _group_strips(study, target.name)]
    found = []
    for target in study.base.targets:
        rows = np.unique(np.linspace(0, len(target.test) - 1, STRIPS).astype(int))
        plain = np.stack([np.asarray(target.test.images[int(row)]) for row in rows])
        for name, stamp in study.stamps.items():
            which = np.arange(len(rows)) % len(stamp.gain)
            shown = jdt.data.stamped_pixels(plain, stamp.gain[which], stamp.shift[which])
            pairs = np.stack([plain, shown], axis=1).reshape(-1, *plain.shape[1:])
            found.append(jdt.report.BiasStrip(f"{target.name}, {name}", pairs))
    return found


def _group_strips(study: Study, name: str) -> list[jdt.report.BiasStrip]:
    """Test images with and without an attribute that was planted; else some of each group."""
    places = [variant.target for variant in study.variants]
    test, groups = study.task.targets[places.index(name)].test, study.groups[name]
    if test.stamps is None:
        names = ("group 0", "group 1")
        images = jdt.report.sample_images(test.images, groups, names, count=STRIPS)
        return [
            jdt.report.BiasStrip(f"{name}, {group}", shown, paired=False) for group, shown in images.items()
        ]  # fmt: skip
    rows = np.flatnonzero(groups == 1)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, STRIPS).astype(int))]
    which = np.asarray(test.stamps.of_example)[rows]
    plain = np.stack([np.asarray(test.images[int(row)]) for row in rows])
    gain, shift = (np.asarray(part)[which] for part in (test.stamps.gain, test.stamps.shift))
    pairs = np.stack([plain, jdt.data.stamped_pixels(plain, gain, shift)], axis=1).reshape(-1, *plain.shape[1:])
    return [jdt.report.BiasStrip(f"{name}, the attribute", pairs)]


def movers(study: Study, blame: Blame) -> list[jdt.report.Mover]:
    """The units to blame first, with images and influences."""
    influences, base = blame.influences, study.base
    images = jdt.report.sample_images(base.source.images, base.units.of_example, base.units.names)
    low, high = influences.interval() if influences.standard_error is not None else (None, None)
    found = []
    for unit in blame.order[:MOST_BLAMED].tolist():
        name = base.units.names[unit]
        found.append(
            jdt.report.Mover(
                name=name,
                images=images[name],
                influence=float(influences.influence[unit, 0]),
                low=None if low is None else float(low[unit, 0]),
                high=None if high is None else float(high[unit, 0]),
                z=None if influences.z is None else float(influences.z[unit, 0]),
                note="its images carry the pattern" if blame.planted[unit] else "",
            )
        )
    return found


def dropped(study: Study, blame: Blame) -> list[jdt.report.BiasCurve]:
    """Attack success and accuracy with all units, and without as many as were dropped."""
    if not blame.dropped:
        return []
    curves = []
    for metric, values in ((ASR, blame.attack), (ACCURACY, blame.accuracy)):
        lines = {}
        for arm in (blame.pattern, study.twin):
            for what in (BLAMED, RANDOM):
                lines[f"{arm}, {what}"] = tuple(
                    mean_figure(values[arm, one], "share", f"{metric} of {arm} models {one}") for one in (ALL, what)
                )
        curves.append(
            jdt.report.BiasCurve(
                title=f"Units dropped: {metric} on {blame.target}, {blame.mode}",
                x_label="source units dropped",
                x=(0.0, float(blame.dropped)),
                log_x=False,
                metric=metric,
                lines=lines,
                note="Models were trained anew without the units, from the same seeds in all lines.",
            )
        )
    return curves
