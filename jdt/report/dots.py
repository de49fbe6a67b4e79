"""Dots with whiskers in rows, panels side by side: one drawing for sections that compare figures without bars."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jdt.report.content import Figure
from jdt.report.panels import legend_above, line_handle, panel_title, plain_tick, signed_tick
from jdt.report.parts import ends
from jdt.report.plots import INK, LineLook, grid_below
from jdt.report.words import shorten


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
    figure = Drawing(figsize=(5.6 if across == 1 else 7.4, 0.85 + down * (0.25 + height)), layout="constrained")
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
