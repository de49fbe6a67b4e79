"""Blocks that several sections have: tables of key figures, numbers with their intervals."""

from collections.abc import Mapping

import numpy as np

from jdt.report.blocks import Cell, Column, Rows, Table
from jdt.report.content import Figure
from jdt.report.summary import with_interval
from jdt.report.words import ABSENT, UNKNOWN, Scale, clean, decimal

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
