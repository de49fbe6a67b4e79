"""Blocks that several sections have: tables of key figures, numbers with their intervals."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jdt.report.blocks import Cell, Column, Rows, Table, Tile, Tiles
from jdt.report.content import DIFFERENCE, SHARE, Figure, Mover, Suspect
from jdt.report.summary import with_interval
from jdt.report.words import (
    ABSENT,
    NBSP,
    NOT_MEASURED,
    UNKNOWN,
    Scale,
    clean,
    decimal,
    figure_interval,
    figure_number,
    percent,
    scale_of,
)
from jdt.types import Float

MANY_FIGURES = 12


def figure_table(figures: Mapping[str, Figure], *, label: str, title: str = "", link: str = "") -> Table:
    """Key figures with what they are, shown after a click where they are many; `link` is their CSV."""
    rows = tuple(
        (
            Cell(clean(name)),
            Cell(with_interval(one), value=one.value, strong=True),
            Cell(one.unit),
            Cell(f"{one.n:,}", value=float(one.n)),
            Cell(one.text),
        )
        for name, one in figures.items()
    )
    columns = (
        Column("figure"), Column("value (95 % interval)"), Column("unit"), Column("n", number=True),
        Column("what it is", key=False),
    )  # fmt: skip
    folded = f"{len(rows)} key figures" if len(rows) > MANY_FIGURES else ""
    return Table(label, columns, (Rows(rows),), title, links=(link,) if link else (), folded=folded)


def effect_cells(
    influence: float, low: float | None, high: float | None, z: float | None, scale: Scale
) -> tuple[Cell, Cell]:
    """An influence with its interval, and its z."""
    if not np.isfinite(influence):
        return Cell(UNKNOWN), Cell(UNKNOWN)
    return (
        Cell(scale.effect(influence), interval_words(low, high, scale), value=influence,
             tone="helps" if influence > 0 else "harms"),
        Cell(ABSENT if z is None else decimal(z, 1, signed=True), value=z),
    )  # fmt: skip


def interval_words(low: float | None, high: float | None, scale: Scale) -> str:
    """A 95 % interval in words; empty where there is none."""
    if low is None or high is None or not np.isfinite([low, high]).all():
        return ""
    return f"95 % {scale.number(low)} to {scale.number(high)}"


def effects_scale(entries: Sequence[Mover | Suspect], output: str) -> Scale:
    """How influences are written that stand together: by the sizes of their errors, or by their own."""
    sizes = [one.influence if one.low is None or one.high is None else (one.high - one.low) / 4 for one in entries]
    return scale_of(output, np.abs(np.array([sizes or [np.nan]], np.float64)))


def between(low: float, high: float, *, signed: bool = False) -> str:
    """An interval of a share, in per cent and without the unit; empty where it is not finite."""
    if not np.isfinite([low, high]).all():
        return ""
    return f"{decimal(100 * low, 1, signed=signed)} to {decimal(100 * high, 1, signed=signed)}"


def difference_cell(mean: float, low: float, high: float) -> Cell:
    """A difference of two shares in percentage points, coloured where its interval leaves 0 out."""
    if not np.isfinite(mean):
        return Cell(ABSENT)
    tone = "helps" if low > 0 else "harms" if high < 0 else ""
    words = f"{decimal(100 * mean, 1, signed=True)}{NBSP}pp"
    return Cell(words, between(low, high, signed=True), float(mean), tone)


def whisker(low: float, value: float, high: float, reach: float) -> tuple[float, float, float] | None:
    """An interval as the small drawing of a cell, whose ends are at `reach`; None where there is none."""
    if not (np.isfinite(low) and reach > 0):
        return None
    ends = (round(float(np.clip(50 * x / reach, -50, 50)), 1) for x in (low, value, high))
    return next(ends), next(ends), next(ends)


def columns(
    figures: Sequence[Figure],
) -> tuple[Float[np.ndarray, " some"], Float[np.ndarray, " some"], Float[np.ndarray, " some"]]:
    """Values and ends of intervals, NaN where there are none."""
    value, low, high = np.array([ends(figure) for figure in figures], np.float64).reshape(-1, 3).T
    return value, low, high


def ends(figure: Figure) -> tuple[float, float, float]:
    """Value, low and high of a figure, NaN where it has none."""
    known = (math.nan if x is None else float(x) for x in (figure.value, figure.low, figure.high))
    return next(known), next(known), next(known)


def correlation_words(figure: Figure) -> str:
    """A figure between -1 and 1 with two digits and its interval, e.g. "0.83 (0.61 to 0.93)"."""
    value, low, high = ends(figure)
    interval = f" ({decimal(low, 2)} to {decimal(high, 2)})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{decimal(value, 2)}{interval}" if math.isfinite(value) else NOT_MEASURED


def seeds_words(figures: Iterable[Figure]) -> str:
    """How many seeds figures rest on, e.g. "3 to 5 seeds"."""
    counts = {figure.n for figure in figures if math.isfinite(ends(figure)[0])} or {0}
    low, high = min(counts), max(counts)
    return f"{low} seed{'' if low == 1 else 's'}" if low == high else f"{low} to {high} seeds"


def figure_tiles(figures: Mapping[str, Figure], most: int, absent: str) -> list[Tiles]:
    """The first key figures at the head of a section; `absent` is what stands for one without a value."""
    tiles = tuple(_tile(name, one, absent) for name, one in list(figures.items())[:most])
    return [Tiles(tiles)] if tiles else []


def _tile(name: str, one: Figure, absent: str) -> Tile:
    value, low, high = ends(one)
    if one.unit in (SHARE, DIFFERENCE):
        interval = between(low, high, signed=one.unit == DIFFERENCE)
        words = percent(value) if one.unit == SHARE else f"{decimal(100 * value, 1, signed=True)}{NBSP}pp"
    else:
        interval, words = figure_interval(one.low, one.high), figure_number(value)
    small = [interval and f"95{NBSP}%: {interval}", "" if one.unit in (SHARE, DIFFERENCE) else one.unit, one.text]
    # A name of parts has names of data in it; a single one is words.
    label = ", ".join(dict.fromkeys(clean(name).split("/"))) if "/" in name else clean(name).replace("_", " ")
    return Tile(label, words if math.isfinite(value) else absent, "; ".join(filter(None, small)))
