"""The figures of pre-training data with what they show in words, under the parts of the section they belong to."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jdt.report.content import Figure
from jdt.report.dots import DotPanel, draw_dots
from jdt.report.figures import Drawn, picture
from jdt.report.panels import graded_looks, panel_chunks
from jdt.report.parts import ends
from jdt.report.plots import LineLook
from jdt.report.pretraining_content import (
    ALL,
    SCRATCH,
    Pretraining,
    PretrainingAccuracy,
    PretrainingGain,
    PretrainingGap,
    PretrainingSize,
    Shots,
)
from jdt.report.pretraining_heat import draw_heat
from jdt.report.pretraining_plots import (
    MOST_LINES,
    MOST_PANELS,
    ShotPanel,
    SpreadPanel,
    draw_shots,
    draw_spreads,
    draw_strips,
    series_looks,
    source_looks,
)
from jdt.report.pretraining_size_plots import draw_sizes
from jdt.report.pretraining_words import (
    has_interval,
    interval_sentence,
    left_words,
    method_words,
    runs_sentence,
    setting_words,
    shots_words,
    size_sentence,
    spread_sentence,
    transfer_note,
)
from jdt.report.requirements import figure_words
from jdt.report.words import NOT_MEASURED, capital, clean, percent, shorten

ACCURACY, HEAT, SPREAD, SIZE, LABELS, GAP, OPTIMISM, GAIN, ZERO_SHOT = (
    "accuracy", "heat", "spread", "size", "label_worth", "gap", "optimism", "gain", "zero_shot"
)  # fmt: skip
"""Parts of the section that have figures."""
MOST_FEW = 20
"""Shots up to which they are few."""
_SOME = 6  # Entries that alternative texts describe.


def pretraining_pictures(found: Pretraining) -> Iterator[Drawn]:
    """All figures in their order; call it inside `drawing`."""
    yield from _accuracies(found)
    yield from _heats(found)
    yield from _spreads(found)
    yield from _sizes(found.sizes, SIZE, "How many images are as good")
    yield from _sizes(found.label_worth, LABELS, "Right labels against more images")
    yield from _gaps(found)
    yield from _gains(found)
    yield from _optimism(found)
    if found.zero_shot:
        yield _zero_shot(found)


def ranked_sources(accuracies: Sequence[PretrainingAccuracy]) -> list[str]:
    """Sources by their mean rank over all cells, the best first; of ties the one that is named first."""
    cells: dict[tuple[str, str, str, Shots], dict[str, float]] = {}
    for one in accuracies:
        for shots, figure in one.accuracy.items():
            if math.isfinite(ends(figure)[0]):
                cells.setdefault((one.method, one.target, one.transfer, shots), {})[one.source] = figure.value
    places: dict[str, list[float]] = {one.source: [] for one in accuracies}
    for values in cells.values():
        for source, value in values.items():
            better = sum(other > value for other in values.values())
            same = sum(other == value for other in values.values()) - 1
            # A share of those there are: cells have different numbers of sources.
            places[source].append((better + same / 2) / max(len(values) - 1, 1))
    return sorted(places, key=lambda source: float(np.mean(places[source])) if places[source] else math.inf)


def heat_shots(found: Pretraining) -> tuple[Shots, ...]:
    """The few shots and full data that are shown beside each other, where they were measured."""
    measured = {shots for one in found.accuracies for shots in one.accuracy}
    few = [shots for shots in found.shots if shots in measured and shots is not None]
    chosen = found.heat_shots
    if chosen not in few:
        chosen = max((k for k in few if k <= MOST_FEW), default=few[0] if few else None)
    return tuple(k for k in dict.fromkeys((chosen, ALL)) if k in measured)


def _settings(found: Pretraining) -> list[tuple[str, str]]:
    return list(dict.fromkeys((one.method, one.transfer) for one in found.accuracies))


def _accuracies(found: Pretraining) -> Iterator[Drawn]:
    sources = list(dict.fromkeys(one.source for one in found.accuracies))
    ranked = ranked_sources(found.accuracies)
    if len(ranked) > MOST_LINES and found.candidates:
        ranked = [name for name in ranked if name in (*found.candidates, SCRATCH)]
    looks = source_looks(ranked)
    names = {name: name for name in sources}
    for method in dict.fromkeys(one.method for one in found.accuracies):
        keys = dict.fromkeys((one.transfer, one.target) for one in found.accuracies if one.method == method)
        panels = [
            ShotPanel(
                f"{shorten(target, 28)}: {shorten(transfer, 12)}",
                {
                    one.source: one.accuracy
                    for one in found.accuracies
                    if (one.method, one.transfer, one.target) == (method, transfer, target)
                },
                target,
            )
            for transfer, target in keys
        ]
        for more, some in panel_chunks(panels, MOST_PANELS):
            drawing = draw_shots(some, found.shots, looks, names)
            coloured = (
                "the candidates of equal size" if found.candidates else "the best and the worst sources by mean rank"
            )
            transfers = [transfer for transfer, _ in keys]
            caption, alt = _shot_words(some, found.shots, looks, method, transfers, coloured)
            title = f"Accuracy against shots: {method_words(method)}{more}"
            yield Drawn(ACCURACY, title, picture("shots", drawing, alt, caption), "accuracy")


def _shot_words(
    panels: Sequence[ShotPanel],
    shots: Sequence[Shots],
    looks: Mapping[str, LineLook],
    method: str,
    transfers: Sequence[str],
    coloured: str,
) -> tuple[str, str]:
    every = [figure for panel in panels for figures in panel.lines.values() for figure in figures.values()]
    shown = {name for panel in panels for name in panel.lines}
    caption = (
        f"Accuracy on test images against training images of each class, pre-trained by {method_words(method)}, a line "
        f"a source. {runs_sentence(every)}{interval_sentence(every, 'Bands')}"
    )
    if ALL in shots:
        caption += " “full”: all training images, beyond the dotted line."
    if others := shown - {*looks}:
        caption += f" Coloured are {coloured}; the {len(others)} others are grey, by name in table and heatmap."
    if len(panels) > 1:
        caption += " Panels of one target have the same scale."
    caption = f"{caption} {capital(transfer_note(transfers))}".strip()
    alt = f"Accuracy against shots in {len(panels)} panels, a line a source."
    for panel in panels[:_SOME]:
        parts = []
        for k in shots:
            known = {name: by[k] for name, by in panel.lines.items() if k in by and math.isfinite(ends(by[k])[0])}
            if known:
                best, worst = (f(known, key=lambda name: known[name].value) for f in (max, min))
                words = f"best {clean(best)} {percent(known[best].value)}"
                if best != worst:
                    words += f", worst {clean(worst)} {percent(known[worst].value)}"
                parts.append(f"{shots_words(k)}: {words}")
        alt += f" {panel.title}: {'; '.join(parts) or NOT_MEASURED}."
    return caption, alt


def _heats(found: Pretraining) -> Iterator[Drawn]:
    chosen = heat_shots(found)
    firsts: dict[str, str] = {}
    for method, transfer in _settings(found):
        firsts.setdefault(method, transfer)
    ranks = ranked_sources(found.accuracies)
    for method, transfer in firsts.items() if chosen else ():
        these = [one for one in found.accuracies if (one.method, one.transfer) == (method, transfer)]
        sources = sorted(dict.fromkeys(one.source for one in these), key=ranks.index)
        targets = list(dict.fromkeys(one.target for one in these))
        grids = {shots_words(k): np.full((len(sources), len(targets)), np.nan) for k in chosen}
        for one in these:
            for k in chosen:
                if k in one.accuracy:
                    place = sources.index(one.source), targets.index(one.target)
                    grids[shots_words(k)][place] = 100 * ends(one.accuracy[k])[0]
        if not any(np.isfinite(grid).any() for grid in grids.values()):
            continue
        drawing = draw_heat(grids, sources, targets)
        setting = setting_words(method, transfer)
        alt = f"Heatmap of accuracy of {len(sources)} sources on {len(targets)} targets ({setting})."
        for title, grid in grids.items():
            known = [i for i in range(len(targets)) if np.isfinite(grid[:, i]).any()]
            words = (
                f"{clean(targets[i])} best {clean(sources[int(np.nanargmax(grid[:, i]))])} "
                f"{percent(float(np.nanmax(grid[:, i])) / 100)}"
                for i in known[:_SOME]
            )
            alt += f" {capital(title)}: {'; '.join(words) or NOT_MEASURED}."
        caption = (
            f"Accuracy (%) of each source (row) on each target (column), {' and '.join(grids)}, {setting}. Rows are "
            "sorted by mean rank over everything measured; dark: close to the best source of the column, pale: far "
            "behind it."
        )
        yield Drawn(HEAT, f"Sources by targets: {setting}", picture("heat", drawing, alt, caption), "accuracy")


def _spreads(found: Pretraining) -> Iterator[Drawn]:
    for more, some in panel_chunks(found.spreads, MOST_PANELS):
        panels = [
            SpreadPanel(
                f"{shorten(one.target, 22)}: {shorten(setting_words(one.method, one.transfer), 20)}",
                "" if one.left is None or not math.isfinite(ends(one.left)[0]) else _short_left(one.left),
                one.spread,
                one.relative,
                one.null,
            )
            for one in some
        ]
        every = [figure for one in some for by in (one.spread, one.relative) for figure in by.values()]
        alt = f"Spread between sources against shots, {len(some)} panels. "
        alt += " ".join(filter(None, map(spread_sentence, some[:_SOME])))
        caption = (
            "Accuracy of the best minus that of the worst source of equal size, in percentage points, and dashed in "
            f"per cent of the best. {interval_sentence(every, 'Bands')}"
        )
        if any(one.null for one in some):
            caption += (
                " Grey: how far so many equal sources would be apart by the noise of their seeds, 95 % of the time. "
                "The solid line above it says that sources differ."
            )
        drawing = draw_spreads(panels, found.shots)
        yield Drawn(SPREAD, f"Spread between sources{more}", picture("spread", drawing, alt, caption.strip()), "spread")


def _short_left(left: Figure) -> str:
    return left_words(left).replace(" of the few-shot spread is left with full data", " of it is left with full data")


def _sizes(sizes: Sequence[PretrainingSize], part: str, title: str) -> Iterator[Drawn]:
    is_worth = part == LABELS
    for more, some in panel_chunks(sizes, MOST_PANELS):
        several = len({one.source for one in some}) > 1
        titles = [
            f"{shorten(one.source, 14) + ' on ' if several else ''}{shorten(one.target, 16)}: "
            f"{shots_words(one.shots)}, {setting_words(one.method, one.transfer)}"
            for one in some
        ]
        units = [one.references[0].images for one in some] if is_worth else ()
        drawing = draw_sizes(some, titles, multiples_of=units)
        every = [f for one in some for f in (*one.accuracy, *(by.accuracy for by in one.references))]
        sentences = [*filter(None, (size_sentence(one, by) for one in some for by in one.references))]
        alt = f"Accuracy against the size of a source, {len(some)} panels. {' '.join(sentences[:_SOME])}".strip()
        caption = (
            "Accuracy with more and more images of a source (nested, on a logarithmic axis), and lines across at what "
            f"others reach. {interval_sentence(every, 'Bands')} Arrows go down where the curve, monotone between "
            "points, reaches a line, to how many of its images are as good; an arrow out to the right: not even the "
            "largest size is enough, and nothing is extrapolated."
        )
        if any(by.needed and has_interval(by.needed) for one in some for by in one.references):
            caption += " Bars under numbers: their 95 % intervals."
        notes = dict.fromkeys(clean(one.note).rstrip(".") for one in some if one.note)
        caption += "".join(f" {capital(note)}." for note in notes)
        yield Drawn(part, f"{title}{more}", picture("sizes", drawing, alt, caption), part)


def _few_series(shots: Sequence[Shots], rows: int, found: Pretraining) -> list[Shots]:
    """All shots; of many rows only the two that the heatmap has."""
    chosen = heat_shots(found) if rows > MOST_LINES else ()
    kept = [k for k in found.shots if k in shots and (not chosen or k in chosen)]
    return kept or [k for k in found.shots if k in shots]


def _gaps(found: Pretraining) -> Iterator[Drawn]:
    for first, second, transfer in dict.fromkeys((one.method, one.other, one.transfer) for one in found.gaps):
        these = [one for one in found.gaps if (one.method, one.other, one.transfer) == (first, second, transfer)]
        pair = f"{method_words(first)} minus {method_words(second)}"
        label = f"accuracy of {pair} (pp)"
        title = f"Gap between methods: {pair}, {clean(transfer)}"
        caption = (
            f"Accuracy of {method_words(first)} minus that of {method_words(second)} on the same source images, with "
            f"the same transfer ({clean(transfer)}). Right of 0, {method_words(first)} is better."
        )
        yield from _dots(GAP, title, caption, [(one, one.gap) for one in these], found, label)


def _gains(found: Pretraining) -> Iterator[Drawn]:
    for method, transfer in dict.fromkeys((one.method, one.transfer) for one in found.gains):
        these = [one for one in found.gains if (one.method, one.transfer) == (method, transfer)]
        setting = setting_words(method, transfer)
        caption = (
            f"Accuracy minus that of models trained on the target alone, {setting}. Right of 0, pre-training helps."
        )
        label = "accuracy minus that from scratch (pp)"
        title = f"Gain over training from scratch: {setting}"
        yield from _dots(GAIN, title, caption, [(one, one.gain) for one in these], found, label)


def _dots(
    part: str,
    title: str,
    caption: str,
    entries: Sequence[tuple[PretrainingGap | PretrainingGain, Figure]],
    found: Pretraining,
    label: str,
) -> Iterator[Drawn]:
    """Rows of sources with a dot for each shots, a panel a target."""
    sources = list(dict.fromkeys(one.source for one, _ in entries))
    shots = list(dict.fromkeys(one.shots for one, _ in entries))
    chosen = _few_series(shots, len(sources), found)
    looks = {shots_words(k): look for k, look in graded_looks(chosen).items()}
    targets = list(dict.fromkeys(one.target for one, _ in entries))
    for more, some in panel_chunks(targets, MOST_PANELS):
        panels = []
        for target in some:
            rows: dict[str, dict[str, Figure]] = {source: {} for source in sources}
            for one, figure in entries:
                if one.target == target and one.shots in chosen:
                    rows[one.source][shots_words(one.shots)] = figure
            panels.append(DotPanel(clean(target), rows))
        shown = [figure for panel in panels for by in panel.rows.values() for figure in by.values()]
        alt = f"Dots with whiskers around 0: {title}."
        for panel in panels[:_SOME]:
            words = (
                f"{clean(row)} {', '.join(f'{figure_words(one)} at {name}' for name, one in by.items())}"
                for row, by in list(panel.rows.items())[:_SOME]
                if by
            )
            alt += f" {panel.title}: {'; '.join(words) or NOT_MEASURED}."
        words = f"{caption} {interval_sentence(shown, 'Whiskers')}"
        if len(chosen) < len(shots):
            words += f" Shown are {' and '.join(map(shots_words, chosen))}; the table has all."
        drawing = draw_dots(panels, looks, label)
        yield Drawn(part, f"{title}{more}", picture("dots", drawing, alt, words.strip()), part)


def _optimism(found: Pretraining) -> Iterator[Drawn]:
    if not found.optimism:
        return
    panels: dict[str, dict[str, dict[Shots, list[float]]]] = {}
    for one in found.optimism:
        by = panels.setdefault(one.target, {}).setdefault(setting_words(one.method, one.transfer), {})
        by.setdefault(one.shots, []).append(ends(one.optimism)[0])
    for more, targets in panel_chunks(list(panels), MOST_PANELS):
        some = {shorten(target, 40): panels[target] for target in targets}
        if len(some) < len(targets):  # Names that are alike when cut.
            some = {f"{i}. {shorten(target, 36)}": panels[target] for i, target in enumerate(targets, start=1)}
        drawing = draw_strips(some, found.shots, "optimism (pp)")
        alt = "Optimism of choosing a setting by test images against shots, a dot a source."
        for title, panel in list(some.items())[:_SOME]:
            values = [v for by in panel.values() for cell in by.values() for v in cell if math.isfinite(v)]
            words = f"mean {100 * np.mean(values):.1f}, largest {100 * max(values):.1f} pp" if values else NOT_MEASURED
            alt += f" {title}: {words}."
        caption = (
            "What accuracies would gain if the test images chose the setting, in place of the validation images that "
            "do: a dot a source, strokes at means. By so much numbers would be too good; it is never below 0."
        )
        yield Drawn(OPTIMISM, f"Optimism of choosing by test images{more}",
                    picture("optimism", drawing, alt, caption), "optimism")  # fmt: skip


def _zero_shot(found: Pretraining) -> Drawn:
    rows: dict[str, dict[str, Figure]] = {}
    marks: dict[str, float] = {}
    for one in found.zero_shot:
        name = f"{clean(one.source)}, {clean(one.head)}\n{clean(one.classes_of)}"
        rows[name] = {"names at their classes": one.aligned, "names permuted": one.permuted}
        marks[name] = one.chance
    looks = series_looks(("names at their classes", "names permuted"))
    drawing = draw_dots([DotPanel("", rows, marks)], looks, "accuracy (%)", is_change=False, mark="chance")
    every = [figure for by in rows.values() for figure in by.values()]
    alt = "Accuracy of heads made of class names, aligned and permuted, against chance."
    for name, by in list(rows.items())[:_SOME]:
        aligned, permuted = map(figure_words, by.values())
        alt += f" {name.replace(chr(10), ' on ')}: {aligned}, permuted {permuted}, chance {percent(marks[name])}."
    caption = (
        "Accuracy without training on the target: every class has the name (or the mean image) that it should, and for "
        f"comparison that of another class. Permuted ones must be at chance. {interval_sentence(every, 'Whiskers')}"
    )
    return Drawn(ZERO_SHOT, "Names at their classes", picture("zero_shot", drawing, alt, caption), "zero_shot")
