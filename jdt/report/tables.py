"""The tables and image strips of a report as plain rows, ready for the template."""

import base64
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from jdt.report.content import Content, TargetFindings
from jdt.report.select import Effect, effects, extremes, first_estimator, shown_classes
from jdt.report.summary import with_interval
from jdt.report.thumbnails import strip_png
from jdt.report.words import ABSENT, NBSP, UNKNOWN, Scale, clean, decimal
from jdt.types import UInt8

TABLE_CLASSES, OPEN_CLASSES, STRIP_CLASSES, STRIP_IMAGES = 100, 10, 10, 3


@dataclasses.dataclass(frozen=True)
class Cell:
    """An influence by one estimator in words: value, value with standard error, interval and z (or a dash)."""

    effect: str
    error: str
    interval: str
    z: str


@dataclasses.dataclass(frozen=True)
class Whisker:
    """An interval as a tiny drawing, in units from -50 to 50 around zero."""

    low: float
    high: float
    value: float


@dataclasses.dataclass(frozen=True)
class Row:
    """A unit in a class's table: by the first estimator, then by the others."""

    unit: str
    helps: bool
    cells: tuple[Cell, ...]
    whisker: Whisker | None


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """The units that help and harm one target class most."""

    name: str
    rows: tuple[Row, ...]


@dataclasses.dataclass(frozen=True)
class Strip:
    """Images of one class or unit; `image` is a data address, empty where there are no images."""

    name: str
    role: str
    words: str
    image: str
    alt: str


@dataclasses.dataclass(frozen=True)
class ClassStrips:
    """Images of a target class beside those of the units that help and harm it most."""

    name: str
    strips: tuple[Strip, ...]


def data_address(png: bytes) -> str:
    """A PNG as an address that holds the whole image."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def class_tables(findings: TargetFindings, scale: Scale, count: int = 3) -> list[ClassTable]:
    """The `count` most helpful and most harmful units of every class by the first estimator, others beside it."""
    found = [estimator.classes for estimator in findings.estimators.values()]
    chosen = shown_classes(found[0], TABLE_CLASSES)
    picked = {column: extremes(found[0], column, count) for column in chosen}
    rows = {column: [effects(influences, column) for influences in found] for column in chosen}
    reach = _reach([rows[c][0][u] for c in chosen for side in picked[c] for u in side])
    return [
        ClassTable(
            clean(found[0].target_names[column]),
            tuple(
                Row(
                    clean(rows[column][0][unit].unit),
                    helps,
                    tuple(_cell(effects_by[unit], scale) for effects_by in rows[column]),
                    _whisker(rows[column][0][unit], reach),
                )
                # The most harmful unit stands last: each class then reads from the best down to the worst.
                for helps, side in ((True, picked[column][0]), (False, picked[column][1][::-1]))
                for unit in side
            ),
        )
        for column in chosen
    ]


def _cell(effect: Effect, scale: Scale) -> Cell:
    if not np.isfinite(effect.influence):
        return Cell(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)
    value = scale.effect(effect.influence)
    z = ABSENT if effect.z is None else decimal(effect.z, 1, signed=True)
    if effect.standard_error is None:
        return Cell(value, value, ABSENT, z)
    error = f"{value} ± {scale.number(effect.standard_error, signed=False)}"
    interval = f"{scale.number(effect.low)} to {scale.number(effect.high)}" if np.isfinite(effect.low) else UNKNOWN
    return Cell(value, error, interval, z)


def _reach(rows: list[Effect]) -> float:
    ends = [abs(end) for e in rows if np.isfinite(e.low) for end in (e.low, e.high)]
    points = [abs(e.influence) for e in rows if np.isfinite(e.influence)]
    return min(max(ends, default=0.0), 3 * max(points, default=0.0)) or max(points, default=0.0)


def _whisker(effect: Effect, reach: float) -> Whisker | None:
    if not (np.isfinite(effect.low) and reach > 0):
        return None
    low, high, value = (
        round(float(np.clip(50 * x / reach, -50, 50)), 1) for x in (effect.low, effect.high, effect.influence)
    )
    return Whisker(low, high, value)


def class_strips(content: Content, findings: TargetFindings, scale: Scale) -> list[ClassStrips]:
    """Images of every class and of its two most helpful and two most harmful units."""
    classes = findings.estimators[first_estimator(findings)].classes
    picture = _cached_pictures(content.unit_images)
    blocks = []
    for column in shown_classes(classes, STRIP_CLASSES):
        name = classes.target_names[column]
        images = findings.class_images.get(name)
        strips = [
            Strip(
                clean(name), "target", "target class", _strip_address(images), _strip_alt("target class", name, images)
            )
        ]
        rows = effects(classes, column)
        for role, side in zip(("helps", "harms"), extremes(classes, column, 2), strict=True):
            for unit in side:
                z = rows[unit].z
                words = scale.effect(rows[unit].influence)
                words += "" if z is None else f", z{NBSP}{decimal(z, 1, signed=True)}"
                key = rows[unit].unit
                alt = _strip_alt("source unit", key, content.unit_images.get(key))
                strips.append(Strip(clean(key), role, words, picture(key), alt))
        blocks.append(ClassStrips(clean(name), tuple(strips)))
    return blocks if any(strip.image for block in blocks for strip in block.strips) else []


def _cached_pictures(images: Mapping[str, np.ndarray]) -> Callable[[str], str]:
    made: dict[str, str] = {}

    def picture(name: str) -> str:
        if name not in made:  # A unit may help one class and harm another.
            made[name] = _strip_address(images.get(name))
        return made[name]

    return picture


def _strip_address(images: UInt8[np.ndarray, "count height width channels"] | None) -> str:
    if images is None or not len(images):
        return ""
    return data_address(strip_png(np.asarray(images[:STRIP_IMAGES])))


def _strip_alt(what: str, name: str, images: np.ndarray | None) -> str:
    count = 0 if images is None else min(len(images), STRIP_IMAGES)
    return f"{count} example image{'' if count == 1 else 's'} of {what} {clean(name)}"


def figure_row(name: str, figure) -> dict[str, str]:
    """A key figure as a table row."""
    return {"name": clean(name), "value": with_interval(figure), "unit": figure.unit, "n": f"{figure.n:,}",
            "text": figure.text}  # fmt: skip
