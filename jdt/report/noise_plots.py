"""The drawings of noisy pre-training: small multiples of lines with intervals, scatters, spectra, ROC curves."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from jdt.report.bars import BarLook
from jdt.report.content import SHARE, Figure
from jdt.report.noise_content import LINEAR, MLP, NoiseRanking, NoiseScatter, NoiseSpectrum
from jdt.report.parts import columns, ends
from jdt.report.plots import KIND_COLOURS, KIND_MARKERS, LineLook, grid_below
from jdt.report.words import MINUS, NOT_MEASURED, decimal, percent, shorten
from jdt.types import Float

RHO = "\N{GREEK SMALL LETTER RHO}"
"""Spearman's rank correlation."""
MOST_PANELS = 12
"""Panels of one figure; more make more figures."""
_STYLES = ("-", "--", "-.", ":")
_PALE = "#777777"
_MOST_TICKS = 7
_EVERY = 8  # Markers of a spectrum: so many along each line.

# The tuners that there always are look alike in every figure and every run.
_TUNER_LOOKS: dict[str, LineLook] = {
    LINEAR: (KIND_COLOURS[5], "o", "-"),
    MLP: (KIND_COLOURS[3], "s", "--"),
    "nmtune": (KIND_COLOURS[0], "^", "-"),
    "nmtune-code": (KIND_COLOURS[2], "D", "-."),
    "fixed": ("#8c8c8c", "v", ":"),
}


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


def tuner_looks(tuners: Iterable[str]) -> dict[str, LineLook]:
    """One look a tuner for the whole section, told apart by marker and style without colour."""
    looks = dict(_TUNER_LOOKS)
    others = [tuner for tuner in dict.fromkeys(tuners) if tuner not in looks]
    for i, tuner in enumerate(others):
        looks[tuner] = (
            KIND_COLOURS[(1 + 3 * i) % len(KIND_COLOURS)],
            "vP*X<>h"[i % 7],
            _STYLES[(i + 1) % len(_STYLES)],
        )
    return looks


def rate_looks(rates: Iterable[float]) -> dict[float, LineLook]:
    """One look a noise rate: dark for none, lighter with more, and a marker and style of its own."""
    known = sorted({*rates})
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.86, max(len(known), 2)))
    return {rate: (to_hex(shades[i]), "os^Dv*PX<>"[i % 10], _STYLES[i % len(_STYLES)]) for i, rate in enumerate(known)}


def series_looks(names: Sequence[str]) -> dict[str, BarLook]:
    """Bars of a few series."""
    hatches = ("", "////", "xxxx", "\\\\\\\\", "----", "||||")
    count = len(KIND_COLOURS)
    return {
        name: BarLook(KIND_COLOURS[i % count], hatches[i % len(hatches)], KIND_MARKERS[i % count])
        for i, name in enumerate(names)
    }


def draw_panels(
    panels: Sequence[Panel], axis: Axis, looks: Mapping[str, LineLook], names: Mapping[str, str]
) -> Drawing:
    """Small multiples of lines, with intervals as whiskers that stand a little apart; every panel has its own scale."""
    figure, grid, wide = _grid(len(panels))
    present = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    for axes, panel in zip(grid, panels, strict=True):
        _title(axes, panel.title, wide)
        x = np.array(panel.x, np.float64)
        span = float(np.ptp(x)) or 1.0
        apart = 0.018 * span
        if axis.is_change:
            axes.axhline(0, color="#555555", linewidth=0.9)
        for name, figures in panel.lines.items():
            slot = present.index(name) - (len(present) - 1) / 2
            _draw_line(axes, x + apart * slot, figures, axis.y_factor, looks[name], wide)
        if not any(np.isfinite(columns(figures)[0]).any() for figures in panel.lines.values()):
            _nothing(axes)
        else:
            axes.yaxis.set_major_locator(MaxNLocator(6 if wide else 5))
            axes.yaxis.set_major_formatter(FuncFormatter(_signed if axis.is_change else _plain))
        _measured_ticks(axes, x)
        # Also where nothing could be measured at the ends.
        reach = 0.03 * span + apart * len(present) / 2
        axes.set_xlim(float(x.min()) - reach, float(x.max()) + reach)
        grid_below(axes)
    figure.supxlabel(axis.x_label, fontsize=9.5)
    figure.supylabel(shorten(axis.y_label, 60), fontsize=9.5)
    handles = [_handle(grid[0], looks[name]) for name in present]
    _legend(figure, handles, [shorten(names[name], 34) for name in present])
    return figure


