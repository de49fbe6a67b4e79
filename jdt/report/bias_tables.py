"""The tables of bias transfer: all rates with their denominators, units that carry the bias, and the CSV files."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jdt.report import csvs
from jdt.report.bias_content import Bias, BiasBar
from jdt.report.bias_plots import SCRATCH
from jdt.report.bias_words import (
    NO_IMAGES,
    arm_words,
    comparisons,
    control_verdict,
    control_words,
    effect_words,
    twin_words,
    verdict,
)
from jdt.report.blocks import Cell, Column, Rows, Table
from jdt.report.content import SHARE, Figure, Mover
from jdt.report.parts import between, difference_cell, effect_cells, effects_scale, ends, whisker
from jdt.report.tables import strip_image
from jdt.report.words import ABSENT, NBSP, Scale, clean, percent, shorten, sign_sentence

MOST_BLAMED, OPEN_ROWS = 30, 60
"""Units in the table of those to blame; rows of the table of rates that are shown without a click."""
_BAR_HEADER = (
    "target", "mode", "pattern", "metric", "attacked", "source", "rate", "low", "high", "n", "twin", "minus_twin",
    "minus_twin_low", "minus_twin_high", "minus_twin_n", "interval_over", "minus_scratch", "minus_scratch_low",
    "minus_scratch_high", "minus_scratch_n", "denominator", "control",
)  # fmt: skip


def verdict_table(bars: Sequence[BiasBar], compared_with: str) -> Table:
    """Whether the bias survives, by target, mode, pattern and source, from the intervals of the differences."""
    compared = comparisons(bars)
    reach = _reach(bar.transfer[arm] for bar, arm, _ in compared)
    columns = (Column("transfer"), Column("verdict"), Column("interval", key=False))
    groups = [
        Rows(
            tuple(_verdict_row(*one, reach, compared_with) for one in compared if one[0].target == target),
            shorten(target, 36),
        )
        for target in dict.fromkeys(bar.target for bar, _, _ in compared)
    ]
    note = (
        f"Numbers are differences to {_twins(compared_with)} with the same seeds, in percentage points (pp), with "
        f"95{NBSP}% intervals over seeds{_one_model(bars)}; “no transfer is seen” where the interval contains 0."
        f"{control_words(bars)}"
    )
    return Table("Whether the bias comes along", columns, tuple(groups), "Does the bias come along?", note)


def _twins(compared_with: str) -> str:
    words = twin_words(compared_with)
    return f"models of {words}" if words.endswith("source") else words


def _one_model(bars: Iterable[BiasBar]) -> str:
    """Where intervals are not over seeds."""
    where = dict.fromkeys(f"{clean(bar.mode)} mode over {bar.over}" for bar in bars if bar.over != "seeds")
    return f" (in {', in '.join(where)}, as all seeds are one model there)" if where else ""


def _verdict_row(bar: BiasBar, arm: str, control: Figure | None, reach: float, compared_with: str) -> tuple[Cell, ...]:
    figure = bar.transfer[arm]
    value, low, high = ends(figure)
    words = effect_words(bar, figure) + (f"; control pattern: {control_verdict(control)}" if control else "")
    return (
        Cell(clean(bar.mode), clean(bar.pattern) + ("" if arm == bar.pattern else f", {arm_words(arm)}")),
        Cell(verdict(figure, compared_with), words, strong=True),
        Cell(whisker=whisker(low, value, high, reach)),
    )


def _reach(figures: Iterable[Figure]) -> float:
    return max((abs(end) for one in figures for end in ends(one) if math.isfinite(end)), default=0.0)


def bar_table(bars: Sequence[BiasBar], link: str, compared_with: str) -> Table:
    """Every rate with its denominator, its differences to the twin and to models from scratch; `link` is its CSV."""
    reach = _reach(one for bar in bars for one in bar.transfer.values())
    metrics = list(dict.fromkeys(bar.metric for bar in bars))
    scratch = compared_with != SCRATCH and any(bar.from_scratch for bar in bars)
    groups = []
    for metric in metrics:
        rows = [_bar_row(bar, arm, reach, scratch) for bar in bars if bar.metric == metric for arm in bar.rates]
        groups.append(Rows(tuple(rows), clean(metric)))
    columns = (
        Column("target"), Column("transfer"), Column("source"), Column("rate", True),
        Column(f"minus {clean(compared_with)}", True), Column("interval", key=False),
        *((Column("minus scratch", True),) if scratch else ()), Column("share of", True), Column("seeds", True),
    )  # fmt: skip
    note = (
        f"Rates are means over seeds with 95{NBSP}% intervals; “minus {clean(compared_with)}” is the difference to "
        f"{_twins(compared_with)} with the same seeds in percentage points (pp){_one_model(bars)}, in bold where its "
        "interval leaves 0 out, and drawn around zero on one scale. "
    )
    if scratch:
        note += (
            "“minus scratch” is that to models that never saw the source, trained as a whole where that was asked for. "
        )
    note += f"“{NO_IMAGES}”: nothing was left in the denominator, which is not a rate of 0."
    count = sum(len(group.rows) for group in groups)
    folded = f"All {count} rates" if count > OPEN_ROWS else ""
    return Table("All rates with their denominators", columns, tuple(groups), "All rates", note, (link,), folded)


def _bar_row(bar: BiasBar, arm: str, reach: float, scratch: bool) -> tuple[Cell, ...]:
    value, low, high = ends(bar.rates[arm])
    rate = Cell(percent(value), between(low, high), value) if math.isfinite(value) else Cell(NO_IMAGES)
    moved, bottom, top = ends(bar.transfer[arm]) if arm in bar.transfer else (math.nan,) * 3
    drawn = Cell(whisker=whisker(bottom, moved, top, reach)) if math.isfinite(moved) else Cell()
    return (
        Cell(clean(bar.target)),
        Cell(clean(bar.mode), clean(bar.pattern)),
        Cell(clean(arm)),
        rate,
        _difference(bar.transfer.get(arm)),
        drawn,
        *((_difference(bar.from_scratch.get(arm)),) if scratch else ()),
        Cell(small=bar.denominators.get(arm) or "not said"),
        Cell(f"{bar.rates[arm].n:,}", value=float(bar.rates[arm].n)),
    )


def _difference(figure: Figure | None) -> Cell:
    """A difference, in bold where its interval leaves 0 out: more of a bias is neither help nor harm."""
    if figure is None:
        return Cell(ABSENT)
    if not math.isfinite(ends(figure)[0]):
        return Cell(NO_IMAGES)
    cell = difference_cell(*ends(figure))
    return dataclasses.replace(cell, tone="", strong=bool(cell.tone))


def blamed_table(found: Bias, relative: bool, link: str) -> Table:
    """Source units by the bias that they carry, with images; `relative` as in `add_bias`."""
    # A share is shown in percentage points, as a confidence is.
    scale = effects_scale(found.blamed, "confidence" if found.output.startswith(SHARE) else found.output)
    scale = dataclasses.replace(scale, output=f"bias ({clean(found.output)} with the pattern minus without it)")
    shown = found.blamed[:MOST_BLAMED]
    rows = tuple(_blamed_row(place, mover, scale) for place, mover in enumerate(shown, start=1))
    columns = (
        Column("source unit"), Column("place", True), Column("images", key=False), Column("carries", True),
        Column("z", True), Column("note"),
    )  # fmt: skip
    note = f"Source units by the bias that they carry. {sign_sentence(scale, relative)}"
    if len(shown) < len(found.blamed):
        note += f" Shown are the first {len(shown)} of {len(found.blamed):,}."
    return Table("Source units that carry the bias", columns, (Rows(rows),), "Which source units carry the bias", note,
                 (link,))  # fmt: skip


def _blamed_row(place: int, mover: Mover, scale: Scale) -> tuple[Cell, ...]:
    effect, z = effect_cells(mover.influence, mover.low, mover.high, mover.z, scale)
    image = strip_image("source unit", mover.name, {mover.name: mover.images})
    # To carry bias is to harm.
    tone = {"helps": "harms", "harms": "helps"}.get(effect.tone, "")
    if mover.low is not None and mover.high is not None and mover.low <= 0 <= mover.high:
        tone = ""
    images = (image,) if image else ()
    return (
        Cell(clean(mover.name)), Cell(str(place), value=float(place)), Cell(images=images),
        dataclasses.replace(effect, tone=tone), z, Cell(small=mover.note),
    )  # fmt: skip


def bias_tables(found: Bias, name: str) -> dict[str, bytes]:
    """The CSV files of a study by their names."""
    curves = (
        (curve.title, curve.metric, line, x, *_row(figure))
        for curve in found.curves
        for line, figures in curve.lines.items()
        for x, figure in zip(curve.x, figures, strict=True)
    )
    predictions = (
        (one.title, kind, label, int(before), int(after))
        for one in found.histograms
        for kind, counts in one.panels.items()
        for label, before, after in zip(one.class_names, *counts, strict=True)
    )
    blamed = (
        (place, m.name, found.output, m.influence, m.low, m.high, m.z, m.note)
        for place, m in enumerate(found.blamed, start=1)
    )
    files = {
        "bars": (found.bars, _BAR_HEADER, _bar_rows(found)),
        "curves": (found.curves, ("curve", "metric", "line", "x", "rate", "low", "high", "n"), curves),
        "predictions": (found.histograms, ("histogram", "models", "class", "without", "with"), predictions),
        "blamed": (found.blamed, ("place", "unit", "output", "influence", "low", "high", "z", "note"), blamed),
        "figures": (found.figures, csvs.FIGURE_HEADER, csvs.figure_rows(found.figures)),
    }
    return {f"{name}_{file}.csv": csvs.csv_bytes(header, rows) for file, (any_, header, rows) in files.items() if any_}


def _bar_rows(found: Bias) -> Iterator[Sequence[Any]]:
    for bar in found.bars:
        for arm, rate in bar.rates.items():
            moved, scratch = (_row(own[arm]) if arm in own else (None,) * 4 for own in (bar.transfer, bar.from_scratch))
            attacked = bar.attacked_by.get(arm, bar.attacked)
            which = bar.target, bar.mode, bar.pattern, bar.metric, attacked, arm
            yield (*which, *_row(rate), found.compared_with, *moved, bar.over, *scratch,
                   bar.denominators.get(arm, ""), "yes" if bar.control else "no")  # fmt: skip


def _row(figure: Figure) -> tuple[float | None, float | None, float | None, int]:
    return figure.value, figure.low, figure.high, figure.n
