"""The tables and image strips of a target as blocks."""

from collections.abc import Callable, Mapping

import numpy as np

from jdt.report.blocks import Cell, Column, Image, Rows, Strip, StripGroup, Strips, Table
from jdt.report.content import Content, EstimatorFindings, TargetFindings
from jdt.report.parts import whisker
from jdt.report.select import Effect, effects, extremes, first_estimator, shown_classes
from jdt.report.summary import models_needed_words, reliability_sentence, with_interval, z_variance_sentence
from jdt.report.thumbnails import embedded
from jdt.report.words import ABSENT, NBSP, UNKNOWN, Scale, clean, decimal, sign_sentence
from jdt.types import UInt8

TABLE_CLASSES, OPEN_CLASSES, STRIP_CLASSES, STRIP_IMAGES = 100, 10, 10, 3


def class_tables(findings: TargetFindings, scale: Scale, relative: bool, link: str, count: int = 3) -> list[Table]:
    """The `count` most helpful and most harmful units of every class by the first estimator, others beside it.

    Returns:
      One table, and a second one, shown after a click, where there are many classes.
    """
    found = [estimator.classes for estimator in findings.estimators.values()]
    chosen = shown_classes(found[0], TABLE_CLASSES)
    picked = {column: extremes(found[0], column, count) for column in chosen}
    rows = {column: [effects(influences, column) for influences in found] for column in chosen}
    reach = _reach([rows[c][0][u] for c in chosen for side in picked[c] for u in side])
    groups = [
        Rows(
            tuple(
                _class_row([effects_by[unit] for effects_by in rows[column]], helps, scale, reach)
                # The most harmful unit stands last: each class then reads from the best down to the worst.
                for helps, side in ((True, picked[column][0]), (False, picked[column][1][::-1]))
                for unit in side
            ),
            clean(found[0].target_names[column]),
        )
        for column in chosen
    ]
    columns = [Column("source unit"), Column("interval", key=False)]
    for name in findings.estimators:
        columns += [Column(clean(name), True), Column("95 % interval", True, key=False), Column("z", True)]
    note = (
        f"Influence ± standard error, with 95 % intervals, ranked by {first_estimator(findings)}. "
        f"{sign_sentence(scale, relative)} The small drawing is the interval around zero, on one scale for the whole "
        "table."
    )
    if len(chosen) < len(found[0].target_names):
        note += f" Shown are the {len(chosen)} of {len(found[0].target_names)} classes on which units differ most."
    label = f"Units that help and harm each class of {clean(findings.target)}"
    title = "What helps and harms each class"
    made = [Table(label, tuple(columns), tuple(groups[:OPEN_CLASSES]), title, note, (link,))]
    if more := groups[OPEN_CLASSES:]:
        made.append(Table(f"{label}, more", tuple(columns), tuple(more), folded=f"{len(more)} more classes"))
    return made


def _class_row(row: list[Effect], helps: bool, scale: Scale, reach: float) -> tuple[Cell, ...]:
    tone = "helps" if helps else "harms"
    drawn = whisker(row[0].low, row[0].influence, row[0].high, reach)
    cells = [Cell(clean(row[0].unit)), Cell(whisker=drawn, tone=tone)]
    for i, effect in enumerate(row):
        cells += _cells(effect, scale, "" if i else tone)
    return tuple(cells)


def _cells(effect: Effect, scale: Scale, tone: str) -> list[Cell]:
    if not np.isfinite(effect.influence):
        return [Cell(UNKNOWN, tone=tone), Cell(UNKNOWN), Cell(UNKNOWN)]
    value, z = scale.effect(effect.influence), Cell(ABSENT)
    if effect.z is not None:
        z = Cell(decimal(effect.z, 1, signed=True), value=effect.z)
    if effect.standard_error is None:
        return [Cell(value, value=effect.influence, tone=tone), Cell(ABSENT), z]
    error = f"{value} ± {scale.number(effect.standard_error, signed=False)}"
    interval = f"{scale.number(effect.low)} to {scale.number(effect.high)}" if np.isfinite(effect.low) else UNKNOWN
    return [Cell(error, value=effect.influence, tone=tone), Cell(interval), z]


