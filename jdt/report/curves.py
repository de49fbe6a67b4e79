"""Counterfactual curves: accuracy of models that were trained anew without some source units."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import MaxNLocator

from jdt import checks
from jdt.analyses import mean_interval
from jdt.report import csvs, plots
from jdt.report.blocks import Block, Cell, Column, Rows, Section, Table, Text
from jdt.report.content import Counterfactual
from jdt.report.figures import Picture, picture, plate, safe_stem
from jdt.report.page import add_section
from jdt.report.parts import between, difference_cell, figure_table
from jdt.report.words import ABSENT, NBSP, clean, mode_words, percent
from jdt.store.files import Place
from jdt.types import Float

# What each arm removes; every arm has a look of its own.
ARMS = {
    "bottom": "most harmful units removed",
    "top": "most helpful units removed",
    "random": "random units removed",
    "hand-picked": "hand-picked units removed",
}
_LOOKS: dict[str, plots.LineLook] = dict(zip(ARMS, plots.LINE_LOOKS, strict=True))


def add_counterfactual(
    run: str | os.PathLike[str],
    found: Sequence[Counterfactual],
    *,
    name: str = "counterfactual",
    warnings: Sequence[str] = (),
) -> Place:
    """Show counterfactual curves on the page of a run, with their figures and tables.

    Args:
      run: The run directory.
      found: The curves, one part of the section each.
      name: Of the section; the same name again replaces it.
      warnings: What the reader must know before believing a number.

    Returns:
      The path of the page.

    Raises:
      UserError: If a curve does not fit together, or where the run cannot be written.
    """
    for one in found:
        _check(one)
    parts: list[Block] = []
    pictures, tables, summary = {}, {}, []
    with plots.drawing():
        for number, one in enumerate(found, start=1):
            stem = f"{name}_{number}_{safe_stem(one.target)}_{safe_stem(one.mode)}"
            drawn = picture("curve", draw_curve(one), *_curve_words(one))
            pictures[f"{stem}_curve"] = drawn
            tables |= {
                f"{stem}.csv": csvs.csv_bytes(_HEADER, _csv_rows(one)),
                f"{stem}_order.csv": csvs.csv_bytes(("place", "unit"), enumerate(one.order, start=1)),
            }
            parts += _parts(one, stem, drawn)
            summary.append(counterfactual_summary(one))
            if one.figures:
                tables[f"{stem}_figures.csv"] = csvs.csv_bytes(csvs.FIGURE_HEADER, csvs.figure_rows(one.figures))
    title = "What happens when units are removed"
    targets = ", ".join(dict.fromkeys(clean(one.target) for one in found))
    subjects = ", ".join(dict.fromkeys(_title(one) for one in found))
    section = Section(name, 300, title, tuple(parts), subjects, page_title=f"Removing source units: {targets}",
                      summary=tuple(summary), warnings=tuple(warnings))  # fmt: skip
    return add_section(run, section, pictures=pictures, tables=tables)


def _check(one: Counterfactual) -> None:
    points = len(one.removed)
    if not one.arms or not points:
        raise checks.UserError(f"the counterfactual of {one.subject!r} has no arm or no point, but needs both.")
    seeds = {values.shape for arms in (one.arms, one.optimistic) for values in arms.values()}
    if len(seeds) != 1 or next(iter(seeds))[0] != points:
        raise checks.UserError(
            f"the arms of the counterfactual of {one.subject!r} have shapes {sorted(seeds)}, but all must be "
            f"[{points} points, seeds]."
        )


def curve_points(
    one: Counterfactual, values: Float[np.ndarray, "points seeds"]
) -> tuple[Float[np.ndarray, " points"], Float[np.ndarray, " points"], Float[np.ndarray, " points"]]:
    """Mean accuracy at every point, with the 95 % t interval of its change since nothing was removed.

    Seeds are the same at every point, so what a seed adds everywhere says nothing about the change: the interval is
    that of the difference between a model and the one of the same seed with nothing removed, around the mean. Where
    nothing removed was not measured it is the interval of the mean itself.

    Returns:
      Mean, low and high; low and high are NaN with fewer than two seeds, and the mean itself where nothing is removed.
    """
    mean = _mean(values)
    paired = one.removed[0] == 0 and np.isfinite(values[0]).any()
    change = values - (values[0] if paired else 0.0)  # A seed that lacks one of the two has no change.
    reach = np.array([_reach(row) for row in change])
    return mean, mean - reach, mean + reach


def _start(one: Counterfactual) -> float:
    """Mean accuracy with nothing removed, which is the same models in all arms; NaN where that was not measured."""
    if one.removed[0] != 0:
        return np.nan
    known = [mean for values in one.arms.values() if np.isfinite(mean := float(_mean(values)[0]))]
    return known[0] if known else np.nan


def _mean(values: Float[np.ndarray, "points seeds"]) -> Float[np.ndarray, " points"]:
    return np.array([mean_interval(row)[0] for row in values])


def _reach(values: Float[np.ndarray, " seeds"]) -> float:
    mean, low, _ = mean_interval(values)
    return mean - low


def draw_curve(one: Counterfactual) -> Drawing:
    """Accuracy on the images that report against the number of units removed, with bands; dashed: too good numbers."""
    figure = Drawing(figsize=(6.4, 3.9), layout="constrained")
    axes = figure.add_subplot()
    for i, (arm, values) in enumerate(one.arms.items()):
        look = _look(arm, i)
        mean, low, high = (100 * part for part in curve_points(one, values))
        known = np.isfinite(mean)
        if known.sum() == (one.removed[0] == 0 and known[0]):
            continue  # An arm without a point of its own.
        plots.draw_band(axes, one.removed, mean, low, high, look, arm_words(arm))
        if (rosy := one.optimistic.get(arm)) is not None:
            axes.plot(one.removed, 100 * _mean(rosy), color=look[0], linestyle=(0, (2, 3)), linewidth=0.9)
    start = _start(one)
    if np.isfinite(start):
        axes.axhline(100 * start, color="#777777", linewidth=0.9)
        axes.annotate(" nothing removed", (1, 100 * start), xycoords=("axes fraction", "data"), fontsize=8.5,
                      color="#555555", va="center", annotation_clip=False)  # fmt: skip
    axes.set_xlabel(f"source units removed, of {one.num_units:,}")
    axes.set_ylabel("accuracy on the images that report (%)")
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    plots.grid_below(axes)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper left", ncols=2, frameon=False, handlelength=3.2)
    return figure


def _look(arm: str, index: int) -> plots.LineLook:
    return _LOOKS.get(arm) or plots.LINE_LOOKS[index % len(plots.LINE_LOOKS)]


def arm_words(arm: str) -> str:
    """What an arm removes, in words."""
    return ARMS.get(arm, clean(arm))


def counterfactual_summary(one: Counterfactual) -> str:
    """What removing units did, in one paragraph, at the last point that the arms share."""
    means = {arm: _mean(values) for arm, values in one.arms.items()}
    words = f"Retrained without some of the {one.num_units:,} source units ({_subject(one)})"
    known = {arm: np.isfinite(mean) & (one.removed > 0) for arm, mean in means.items()}
    last = {arm: int(np.flatnonzero(there)[-1]) for arm, there in known.items() if there.any()}
    if not last:
        return f"{words}, models were measured at no point."
    # The last point that all curves share; a set of hand-picked units is a single point of its own.
    most = max(int(there.sum()) for there in known.values())
    shared = np.flatnonzero(np.all([there for there in known.values() if there.sum() == most], axis=0))
    points = {arm: int(shared[-1]) if len(shared) and known[arm][shared[-1]] else at for arm, at in last.items()}
    parts = [f"{percent(means[arm][at])} with the {one.removed[at]:,} {arm_words(arm)}" for arm, at in points.items()]
    start = _start(one)
    before = f", {percent(start)} with nothing removed" if np.isfinite(start) else ""
    return (
        f"{words}, models reach an accuracy of {'; '.join(parts)}{before} (on test images that took no part in the "
        "ranking)."
    )


def _subject(one: Counterfactual) -> str:
    subject = "" if one.subject == one.target else f", {clean(one.subject)}"
    return f"{clean(one.target)}{subject}, {mode_words(one.mode)}, ranked by {clean(one.ranked_by)}"


def _curve_words(one: Counterfactual) -> tuple[str, str]:
    reporting, ranking = one.images
    ends = []
    for arm, values in one.arms.items():
        mean = _mean(values)
        known = np.flatnonzero(np.isfinite(mean))
        if len(known):
            at = int(known[-1])
            ends.append(f"{arm_words(arm)}: {percent(mean[at])} at {one.removed[at]:,}")
    alt = f"Curves of accuracy against the number of source units removed. {'; '.join(ends)}."
    seeds = next(iter(one.arms.values())).shape[1]
    paired = one.removed[0] == 0
    caption = (
        f"Accuracy of models trained anew without some source units, on {reporting:,} test images that took no part in "
        f"the ranking; mean of {seeds} seed{'' if seeds == 1 else 's'}. Above the grey line: removing these units "
        "helps; below it: they are missed."
    )
    if seeds > 1:
        what = "the change since nothing was removed, seed by seed" if paired else "the mean over seeds"
        caption += f" Bands: 95 % intervals of {what}."
    if one.optimistic:
        caption += (
            f" Thin dashed lines: the same on the {ranking:,} images that ranked the units, which flatters the most "
            "harmful ones."
        )
    return alt, caption


_HEADER = ("arm", "removed", "images", "seeds", "accuracy", "low", "high", "minus_random", "minus_random_low",
           "minus_random_high")  # fmt: skip


def _csv_rows(one: Counterfactual):
    for images, arms in (("report", one.arms), ("ranking", one.optimistic)):
        for arm, values in arms.items():
            columns = (*curve_points(one, values), *_minus_random(arms, arm))
            for point, removed in enumerate(one.removed):
                row = [column[point] for column in columns]
                seeds = int(np.isfinite(values[point]).sum())
                if seeds:
                    yield arm, int(removed), images, seeds, *row


def _minus_random(arms: Mapping[str, np.ndarray], arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paired difference to random removal at every point, with its interval."""
    values = arms[arm]
    if arm == "random" or "random" not in arms:
        nothing = np.full(len(values), np.nan)
        return nothing, nothing, nothing
    difference = values - arms["random"]
    mean, reach = _mean(difference), np.array([_reach(row) for row in difference])
    return mean, mean - reach, mean + reach


