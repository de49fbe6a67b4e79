"""The drawings of pre-training data: curves over shots, spreads, size curves, heatmaps, dots with whiskers."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from jdt.report.content import Figure
from jdt.report.panels import (
    STYLES,
    legend_above,
    line_handle,
    panel_grid,
    panel_title,
    plain_tick,
    say_nothing,
    signed_tick,
)
from jdt.report.parts import columns, ends
from jdt.report.plots import INK, KIND_COLOURS, LineLook, grid_below
from jdt.report.pretraining_content import ALL, SCRATCH, PretrainingReference, PretrainingSize, Shots
from jdt.report.pretraining_words import images_words, needed_words, ratio_words
from jdt.report.words import ABSENT, decimal, shorten
from jdt.types import Float

TIMES = "\N{MULTIPLICATION SIGN}"
MOST_LINES, MOST_PANELS = 8, 6
"""Sources of one panel that have looks of their own; panels of one figure."""
_ENDS = 3  # Of more sources, so many of the best and of the worst have looks of their own.
_MARKERS = "os^Dv*PX"
_SCRATCH_LOOK: LineLook = ("#555555", "X", ":")
_OTHER_LOOK: LineLook = ("#c2c2c2", "none", "-")
_SPREAD_LOOK: LineLook = (KIND_COLOURS[0], "o", "-")
_RELATIVE_LOOK: LineLook = (KIND_COLOURS[1], "s", "--")
_NULL = "#8c8c8c"
_FULL_GAP = 0.55  # Of full data after the most shots, in powers of ten; 0 shots before the fewest.
_MIDDLE = 0.55  # Of a colour scale: letters on darker cells are white.


@dataclasses.dataclass(frozen=True, eq=False)
class ShotPanel:
    """Lines against shots.

    Attributes:
      title: Above it.
      lines: By name, figures by shots.
      shares: Panels of the same word have the same scale.
    """

    title: str
    lines: Mapping[str, Mapping[Shots, Figure]]
    shares: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class SpreadPanel:
    """How far sources are apart against shots; all in per cent of the axis.

    Attributes:
      title: Above it, `more` below that.
      spread, relative, null: By shots, as in `PretrainingSpread`.
    """

    title: str
    more: str
    spread: Mapping[Shots, Figure]
    relative: Mapping[Shots, Figure]
    null: Mapping[Shots, Figure]


@dataclasses.dataclass(frozen=True, eq=False)
class DotPanel:
    """Dots with whiskers, rows of several series.

    Attributes:
      title: Above it.
      rows: By row, figures by series; a row that the panel lacks stays empty.
      marks: A value of some rows that a tick shows.
    """

    title: str
    rows: Mapping[str, Mapping[str, Figure]]
    marks: Mapping[str, float] = dataclasses.field(default_factory=dict)


def source_looks(ranked: Sequence[str]) -> dict[str, LineLook]:
    """One look a source for the whole section; sources that lack one are grey.

    Args:
      ranked: Sources with the best first; `SCRATCH` has its own look and no rank.
    """
    sources = [name for name in ranked if name != SCRATCH]
    shown = sources if len(sources) <= MOST_LINES else sources[:_ENDS] + sources[-_ENDS:]
    return series_looks(shown) | ({SCRATCH: _SCRATCH_LOOK} if SCRATCH in ranked else {})


def series_looks(names: Sequence[str]) -> dict[str, LineLook]:
    """One look a name, in turn."""
    count = len(KIND_COLOURS)
    return {
        name: (KIND_COLOURS[i % count], _MARKERS[i % len(_MARKERS)], STYLES[(i + i // count) % len(STYLES)])
        for i, name in enumerate(names)
    }


def shot_places(shots: Sequence[Shots]) -> dict[Shots, float]:
    """Where shots stand on a logarithmic axis: none of them before the fewest, full data after the most."""
    logs = {k: math.log10(k) for k in shots if k}
    places: dict[Shots, float] = dict(logs)
    if 0 in shots:
        places[0] = min(logs.values(), default=_FULL_GAP) - _FULL_GAP
    if ALL in shots:
        places[ALL] = max(places.values(), default=-_FULL_GAP) + _FULL_GAP
    return {k: places[k] for k in shots}


def draw_shots(
    panels: Sequence[ShotPanel], shots: Sequence[Shots], looks: Mapping[str, LineLook], names: Mapping[str, str]
) -> Drawing:
    """Accuracy against shots, a line a source with its band; sources without a look of their own are grey lines."""
    figure, grid, wide = panel_grid(len(panels), 2)
    places = shot_places(shots)
    present = [name for name in names if any(name in panel.lines for panel in panels)]
    for axes, panel in zip(grid, panels, strict=True):
        panel_title(axes, panel.title, wide)
        # Grey lines first, below all others.
        for name in sorted(panel.lines, key=lambda name: name in looks):
            _line(axes, panel.lines[name], places, looks.get(name, _OTHER_LOOK), banded=name in looks)
        _finish(axes, any(_known(figures.values()) for figures in panel.lines.values()))
        _shot_axis(axes, places)
    _share_scales(grid, [panel.shares for panel in panels])
    figure.supxlabel("training images a class (log)", fontsize=9.5)
    figure.supylabel("accuracy (%)", fontsize=9.5)
    shown = [name for name in present if name in looks]
    handles, labels = [line_handle(grid[0], looks[name]) for name in shown], [shorten(names[n], 30) for n in shown]
    if others := len(present) - len(shown):
        handles.append(line_handle(grid[0], _OTHER_LOOK))
        labels.append(f"other sources ({others})")
    legend_above(figure, handles, labels)
    return figure


def draw_spreads(panels: Sequence[SpreadPanel], shots: Sequence[Shots]) -> Drawing:
    """Spread and relative spread against shots, with the grey band of what noise alone gives."""
    figure, grid, wide = panel_grid(len(panels), 2)
    places = shot_places(shots)
    for axes, panel in zip(grid, panels, strict=True):
        panel_title(axes, panel.title, wide, f"\n{panel.more}" if panel.more else "")
        _null(axes, panel.null, places)
        _line(axes, panel.relative, places, _RELATIVE_LOOK)
        _line(axes, panel.spread, places, _SPREAD_LOOK)
        _finish(axes, _known([*panel.spread.values(), *panel.relative.values()]))
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        _shot_axis(axes, places)
    figure.supxlabel("training images a class (log)", fontsize=9.5)
    figure.supylabel("spread (pp), relative spread (%)", fontsize=9.5)
    entries = [("best minus worst source (pp)", line_handle(grid[0], _SPREAD_LOOK))]
    if any(panel.relative for panel in panels):
        entries.append(("the same in % of the best", line_handle(grid[0], _RELATIVE_LOOK)))
    if any(panel.null for panel in panels):
        entries.append(("noise alone", grid[0].fill_between([], [], color=_NULL, alpha=0.35, linewidth=0)))
    legend_above(figure, [handle for _, handle in entries], [label for label, _ in entries])
    return figure


def _null(axes: Axes, null: Mapping[Shots, Figure], places: Mapping[Shots, float]) -> None:
    shots = [k for k in places if k in null]
    x = np.array([places[k] for k in shots])
    middle, low, high = (100 * part for part in columns([null[k] for k in shots]))
    axes.fill_between(x, np.where(np.isfinite(low), low, 0.0), high, where=np.isfinite(high), color=_NULL, alpha=0.35,
                      linewidth=0, zorder=1)  # fmt: skip
    axes.plot(x, middle, color=_NULL, linewidth=0.9, zorder=1)


def _line(
    axes: Axes,
    figures: Mapping[Shots, Figure],
    places: Mapping[Shots, float],
    look: LineLook,
    *,
    banded: bool = True,
) -> None:
    """A line over shots; where there are bands they are pale, so that several can lie on each other."""
    colour, marker, style = look
    shots = [k for k in places if k in figures]
    x = np.array([places[k] for k in shots])
    mean, low, high = (100 * part for part in columns([figures[k] for k in shots]))
    known = np.isfinite(mean)
    if banded:
        axes.fill_between(x[known], low[known], high[known], color=colour, alpha=0.13, linewidth=0, zorder=2)
    axes.plot(x[known], mean[known], color=colour, marker=marker, linestyle=style, linewidth=1.6 if banded else 0.9,
              markersize=5, zorder=3 if banded else 1.5)  # fmt: skip


def _known(figures: Collection[Figure]) -> bool:
    return any(math.isfinite(ends(figure)[0]) for figure in figures)


def _finish(axes: Axes, known: bool, *, signed: bool = False) -> None:
    if not known:
        say_nothing(axes)
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_formatter(FuncFormatter(signed_tick if signed else plain_tick))
    grid_below(axes)


def _shot_axis(axes: Axes, places: Mapping[Shots, float], *, broken: bool = True) -> None:
    """Ticks where something was measured; a dotted line where the axis is broken before full data."""
    x = list(places.values())
    axes.set_xticks(x, ["full" if k is ALL else f"{k:,}" for k in places])
    reach = 0.05 * (max(x) - min(x)) or 0.5
    reach = reach if broken else 0.5
    axes.set_xlim(min(x) - reach, max(x) + reach)
    if broken and ALL in places and len(places) > 1:
        axes.axvline(places[ALL] - _FULL_GAP / 2, color=_NULL, linewidth=0.9, linestyle=(0, (1, 3)))


def _share_scales(grid: Sequence[Axes], words: Sequence[str]) -> None:
    for word in dict.fromkeys(filter(None, words)):
        same = [axes for axes, one in zip(grid, words, strict=True) if one == word and axes.lines]
        limits = [axes.get_ylim() for axes in same]
        for axes in same:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


def draw_sizes(sizes: Sequence[PretrainingSize], titles: Sequence[str], *, multiples_of: Sequence[int] = ()) -> Drawing:
    """Accuracy against the size of a source, with references across and arrows where the curve crosses them.

    Args:
      sizes: A panel each.
      titles: Above panels.
      multiples_of: For each panel, how many images 1 stands for on its axis; empty where it counts images.
    """
    figure, grid, wide = panel_grid(len(sizes), 2)
    names = list(dict.fromkeys(by.name for one in sizes for by in one.references))
    looks: dict[str, LineLook] = {
        name: (KIND_COLOURS[1 + i % (len(KIND_COLOURS) - 1)], _MARKERS[1 + i % (len(_MARKERS) - 1)],
               STYLES[1 + i % (len(STYLES) - 1)])
        for i, name in enumerate(names)
    }  # fmt: skip
    for i, (axes, one, title) in enumerate(zip(grid, sizes, titles, strict=True)):
        panel_title(axes, title, wide)
        unit = float(multiples_of[i]) if multiples_of else 1.0
        x = np.array(one.sizes, np.float64) / unit
        axes.set_xscale("log")
        mean, low, high = (100 * part for part in columns(one.accuracy))
        known = np.isfinite(mean)
        axes.fill_between(x[known], low[known], high[known], color=KIND_COLOURS[0], alpha=0.16, linewidth=0)
        axes.plot(x[known], mean[known], color=KIND_COLOURS[0], marker="o", linewidth=1.8, markersize=5.5, zorder=3)
        _finish(axes, known.any() or _known([by.accuracy for by in one.references]))
        _size_axis(axes, x, bool(multiples_of))
        _references(axes, one, looks, x)
    figure.supxlabel("size of the source, in multiples of the clean images (log)" if multiples_of
                     else "images that the source has (log)", fontsize=9.5)  # fmt: skip
    figure.supylabel("accuracy (%)", fontsize=9.5)
    curves = list(dict.fromkeys(one.source for one in sizes))
    curve = shorten(curves[0], 30) if len(curves) == 1 else "the source, by size"
    handles = [line_handle(grid[0], (KIND_COLOURS[0], "o", "-")), *(line_handle(grid[0], looks[n]) for n in names)]
    legend_above(figure, handles, [curve, *(shorten(name, 34) for name in names)])
    return figure


def _size_axis(axes: Axes, x: Float[np.ndarray, " sizes"], multiples: bool) -> None:
    # A quarter more at the end: what is not reached is said there.
    span = math.log10(float(x[-1] / x[0])) or 1.0
    axes.set_xlim(float(x[0]) * 10 ** (-0.08 * span), float(x[-1]) * 10 ** (0.24 * span))
    step = -(-len(x) // 5)
    shown = x[::-1][::step][::-1]  # The largest size always has its tick.
    axes.set_xticks(shown, [f"{value:.3g}{TIMES}" if multiples else images_words(value) for value in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _references(
    axes: Axes, one: PretrainingSize, looks: Mapping[str, LineLook], x: Float[np.ndarray, " sizes"]
) -> None:
    """Lines across the panel, and how many images are as good: arrows down from the curve, or out at the edge."""
    unit = one.sizes[0] / float(x[0])
    levels = [(100 * ends(by.accuracy)[0], by) for by in one.references]
    levels = [(level, by) for level, by in levels if math.isfinite(level)]
    if not levels:
        return
    bottom, top = (f(end, *(level for level, _ in levels)) for f, end in zip((min, max), axes.get_ylim(), strict=True))
    room = 0.14 * (top - bottom)
    axes.set_ylim(bottom - room * (len(levels) + 0.2), top + 0.06 * (top - bottom))
    bottom -= room * len(levels)
    for slot, (level, by) in enumerate(levels):
        colour, marker, style = looks[by.name]
        _, low, high = (100 * end for end in ends(by.accuracy))
        axes.axhline(level, color=colour, linestyle=style, linewidth=1.2, zorder=2)
        if math.isfinite(low) and math.isfinite(high):
            axes.axhspan(low, high, color=colour, alpha=0.08, linewidth=0)
        if float(x[0]) <= by.images / unit <= float(x[-1]):
            axes.plot([by.images / unit], [level], color=colour, marker=marker, markersize=5.5, zorder=4)
        base = bottom + room * (len(levels) - slot - 0.6)
        _equivalence(axes, one, by, (level, base), colour, unit)


def _equivalence(
    axes: Axes,
    one: PretrainingSize,
    by: PretrainingReference,
    heights: tuple[float, float],
    colour: str,
    unit: float,
) -> None:
    """From the line to where the curve crosses it, and down to the number; an arrow out where it never does."""
    if by.needed is None or math.isnan(by.needed.value):
        return
    level, base = heights
    words = needed_words(by, one.sizes) if unit == 1 else f"{ratio_words(by, one.sizes).partition(' (')[0]}{TIMES}"
    first, last = one.sizes[0] / unit, one.sizes[-1] / unit
    edge = axes.get_xlim()[1]
    text = {"color": colour, "fontsize": 8.5, "fontweight": "bold", "va": "center"}
    if math.isinf(by.needed.value):
        axes.annotate("", (edge, base), (last, base), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.4})
        axes.text(last, base, f"{words} ", ha="right", **text)
    else:
        there = by.needed.value / unit
        axes.annotate("", (there, base), (there, level), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.1})
        left = math.log(there / first) > 0.5 * math.log(last / first)
        axes.annotate(words, (there, base), xytext=(-5 if left else 5, 0), textcoords="offset points",
                      ha="right" if left else "left", **text)  # fmt: skip
    _, low, high = ends(by.needed)
    if not (math.isnan(low) or math.isnan(high) or math.isinf(low)):
        right = edge if math.isinf(high) else high / unit
        under = base - 0.028 * float(np.ptp(axes.get_ylim()))
        axes.plot([low / unit, right], [under, under], color=colour, linewidth=2.2, alpha=0.55, solid_capstyle="butt")


def draw_heat(
    panels: Mapping[str, Float[np.ndarray, "sources targets"]], sources: Sequence[str], targets: Sequence[str]
) -> Drawing:
    """Accuracy of sources on targets: numbers in cells, coloured by how far they are behind the best of the column.

    Args:
      panels: By title, accuracies in per cent; NaN where nothing was measured.
      sources: Names of rows.
      targets: Names of columns.
    """
    beside = len(panels) * len(targets) <= 8
    labels = [shorten(name, 24) for name in sources]
    heads = [shorten(name, 16) for name in targets]
    cell = min(1.1, max(0.52, 2.6 / max(len(targets), 1)))
    steep = 0.085 * max(map(len, heads), default=0) > cell
    left, above = 0.4 + 0.075 * max(map(len, labels), default=0), 1.0 if steep else 0.55
    across, down = (len(panels), 1) if beside else (1, len(panels))
    size = (left + across * (cell * len(targets) + 0.15), down * (above + 0.24 * len(sources)) + 0.75)
    figure = Drawing(figsize=(max(size[0], 4.6), size[1]), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel().tolist()
    behind = {
        title: np.nanmax(np.where(np.isfinite(values), values, -np.inf), axis=0) - values
        for title, values in panels.items()
    }
    gaps = np.concatenate([part[np.isfinite(part)] for part in behind.values()])
    limit = float(np.quantile(gaps, 0.95)) if gaps.size and gaps.max() > 0 else 1.0
    limit = limit or float(gaps.max())
    colours = matplotlib.colormaps["Blues_r"].with_extremes(bad="#e3e3e3")
    image = None
    for axes, (title, values) in zip(grid, panels.items(), strict=True):
        axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
        image = axes.imshow(np.ma.masked_invalid(behind[title]), cmap=colours, vmin=0, vmax=1.25 * limit, aspect="auto")
        for (row, column), value in np.ndenumerate(values):
            gap = behind[title][row, column]
            known = math.isfinite(value)
            dark = known and gap < (1 - _MIDDLE) * 1.25 * limit
            weight = "bold" if known and gap == 0 else "normal"
            axes.text(column, row, decimal(value, 1) if known else ABSENT, ha="center", va="center", fontsize=8.5,
                      color="white" if dark else INK, fontweight=weight)  # fmt: skip
        axes.set_xticks(range(len(heads)), heads, rotation=40 if steep else 0, ha="left" if steep else "center",
                        rotation_mode="anchor", fontsize=8.5)  # fmt: skip
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    if image is not None:
        bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.7, aspect=40, pad=0.02, extend="max")
        bar.set_label("points behind the best source of the column (bold)")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    return figure


def draw_dots(
    panels: Sequence[DotPanel],
    looks: Mapping[str, LineLook],
    x_label: str,
    *,
    is_change: bool = True,
    mark: str = "",
) -> Drawing:
    """Dots with whiskers, rows of series; around 0 where they are changes.

    Args:
      panels: With the same scale and rows.
      looks: Of every series.
      x_label: Of all panels; figures are shares and shown in per cent.
      is_change: Whether figures are differences.
      mark: What ticks of rows are, for the legend.
    """
    rows = list(dict.fromkeys(row for panel in panels for row in panel.rows))
    series = [name for name in looks if any(name in by for panel in panels for by in panel.rows.values())]
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    height = 0.3 + len(rows) * (0.12 + 0.13 * len(series))
    figure = Drawing(figsize=(6.4 if across == 1 else 7.4, 0.85 + down * (0.25 + height)), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel().tolist()
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    apart = 1 / (len(series) + 1)
    for axes, panel in zip(grid, panels, strict=False):
        if panel.title:
            panel_title(axes, panel.title, True)
        for y in range(1, len(rows), 2):
            axes.axhspan(y - 0.5, y + 0.5, color="#f3f4f6", zorder=0, linewidth=0)
        if is_change:
            axes.axvline(0, color="#555555", linewidth=0.9)
        for y, row in enumerate(rows):
            for slot, name in enumerate(series):
                if figure_ := panel.rows.get(row, {}).get(name):
                    _dot(axes, figure_, y + apart * (slot - (len(series) - 1) / 2), looks[name])
            if row in panel.marks:
                x = 100 * panel.marks[row]
                axes.plot([x, x], [y - 0.42, y + 0.42], color=INK, linewidth=1.6, zorder=2)
        axes.set_yticks(range(len(rows)), ["\n".join(shorten(line, 26) for line in row.split("\n")) for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.xaxis.set_major_formatter(FuncFormatter(signed_tick if is_change else plain_tick))
        grid_below(axes, "x")
    if not is_change:
        grid[0].set_xlim(left=0)
    grid[0].set_ylim(len(rows) - 0.45, -0.55)
    figure.supxlabel(x_label, fontsize=9.5)
    handles = [line_handle(grid[0], (looks[name][0], looks[name][1], "-")) for name in series]
    labels = [shorten(name, 34) for name in series]
    if mark:
        handles += grid[0].plot([], [], color=INK, marker="|", markersize=10, linestyle="none", markeredgewidth=1.6)
        labels.append(mark)
    legend_above(figure, handles, labels, handle=1.6)
    return figure


def _dot(axes: Axes, figure: Figure, y: float, look: LineLook) -> None:
    value, low, high = (100 * end for end in ends(figure))
    if not math.isfinite(value):
        return
    colour, marker, _ = look
    if math.isfinite(low) and math.isfinite(high):
        axes.plot([low, high], [y, y], color=colour, linewidth=1.3, zorder=2)
    axes.plot([value], [y], color=colour, marker=marker, markersize=5, zorder=3)


def draw_strips(
    panels: Mapping[str, Mapping[str, Mapping[Shots, Sequence[float]]]], shots: Sequence[Shots], y_label: str
) -> Drawing:
    """Many values against shots, a dot each and a stroke at their mean, by series; shares in per cent."""
    figure, grid, wide = panel_grid(len(panels), 2)
    # As far apart as each other: dots need room.
    places: dict[Shots, float] = {k: float(i) for i, k in enumerate(shots)}
    series = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    looks = series_looks(series)
    width = 0.8
    for axes, (title, panel) in zip(grid, panels.items(), strict=True):
        panel_title(axes, title, wide)
        for name, by in panel.items():
            colour, marker, _ = looks[name]
            middle = (series.index(name) + 0.5) / len(series) - 0.5
            for k, values in by.items():
                known = 100 * np.array([value for value in values if math.isfinite(value)])
                if not len(known):
                    continue
                there = places[k] + width * (middle + np.linspace(-0.25, 0.25, len(known)) / len(series))
                axes.scatter(there, known, s=16, marker=marker, color=colour, alpha=0.7, linewidths=0, zorder=2)
                reach = 0.4 * width / len(series)
                x0 = places[k] + width * middle
                axes.plot([x0 - reach, x0 + reach], [known.mean()] * 2, color=colour, linewidth=2.2, zorder=3)
        _finish(axes, any(any(values) for by in panel.values() for values in by.values()), signed=True)
        axes.axhline(0, color="#555555", linewidth=0.9)
        _shot_axis(axes, places, broken=False)
    figure.supxlabel("training images a class", fontsize=9.5)
    figure.supylabel(y_label, fontsize=9.5)
    handles = [line_handle(grid[0], (looks[name][0], looks[name][1], "-")) for name in series]
    legend_above(figure, handles, [shorten(name, 34) for name in series], handle=1.6)
    return figure
