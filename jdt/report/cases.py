"""Cases: what moves a class, an image, or what a unit moves, as image grids."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jdt.report import csvs
from jdt.report.blocks import Block, Image, Section, Strip, StripGroup, Strips
from jdt.report.content import Case, Mover
from jdt.report.page import add_section
from jdt.report.parts import effects_scale, figure_table, interval_words
from jdt.report.thumbnails import embedded
from jdt.report.words import NBSP, Scale, clean, decimal, sign_sentence
from jdt.store.files import Place
from jdt.types import UInt8

MOST_CASES, MOST_MOVERS, MOST_IMAGES = 40, 5, 3
"""Shown of all cases, on each side of a case, and of a unit; the CSV has all."""
MANY_CASES = 20
"""With more, units have one image fewer: pages must stay small."""
KINDS = {
    "class": "Target classes", "example": "Target images", "unit": "Source units",
    "subpopulation": "Subpopulations: images that a unit drives although their label is another",
    "failure": "Failures, and the units to blame",
}  # fmt: skip
_HEADER = ("kind", "case", "side", "place", "name", "output", "influence", "low", "high", "z", "note")


def add_cases(
    run: str | os.PathLike[str],
    cases: Sequence[Case],
    *,
    name: str = "cases",
    title: str = "What moves what",
    text: str = "",
    relative: bool = False,
    warnings: Sequence[str] = (),
) -> Place:
    """Show cases on the page of a run, each as a grid of images with influences.

    Args:
      run: The run directory.
      cases: In the order to show them in, kind by kind.
      name: Of the section; the same name again replaces it, another one stands beside it.
      title: Of the section.
      text: What was asked, in a sentence or two, for the head of the page; may be empty.
      relative: Whether influences are relative to the average unit (subsets of one size).
      warnings: What the reader must know before believing a number.

    Returns:
      The path of the page.

    Raises:
      UserError: If images have another shape than that of images, or where the run cannot be written.
    """
    parts: list[Block] = []
    tables = {f"{name}.csv": csvs.csv_bytes(_HEADER, _csv_rows(cases))}
    shown = cases[:MOST_CASES]
    few = MOST_IMAGES if len(shown) <= MANY_CASES else MOST_IMAGES - 1
    for kind in dict.fromkeys(case.kind for case in shown):
        group = [case for case in shown if case.kind == kind]
        scales = {case.output: _scale(case) for case in group}
        note = " ".join(sign_sentence(scale, relative) for scale in scales.values())
        for case in group:
            strips = Strips((_group(case, few),), "" if case is not group[0] else KINDS.get(kind, clean(kind)),
                            note if case is group[0] else "")  # fmt: skip
            parts.append(strips)
            if case.figures:
                parts.append(figure_table(case.figures, label=f"Key figures of {clean(case.title)}"))
    figures = {f"{case.title}: {key}": one for case in cases for key, one in case.figures.items()}
    if figures:
        tables[f"{name}_figures.csv"] = csvs.csv_bytes(csvs.FIGURE_HEADER, csvs.figure_rows(figures))
    more = f" Shown are {len(shown)} of {len(cases)} cases." if len(shown) < len(cases) else ""
    parts.append(Strips((), note=f"All influences of these cases are in the table.{more}", links=_links(tables)))
    section = Section(name, 400, clean(title), tuple(parts), page_title=clean(title), warnings=tuple(warnings),
                      summary=(clean(text),) if text else ())  # fmt: skip
    return add_section(run, section, tables=tables)


def _links(tables: dict[str, bytes]) -> tuple[str, ...]:
    return tuple(f"tables/{file}" for file in tables)


def _group(case: Case, most: int) -> StripGroup:
    scale = _scale(case)
    subject = Strip(clean(case.title), "target", image=_image(case.images, f"the subject: {clean(case.title)}", most))
    strips = [subject]
    for role, side in (("helps", case.helps), ("harms", case.harms)):
        strips += [_strip(mover, role, scale, most) for mover in side[:MOST_MOVERS]]
    return StripGroup(tuple(strips), clean(case.title), case.text)


def _strip(mover: Mover, role: str, scale: Scale, most: int) -> Strip:
    interval = interval_words(mover.low, mover.high, scale)
    words = [scale.effect(mover.influence) + (f" ({interval})" if interval else "")]
    if mover.z is not None and np.isfinite(mover.z):
        words.append(f"z{NBSP}{decimal(mover.z, 1, signed=True)}")
    words += [mover.note] if mover.note else []
    count = min(len(mover.images), most)
    alt = f"{'an image' if count == 1 else f'{count} images'} of {clean(mover.name)}"
    return Strip(clean(mover.name), role, ", ".join(words), _image(mover.images, alt, most))


def _image(images: UInt8[np.ndarray, "count height width channels"], alt: str, most: int) -> Image | None:
    return embedded(images[:most], alt) if len(images) else None


def _scale(case: Case) -> Scale:
    return effects_scale((*case.helps, *case.harms), case.output)


def _csv_rows(cases: Sequence[Case]) -> Iterator[Sequence[Any]]:
    for case in cases:
        for side, movers in (("helps", case.helps), ("harms", case.harms)):
            for place, m in enumerate(movers, start=1):
                row = (m.name, case.output, m.influence, m.low, m.high, m.z, m.note)
                yield case.kind, case.title, side, place, *row
