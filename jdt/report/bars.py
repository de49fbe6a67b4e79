"""Grouped bars with whiskers, panels side by side: one drawing for every section that compares figures."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jdt.report.plots import INK, grid_below
from jdt.report.words import MINUS, shorten


@dataclasses.dataclass(frozen=True)
class BarLook:
    """How bars and lines of one series look: a colour, and without colours a hatch and a marker."""

    colour: str
    hatch: str
    marker: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """One bar, in the unit of the axis; NaN where nothing could be measured, or there is no interval.

    Attributes:
      value: Its length.
      low, high: Ends of its whisker.
      mark: Where a line crosses it.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    mark: float = math.nan


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Bars in groups, e.g. by target.

    Attributes:
      labels: A label a group, from the top down.
      panels: Title of a panel -> the bars of every group by series; a series that a group lacks leaves no gap.
      x_label: Of all panels.
    """

    labels: Sequence[str]
    panels: Mapping[str, Sequence[Mapping[str, Bar]]]
    x_label: str


def draw_groups(
    groups: Groups, looks: Mapping[str, BarLook], names: Mapping[str, str], mark: str = "", absent: str = "no images"
) -> Drawing:
    """Horizontal bars in groups, panels side by side; where there is no value, it says so in place of a bar.

    Args:
      groups: What to draw.
      looks: Of every series.
      names: Of every series, for the legend.
      mark: What the lines across bars are, for the legend.
      absent: What stands in the place of a bar without a value.
    """
    present = {name for groups_of in groups.panels.values() for bars in groups_of for name in bars}
    series = [name for name in names if name in present]
    # Bars are one apart, groups 0.7 further; `starts` are the upper edges of groups.
    heights = np.max([[len(bars) for bars in panel] for panel in groups.panels.values()], axis=0)
    starts = np.cumsum([0.0, *(heights + 0.7)])
    count = len(groups.panels)
    width = 2.0 + {1: 4.4, 2: 5.8}.get(count, 2.3 * count)
    labels = [f" {shorten(names[name], 40)}" for name in series] + ([f" {mark}"] if mark else [])
    # As many columns as fit: a letter is about 0.085 inches wide, a handle with its gaps as wide as 7 letters.
    legend_columns = max(1, int(width / 0.085 / (max(map(len, labels), default=0) + 7)))
    legend_lines = -(-len(labels) // legend_columns)
    size = (width, 1.15 + 0.2 * legend_lines + 0.155 * float(starts[-1]))
    figure = Drawing(figsize=size, layout="constrained")
    row = figure.subplots(1, count, sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, panel) in zip(row, groups.panels.items(), strict=True):
        axes.set_title(shorten(title, 40), loc="left", fontsize=9.5, fontweight="bold")
        for g, bars in enumerate(panel):
            if g % 2:
                axes.axhspan(starts[g] - 0.35, starts[g + 1] - 0.35, color="#f3f4f6", zorder=0, linewidth=0)
            top = starts[g] + (heights[g] - len(bars)) / 2
            for slot, name in enumerate(name for name in series if name in bars):
                _draw_bar(axes, bars[name], float(top) + slot + 0.5, looks[name], absent)
        grid_below(axes, "x")
        axes.axvline(0, color="#555555", linewidth=0.9)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.4g}".replace("-", MINUS)))
    row[0].set_yticks(starts[:-1] + heights / 2, groups.labels)
    row[0].set_ylim(float(starts[-1]) - 0.35, -0.35)
    values = [bar for panel in groups.panels.values() for bars in panel for bar in bars.values()]
    _limit(row[0], values)
    figure.supxlabel(groups.x_label, fontsize=9.5)
    handles: list[Any] = [Patch(**_fill(looks[name])) for name in series]
    if mark:
        handles += row[0].plot([], [], color=INK, marker="|", markersize=9, linestyle="none", markeredgewidth=2)
    figure.legend(handles, labels, loc="outside upper left", ncols=legend_columns, frameon=False, handlelength=1.8)
    return figure


def _fill(look: BarLook) -> dict[str, Any]:
    return {"facecolor": look.colour, "hatch": look.hatch, "edgecolor": "white", "linewidth": 0}


def _draw_bar(axes: Axes, bar: Bar, y: float, look: BarLook, absent: str) -> None:
    if not math.isfinite(bar.value):
        axes.text(0, y, f" {absent}", va="center", color="#555555", fontsize=7.5, style="italic")
        return
    axes.barh(y, bar.value, height=0.84, zorder=2, **_fill(look))
    if math.isfinite(bar.low) and math.isfinite(bar.high):
        ends = [[max(bar.value - bar.low, 0.0)], [max(bar.high - bar.value, 0.0)]]
        axes.errorbar(bar.value, y, xerr=ends, color=INK, elinewidth=1.1, capsize=2.2, capthick=1.1, zorder=3)
    if math.isfinite(bar.mark):
        axes.plot([bar.mark, bar.mark], [y - 0.42, y + 0.42], color=INK, linewidth=2, zorder=4)


def _limit(axes: Axes, bars: Sequence[Bar]) -> None:
    """Let bars and their whiskers set the axis, but never a whisker far longer than every bar."""
    sizes = [abs(x) for bar in bars for x in (bar.value, bar.mark) if math.isfinite(x)]
    reach = max(sizes, default=0.0) or 1.0
    ends = [x for bar in bars for x in (bar.value, bar.low, bar.high, bar.mark) if math.isfinite(x)]
    low, high = (float(np.clip(end, -2 * reach, 2 * reach)) for end in (min(0, *ends, 0), max(0, *ends, 0)))
    if high == low:
        high = 1.0
    axes.set_xlim(low - (0.04 * (high - low) if low < 0 else 0), high + 0.04 * (high - low))
