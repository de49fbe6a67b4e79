"""The drawings of size curves: accuracy against the images of a source, and what other images are worth in them."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import NullFormatter, NullLocator

from jdt.report.panels import STYLES, legend_above, line_handle, panel_grid, panel_title
from jdt.report.parts import columns, ends
from jdt.report.plots import KIND_COLOURS, LineLook
from jdt.report.pretraining_content import PretrainingReference, PretrainingSize
from jdt.report.pretraining_plots import MARKERS, any_known, finish_panel
from jdt.report.pretraining_words import images_words, needed_words, ratio_words
from jdt.report.words import shorten
from jdt.types import Float

TIMES = "\N{MULTIPLICATION SIGN}"


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
        name: (KIND_COLOURS[1 + i % (len(KIND_COLOURS) - 1)], MARKERS[1 + i % (len(MARKERS) - 1)],
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
        finish_panel(axes, any_known([*one.accuracy, *(by.accuracy for by in one.references)]))
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