def draw_scatters(scatters: Sequence[NoiseScatter], looks: Mapping[float, LineLook]) -> Drawing:
    """Two quantities of models, a dot each, by noise rate; the correlation of their ranks stands above every panel."""
    figure, grid, wide = _grid(len(scatters))
    for axes, one in zip(grid, scatters, strict=True):
        words = f"\n{RHO} = {correlation_words(one.correlation)}" if one.correlation else ""
        _title(axes, one.title, wide, words)
        x, y = (part * (100 if unit == SHARE else 1) for part, unit in ((one.x, one.x_unit), (one.y, one.y_unit)))
        for rate, (colour, marker, _) in looks.items():
            there = (one.rate == rate) & np.isfinite(x) & np.isfinite(y)
            axes.scatter(x[there], y[there], s=30 if wide else 22, marker=marker, facecolors=colour, edgecolors="white",
                         linewidths=0.5, zorder=3)  # fmt: skip
        if not (np.isfinite(x) & np.isfinite(y)).any():
            _nothing(axes)
        else:
            axes.margins(0.08)
            axes.xaxis.set_major_locator(MaxNLocator(5 if wide else 4))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(_plain))
            axes.yaxis.set_major_formatter(FuncFormatter(_plain))
        grid_below(axes)
    first = scatters[0]
    figure.supxlabel(_with_unit(first.x_label, first.x_unit), fontsize=9.5)
    figure.supylabel(_with_unit(first.y_label, first.y_unit), fontsize=9.5)
    handles = [_handle(grid[0], (colour, marker, "none")) for colour, marker, _ in looks.values()]
    _legend(figure, handles, [rate_words(rate) for rate in looks], handle=1.0)
    return figure


