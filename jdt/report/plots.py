"""The drawings of a report: plain functions from findings to matplotlib figures, without pyplot or a display."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jdt.evaluate import spearman_brown
from jdt.report.content import TargetFindings
from jdt.report.select import Effect, effects, finite, first_estimator, known_influence, shown_classes, shown_units
from jdt.report.words import MINUS, Scale, baseline_words, shorten
from jdt.types import Float

HEATMAP_UNITS, HEATMAP_CLASSES, RANKED_UNITS = 60, 60, 40

HELPS, HARMS, UNCLEAR, INK = "#2166ac", "#b2182b", "#8c8c8c", "#1f2328"
# Okabe and Ito's palette in an order that never sets red against green; markers tell the kinds apart without colour.
KIND_COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
KIND_MARKERS = "os^Dv*"
LineLook = tuple[str, str, str]
"""Colour, marker and line style."""
LINE_LOOKS: tuple[LineLook, ...] = (
    ("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#000000", "^", "-."), ("#CC79A7", "D", ":")
)  # fmt: skip
# For names in other scripts, where the machine has a font for them.
_FONTS = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Arial Unicode MS")


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Settings for drawing: names are never read as mathematics, missing glyphs become boxes without a warning."""
    installed = set(font_manager.get_font_names())
    settings: dict[Any, Any] = {
        "font.family": [font for font in _FONTS if font in installed],
        "font.size": 9.5,
        "text.parse_math": False,
        "text.usetex": False,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": "#8c8c8c",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.color": INK,
        "ytick.color": INK,
        "svg.fonttype": "none",  # Text stays text: it can be searched, and files stay small.
        "svg.hashsalt": "jdt",
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def png_bytes(figure: Figure) -> bytes:
    """A figure as PNG; equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def both_bytes(figure: Figure) -> tuple[bytes, bytes]:
    """A figure as PNG and as SVG; equal figures give equal bytes. Its layout is computed once."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
        figure.set_layout_engine("none")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
    return png_bytes(figure), buffer.getvalue()


def draw_heatmap(findings: TargetFindings, scale: Scale) -> Figure:
    """Class-level influence, units by classes, units in the order of their influence on the task."""
    estimator = findings.estimators[first_estimator(findings)]
    units, before_gap = shown_units(estimator.task, HEATMAP_UNITS)
    columns = shown_classes(estimator.classes, HEATMAP_CLASSES)
    grid = np.ix_(units, columns)
    values = known_influence(estimator.classes)[grid] * scale.factor
    z = np.zeros_like(values) if estimator.classes.z is None else estimator.classes.z[grid]
    limit, clipped = colour_limit(values)

    size = (2.6 + max(0.46 if len(columns) <= 12 else 0.24, 4.4 / len(columns)) * len(columns), 1.9 + 0.2 * len(units))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["RdBu"].with_extremes(bad="#d9d9d9")
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=-limit, vmax=limit, aspect="auto")
    rows, cells = np.nonzero(np.isfinite(values) & (np.abs(z) > 2))
    dark = np.abs(values[rows, cells]) > 0.55 * limit
    axes.scatter(cells, rows, s=9, c=np.where(dark, "white", INK), linewidths=0)
    for row, cell in zip(*np.nonzero(~np.isfinite(values)), strict=True):
        axes.text(cell, row, "?", ha="center", va="center", color="#555555", fontsize=8)
    if before_gap < len(units):
        axes.axhline(before_gap - 0.5, color="white", linewidth=5)
        axes.axhline(before_gap - 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))

    labels = [shorten(estimator.classes.target_names[c], 18) for c in columns]
    steep = max(map(len, labels)) > 5
    axes.set_xticks(range(len(columns)), labels, rotation=50 if steep else 0, ha="left" if steep else "center")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    if steep:
        for label in axes.get_xticklabels():
            label.set_rotation_mode("anchor")
    axes.set_yticks(range(len(units)), [shorten(estimator.task.unit_names[u]) for u in units])
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(
        image, ax=axes, location="bottom", shrink=0.75, aspect=45, pad=0.01, extend="both" if clipped else "neither"
    )
    dots = "" if estimator.classes.z is None else "; dot: |z| > 2"
    bar.set_label(f"influence ({scale.unit_words}): blue helps, red harms{dots}")
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    _signed_ticks(bar.ax)
    return figure


