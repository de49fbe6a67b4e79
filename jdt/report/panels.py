"""Small multiples: panels of lines with intervals, and what drawings with several panels share."""

import dataclasses
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jdt.report.content import Figure
from jdt.report.parts import columns
from jdt.report.plots import LineLook, grid_below
from jdt.report.words import MINUS, NOT_MEASURED, shorten
from jdt.types import Float

MOST_PANELS = 12
"""Panels of one figure; more make more figures."""
STYLES = ("-", "--", "-.", ":")
"""Of lines, the plain one first."""
_MOST_TICKS = 7
_Entry = TypeVar("_Entry")
_Key = TypeVar("_Key", bound=Hashable)


@dataclasses.dataclass(frozen=True, eq=False)
class Panel:
    """Lines of one panel.

    Attributes:
      title: Above it.
      x: Where figures were measured.
      lines: By name, a figure at every x.
    """

    title: str
    x: tuple[float, ...]
    lines: Mapping[str, tuple[Figure, ...]]


@dataclasses.dataclass(frozen=True)
class Axis:
    """How panels are labelled.

    Attributes:
      x_label, y_label: With their units.
      y_factor: From figures to the axis, e.g. 100 for shares in per cent.
      is_change: Whether figures are differences: zero is drawn, and numbers are signed.
    """

    x_label: str
    y_label: str
    y_factor: float = 1.0
    is_change: bool = False


def graded_looks(keys: Iterable[_Key]) -> dict[_Key, LineLook]:
    """One look a key in a rising order: dark for the first, lighter with each, and a marker and style of its own."""
    known = list(dict.fromkeys(keys))
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.86, max(len(known), 2)))
    return {key: (to_hex(shades[i]), "os^Dv*PX<>"[i % 10], STYLES[i % len(STYLES)]) for i, key in enumerate(known)}


def draw_panels(
    panels: Sequence[Panel], axis: Axis, looks: Mapping[str, LineLook], names: Mapping[str, str]
) -> Drawing:
    """Small multiples of lines, with intervals as whiskers that stand a little apart; every panel has its own scale."""
    figure, grid, wide = panel_grid(len(panels))
    present = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    for axes, panel in zip(grid, panels, strict=True):
        panel_title(axes, panel.title, wide)
        x = np.array(panel.x, np.float64)
        span = float(np.ptp(x)) or 1.0
        apart = 0.018 * span
        if axis.is_change:
            axes.axhline(0, color="#555555", linewidth=0.9)
        for name, figures in panel.lines.items():
            slot = present.index(name) - (len(present) - 1) / 2
            _draw_line(axes, x + apart * slot, figures, axis.y_factor, looks[name], wide)
        if not any(np.isfinite(columns(figures)[0]).any() for figures in panel.lines.values()):
            say_nothing(axes)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6 if wide else 5))
            axes.yaxis.set_major_formatter(FuncFormatter(signed_tick if axis.is_change else plain_tick))
        _measured_ticks(axes, x)
        # Also where nothing could be measured at the ends.
        reach = 0.03 * span + apart * len(present) / 2
        axes.set_xlim(float(x.min()) - reach, float(x.max()) + reach)
        grid_below(axes)
    figure.supxlabel(axis.x_label, fontsize=9.5)
    figure.supylabel(shorten(axis.y_label, 60), fontsize=9.5)
    handles = [line_handle(grid[0], looks[name]) for name in present]
    legend_above(figure, handles, [shorten(names[name], 34) for name in present])
    return figure


def panel_chunks(entries: Sequence[_Entry], most: int = MOST_PANELS) -> Iterator[tuple[str, Sequence[_Entry]]]:
    """Entries of one figure each, with what its title ends in."""
    for start in range(0, len(entries), most):
        yield ", continued" if start else "", entries[start : start + most]


