"""The drawings of pre-training data: accuracies and spreads over shots, and how sources look."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator

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
from jdt.report.plots import KIND_COLOURS, LineLook, grid_below
from jdt.report.pretraining_content import ALL, SCRATCH, Shots
from jdt.report.words import shorten

MOST_LINES, MOST_PANELS = 8, 6
"""Sources of one panel that have looks of their own; panels of one figure."""
_ENDS = 3  # Of more sources, so many of the best and of the worst have looks of their own.
MARKERS = "os^Dv*PX"
_SCRATCH_LOOK: LineLook = ("#555555", "X", ":")
_OTHER_LOOK: LineLook = ("#c2c2c2", "none", "-")
_SPREAD_LOOK: LineLook = (KIND_COLOURS[0], "o", "-")
_RELATIVE_LOOK: LineLook = (KIND_COLOURS[1], "s", "--")
_NULL = "#8c8c8c"
_FULL_GAP = 0.55  # Of full data after the most shots, in powers of ten; 0 shots before the fewest.


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
        name: (KIND_COLOURS[i % count], MARKERS[i % len(MARKERS)], STYLES[(i + i // count) % len(STYLES)])
        for i, name in enumerate(names)
    }


def shot_places(shots: Sequence[Shots]) -> dict[Shots, float]:
    """Where shots stand on a logarithmic axis: none of them before the fewest, full data after the most."""
    places: dict[Shots, float] = {k: math.log10(k) for k in shots if k}
    if 0 in shots:
        places[0] = min(places.values(), default=_FULL_GAP) - _FULL_GAP
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
        finish_panel(axes, any(any_known(figures.values()) for figures in panel.lines.values()))
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
        finish_panel(axes, any_known([*panel.spread.values(), *panel.relative.values()]))
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


def any_known(figures: Collection[Figure]) -> bool:
    """Whether any of them was measured."""
    return any(math.isfinite(ends(figure)[0]) for figure in figures)


def finish_panel(axes: Axes, known: bool, *, signed: bool = False) -> None:
    """The y axis and the grid of a panel, or that nothing was measured."""
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
        finish_panel(axes, any(any(values) for by in panel.values() for values in by.values()), signed=True)
        axes.axhline(0, color="#555555", linewidth=0.9)
        _shot_axis(axes, places, broken=False)
    figure.supxlabel("training images a class", fontsize=9.5)
    figure.supylabel(y_label, fontsize=9.5)
    handles = [line_handle(grid[0], (looks[name][0], looks[name][1], "-")) for name in series]
    legend_above(figure, handles, [shorten(name, 34) for name in series], handle=1.6)
    return figure
