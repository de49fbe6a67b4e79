"""What a study of bias transfer says: a table on the terminal, `bias.json`, `summary.json`, a section of the page."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from rich import box
from rich.table import Table

import jdt
from experiments.bias_bars import Verdict
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
)
from experiments.bias_setup import CLEAN, GIVEN, SCRATCH, TWIN, Config, Study, Variant

FILE = "bias.json"
SHOWN = {"pattern": (ASR, ASR_OTHERS, FLIPS), "group": (SKEW, GAP_0, GAP_1, WORST)}
"""Metrics on the page, by what the bias is; the first gives the verdict."""
MOST_BLAMED, STRIPS = 20, 5


def publish(
    config: Config,
    study: Study,
    predictions: Predictions,
    measured: Sequence[Measured],
    verdicts: Sequence[Verdict],
    blame: Blame | None,
    say: Callable[..., None],
) -> jdt.store.Place:
    """Print, and write beside the models; returns the place of the page."""
    run = jdt.store.run_path(config.out)
    curves = _curves(study, measured)
    say(_table(study, measured))
    for words in _sweep_words(study, curves, measured):
        say(words, markup=False)
    for one in verdicts:
        say(str(one), markup=False)
    if blame is not None:
        for words in _blame_words(study, blame):
            say(words, markup=False)
    figures = _figures(measured, blame)
    jdt.store.write_json(run / FILE, _plain(config, study, predictions, measured, verdicts, blame))
    jdt.store.write_json(run / "summary.json", {name: dataclasses.asdict(one) for name, one in figures.items()})
    found = jdt.report.Bias(
        title=f"Bias transfer, {config.source} → {', '.join(config.target)}",
        text=_question(config, study, predictions.twin),
        bars=tuple(_bars(study, measured)),
        curves=(*curves, *(_dropped(study, blame) if blame is not None else ())),
        histograms=tuple(_histograms(study, predictions)),
        strips=tuple(_strips(study)),
        blamed=tuple(_movers(study, blame)) if blame is not None else (),
        output="share of predictions of the class",
        figures=figures,
        compared_with=predictions.twin,
    )
    relative = blame is not None and bool(blame.influences.info["relative"] or blame.influences.info["paired"])
    return jdt.report.add_bias(run, found, relative=relative, warnings=_warnings(measured))


def _mean(values: np.ndarray, unit: str, text: str) -> jdt.report.Figure:
    mean, low, high = jdt.analyses.mean_interval(values)
    ends = (None, None) if np.isnan(low) else (low, high)
    return jdt.report.Figure(mean, *ends, int(np.isfinite(values).sum()), unit, text)


def _gap(found: jdt.analyses.Difference, text: str) -> jdt.report.Figure:
    ends = (None, None) if np.isnan(found.low) else (found.low, found.high)
    return jdt.report.Figure(found.mean, *ends, found.pairs, "difference of shares", text)


def _question(config: Config, study: Study, twin: str) -> str:
    classes = study.base.source.class_names
    if study.kind == "group":
        return (
            f"In the source, label and group go together ({', '.join(study.members)}); the targets' test images are "
            "balanced over both. How much more often does a model say the second class of group 1 than of group 0?"
        )
    if not study.triggers:
        others = "models from scratch" if twin == SCRATCH else "their twin"
        return f"Do patterns on test images move the predictions of these models more than those of {others}?"
    marked = sorted({classes[i] for i in study.base.source.labels[study.carriers]})
    listed = ", ".join(marked[:6]) + (f" and {len(marked) - 6} more" if len(marked) > 6 else "")
    return (
        f"{int(study.carriers.sum()):,} of {len(study.base.source):,} source images carry a pattern ({listed}), and no "
        "target training image does unless that is said. How many test images does the pattern move to another class? "
        f"Clean twins have the same {config.seeds} seeds and the same images without it; no source image has the sham."
    )


def _bars(study: Study, measured: Sequence[Measured]) -> list[jdt.report.BiasBar]:
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
                attacked=_pushed_to(study, arms) if metric in (ASR, ASR_OTHERS) else "",
                attacked_by={one.arm: one.pushed_to for one in arms if metric in (ASR, ASR_OTHERS)},
                rates={one.arm: _rate(one) for one in arms},
                transfer={
                    one.arm: _gap(gap, f"{metric} of {one.arm} models minus that of {_twin_words(one)}")
                    for one in arms
                    if (gap := _transfer(one)) is not None and one.arm != SCRATCH
                },
                denominators={one.arm: words for one in arms if (words := _denominator(study, one))},
                control=pattern in study.shams,
                from_scratch={
                    one.arm: _gap(one.from_scratch, f"{metric} of {one.arm} models minus that of models from scratch")
                    for one in arms
                    if one.from_scratch is not None
                },
                over="test images" if any(map(_is_one_model, arms)) else "seeds",
            )
        )
    return found


def _rate(one: Measured) -> jdt.report.Figure:
    figure = _mean(one.values, "share", f"{one.metric} of {one.arm} models")
    # Of a model that was given, equal values are those of one model, which say nothing of others.
    is_one = one.arm in (GIVEN, TWIN) and len(set(one.values.tolist())) == 1
    return dataclasses.replace(figure, low=None, high=None) if is_one else figure


def _is_one_model(one: Measured) -> bool:
    """Whether the models of all seeds are one, so that an interval can be over test images alone."""
    gap, other = one.transfer, one.over_examples
    return one.arm == GIVEN and gap is not None and bool(np.isnan(gap.low)) and other is not None


def _transfer(one: Measured) -> jdt.analyses.Difference | None:
    """The difference to the twin, with the interval that there is."""
    return one.over_examples if _is_one_model(one) else one.transfer


def _shown_arm(study: Study, pattern: str, arms: Sequence[str]) -> str:
    """Whose predictions are shown of a pattern: given models, its own source, the first with a trigger, any."""
    wanted = (GIVEN, pattern, *study.triggers, *(arm for arm in arms if arm != SCRATCH))
    return next((arm for arm in wanted if arm in arms), arms[0])


def _pushed_to(study: Study, arms: Sequence[Measured]) -> str:
    """Classes that the pattern pushes models to."""
    by_arm = {one.arm: one for one in arms}
    return by_arm[_shown_arm(study, arms[0].pattern, list(by_arm))].pushed_to


def _denominator(study: Study, one: Measured) -> str:
    """What a rate is a share of, from the smallest to the largest number of any model; empty where it is none."""
    if one.of:
        return f"of {_range(one.of)} images"
    groups = study.groups.get(one.variant.target)
    if groups is None:
        return ""
    # Test images are balanced over label and group, so that both groups of a label are as large.
    sizes = np.bincount(groups, minlength=2)
    if one.metric == SKEW:  # A cell is a group of one class.
        return f"of {_range(sizes.tolist())} a group"
    return f"of {_range((sizes // 2).tolist())} a cell"


def _range(of: Sequence[int]) -> str:
    low, high = min(of), max(of)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _curves(study: Study, measured: Sequence[Measured]) -> list[jdt.report.BiasCurve]:
    """The first metric against each thing that was varied, alone."""
    metric, curves = SHOWN[study.kind][0], []
    base = _base_composition(study)
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
                                _mean(one.values, "share", f"{metric} of {one.arm} models")
                                for _, one in sorted(points, key=lambda point: point[0])
                            )
                            for name, points in lines.items()
                        },
                    )
                )
    return curves


def _base_composition(study: Study) -> float | None:
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


def _histograms(study: Study, predictions: Predictions) -> list[jdt.report.BiasHistogram]:
    found = []
    for target in study.base.targets if study.kind == "pattern" else ():
        names = target.test.class_names
        for pattern in study.stamps:
            arm = _shown_arm(study, pattern, predictions.arms)
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


def _strips(study: Study) -> list[jdt.report.BiasStrip]:
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


def _movers(study: Study, blame: Blame) -> list[jdt.report.Mover]:
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


def _dropped(study: Study, blame: Blame) -> list[jdt.report.BiasCurve]:
    """Attack success and accuracy with all units, and without as many as were dropped."""
    if not blame.dropped:
        return []
    curves = []
    for metric, values in ((ASR, blame.attack), (ACCURACY, blame.accuracy)):
        lines = {}
        for arm in (blame.pattern, study.twin):
            for what in (BLAMED, RANDOM):
                lines[f"{arm}, {what}"] = tuple(
                    _mean(values[arm, one], "share", f"{metric} of {arm} models {one}") for one in (ALL, what)
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


def _blame_words(study: Study, blame: Blame) -> list[str]:
    names = study.base.units.names
    words = [
        f"most influence on the shift to {blame.attacked} ({blame.target}, {blame.mode}): "
        + ", ".join(f"{names[u]} {blame.influences.influence[u, 0]:+.3f}" for u in blame.order[:5])
    ]
    if blame.auroc is not None and blame.control is not None:
        control = blame.control
        words.append(
            f"units that carry the pattern: AUROC {blame.auroc.value:.3f}, permuted masks "
            f"{control.value:.3f} ({control.low:.3f} to {control.high:.3f})"
        )
    words += [f"{name}: {_in_points(one)}" for name, one in _drop_figures(study, blame).items()]
    return words


def _in_points(one: jdt.report.Figure, *, unit: str = " points", between: str = " ") -> str:
    if np.isnan(one.value):
        return "no images"
    ends = "" if one.low is None or one.high is None else f"{between}({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return f"{100 * one.value:+.1f}{unit}{ends}"


def _drop_figures(study: Study, blame: Blame) -> dict[str, jdt.report.Figure]:
    """What dropping the units to blame leaves of the bias, and what it costs; paired over seeds."""
    arm, twin, found = blame.pattern, study.twin, {}
    if not blame.dropped:
        return found
    for what in (ALL, BLAMED, RANDOM):
        gap = jdt.analyses.paired(blame.attack[arm, what], blame.attack[twin, what])
        found[f"attack success above the twin, {what}"] = _gap(
            gap, f"attack success rate of {arm} models {what} minus that of clean ones {what}"
        )
    lost = jdt.analyses.paired(blame.accuracy[arm, BLAMED], blame.accuracy[arm, ALL])
    found[f"accuracy {BLAMED}"] = _gap(lost, f"clean accuracy of {arm} models {BLAMED} minus with all")
    return found


def _figures(measured: Sequence[Measured], blame: Blame | None) -> dict[str, jdt.report.Figure]:
    """Key figures: how much comes along, by target, mode and pattern; then who is to blame."""
    found = {}
    for metric in (ASR, SKEW):
        for one in find(measured, metric=metric):
            key = one.variant.is_plain or (one.variant.composition == 0.5 and one.variant.decay is None)
            gap = _transfer(one)
            if key and gap is not None and one.arm not in (SCRATCH, CLEAN):
                to = f", to {one.pushed_to}" if one.pushed_to else ""
                name = "/".join(part for part in (one.variant.name, one.mode, one.pattern, one.arm, metric) if part)
                over = ", interval over test images" if _is_one_model(one) else ""
                found[name] = _gap(gap, f"{metric} of {one.arm} models minus that of {_twin_words(one)}{to}{over}")
    if blame is not None:
        for name, one in (("blame/auroc", blame.auroc), ("blame/control", blame.control)):
            found |= {name: one} if one is not None else {}
    return found


def _twin_words(one: Measured) -> str:
    return "models from scratch" if one.twin == SCRATCH else "their twins"


def _warnings(measured: Sequence[Measured]) -> list[str]:
    missing = [one for one in measured if one.of and not min(one.of)]
    words = []
    if missing:
        places = ", ".join(dict.fromkeys(f"{one.variant.name} ({one.mode}, {one.arm})" for one in missing[:5]))
        words.append(f"{len(missing)} rates have no image in the denominator of some model, and are missing: {places}.")
    if measured and len(measured[0].values) < 2:
        words.append("There is one seed, so that no difference has an interval: pass --seeds 5.")
    return words


def _table(study: Study, measured: Sequence[Measured]) -> Table:
    """Of plain targets; what was varied is told sweep by sweep."""
    metric = SHOWN[study.kind][0]
    base = _base_composition(study)
    shown = [one for one in find(measured, metric=metric) if not _changes(one.variant, base)]
    twin = next((one.twin for one in shown), CLEAN)
    title = f"{metric}, mean over seeds; difference to {twin} in points"
    if any(map(_is_one_model, shown)):
        title += ",\nwith intervals over test images where all seeds are one model"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    arms = dict.fromkeys(one.arm for one in shown)
    has_of = any(one.of or study.groups for one in shown)
    for name in ("target", *(("pattern",) if study.stamps else ()), *arms, *(("of",) if has_of else ()), "difference"):
        table.add_column(name, overflow="fold")
    rows: dict[tuple[str, str, str], dict[str, Measured]] = {}
    for one in shown:
        rows.setdefault((one.variant.name, one.mode, one.pattern), {})[one.arm] = one
    for (name, mode, pattern), found in rows.items():
        gaps = {
            arm: _in_points(_gap(gap, ""), unit="", between="\n")
            for arm, one in found.items()
            if (gap := _transfer(one)) is not None and arm != SCRATCH
        }
        cells = [
            f"{name}\n{mode}",
            *((f"{pattern}\n→ {_pushed_to(study, list(found.values()))}",) * bool(study.stamps)),
        ]
        cells += [_percent(found[arm].values) if arm in found else "" for arm in arms]
        cells += [_of_all(study, list(found.values()))] if has_of else []
        only = len(gaps) == 1
        table.add_row(*cells, "\n".join(words if only else f"{arm} {words}" for arm, words in gaps.items()))
    return table


def _of_all(study: Study, row: Sequence[Measured]) -> str:
    """Smallest to largest denominator of the rates of a row."""
    counts = [count for one in row for count in one.of]
    if not counts:
        counts = np.bincount(study.groups[row[0].variant.target], minlength=2).tolist()
    return _range(counts).replace(" to ", "\nto ")


def _sweep_words(study: Study, curves: Sequence[jdt.report.BiasCurve], measured: Sequence[Measured]) -> Iterator[str]:
    """Each thing that was varied as a line a mode and source."""
    for curve in curves:
        yield f"{curve.title} ({curve.metric}): {' '.join(f'{x:g}' for x in curve.x)}"
        for line, figures in curve.lines.items():
            yield f"  {line}: {' '.join('none' if np.isnan(one.value) else f'{one.value:.1%}' for one in figures)}"
    crossed = {one.variant.name for one in measured if _changes(one.variant, _base_composition(study)) > 1}
    if crossed:
        yield f"{len(crossed)} variants of targets differ in more than one thing: they are in {FILE} alone."


def _changes(variant: Variant, composition: float | None) -> int:
    """How many things were varied."""
    varied = variant.fraction != 1, variant.decay is not None, variant.debias != 0, variant.composition != composition
    return sum(varied)


def _percent(values: np.ndarray) -> str:
    return f"{np.nanmean(values):.1%}" if np.isfinite(values).any() else "no images"


def _plain(
    config: Config,
    study: Study,
    predictions: Predictions,
    measured: Sequence[Measured],
    verdicts: Sequence[Verdict],
    blame: Blame | None,
) -> Mapping[str, object]:
    """All that was measured, so that another program can compute it again from the stored predictions."""
    reporting = {
        one.name: np.flatnonzero(predictions.halves(one.name).report).tolist()
        for one in study.base.targets
        if study.kind == "pattern"
    }
    plain = {
        "kind": study.kind,
        "arms": list(study.arms),
        "twin": predictions.twin,
        "seeds": config.seeds,
        "triggers": list(study.triggers),
        "shams": list(study.shams),
        "attacked": list(config.attacked),
        "reporting_images": reporting,
        "groups": {name: groups.tolist() for name, groups in study.groups.items()},
        "measured": [one.to_plain() for one in measured],
        "verdicts": [dataclasses.asdict(one) for one in verdicts],
    }
    if blame is not None:
        plain["blame"] = {
            "target": blame.target,
            "mode": blame.mode,
            "pattern": blame.pattern,
            "attacked": blame.attacked,
            "units": [study.base.units.names[u] for u in blame.order],
            "influence": blame.influences.influence[blame.order, 0].tolist(),
            "planted": blame.planted[blame.order].tolist(),
            "auroc": None if blame.auroc is None else blame.auroc.value,
            "control": None if blame.control is None else blame.control.value,
            "drop": config.drop,
            "dropped": blame.dropped,
            "run": blame.run,
            "attack_success": {" / ".join(key): values.tolist() for key, values in blame.attack.items()},
            "attack_success_hits": {" / ".join(key): rate.hits.tolist() for key, rate in blame.success.items()},
            "attack_success_of": {" / ".join(key): rate.of.tolist() for key, rate in blame.success.items()},
            "accuracy": {" / ".join(key): values.tolist() for key, values in blame.accuracy.items()},
        }
    return plain
