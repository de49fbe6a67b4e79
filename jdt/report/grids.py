"""Cases and suspects outside of the page: tables for the terminal, and grids of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from jdt.report.content import Case, Mover, Suspect, Suspects
from jdt.report.parts import effects_scale
from jdt.report.plots import HARMS, HELPS, INK, drawing, png_bytes
from jdt.report.words import MINUS, NBSP, Scale, clean, decimal, shorten

_COLUMNS = 6  # Images in a row of a grid.
_TILE = 1.25  # Inches.


def case_table(case: Case) -> Table:
    """A case for the terminal: what moves it up and down, with intervals, z and notes."""
    scale = effects_scale([*case.helps, *case.harms], case.output)
    table = Table(title=escape(clean(case.title)), title_justify="left", caption=escape(clean(case.text)),
                  caption_justify="left")  # fmt: skip
    for heading in ("", "which", "influence", "95 % interval", "z", "note"):
        table.add_column(heading)
    for way, movers in (("helps", case.helps), ("harms", case.harms)):
        for place, mover in enumerate(movers):
            table.add_row("" if place else way, escape(shorten(mover.name, 44)), *_numbers(mover, scale),
                          escape(clean(mover.note) if mover.note else ""))  # fmt: skip
    for name, figure in case.figures.items():
        low, high = figure.low, figure.high
        between = "" if low is None or high is None else f" ({low:.3g} to {high:.3g}):"
        table.add_row("", escape(name), "", "", "", escape(f"{figure.value:.3g}{between} {figure.text}"))
    return table


def suspects_table(suspects: Suspects) -> Table:
    """Suspects for the terminal, the most suspect first."""
    scale = effects_scale(suspects.rows, suspects.output)
    table = Table(title=escape(suspects.kind), title_justify="left", caption=escape(clean(suspects.text)),
                  caption_justify="left")  # fmt: skip
    for heading in ("source", "target", "influence", "95 % interval", "z", "rank", "lead", "similarity", "verdict"):
        table.add_column(heading)
    for row in suspects.rows:
        names = (escape(shorten(row.source, 40)), escape(shorten(row.target, 60)))
        lead = "" if row.lead is None else _plain(scale.number(row.lead))
        table.add_row(*names, *_numbers(row, scale), f"{row.rank:,}", lead, f"{row.similarity:.2f}", row.verdict)
    return table


def case_grid(case: Case) -> bytes:
    """A case as a PNG: images of the subject, of what helps it and of what harms it, each with its numbers."""
    scale = effects_scale([*case.helps, *case.harms], case.output)
    rows: list[tuple[str, str, Sequence[Any]]] = [("", INK, list(case.images[:_COLUMNS]))]
    for way, colour, movers in (("helps", HELPS, case.helps), ("harms", HARMS, case.harms)):
        rows += [
            ("" if start else way, colour, movers[start : start + _COLUMNS])
            for start in range(0, len(movers), _COLUMNS)
        ]
    # As tall as its images are, and room for three lines of words above.
    heights = [max((_shape(one) for one in entries), default=0.05) * _TILE for _, _, entries in rows]
    words = [0.1, *[0.55] * (len(rows) - 1)]
    with drawing():
        figure = Figure(figsize=(_TILE * _COLUMNS + 0.9, sum(heights) + sum(words) + 0.5), layout="constrained")
        figure.suptitle(shorten(case.title, 100), x=0.01, ha="left", fontweight="bold")
        ratios = [height + above for height, above in zip(heights, words, strict=True)]
        grid = figure.subplots(len(rows), _COLUMNS, squeeze=False, gridspec_kw={"height_ratios": ratios})
        for line, (heading, colour, entries) in zip(grid, rows, strict=True):
            for place, axes in enumerate(line):
                axes.set_axis_off()
                if place < len(entries):
                    _tile(axes, entries[place], scale, colour)
            if heading:
                line[0].text(-0.12, 0.5, heading, transform=line[0].transAxes, rotation=90, color=colour,
                             ha="center", va="center", fontweight="bold")  # fmt: skip
        return png_bytes(figure)


def _shape(entry: Any) -> float:
    """Height over width of what a tile shows."""
    image = _side_by_side(entry.images) if isinstance(entry, Mover) else entry
    return image.shape[0] / image.shape[1] if image.size else 0.05


def _tile(axes: Axes, entry: Any, scale: Scale, colour: str) -> None:
    if not isinstance(entry, Mover):
        _show(axes, entry)
        return
    _show(axes, _side_by_side(entry.images))
    # Two lines of a name: what it is, and its class.
    name = shorten(entry.name, 44).replace(" (", "\n(", 1)
    axes.set_title(f"{name}\n{scale.effect(entry.influence)}", fontsize=7.5, color=colour)


def suspects_grid(suspects: Suspects, count: int = 12) -> bytes:
    """Suspects as a PNG: source and target image side by side, with the verdict."""
    rows = suspects.rows[:count]
    scale, columns = effects_scale(rows, suspects.output), 3
    lines = max(1, -(-len(rows) // columns))
    with drawing():
        figure = Figure(figsize=(3.1 * columns, 2.15 * lines + 0.4), layout="constrained")
        figure.suptitle(f"{suspects.kind}: source image | test image", x=0.01, ha="left", fontweight="bold")
        for place, axes in enumerate(figure.subplots(lines, columns, squeeze=False).ravel()):
            axes.set_axis_off()
            if place < len(rows):
                row = rows[place]
                _show(axes, _side_by_side([row.source_image, row.target_image]))
                words = f"{shorten(row.source, 34)}\n{shorten(row.target.split(', ')[0], 40)}\n{row.verdict}, "
                words += f"{scale.effect(row.influence)}, similarity {row.similarity:.2f}"
                axes.set_title(words, fontsize=7, color=HELPS if row.influence > 0 else HARMS)
        return png_bytes(figure)


def _numbers(one: Mover | Suspect, scale: Scale) -> tuple[str, str, str]:
    """Influence, interval and z, in plain characters: people search and copy these lines."""
    between = "" if one.low is None or one.high is None else f"{scale.number(one.low)} to {scale.number(one.high)}"
    z = "" if one.z is None else decimal(one.z, 1)
    return _plain(scale.effect(one.influence)), _plain(between), _plain(z)


def _plain(text: str) -> str:
    return escape(text.replace(MINUS, "-").replace(NBSP, " "))


def _side_by_side(images: Any) -> np.ndarray:
    """Images beside each other, the smaller ones enlarged to the height of the tallest by repeating pixels."""
    if not len(images):
        return np.empty((0, 1, 1), np.uint8)
    height = max(image.shape[0] for image in images)
    grown = [np.repeat(np.repeat(image, f, 0), f, 1) for image in images if (f := max(1, height // image.shape[0]))]
    grown = [np.broadcast_to(image, (*image.shape[:2], 3)) for image in grown]
    padded = [np.pad(image, ((0, height - len(image)), (0, 0), (0, 0)), constant_values=255) for image in grown]
    gap = np.full((height, max(1, height // 16), 3), 255, np.uint8)
    return np.concatenate([part for image in padded for part in (gap, image)][1:], axis=1)


def _show(axes: Axes, image: np.ndarray) -> None:
    if image.size:
        axes.imshow(np.broadcast_to(image, (*image.shape[:2], 3)), interpolation="nearest")
