"""The curves of bias transfer against what was varied, and how its source arms look."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter

from jdt.report.bars import BarLook
from jdt.report.bias_content import BiasCurve
from jdt.report.parts import columns
from jdt.report.plots import KIND_COLOURS, KIND_MARKERS, draw_band, grid_below
from jdt.report.words import figure_number, shorten
from jdt.types import Float

CLEAN, SCRATCH, UNTRAINED = "clean", "scratch", "untrained"
_STYLES = ("-", "--", ":", "-.")
_MOST_TICKS = 9


def arm_looks(arms: Sequence[str]) -> dict[str, BarLook]:
    """One look an arm for a whole section: the clean source is plain, what never saw the source is grey."""
    looks = {CLEAN: BarLook(KIND_COLOURS[0], "", KIND_MARKERS[0])}
    others = [arm for arm in dict.fromkeys(arms) if arm not in (CLEAN, SCRATCH)]
    hatches = ("////", "\\\\\\\\", "xxxx", "----", "||||")
    for i, arm in enumerate(others):
        place = 1 + i % (len(KIND_COLOURS) - 1)
        looks[arm] = BarLook(KIND_COLOURS[place], hatches[i % len(hatches)], KIND_MARKERS[place])
    return looks | {SCRATCH: BarLook("#b3b3b3", "", KIND_MARKERS[-1])}


def draw_bias_curve(curve: BiasCurve, looks: Mapping[str, BarLook]) -> Drawing:
    """Rates against what was varied, with bands: a colour an arm, a line style for what else tells lines apart."""
    figure = Drawing(figsize=(6.4, 3.9), layout="constrained")
    axes = figure.add_subplot()
    places = _places(curve)
    rests = list(dict.fromkeys(split_line(name)[1] for name in curve.lines))
    for name, figures in curve.lines.items():
        arm, rest = split_line(name)
        look, style = looks[arm], _STYLES[rests.index(rest) % len(_STYLES)]
        mean, low, high = (100 * part for part in columns(figures))
        draw_band(axes, places, mean, low, high, (look.colour, look.marker, style), name)
    if not any(np.isfinite(columns(figures)[0]).any() for figures in curve.lines.values()):
        axes.text(0.5, 0.5, "no images", transform=axes.transAxes, ha="center", color="#555555", style="italic")
        axes.set_yticks([])
    if curve.log_x:
        # At most some of the labels, or they would overlap.
        shown = slice(None, None, -(-len(places) // _MOST_TICKS) or 1)
        axes.set_xticks(places[shown], [figure_number(x) for x in curve.x[shown]])
        if 0 in curve.x and len(places) > 1:
            axes.axvline(float(places[:2].mean()), color="#8c8c8c", linewidth=0.9, linestyle=(0, (1, 3)))
    else:
        span = float(np.ptp(places))
        if len(places) > 1 and float(np.diff(places).min()) >= span / _MOST_TICKS:
            axes.set_xticks(places)  # Nothing was measured in between.
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: figure_number(round(x, 9))))
    # Rates are not below 0, though intervals around their means may be.
    means = np.concatenate([columns(figures)[0] for figures in curve.lines.values()] or [np.zeros(0)])
    bottom, top = axes.get_ylim()
    if np.nanmin(means, initial=np.inf) >= 0 and bottom < 0 < top:
        axes.set_ylim(bottom=max(bottom, -0.03 * top))
    axes.set_xlabel(shorten(curve.x_label, 70))
    axes.set_ylabel(f"{shorten(curve.metric, 44)} (%)")
    grid_below(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=3.2)
    return figure


def split_line(name: str) -> tuple[str, str]:
    """The source arm of a line, and what else tells it apart: "square, full" is ("square", "full")."""
    arm, _, rest = name.partition(", ")
    return arm, rest


def _places(curve: BiasCurve) -> Float[np.ndarray, " points"]:
    """Where points stand on the axis; on a logarithmic one, 0 stands a step left of the smallest."""
    x = np.array(curve.x, np.float64)
    if not curve.log_x:
        return x
    positive = x > 0
    logs = np.log10(np.where(positive, x, 1.0))
    step = float(np.median(np.diff(logs[positive]))) if positive.sum() > 1 else 1.0
    return np.where(positive, logs, (logs[positive].min() if positive.any() else 0.0) - step)
