"""Suspects: source images beside the target images that they may be copies of, or mislead."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from jdt.report import csvs
from jdt.report.blocks import Block, Cell, Column, Rows, Section, Table, Text
from jdt.report.content import Suspect, Suspects
from jdt.report.page import add_section
from jdt.report.parts import effect_cells, effects_scale, figure_table
from jdt.report.thumbnails import embedded
from jdt.report.words import Scale, clean, decimal, figure_interval, figure_number, sign_sentence
from jdt.store.files import Place

MOST_ROWS = 100
"""Suspects of one kind that the page shows; the CSV has all."""
KINDS = {
    "leakage": "Leakage: source images that are copies of test images",
    "misleading": "Misleading source images",
}
_HEADER = (
    "kind",
    "place",
    "source",
    "target",
    "output",
    "influence",
    "low",
    "high",
    "z",
    "rank",
    "similarity",
    "verdict",
)


def add_suspects(
    run: str | os.PathLike[str],
    found: Sequence[Suspects],
    *,
    name: str = "suspects",
    title: str = "Suspects",
    relative: bool = False,
    warnings: Sequence[str] = (),
) -> Place:
    """Show suspects on the page of a run, the two images of each side by side.

    Args:
      run: The run directory.
      found: A table each.
      name: Of the section; the same name again replaces it.
      title: Of the section.
      relative: Whether influences are relative to the average unit (subsets of one size).
      warnings: What the reader must know before believing a number.

    Returns:
      The path of the page.

    Raises:
      UserError: If images have another shape than that of images, or where the run cannot be written.
    """
    parts: list[Block] = []
    tables, summary = {}, []
    for number, one in enumerate(found, start=1):
        link = f"{name}_{number}.csv"
        tables[link] = csvs.csv_bytes(_HEADER, _csv_rows(one))
        parts.append(_table(one, relative, f"tables/{link}"))
        if one.figures:
            file = f"{name}_{number}_figures.csv"
            tables[file] = csvs.csv_bytes(csvs.FIGURE_HEADER, csvs.figure_rows(one.figures))
            parts.append(figure_table(one.figures, label=f"Key figures of {one.kind}", link=f"tables/{file}"))
        summary.append(_summary(one))
    if not parts:
        parts.append(Text("Nothing is suspected."))
    section = Section(name, 500, clean(title), tuple(parts), page_title=clean(title), summary=tuple(summary),
                      warnings=tuple(warnings))  # fmt: skip
    return add_section(run, section, tables=tables)


def _summary(one: Suspects) -> str:
    words = f"{KINDS.get(one.kind, clean(one.kind))}: {len(one.rows):,} suspected."
    for name, figure in one.figures.items():
        interval = figure_interval(figure.low, figure.high)
        between = f" ({interval})" if interval else ""
        words += f" {clean(name).replace('_', ' ')}: {figure_number(figure.value)}{between} {clean(figure.unit)}."
    return words


def _table(one: Suspects, relative: bool, link: str) -> Table:
    scale = effects_scale(one.rows, one.output)
    shown = one.rows[:MOST_ROWS]
    columns = (
        Column("place"), Column("source image"), Column("target image"), Column(f"influence ({scale.unit})", True),
        Column("z", True), Column("rank by influence", True), Column("similarity", True), Column("verdict"),
    )  # fmt: skip
    note = (
        f"{one.text} {sign_sentence(scale, relative)} Rank 1 is the "
        f"{'most harmful' if one.kind == 'misleading' else 'most helpful'} of all source images; similarity runs "
        "from 0 to 1, equal images."
    )
    if len(shown) < len(one.rows):
        note += f" Shown are the first {len(shown)} of {len(one.rows):,}."
    rows = tuple(_row(place, suspect, scale) for place, suspect in enumerate(shown, start=1))
    title = KINDS.get(one.kind, clean(one.kind))
    return Table(title, columns, (Rows(rows),), title, note, (link,))


def _row(place: int, suspect: Suspect, scale: Scale) -> tuple[Cell, ...]:
    effect = effect_cells(suspect.influence, suspect.low, suspect.high, suspect.z, scale)
    return (
        Cell(str(place), value=float(place)),
        Cell(small=suspect.source, images=(embedded(suspect.source_image[None], f"source image {suspect.source}"),)),
        Cell(small=suspect.target, images=(embedded(suspect.target_image[None], f"target image {suspect.target}"),)),
        *effect,
        Cell(f"{suspect.rank:,}", value=float(suspect.rank)),
        Cell(decimal(suspect.similarity, 2), value=suspect.similarity),
        Cell(suspect.verdict),
    )


def _csv_rows(one: Suspects) -> Iterator[Sequence[Any]]:
    for place, s in enumerate(one.rows, start=1):
        row = (s.source, s.target, one.output, s.influence, s.low, s.high, s.z, s.rank, s.similarity, s.verdict)
        yield one.kind, place, *row