def colour_limit(values: np.ndarray) -> tuple[float, bool]:
    """End of the colour scale, and whether cells lie beyond it: one extreme cell must not bleach all others."""
    sizes = np.abs(values[np.isfinite(values)])
    if not sizes.size or sizes.max() == 0:
        return 1.0, False
    largest, typical = float(sizes.max()), float(np.quantile(sizes, 0.98))
    return (1.5 * typical, True) if 0 < 1.5 * typical < largest else (largest, False)


def draw_ranking(findings: TargetFindings, scale: Scale) -> Figure:
    """Task-level influence of units with intervals; the second estimator beside the first, paler."""
    names = list(findings.estimators)
    task = findings.estimators[names[0]].task
    units, before_gap = shown_units(task, RANKED_UNITS)
    rows = effects(task, 0)
    kinds = findings.truth.kinds if findings.truth else None
    positions = [float(i) + (1.0 if i >= before_gap else 0.0) for i in range(len(units))]

    figure = Figure(figsize=(6.0, 1.5 + 0.21 * (len(units) + (before_gap < len(units)))), layout="constrained")
    axes = figure.add_subplot()
    axes.axvline(0, color="#555555", linewidth=0.9)
    others = effects(findings.estimators[names[1]].task, 0) if len(names) > 1 else []
    if others:
        pale = [others[u].influence * scale.factor for u in units]
        axes.scatter(pale, positions, s=34, marker="D", facecolors="none", edgecolors="#9a9a9a", linewidths=0.9)
    looks = {kind: _kind_look(i) for i, kind in enumerate(dict.fromkeys(kinds or ()))}
    for u, y in zip(units, positions, strict=True):
        colour, marker = looks[kinds[u]] if kinds else (_sign_colour(rows[u]), "o")
        _draw_effect(axes, rows[u], y, scale, colour, marker)
    if before_gap < len(units):
        left_out = len(rows) - len(units)
        axes.text(0.5, before_gap, f"… {left_out} units between …", ha="center", va="center", color="#555555",
                  transform=axes.get_yaxis_transform(), bbox={"facecolor": "white", "edgecolor": "none"})  # fmt: skip

    axes.set_yticks(positions, [shorten(task.unit_names[u]) for u in units])
    axes.set_ylim(max(positions, default=0) + 0.8, -0.8)
    _limit_to_effects(axes, [rows[u] for u in units], [others[u] for u in units] if others else [], scale)
    axes.set_xlabel(f"influence on {scale.output} ({scale.unit_words})")
    grid_below(axes, "x")
    axes.tick_params(axis="y", length=0)
    _signed_ticks(axes)
    _ranking_legend(figure, axes, names, looks, bars=task.standard_error is not None)
    return figure


def _kind_look(index: int) -> tuple[str, str]:
    return KIND_COLOURS[index % len(KIND_COLOURS)], KIND_MARKERS[index % len(KIND_MARKERS)]


def _sign_colour(effect: Effect) -> str:
    if effect.standard_error is None:
        return HELPS if effect.influence > 0 else HARMS
    return HELPS if effect.low > 0 else HARMS if effect.high < 0 else UNCLEAR


def _draw_effect(axes: Axes, effect: Effect, y: float, scale: Scale, colour: str, marker: str) -> None:
    if not np.isfinite(effect.influence):
        axes.text(0, y, " unknown", va="center", color="#555555", fontsize=8, style="italic")
        return
    if np.isfinite(effect.low):
        axes.plot([effect.low * scale.factor, effect.high * scale.factor], [y, y], color=colour, linewidth=1.4)
    axes.plot([effect.influence * scale.factor], [y], marker=marker, color=colour, markersize=5.5, zorder=3)


def _limit_to_effects(axes: Axes, rows: list[Effect], others: list[Effect], scale: Scale) -> None:
    """Let the points set the axis: a unit with a huge but finite error must not squeeze all others."""
    points = np.array([e.influence for e in rows + others if np.isfinite(e.influence)])
    ends = np.array([end for e in rows if np.isfinite(e.low) for end in (e.low, e.high)])
    if not points.size:
        return
    reach = max(np.abs(points).max(), np.median(np.abs(ends)) if ends.size else 0.0)
    everything = np.concatenate([points, ends, [0.0]]).clip(-3 * reach, 3 * reach) * scale.factor
    low, high = everything.min(), everything.max()
    if high > low:
        axes.set_xlim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _ranking_legend(
    figure: Figure, axes: Axes, names: list[str], looks: dict[str, tuple[str, str]], *, bars: bool
) -> None:
    if looks:
        entries = [(shorten(kind), colour, marker) for kind, (colour, marker) in looks.items()]
    else:
        entries = [("helps", HELPS, "o"), ("harms", HARMS, "o")]
        entries += [("interval contains 0", UNCLEAR, "o")] if bars else []
    # A leading space: matplotlib leaves out labels that begin with an underscore.
    labels = [f" {label}" for label, _, _ in entries]
    handles = [axes.plot([], [], color=colour, marker=marker, linewidth=1.4)[0] for _, colour, marker in entries]
    if len(names) > 1:
        handles += axes.plot([], [], color="#9a9a9a", marker="D", fillstyle="none", linestyle="none")
        labels += [f" same by {shorten(names[1])}"]
    figure.legend(handles, labels, loc="outside upper left", ncols=min(len(labels), 3), frameon=False, handlelength=1.6)