def panel_grid(count: int, most_across: int = 3) -> tuple[Drawing, list[Axes], bool]:
    """A figure with so many panels, and whether they are wide; unused places stay empty."""
    across = 1 if count == 1 else 2 if count in (2, 4) else most_across
    down = -(-count // across)
    # One panel of a figure that is made for two across is narrower: its letters are larger on a phone.
    size = {
        1: (6.4, 3.7) if most_across > 2 else (5.2, 3.4),
        2: (7.4, 0.75 + 2.75 * down),
        3: (7.6, 0.75 + 2.25 * down),
    }[across]
    figure = Drawing(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count], across < 3


def panel_title(axes: Axes, title: str, wide: bool, more: str = "") -> None:
    """What stands above a panel; `more` follows uncut, on a line of its own where it begins with one."""
    axes.set_title(f"{shorten(title, 44 if wide else 30)}{more}", loc="left", fontsize=9 if wide else 8.5,
                   fontweight="normal" if more else "bold")  # fmt: skip


def _draw_line(
    axes: Axes, x: Float[np.ndarray, " points"], figures: Sequence[Figure], factor: float, look: LineLook, wide: bool
) -> None:
    colour, marker, style = look
    mean, low, high = (factor * part for part in columns(figures))
    known = np.isfinite(mean)
    axes.plot(x[known], mean[known], color=colour, marker=marker, linestyle=style, linewidth=1.5,
              markersize=5.5 if wide else 4.5, zorder=3)  # fmt: skip
    sure = known & np.isfinite(low) & np.isfinite(high)
    axes.vlines(x[sure], low[sure], high[sure], color=colour, linewidth=1.1, alpha=0.75, zorder=2)


def _measured_ticks(axes: Axes, x: Float[np.ndarray, " points"]) -> None:
    """Ticks where something was measured, unless they would stand too close."""
    gaps = np.diff(x)
    if not len(gaps) or float(gaps.min()) >= float(np.ptp(x)) / _MOST_TICKS:
        axes.set_xticks(x)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))


def line_handle(axes: Axes, look: LineLook) -> Artist:
    """An entry of a legend."""
    colour, marker, style = look
    return axes.plot([], [], color=colour, marker=marker, linestyle=style, linewidth=1.6, markersize=5.5)[0]


def legend_above(figure: Drawing, handles: Sequence[Artist], labels: Sequence[str], handle: float = 3.0) -> None:
    """Above all panels, in as many columns as fit."""
    if not labels:
        return
    across, down = map(float, figure.get_size_inches())
    # A letter is about 0.08 inches wide, a handle with its gaps as wide as 8 letters.
    fitting = min(len(labels), max(1, int(across / 0.08 / (max(map(len, labels)) + 8))))
    lines = -(-len(labels) // fitting)
    figure.set_size_inches(across, down + 0.2 * (lines - 1))
    entries = list(zip(handles, (f" {label}" for label in labels), strict=True))
    # Matplotlib fills column after column; a legend is read row by row.
    by_column = [entry for column in range(fitting) for entry in entries[column::fitting]]
    # A leading space: matplotlib leaves out labels that begin with an underscore.
    figure.legend(*zip(*by_column, strict=True), loc="outside upper left", frameon=False, ncols=fitting,
                  handlelength=handle)  # fmt: skip


def say_nothing(axes: Axes) -> None:
    """In the middle of a panel without a number."""
    axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, ha="center", color="#555555", style="italic")
    axes.set_yticks([])


def plain_tick(value: float, _: int) -> str:
    """A number of an axis."""
    return f"{round(value, 9):.4g}".replace("-", MINUS)


def plain_log_tick(value: float, _: int) -> str:
    """A number of a logarithmic axis."""
    return f"{value:.6g}".replace("-", MINUS)


def signed_tick(value: float, _: int) -> str:
    """A number of an axis of changes."""
    return f"{value:+.4g}".replace("-", MINUS) if abs(value) > 1e-12 else "0"