def draw_spectra(
    spectra: Sequence[NoiseSpectrum], titles: Sequence[str], rates: Sequence[float], looks: Mapping[float, LineLook]
) -> Drawing:
    """Singular values over their sum in falling order, a line a noise rate, on a logarithmic axis.

    Args:
      spectra: A panel each, below the name of its set.
      titles: What else stands above every panel: which features they are.
      rates: Of the curves.
      looks: Of all rates.
    """
    figure, grid, wide = _grid(len(spectra))
    for axes, one, title in zip(grid, spectra, titles, strict=True):
        _title(axes, one.name, wide, f"\n{title}")
        curves = np.zeros((0, 0)) if one.curve is None else one.curve
        places = np.arange(1, curves.shape[1] + 1)
        for rate, curve in zip(rates, curves, strict=True):
            colour, marker, style = looks[rate]
            known = np.isfinite(curve) & (curve > 0)
            axes.plot(places[known], curve[known], color=colour, linestyle=style, marker=marker, linewidth=1.3,
                      markersize=4, markevery=max(1, int(known.sum()) // _EVERY))  # fmt: skip
        if (np.isfinite(curves) & (curves > 0)).any():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(_plain_log))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            _nothing(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        grid_below(axes)
    figure.supxlabel("singular value, the largest first", fontsize=9.5)
    figure.supylabel("share of their sum (log)", fontsize=9.5)
    shown = [rate for rate in looks if rate in rates]
    _legend(figure, [_handle(grid[0], looks[rate]) for rate in shown], [rate_words(rate) for rate in shown])
    return figure


def draw_roc(rankings: Sequence[NoiseRanking]) -> Drawing:
    """ROC curves of rankings with the areas under them, and the diagonal of chance."""
    figure = Drawing(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color=_PALE, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.annotate("chance", (52, 52), color="#555555", fontsize=8.5, ha="left", va="top", xytext=(4, -4),
                  textcoords="offset points")  # fmt: skip
    handles, labels = [], []
    for i, one in enumerate(rankings):
        look = (KIND_COLOURS[i % len(KIND_COLOURS)], KIND_MARKERS[i % len(KIND_MARKERS)], _STYLES[i % len(_STYLES)])
        colour, marker, style = look
        x, y = 100 * one.false_positives, 100 * one.true_positives
        axes.plot(x, y, color=colour, linestyle=style, marker=marker, markersize=5, linewidth=1.7,
                  markevery=(max(0, len(x) // 16 * (i + 1) // 2), max(1, len(x) // 6)))  # fmt: skip
        handles.append(_handle(axes, look))
        labels.append(f"{shorten(one.name, 26)}: {correlation_words(one.auroc)}")
    for one in rankings:
        if one.control:
            handles.append(_handle(axes, (_PALE, "none", ":")))
            labels.append(f"{shorten(one.name, 26)}, permuted: {correlation_words(one.control)}")
    axes.set_xlim(-1, 101)
    axes.set_ylim(-1, 101)
    axes.set_xlabel("right labels that are suspected (%)")
    axes.set_ylabel("wrong labels that are found (%)")
    grid_below(axes)
    axes.legend(handles, labels, loc="lower right", frameon=True, framealpha=0.9, edgecolor="none", handlelength=3.2,
                title="area under the curve", title_fontsize=9, alignment="left", fontsize=9)  # fmt: skip
    return figure


def rate_words(rate: float) -> str:
    """A noise rate, e.g. "noise 30 %"."""
    return f"noise {rate_percent(rate)}"


def rate_percent(rate: float) -> str:
    """A noise rate with as many digits as it has, e.g. "2.5 %"."""
    return percent(rate, 0 if math.isclose(100 * rate, round(100 * rate), abs_tol=1e-9) else 1)


def correlation_words(figure: Figure) -> str:
    """A figure between -1 and 1 with two digits and its interval, e.g. "0.83 (0.61 to 0.93)"."""
    value, low, high = ends(figure)
    interval = f" ({decimal(low, 2)} to {decimal(high, 2)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{decimal(value, 2)}{interval}" if math.isfinite(value) else NOT_MEASURED


def _grid(count: int) -> tuple[Drawing, list[Axes], bool]:
    """A figure with so many panels, and whether they are wide; unused places stay empty."""
    across = 1 if count == 1 else 2 if count in (2, 4) else 3
    down = -(-count // across)
    size = {1: (6.4, 3.7), 2: (7.4, 0.75 + 2.75 * down), 3: (7.6, 0.75 + 2.25 * down)}[across]
    figure = Drawing(figsize=size, layout="constrained")
    grid = figure.subplots(down, across, squeeze=False).ravel().tolist()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count], across < 3


def _title(axes: Axes, title: str, wide: bool, more: str = "") -> None:
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
    axes.xaxis.set_major_formatter(FuncFormatter(_plain))


def _handle(axes: Axes, look: LineLook) -> Artist:
    colour, marker, style = look
    return axes.plot([], [], color=colour, marker=marker, linestyle=style, linewidth=1.6, markersize=5.5)[0]


def _legend(figure: Drawing, handles: Sequence[Artist], labels: Sequence[str], handle: float = 3.0) -> None:
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


def _nothing(axes: Axes) -> None:
    axes.text(0.5, 0.5, NOT_MEASURED, transform=axes.transAxes, ha="center", color="#555555", style="italic")
    axes.set_yticks([])


def _with_unit(label: str, unit: str) -> str:
    return f"{shorten(label, 60)} ({'%' if unit == SHARE else shorten(unit)})"


def _plain(value: float, _: int) -> str:
    return f"{round(value, 9):.4g}".replace("-", MINUS)


def _plain_log(value: float, _: int) -> str:
    return f"{value:.6g}".replace("-", MINUS)


def _signed(value: float, _: int) -> str:
    return f"{value:+.4g}".replace("-", MINUS) if abs(value) > 1e-12 else "0"
