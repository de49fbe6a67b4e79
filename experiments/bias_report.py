"""What a study of bias transfer says: a table on the terminal, `bias.json`, `summary.json`, a section of the page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
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
    words_of,
)
from experiments.bias_setup import CLEAN, SCRATCH, Config, Study, Variant

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
    say(_table(study, measured))
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
        text=_question(config, study),
        bars=tuple(_bars(study, measured)),
        curves=(*_curves(study, measured), *(_dropped(study, blame) if blame is not None else ())),
        histograms=tuple(_histograms(study, predictions)),
        strips=tuple(_strips(study)),
        blamed=tuple(_movers(study, blame)) if blame is not None else (),
        output="share of test images that the pattern pushes to the class",
        figures=figures,
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


def _question(config: Config, study: Study) -> str:
    classes = study.base.source.class_names
    if study.kind == "group":
        return (
            f"In the source, label and group go together ({', '.join(study.members)}); the targets' test images are "
            "balanced over both. How much more often does a model say the second class of group 1 than of group 0?"
        )
    if not study.triggers:
        return "Do patterns on test images move the predictions of these models more than those of models from scratch?"
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
                attacked=_pushed_to(arms) if metric in (ASR, ASR_OTHERS) else "",
                rates={one.arm: _mean(one.values, "share", f"{metric} of {one.arm} models") for one in arms},
                transfer={
                    one.arm: _gap(one.transfer, f"{metric} of {one.arm} models minus that of their twins")
                    for one in arms
                    if one.transfer is not None and one.arm != SCRATCH
                },
                denominators={one.arm: _denominator(one.of) for one in arms if one.of},
            )
        )
    return found


def _pushed_to(arms: Sequence[Measured]) -> str:
    """Classes that the pattern pushes models to: of the source that has it, else of the first."""
    own = next((one for one in arms if one.arm == one.pattern), arms[0])
    return words_of(own.attacked)


def _denominator(of: Sequence[int]) -> str:
    low, high = min(of), max(of)
    return f"of {low:,} images" if low == high else f"of {low:,} to {high:,} images"


def _curves(study: Study, measured: Sequence[Measured]) -> list[jdt.report.BiasCurve]:
    """The first metric against each thing that was varied, alone."""
    metric, curves = SHOWN[study.kind][0], []
    sweeps: tuple[tuple[str, str, bool, Callable[[Variant], float | None]], ...] = (
        ("Weight decay", "weight decay", True, lambda v: v.decay if _only(v, "decay") else None),
        ("Target size", "share of the target's training images", False,
         lambda v: v.fraction if _only(v, "fraction") else None),
        ("De-biasing", "share of the target's training images with the pattern", False,
         lambda v: v.debias if _only(v, "debias") else None),
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


def _only(variant: Variant, name: str) -> bool:
    """Whether this is the only thing that was varied, or the variant is the plain one that a sweep starts from."""
    plain = dataclasses.replace(variant, **{field: getattr(_PLAIN, field) for field in (name, "pattern")})
    if name == "decay" and variant.decay is None:
        return False  # The recipe's own decay is no point of the sweep.
    return plain.is_plain


_PLAIN = Variant("", "")


def _histograms(study: Study, predictions: Predictions) -> list[jdt.report.BiasHistogram]:
    found = []
    for target in study.base.targets if study.kind == "pattern" else ():
        names = target.test.class_names
        for pattern in study.stamps:
            arm = pattern if pattern in predictions.arms else next(a for a in predictions.arms if a != SCRATCH)
            panels = {}
            modes = study.task.modes
            kinds = [(SCRATCH, SCRATCH, modes[-1])] if SCRATCH in predictions.arms else []
            for kind, of, mode in [*kinds, *((mode, arm, mode) for mode in modes)]:
                view = jdt.pipeline.view_name(target.name, pattern)
                panels[kind] = tuple(
                    np.bincount(own[own >= 0], minlength=len(names))
                    for own in (predictions.of(name, mode, of) for name in (target.name, view))
                )
            found.append(jdt.report.BiasHistogram(f"{target.name}, {pattern}", tuple(names), panels))
    return found


def _strips(study: Study) -> list[jdt.report.BiasStrip]:
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
            f"units that carry the pattern: AUROC {blame.auroc.value:.3f} (needs 0.95), permuted masks "
            f"{control.value:.3f} ({control.low:.3f} to {control.high:.3f})"
        )
    words += [f"{name}: {_in_points(one)}" for name, one in _drop_figures(study, blame).items()]
    return words


def _in_points(one: jdt.report.Figure) -> str:
    ends = "" if one.low is None or one.high is None else f" ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return f"{100 * one.value:+.1f} points{ends}"


def _drop_figures(study: Study, blame: Blame) -> dict[str, jdt.report.Figure]:
    """What dropping the units to blame leaves of the bias, and what it costs; paired over seeds."""
    arm, twin, found = blame.pattern, study.twin, {}
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
            if key and one.transfer is not None and one.arm not in (SCRATCH, CLEAN):
                of = f" ({words_of(one.attacked)})" if one.attacked else ""
                name = "/".join(part for part in (one.variant.name, one.mode, one.pattern, one.arm, metric) if part)
                found[name] = _gap(one.transfer, f"{metric}{of} of {one.arm} models minus that of their twins")
    if blame is not None:
        for name, one in (("blame/auroc", blame.auroc), ("blame/control", blame.control)):
            found |= {name: one} if one is not None else {}
    return found


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
    metric = SHOWN[study.kind][0]
    table = Table(title=f"{metric}, mean over seeds; differences are to the clean twin", title_justify="left")
    arms = dict.fromkeys(one.arm for one in find(measured, metric=metric))
    for name in ("target", "mode", *(("pattern", "to") if study.stamps else ()), *arms, "difference (95 %)"):
        table.add_column(name, overflow="fold")
    rows: dict[tuple[str, str, str], dict[str, Measured]] = {}
    for one in find(measured, metric=metric):
        if one.variant.is_plain or one.pattern in ("", *study.triggers):  # Controls of sweeps are on the page.
            rows.setdefault((one.variant.name, one.mode, one.pattern), {})[one.arm] = one
    for (name, mode, pattern), found in rows.items():
        gaps = [
            f"{arm} {_in_points(_gap(one.transfer, ''))}"
            for arm, one in found.items()
            if one.transfer is not None and arm != SCRATCH
        ]
        cells = [name, mode, *((pattern, _pushed_to(list(found.values()))) if study.stamps else ())]
        cells += [_percent(found[arm].values) if arm in found else "" for arm in arms]
        table.add_row(*cells, "; ".join(gaps))
    return table


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