def draw_accuracy(findings: TargetFindings) -> Figure:
    """Target accuracy over models, with that of models which never saw the source."""
    accuracy, baseline = 100 * finite(findings.accuracy), 100 * finite(findings.random_accuracy)
    figure = Figure(figsize=(6.0, 2.5), layout="constrained")
    axes = figure.add_subplot()
    bins = int(np.clip(1.2 * np.sqrt(len(accuracy)), 5, 30))
    counts, _, _ = axes.hist(accuracy, bins=bins, color=HELPS, alpha=0.75, edgecolor="white", linewidth=0.6)
    top = float(np.max(counts, initial=1.0))
    if len(accuracy):
        axes.axvline(accuracy.mean(), color=INK, linewidth=1.4, label=f"mean of models, {accuracy.mean():.1f} %")
    if len(baseline):
        label = f"{baseline_words(findings.mode)}, {baseline.mean():.1f} %"
        axes.axvline(baseline.mean(), color="#D55E00", linestyle=(0, (5, 2)), linewidth=1.8, label=label)
        axes.scatter(baseline, np.full(len(baseline), 0.06 * top), color="#D55E00", s=16, marker="|", zorder=3)
    axes.set_ylim(0, top * 1.08)
    axes.set_xlabel(f"accuracy on {shorten(findings.target, 40)} (%)")
    axes.set_ylabel("models")
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return figure


def draw_reliability(findings: TargetFindings) -> Figure:
    """Split-half reliability of every estimator against the number of models, and what more models would bring."""
    figure = Figure(figsize=(6.0, 2.9), layout="constrained")
    axes = figure.add_subplot()
    for i, (name, found) in enumerate(findings.estimators.items()):
        end, growth = found.reliability, found.growth
        low, high = (end.value if bound is None else bound for bound in (end.low, end.high))
        points = np.column_stack([growth.sizes, growth.mean, growth.low, growth.high])
        points = np.vstack([points, [end.n, end.value, low, high]])
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            continue
        colour, marker = _kind_look(i)
        sizes, mean, bottom, top = points.T
        spread = np.maximum([mean - bottom, top - mean], 0.0)
        axes.errorbar(sizes, mean, spread, color=colour, marker=marker, markersize=5, linewidth=1.4, elinewidth=0.8,
                      label=f" {shorten(name)}")  # fmt: skip
        if mean[-1] > 0:
            factors = np.geomspace(1, 4, 30)
            expected = [spearman_brown(mean[-1], factor) for factor in factors]
            axes.plot(sizes[-1] * factors, expected, color=colour, linestyle=(0, (4, 3)), linewidth=1.1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.0)
    axes.set_xlabel("models")
    axes.set_ylabel("split-half reliability")
    grid_below(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return figure


def draw_band(
    axes: Axes,
    x: np.ndarray,
    mean: Float[np.ndarray, " points"],
    low: Float[np.ndarray, " points"],
    high: Float[np.ndarray, " points"],
    look: LineLook,
    label: str,
) -> None:
    """A line through the known points with the band of its interval, in the legend under a label."""
    colour, marker, line = look
    known = np.isfinite(mean)
    axes.fill_between(x, low, high, where=known, color=colour, alpha=0.16, linewidth=0)
    # A leading space: matplotlib leaves out labels that begin with an underscore.
    axes.plot(x[known], mean[known], color=colour, marker=marker, markersize=6, linestyle=line, linewidth=1.8,
              label=f" {shorten(label, 36)}")  # fmt: skip


def grid_below(axes: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """A pale grid below everything else."""
    axes.grid(axis=axis, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def _signed_ticks(axes: Axes) -> None:
    """Signed tick labels: on an axis of changes the plus sign says what zero is."""
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x:+.4g}".replace("-", MINUS) if abs(x) > 1e-12 else "0")
    )
