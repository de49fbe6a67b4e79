"""The grid of influences of units on classes: which cells are shown, and how each is written."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdt.report import blocks, plots
from jdt.report.content import Content, TargetFindings
from jdt.report.figures import Picture, plate
from jdt.report.select import by_influence, first_estimator, is_known, known_influence, shown_classes
from jdt.report.thumbnails import embedded
from jdt.report.words import MINUS, NBSP, UNKNOWN, Scale, clean, decimal, sign_sentence
from jdt.types import Float, Int, UInt8

MOST_CELLS, MOST_COLUMNS, FEWEST_ROWS = 12_000, 60, 60
"""Of one grid: with more the page becomes slow and heavy; the CSV always has all."""
MOST_PICTURES = 120
"""Units of one grid that have pictures: half of them the most helpful, half the most harmful."""
_IMAGES = 2  # Of one unit or class.


def heatmap_block(
    content: Content, findings: TargetFindings, scale: Scale, figure: Picture, stem: str
) -> blocks.Heatmap:
    """The grid of a target by its first estimator; `figure` is the same as a drawing."""
    name = first_estimator(findings)
    found = findings.estimators[name]
    columns = shown_classes(found.classes, MOST_COLUMNS)
    units = _shown_rows(found.task, max(FEWEST_ROWS, MOST_CELLS // max(len(columns), 1)))
    grid = np.ix_(units, np.array(columns, int))
    values = known_influence(found.classes)[grid] * scale.factor
    known = np.isfinite(values)
    low = high = None
    if found.classes.standard_error is not None:
        low, high = (np.where(known, end[grid], np.nan) * scale.factor for end in found.classes.interval())
    z = None if found.classes.z is None else np.where(known, found.classes.z[grid], np.nan)
    names = [found.task.unit_names[u] for u in units]
    # The units at both ends are the ones that readers look at.
    pictured = {*names[: MOST_PICTURES // 2], *names[-(MOST_PICTURES // 2) :]}
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
        class_images=_pictures(findings.class_images, classes, "target class"),
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
    words += ", bold and underlined where |z| > 2 (about one cell in 20 would be by noise alone)." if (
        found.classes.z is not None
    ) else "."  # fmt: skip
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
    """What the template writes: per row the name, the influence on the task and the cells."""
    numbers = len(block.classes) <= blocks.CLASSES_WITH_NUMBERS

    def cell(value: float | None, low: float | None, high: float | None, z: float | None) -> tuple[str, ...]:
        """Style, text, value to sort by, value in words, interval and z."""
        if value is None:
            return ("x", "?", "", UNKNOWN, "", "")
        text = decimal(value, block.decimals, signed=True)
        mark = text if numbers else text[:1] if text[:1] in "+\N{MINUS SIGN}" else "0"
        interval = "" if low is None or high is None else _interval(low, high, block.decimals)
        style = _colour(value, block.limit) + (" s" if z is not None and abs(z) > 2 else "")
        return (style, mark, f"{value:g}", f"{text}{NBSP}{block.unit}", interval, "" if z is None else _z(z))

    def row(index: int) -> list[tuple[str, ...]]:
        blank = (None,) * len(block.classes)
        low, high, z = (grid[index] if grid else blank for grid in (block.low, block.high, block.z))
        return [cell(*one) for one in zip(block.values[index], low, high, z, strict=True)]

    return {
        "numbers": numbers,
        "rows": [
            (unit, block.unit_images.get(unit), cell(block.task[i], None, None, None), row(i))
            for i, unit in enumerate(block.units)
        ],
        "columns": [(name, block.class_images.get(name)) for name in block.classes],
    }


def _interval(low: float, high: float, decimals: int) -> str:
    return f"{decimal(low, decimals, signed=True)} to {decimal(high, decimals, signed=True)}"


def _z(z: float) -> str:
    return decimal(z, 1, signed=True)


def _colour(value: float, limit: float) -> str:
    """The class of a cell's colour: p1 to p9 where it helps, n1 to n9 where it harms, o near zero."""
    step = min(round(9 * abs(value) / limit), 9)
    return "o" if step == 0 else f"{'p' if value > 0 else 'n'}{step}"