def _reach(rows: list[Effect]) -> float:
    ends = [abs(end) for e in rows if np.isfinite(e.low) for end in (e.low, e.high)]
    points = [abs(e.influence) for e in rows if np.isfinite(e.influence)]
    return min(max(ends, default=0.0), 3 * max(points, default=0.0)) or max(points, default=0.0)


def class_strips(content: Content, findings: TargetFindings, scale: Scale) -> Strips | None:
    """Images of every class and of its two most helpful and two most harmful units; None where there are no images."""
    classes = findings.estimators[first_estimator(findings)].classes
    picture = _cached_pictures(content.unit_images)
    groups = []
    chosen = shown_classes(classes, max(3, min(STRIP_CLASSES, 3 * STRIP_CLASSES // len(content.targets))))
    for column in chosen:
        name = classes.target_names[column]
        strips = [
            Strip(clean(name), "target", "target class", strip_image("target class", name, findings.class_images))
        ]
        rows = effects(classes, column)
        for role, side in zip(("helps", "harms"), extremes(classes, column, 2), strict=True):
            for unit in side:
                z = rows[unit].z
                words = scale.effect(rows[unit].influence)
                words += "" if z is None else f", z{NBSP}{decimal(z, 1, signed=True)}"
                strips.append(Strip(clean(rows[unit].unit), role, words, picture(rows[unit].unit)))
        groups.append(StripGroup(tuple(strips)))
    note = "Test images of each class, then of its two most helpful and two most harmful source units."
    if len(chosen) < len(classes.target_names):
        note += f" Shown are the {len(chosen)} of {len(classes.target_names)} classes on which units differ most."
    seen = any(strip.image for group in groups for strip in group.strips)
    return Strips(tuple(groups), "What these units look like", note) if seen else None


def _cached_pictures(images: Mapping[str, np.ndarray]) -> Callable[[str], Image | None]:
    made: dict[str, Image | None] = {}

    def picture(name: str) -> Image | None:
        if name not in made:  # A unit may help one class and harm another.
            made[name] = strip_image("source unit", name, images)
        return made[name]

    return picture


def strip_image(
    what: str, name: str, images: Mapping[str, UInt8[np.ndarray, "count height width channels"]]
) -> Image | None:
    """The first images of something, side by side; None where there are none."""
    shown = images.get(name)
    if shown is None or not len(shown):
        return None
    count = min(len(shown), STRIP_IMAGES)
    alt = f"{count} example image{'' if count == 1 else 's'} of {what} {clean(name)}"
    return embedded(shown[:STRIP_IMAGES], alt)


def reliability_table(findings: TargetFindings) -> Table:
    """How far every estimator is to be trusted, and how many models would do."""
    columns = (
        Column("estimator"), Column("split-half reliability"), Column("models needed"), Column("beyond noise"),
        Column("variance of z"), Column("models", True),
    )  # fmt: skip
    rows = tuple(_reliability_row(name, found) for name, found in findings.estimators.items())
    return Table(f"Reliability of the estimators on {clean(findings.target)}", columns, (Rows(rows),))


def _reliability_row(name: str, found: EstimatorFindings) -> tuple[Cell, ...]:
    significant = "; ".join(f"{figure.value:,.0f} {figure.text}" for figure in found.significant.values())
    needed, words = found.models_needed, models_needed_words(found)
    return (
        Cell(clean(name)),
        Cell(with_interval(found.reliability), reliability_sentence(found), found.reliability.value, strong=True),
        Cell(
            f"{needed.value:,.0f}" if np.isfinite(needed.value) else UNKNOWN,
            f"{words[:1].upper()}{words[1:]}.", needed.value, strong=True,
        ),
        Cell(small=significant or "This estimator gives no standard errors."),
        Cell(
            with_interval(found.z_variance) if found.z_variance else ABSENT, z_variance_sentence(found),
            found.z_variance.value if found.z_variance else None, strong=True,
        ),
        Cell(f"{found.reliability.n:,}", value=float(found.reliability.n)),
    )  # fmt: skip
