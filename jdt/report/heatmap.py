"""The grid of influences of units on classes: which cells are shown, and how each is written."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from jdt.report import blocks, plots
from jdt.report.content import Content, TargetFindings
from jdt.report.figures import Picture, plate
from jdt.report.select import by_influence, first_estimator, is_known, known_influence, shown_classes
from jdt.report.thumbnails import embedded
from jdt.report.words import MINUS, Scale, clean, shorten, sign_sentence
from jdt.types import Float, Int, UInt8

MOST_CELLS, MOST_COLUMNS, FEWEST_ROWS = 12_000, 60, 60
"""Cells of all grids of a page, columns and rows of one: with more it is slow and heavy; the CSV always has all."""
MOST_PICTURES = 120
"""Units that have pictures, in all grids of a page: half of them the most helpful, half the most harmful."""
# In place of signs where |z| > 2: underlined, a plus would be a plus-minus.
_TRIANGLES = {"+": "\N{BLACK UP-POINTING TRIANGLE}", "-": "\N{BLACK DOWN-POINTING TRIANGLE}"}
_IMAGES = 2  # Of one unit or class.


def heatmap_block(
    content: Content, findings: TargetFindings, scale: Scale, figure: Picture, stem: str
) -> blocks.Heatmap:
    """The grid of a target by its first estimator; `figure` is the same as a drawing."""
    name = first_estimator(findings)
    found = findings.estimators[name]
    columns = shown_classes(found.classes, MOST_COLUMNS)
    grids = len(content.targets)
    units = _shown_rows(found.task, max(FEWEST_ROWS, MOST_CELLS // grids // max(len(columns), 1)))
    grid = np.ix_(units, np.array(columns, int))
    values = known_influence(found.classes)[grid] * scale.factor
    known = np.isfinite(values)
    low = high = None
    if found.classes.standard_error is not None:
        low, high = (np.where(known, end[grid], np.nan) * scale.factor for end in found.classes.interval())
    z = None if found.classes.z is None else np.where(known, found.classes.z[grid], np.nan)
    names = [found.task.unit_names[u] for u in units]
    # The units at both ends are the ones that readers look at.
    most = max(MOST_PICTURES // grids, 10)
    pictured = {*names[: most // 2], *names[-(most // 2) :]}
    classes = [found.classes.target_names[c] for c in columns]
    return blocks.Heatmap(
        label=f"Influence of source units on target classes of {clean(findings.target)}",
        units=tuple(map(clean, names)),
        classes=tuple(map(clean, classes)),
        task=_numbers(known_influence(found.task)[units, 0] * scale.factor),
        values=_grid(values),
        low=_grid(low),
        high=_grid(high),
        z=_grid(z),
        limit=plots.colour_limit(values)[0],
        unit=scale.unit,
        decimals=scale.decimals,
        output=scale.output,
        unit_images=_pictures(content.unit_images, [name for name in names if name in pictured], "source unit"),
        class_images=_pictures(findings.class_images, classes[:most], "target class"),
        caption=_caption(content, findings, scale, len(units), len(columns), name),
        title="Which units move which class",
        figure=dataclasses.replace(plate(figure, stem), links=()),
        links=(f"tables/{stem}_classes.csv", *(f"figures/{stem}_{figure.name}.{kind}" for kind in ("png", "svg"))),
    )


def _shown_rows(task: Any, limit: int) -> Int[np.ndarray, " shown"]:
    """Units in the order of their influence on the task: all, or as many from both ends."""
    order = by_influence(task)
    if len(order) <= limit:
        return order
    known = order[: int(is_known(task, 0).sum())]
    return known if len(known) <= limit else np.concatenate([known[: limit // 2], known[-(limit // 2) :]])


def _caption(content: Content, findings: TargetFindings, scale: Scale, rows: int, columns: int, name: str) -> str:
    found = findings.estimators[name]
    words = (
        f"Influence of each source unit (row) on the {scale.output} of each target class (column), by {name}. "
        f"{sign_sentence(scale, content.relative)} Blue with + helps, red with {MINUS} harms"
    )
    sure = "bold and underlined" if columns <= blocks.CLASSES_WITH_NUMBERS else "a triangle in place of the sign"
    words += "." if found.classes.z is None else f", {sure} where |z| > 2 (noise alone: about one cell in 20)."
    if rows < len(found.task.unit_names):
        words += (
            f" Shown are the {rows // 2} most helpful and the {rows - rows // 2} most harmful of "
            f"{len(found.task.unit_names):,} units."
        )
    if columns < len(found.classes.target_names):
        words += f" Shown are the {columns} of {len(found.classes.target_names):,} classes where units differ most."
    unknown = int((~np.isfinite(known_influence(found.classes))).sum())
    return words + (f" A question mark ({unknown:,} cells): the models cannot tell." if unknown else "")


def _numbers(values: Float[np.ndarray, " some"]) -> tuple[float | None, ...]:
    # Six digits are more than any of them is worth, and keep the page small.
    return tuple(float(f"{value:.6g}") if math.isfinite(value) else None for value in values.tolist())


def _grid(values: Float[np.ndarray, "units classes"] | None) -> tuple[tuple[float | None, ...], ...]:
    return () if values is None else tuple(_numbers(row) for row in values)


def _pictures(
    images: Mapping[str, UInt8[np.ndarray, "count height width channels"]], names: Sequence[str], what: str
) -> dict[str, blocks.Image]:
    return {
        clean(name): embedded(images[name][:_IMAGES], f"example images of {what} {clean(name)}")
        for name in names
        if name in images and len(images[name])
    }


def heatmap_view(block: blocks.Heatmap) -> dict[str, Any]:
    """What the template writes: per row its name, its picture and its cells as HTML, which hold numbers alone."""
    numbers = len(block.classes) <= blocks.CLASSES_WITH_NUMBERS
    looks = ["grid"] + ["signs"] * (not numbers) + ["level"] * (max(map(len, block.classes), default=0) <= 4)
    task = [_cells((value,), (), (), (), block, True) for value in block.task]
    blank: tuple[float | None, ...] = ()
    grids = [grid or [blank] * len(block.units) for grid in (block.low, block.high, block.z)]
    rows = zip(block.values, grids[0], grids[1], grids[2], strict=True)
    cells = [_cells(values, low, high, z, block, numbers) for values, low, high, z in rows]
    return {
        "looks": " ".join(looks),
        "rows": [
            (unit, shorten(unit, 22), block.unit_images.get(unit), Markup(head + row))
            for unit, head, row in zip(block.units, task, cells, strict=True)
        ],
        "columns": [(name, shorten(name, 16), block.class_images.get(name)) for name in block.classes],
    }


def _cells(
    values: tuple[float | None, ...],
    lows: tuple[float | None, ...],
    highs: tuple[float | None, ...],
    zs: tuple[float | None, ...],
    block: blocks.Heatmap,
    numbers: bool,
) -> str:
    """The cells of a row: class `p1` to `p9` where a unit helps, `n1` to `n9` where it harms, `s` where |z| > 2."""
    # One function for a row, not one for a cell: there are ten thousand cells.
    digits, html = f"+.{block.decimals}f", []
    zero = f"{0:{digits}}", f"{-0.0:{digits}}"
    for value, low, high, z in itertools.zip_longest(values, lows, highs, zs):
        if value is None:
            html.append('<td class="x">?</td>')
            continue
        step, text = min(round(9 * abs(value) / block.limit), 9), f"{value:{digits}}"
        text = text[1:] if text in zero else text
        style = f"{'p' if value > 0 else 'n'}{step}" if step else "o"
        style += " s" if z is not None and abs(z) > 2 else ""
        rest = "" if low is None or high is None else f' data-r="{low:{digits}} to {high:{digits}}"'
        rest += "" if z is None else f' data-z="{z:+.1f}"'
        sign = text[0] if text[0] in "+-" else "0"
        mark = text if numbers else _TRIANGLES.get(sign, sign) if style.endswith(" s") else sign
        rest = rest.replace('"-', f'"{MINUS}').replace(" -", f" {MINUS}")
        html.append(f'<td class="{style}" data-v="{value:g}"{rest}>{mark.replace("-", MINUS)}</td>')
    return "".join(html)
