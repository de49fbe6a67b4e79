"""The drawings of noisy pre-training: scatters, spectra, ROC curves, and how tuners and noise rates look."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from jdt.report.bars import BarLook
from jdt.report.content import SHARE
from jdt.report.noise_content import LINEAR, MLP, NoiseRanking, NoiseScatter, NoiseSpectrum
from jdt.report.panels import (
    STYLES,
    graded_looks,
    legend_above,
    line_handle,
    panel_grid,
    panel_title,
    plain_log_tick,
    plain_tick,
    say_nothing,
)
from jdt.report.parts import correlation_words
from jdt.report.plots import KIND_COLOURS, KIND_MARKERS, LineLook, grid_below
from jdt.report.words import percent, shorten

RHO = "\N{GREEK SMALL LETTER RHO}"
"""Spearman's rank correlation."""
_PALE = "#777777"
_EVERY = 8  # Markers of a spectrum: so many along each line.

# The tuners that there always are look alike in every figure and every run.
_TUNER_LOOKS: dict[str, LineLook] = {
    LINEAR: (KIND_COLOURS[5], "o", "-"),
    MLP: (KIND_COLOURS[3], "s", "--"),
    "nmtune": (KIND_COLOURS[0], "^", "-"),
    "nmtune-code": (KIND_COLOURS[2], "D", "-."),
    "fixed": ("#8c8c8c", "v", ":"),
}


def tuner_looks(tuners: Iterable[str]) -> dict[str, LineLook]:
    """One look a tuner for the whole section, told apart by marker and style without colour."""
    looks = dict(_TUNER_LOOKS)
    others = [tuner for tuner in dict.fromkeys(tuners) if tuner not in looks]
    for i, tuner in enumerate(others):
        looks[tuner] = (
            KIND_COLOURS[(1 + 3 * i) % len(KIND_COLOURS)],
            "vP*X<>h"[i % 7],
            STYLES[(i + 1) % len(STYLES)],
        )
    return looks


def rate_looks(rates: Iterable[float]) -> dict[float, LineLook]:
    """One look a noise rate: dark for none, lighter with more, and a marker and style of its own."""
    return graded_looks(sorted({*rates}))


def series_looks(names: Sequence[str]) -> dict[str, BarLook]:
    """Bars of a few series."""
    hatches = ("", "////", "xxxx", "\\\\\\\\", "----", "||||")
    count = len(KIND_COLOURS)
    return {
        name: BarLook(KIND_COLOURS[i % count], hatches[i % len(hatches)], KIND_MARKERS[i % count])
        for i, name in enumerate(names)
    }


def draw_scatters(scatters: Sequence[NoiseScatter], looks: Mapping[float, LineLook]) -> Drawing:
    """Two quantities of models, a dot each, by noise rate; the correlation of their ranks stands above every panel."""
    figure, grid, wide = panel_grid(len(scatters))
    for axes, one in zip(grid, scatters, strict=True):
        words = f"\n{RHO} = {correlation_words(one.correlation)}" if one.correlation else ""
        panel_title(axes, one.title, wide, words)
        x, y = (part * (100 if unit == SHARE else 1) for part, unit in ((one.x, one.x_unit), (one.y, one.y_unit)))
        for rate, (colour, marker, _) in looks.items():
            there = (one.rate == rate) & np.isfinite(x) & np.isfinite(y)
            axes.scatter(x[there], y[there], s=30 if wide else 22, marker=marker, facecolors=colour, edgecolors="white",
                         linewidths=0.5, zorder=3)  # fmt: skip
        if not (np.isfinite(x) & np.isfinite(y)).any():
            say_nothing(axes)
        else:
            axes.margins(0.08)
            axes.xaxis.set_major_locator(MaxNLocator(5 if wide else 4))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(plain_tick))
            axes.yaxis.set_major_formatter(FuncFormatter(plain_tick))
        grid_below(axes)
    first = scatters[0]
    figure.supxlabel(_with_unit(first.x_label, first.x_unit), fontsize=9.5)
    figure.supylabel(_with_unit(first.y_label, first.y_unit), fontsize=9.5)
    handles = [line_handle(grid[0], (colour, marker, "none")) for colour, marker, _ in looks.values()]
    legend_above(figure, handles, [rate_words(rate) for rate in looks], handle=1.0)
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
    figure, grid, wide = panel_grid(len(spectra))
    for axes, one, title in zip(grid, spectra, titles, strict=True):
        panel_title(axes, one.name, wide, f"\n{title}")
        curves = np.zeros((0, 0)) if one.curve is None else one.curve
        places = np.arange(1, curves.shape[1] + 1)
        for rate, curve in zip(rates, curves, strict=True):
            colour, marker, style = looks[rate]
            known = np.isfinite(curve) & (curve > 0)
            axes.plot(places[known], curve[known], color=colour, linestyle=style, marker=marker, linewidth=1.3,
                      markersize=4, markevery=max(1, int(known.sum()) // _EVERY))  # fmt: skip
        if (np.isfinite(curves) & (curves > 0)).any():
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(plain_log_tick))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            say_nothing(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        grid_below(axes)
    figure.supxlabel("singular value, the largest first", fontsize=9.5)
    figure.supylabel("share of their sum (log)", fontsize=9.5)
    shown = [rate for rate in looks if rate in rates]
    legend_above(figure, [line_handle(grid[0], looks[rate]) for rate in shown], [rate_words(rate) for rate in shown])
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
        look = (KIND_COLOURS[i % len(KIND_COLOURS)], KIND_MARKERS[i % len(KIND_MARKERS)], STYLES[i % len(STYLES)])
        colour, marker, style = look
        x, y = 100 * one.false_positives, 100 * one.true_positives
        axes.plot(x, y, color=colour, linestyle=style, marker=marker, markersize=5, linewidth=1.7,
                  markevery=(max(0, len(x) // 16 * (i + 1) // 2), max(1, len(x) // 6)))  # fmt: skip
        handles.append(line_handle(axes, look))
        labels.append(f"{shorten(one.name, 26)}: {correlation_words(one.auroc)}")
    for one in rankings:
        if one.control:
            handles.append(line_handle(axes, (_PALE, "none", ":")))
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


def _with_unit(label: str, unit: str) -> str:
    return f"{shorten(label, 60)} ({'%' if unit == SHARE else shorten(unit)})"