def _title(one: Counterfactual) -> str:
    same = one.subject == one.target
    return f"{clean(one.target)}{'' if same else f': {clean(one.subject)}'}, {mode_words(one.mode)}"


def _parts(one: Counterfactual, stem: str, drawn: Picture) -> list[Block]:
    parts: list[Block] = [
        plate(drawn, stem, _title(one)),
        _points_table(one, stem),
    ]  # fmt: skip
    if one.figures:
        label = f"Key figures of removing units for {clean(one.subject)}"
        parts.append(figure_table(one.figures, label=label, link=f"tables/{stem}_figures.csv"))
    if one.order:
        first, last = (", ".join(map(clean, names)) for names in (one.order[:5], one.order[:-6:-1]))
        parts.append(Text(f"Most harmful units: {first}. Most helpful units: {last}.", small=True))
    return parts


def _points_table(one: Counterfactual, stem: str) -> Table:
    columns = [
        Column("removed"), Column("units", True), Column("accuracy", True), Column("minus random", True),
        Column("on the images that ranked", True),
    ]  # fmt: skip
    rows = []
    for arm, values in one.arms.items():
        mean, low, high = curve_points(one, values)
        difference = _minus_random(one.arms, arm)
        rosy = _mean(one.optimistic[arm]) if arm in one.optimistic else np.full(len(mean), np.nan)
        for point, removed in enumerate(one.removed.tolist()):
            if not np.isfinite(mean[point]) or (removed == 0 and arm != next(iter(one.arms))):
                continue
            rows.append((
                Cell("nothing" if removed == 0 else arm_words(arm).removesuffix(" removed")),
                Cell(f"{removed:,}", f"{100 * removed / max(one.num_units, 1):.0f}{NBSP}%", float(removed)),
                Cell(percent(mean[point]), between(low[point], high[point]) if removed else "", float(mean[point])),
                Cell(ABSENT) if removed == 0 else difference_cell(*(part[point] for part in difference)),
                Cell(percent(rosy[point]) if np.isfinite(rosy[point]) else ABSENT, value=float(rosy[point])),
            ))  # fmt: skip
    seeds = next(iter(one.arms.values())).shape[1]
    note = (
        f"Accuracy on {one.images[0]:,} test images that took no part in the ranking, mean of {seeds} seeds with the "
        "95 % interval of the change since nothing was removed around it; “minus random” in percentage points (pp), "
        "paired by seed: with + more accurate than after removing as many random units. The last column is on the "
        "images that ranked the units: too good by construction."
    )
    label = f"Accuracy after removing units, {clean(one.subject)}"
    links = (f"tables/{stem}.csv", f"tables/{stem}_order.csv")
    return Table(label, tuple(columns), (Rows(tuple(rows)),), note=note, links=links)
