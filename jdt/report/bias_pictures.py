"""The figures of bias transfer with what they show in words: bars by target and mode, curves, predictions."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from jdt.report import bias_plots
from jdt.report.bars import Bar, BarLook, Groups, draw_groups
from jdt.report.bias_content import BiasBar, BiasCurve, BiasHistogram
from jdt.report.bias_plots import SCRATCH, UNTRAINED
from jdt.report.bias_words import NO_IMAGES, arm_words
from jdt.report.figures import Picture, picture
from jdt.report.parts import ends, seeds_words
from jdt.report.words import NBSP, capital, clean, decimal, figure_number, mode_words, percent, shorten
from jdt.types import Float, Int

MOST_GROUPS, MOST_CLASSES = 14, 20
"""Groups of bars in one figure; classes in one of predictions."""
_MODES = ("fixed", "full", SCRATCH)
_BESIDE = (SCRATCH, UNTRAINED)
_KIND_LOOKS = {"fixed": BarLook("#E69F00", "////", "o"), "full": BarLook("#56B4E9", "\\\\\\\\", "s")}


def bar_pictures(bars: Sequence[BiasBar], looks: Mapping[str, BarLook]) -> Iterator[tuple[str, str, Picture]]:
    """Bars of every metric, in one figure or, where they are many, one a pattern: metric, title and figure each.

    Call it inside `drawing`.
    """
    for metric in dict.fromkeys(bar.metric for bar in bars):
        for title, some in _figures_of(metric, bars):
            groups = _groups(metric, some)
            drawing = draw_groups(groups, looks, {arm: arm_words(arm) for arm in looks})
            yield metric, title, picture("bars", drawing, *_bar_words(metric, some, groups))


def curve_picture(curve: BiasCurve, looks: Mapping[str, BarLook]) -> Picture:
    """A curve; call it inside `drawing`."""
    return picture("curve", bias_plots.draw_bias_curve(curve, looks), *_curve_words(curve))


def histogram_picture(histogram: BiasHistogram) -> Picture:
    """Predictions, the classes that change most; call it inside `drawing`."""
    groups, kinds = _histogram_groups(histogram)
    looks = bias_plots.arm_looks(list(kinds))
    looks |= {UNTRAINED: looks[SCRATCH]} | _KIND_LOOKS
    drawing = draw_groups(groups, looks, kinds, "without the pattern")
    return picture("predictions", drawing, *_histogram_words(histogram, groups))


def _figures_of(metric: str, bars: Sequence[BiasBar]) -> Iterator[tuple[str, list[BiasBar]]]:
    """Bars of one metric as figures: all in one, or one a pattern where they are many."""
    bars = [bar for bar in bars if bar.metric == metric]
    title = capital(metric)
    targets = list(dict.fromkeys(bar.target for bar in bars))
    patterns = list(dict.fromkeys(bar.pattern for bar in bars))
    if len(_keys(bars)) <= MOST_GROUPS:
        yield clean(title), bars
        return
    for pattern in patterns:
        for start in range(0, len(targets), MOST_GROUPS):
            some = targets[start : start + MOST_GROUPS]
            if chosen := [bar for bar in bars if bar.pattern == pattern and bar.target in some]:
                yield clean(f"{title}: {pattern}{'' if start == 0 else ', more targets'}"), chosen


def _keys(bars: Iterable[BiasBar]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((bar.target, bar.pattern) for bar in bars))


def _groups(metric: str, bars: Sequence[BiasBar]) -> Groups:
    keys = _keys(bars)
    modes = sorted({bar.mode for bar in bars}, key=lambda mode: (*_MODES, mode).index(mode))
    panels = {mode: [dict[str, Bar]() for _ in keys] for mode in modes}
    for bar in bars:
        shown = {arm: Bar(*(100 * x for x in ends(rate))) for arm, rate in bar.rates.items()}
        panels[bar.mode][keys.index((bar.target, bar.pattern))].update(shown)
    what = {
        key: _pattern_words(key[1], {bar.attacked for bar in bars if (bar.target, bar.pattern) == key}) for key in keys
    }
    if len(set(what.values())) == 1:
        labels = [shorten(target) for target, _ in keys]
        metric = f"{shorten(metric, 40)} (%): {next(iter(what.values()))}"
    else:
        one_target = len({target for target, _ in keys}) == 1
        labels = [words if one_target else f"{shorten(target)}\n{words}" for (target, _), words in what.items()]
        metric = f"{shorten(metric, 50)} (%)"
    return Groups(labels, {mode_words(mode): panel for mode, panel in panels.items()}, metric)


def _pattern_words(pattern: str, attacked: set[str]) -> str:
    """A pattern, and which class it pushes to where that is one and the same in all modes."""
    pushes = f" → {shorten(next(iter(attacked)), 14)}" if len(attacked) == 1 and attacked != {""} else ""
    return f"{shorten(pattern, 18)}{pushes}"


def _bar_words(metric: str, bars: Sequence[BiasBar], groups: Groups) -> tuple[str, str]:
    rates = [rate for bar in bars for rate in bar.rates.values()]
    known = [(ends(rate)[0], bar, arm) for bar in bars for arm, rate in bar.rates.items()
             if math.isfinite(ends(rate)[0])]  # fmt: skip
    alt = f"Grouped bars of {clean(metric)}: {len(groups.labels)} groups in {len(groups.panels)} panels."
    for word, pick in (("Largest", max), ("Smallest", min)):
        if known:
            value, bar, arm = pick(known, key=lambda entry: entry[0])
            alt += f" {word}: {percent(value)} ({clean(bar.target)}, {bar.pattern}, {mode_words(bar.mode)}, {arm})."
    caption = (
        f"{capital(clean(metric))} by target and source, mean over {seeds_words(rates)}. Whiskers: 95{NBSP}% intervals "
        "of the mean over seeds, where there are at least two. The table below says of how many images each rate is."
    )
    if len(known) < len(rates):
        caption += f" “{NO_IMAGES}”: no image was left in the denominator ({len(rates) - len(known)})."
    return alt, caption


def _curve_words(curve: BiasCurve) -> tuple[str, str]:
    last = []
    for line, figures in curve.lines.items():
        known = [i for i, figure in enumerate(figures) if math.isfinite(ends(figure)[0])]
        if known:
            first, end = known[0], known[-1]
            last.append(
                f"{clean(line)}: from {percent(ends(figures[first])[0])} at {figure_number(curve.x[first])} to "
                f"{percent(ends(figures[end])[0])} at {figure_number(curve.x[end])}"
            )
    alt = f"Curves of {clean(curve.metric)} against {clean(curve.x_label)}. {'; '.join(last)}."
    every = [figure for figures in curve.lines.values() for figure in figures]
    seeds = seeds_words(every)
    caption = f"{capital(clean(curve.metric))} against {clean(curve.x_label)}, mean over {seeds}."
    if any(math.isfinite(ends(figure)[1]) for figure in every):
        caption += f" Bands: 95{NBSP}% intervals of the mean over seeds."
    if any(not math.isfinite(ends(figure)[0]) for figure in every):
        caption += " Points are missing where no image was left in the denominator."
    if curve.log_x and 0 in curve.x and len(curve.x) > 1:
        caption += " The axis is logarithmic; 0 stands left of the dotted line."
    return alt, caption + (f" {clean(curve.note)}" if curve.note else "")


def _histogram_groups(histogram: BiasHistogram) -> tuple[Groups, dict[str, str]]:
    """Shares of predictions by class, a panel for each kind beside models from scratch, and the kinds in words."""
    shares = {kind: tuple(_shares(part) for part in counts) for kind, counts in histogram.panels.items()}
    moved = [np.abs(np.nan_to_num(after - before)) for before, after in shares.values()]
    order = np.argsort(-np.max(moved, axis=0), kind="stable")[:MOST_CLASSES]
    chosen = sorted(order.tolist())
    kinds = [kind for kind in shares if kind not in _BESIDE] or list(shares)

    def bars(kind: str) -> list[dict[str, Bar]]:
        beside = dict.fromkeys((kind, *(one for one in _BESIDE if one in shares)))
        return [
            {one: Bar(100 * float(shares[one][1][c]), mark=100 * float(shares[one][0][c])) for one in beside}
            for c in chosen
        ]

    panels = {mode_words(kind): bars(kind) for kind in kinds}
    labels = [shorten(histogram.class_names[c], 20) for c in chosen]
    # What stands beside others comes last.
    names = {kind: mode_words(kind) for kind in sorted(shares, key=lambda kind: kind in _BESIDE)}
    return Groups(labels, panels, "share of predictions (%)"), names


def _shares(counts: Int[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    total = counts.sum()
    return counts / total if total else np.full(len(counts), np.nan)


def _histogram_words(histogram: BiasHistogram, groups: Groups) -> tuple[str, str]:
    alt = f"Bars of what models predict, {clean(histogram.title)}."
    for kind, (before, after) in histogram.panels.items():
        change = np.nan_to_num(_shares(after) - _shares(before))
        best = int(np.argmax(change))
        alt += (
            f" {mode_words(kind)}: {clean(histogram.class_names[best])} gains most, "
            f"{decimal(100 * float(change[best]), 1, signed=True)}{NBSP}pp."
        )
    totals = sorted({int(part.sum()) for counts in histogram.panels.values() for part in counts})
    many = f"{totals[0]:,}" if len(totals) == 1 else f"{totals[0]:,} to {totals[-1]:,}"
    caption = (
        "What models predict for the same images with the pattern (bars) and without it (black lines): shares of "
        f"{many} predictions a kind of model."
    )
    if len(groups.labels) < len(histogram.class_names):
        caption += f" Shown are the {len(groups.labels)} of {len(histogram.class_names)} classes that change most."
    return alt, caption
