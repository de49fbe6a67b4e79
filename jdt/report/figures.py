"""The figures of a report as PNG and SVG bytes with what they show in words, and as files."""

import base64
import dataclasses
import os
import re
from collections.abc import Iterable, Mapping

import numpy as np

from jdt.report import blocks, plots
from jdt.report.content import Content, TargetFindings
from jdt.report.select import (
    by_influence,
    finite,
    first_estimator,
    is_known,
    known_influence,
    shown_classes,
    shown_units,
    typical_sizes,
)
from jdt.report.words import Scale, baseline_words, clean, decimal, percent, scale_of
from jdt.store.files import Place, explained, run_path, write_bytes


@dataclasses.dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
      name: Safe part of a file name: "influence", "ranking", "accuracy" or "reliability".
      png, svg: The image.
      alt: What the picture shows, for readers who cannot see it.
      caption: How to read it.
      width, height: In pixels.
    """

    name: str
    png: bytes
    svg: bytes
    alt: str
    caption: str
    width: int
    height: int


def target_scale(findings: TargetFindings) -> Scale:
    """How the influences of a target are written."""
    return scale_of(findings.output, typical_sizes(findings.estimators[first_estimator(findings)].classes))


def target_pictures(findings: TargetFindings) -> tuple[Picture, ...]:
    """All figures of one target: heatmap, ranking, accuracies, reliability."""
    scale = target_scale(findings)
    with plots.drawing():
        return (
            picture("influence", plots.draw_heatmap(findings, scale), *_heatmap_words(findings, scale)),
            picture("ranking", plots.draw_ranking(findings, scale), *_ranking_words(findings, scale)),
            picture("accuracy", plots.draw_accuracy(findings), *_accuracy_words(findings)),
            picture("reliability", plots.draw_reliability(findings), *_reliability_words(findings)),
        )


def write_figures(folder: str | os.PathLike[str], content: Content) -> list[Place]:
    """Write every figure of a report as a PNG and an SVG file.

    Args:
      folder: Where to; made where missing.
      content: What the report shows.

    Returns:
      The files, e.g. `figures/1_cifar10_fixed_influence.png`.

    Raises:
      UserError: Where the disk is full or the folder cannot be written.
    """
    return save_pictures(run_path(folder), content, [target_pictures(findings) for findings in content.targets])


def save_pictures(folder: Place, content: Content, pictures: list[tuple[Picture, ...]]) -> list[Place]:
    """Write figures that have been drawn already."""
    paths = []
    for i, (findings, drawn) in enumerate(zip(content.targets, pictures, strict=True), start=1):
        paths += save_files(
            folder,
            {
                f"{target_stem(i, findings)}_{picture.name}.{kind}": file
                for picture in drawn
                for kind, file in (("png", picture.png), ("svg", picture.svg))
            },
        )
    return paths


def save_files(folder: Place, files: Mapping[str, bytes]) -> list[Place]:
    """Write files by their names.

    Raises:
      UserError: Where the disk is full or the folder cannot be written.
    """
    with explained(f"writing {folder}"):
        for name, file in files.items():
            write_bytes(folder / name, file)
    return [folder / name for name in files]


def target_stem(number: int, findings: TargetFindings) -> str:
    """What the names of a target's files begin with, e.g. `1_cifar10_fixed`; `number` counts targets from 1."""
    # Numbered, so that names which differ only in unsafe characters stay apart.
    return f"{number}_{safe_stem(findings.target)}_{safe_stem(findings.mode)}"


def safe_stem(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_.")[:60] or "x"


def picture(name: str, figure: plots.Figure, alt: str, caption: str) -> Picture:
    """A drawing with its words; call it inside `drawing`."""
    png, svg = plots.both_bytes(figure)
    # Width and height stand at fixed places of the PNG header.
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return Picture(name, png, svg, alt, caption, width, height)


def plate(drawn: Picture, stem: str, title: str = "") -> blocks.Plate:
    """A figure for the page, which links to its files `figures/STEM_NAME.png` and `.svg`."""
    image = blocks.Image(drawn.alt, "png", base64.b64encode(drawn.png).decode("ascii"), drawn.width, drawn.height)
    links = tuple(f"figures/{stem}_{drawn.name}.{kind}" for kind in ("png", "svg"))
    return blocks.Plate(drawn.name, image, drawn.caption, title, links)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure in its part of a section, with the table that holds its numbers (without the section's name)."""

    part: str
    title: str
    picture: Picture
    table: str


def plates_of(name: str, drawings: Iterable[Drawn]) -> tuple[dict[str, list[blocks.Block]], dict[str, Picture]]:
    """Figures of a section by its parts, and the pictures to be saved by their file names; call it inside `drawing`."""
    plates: dict[str, list[blocks.Block]] = {}
    pictures: dict[str, Picture] = {}
    # Numbered, so that titles which differ only in unsafe characters stay apart.
    for i, drawn in enumerate(drawings, start=1):
        stem = f"{name}_{i}_{safe_stem(drawn.title)}"
        pictures[f"{stem}_{drawn.picture.name}"] = drawn.picture
        made = plate(drawn.picture, stem, drawn.title)
        made = dataclasses.replace(made, links=(*made.links, f"tables/{name}_{drawn.table}.csv"))
        plates.setdefault(drawn.part, []).append(made)
    return plates, pictures


def _heatmap_words(findings: TargetFindings, scale: Scale) -> tuple[str, str]:
    name = first_estimator(findings)
    found = findings.estimators[name]
    units, before_gap = shown_units(found.task, plots.HEATMAP_UNITS)
    columns = shown_classes(found.classes, plots.HEATMAP_CLASSES)
    values = known_influence(found.classes)[np.ix_(units, columns)]
    known = np.isfinite(values)

    def cell(index: int) -> str:
        row, column = np.unravel_index(index, values.shape)
        unit, target = found.classes.unit_names[units[row]], found.classes.target_names[columns[column]]
        return f"{clean(unit)} on {clean(target)} ({scale.effect(float(values[row, column]))})"

    alt = f"Heatmap of the influence of {len(units)} source units on {len(columns)} target classes."
    if known.any():
        alt += f" Most helpful: {cell(int(np.nanargmax(values)))}. Most harmful: {cell(int(np.nanargmin(values)))}."
    caption = (
        f"Influence of each source unit (row) on the {scale.output} of each target class (column), by {name}. Units "
        "are sorted by their influence on the whole task."
    )
    if found.classes.z is not None:
        marked = int((known & (np.abs(found.classes.z[np.ix_(units, columns)]) > 2)).sum())
        caption += (
            f" Dots mark the {marked} of {int(known.sum())} cells with |z| > 2; about {round(0.0455 * known.sum())} "
            "would be marked if there were nothing but noise."
        )
    if before_gap < len(units):
        caption += (
            f" Shown are the {before_gap} most helpful and the {len(units) - before_gap} most harmful of "
            f"{len(found.task.unit_names)} units; the dashed line is where the others are left out."
        )
    if len(columns) < len(found.classes.target_names):
        caption += (
            f" Shown are the {len(columns)} of {len(found.classes.target_names)} classes where units differ most."
        )
    unknown = int((~known).sum())
    return alt, caption + (f" Grey cells with a question mark ({unknown}): the models cannot tell." if unknown else "")


def _ranking_words(findings: TargetFindings, scale: Scale) -> tuple[str, str]:
    names = list(findings.estimators)
    task = findings.estimators[names[0]].task
    order = by_influence(task)
    num_known = int(is_known(task, 0).sum())
    bars = task.standard_error is not None
    alt = f"Dot plot of the influence of source units on the whole task {clean(findings.target)}"
    alt += ", with error bars." if bars else "."
    if num_known:
        best, worst = order[0], order[num_known - 1]
        first, last = (
            f"{clean(task.unit_names[u])} ({scale.effect(float(task.influence[u, 0]))})" for u in (best, worst)
        )
        alt += f" It runs from {first} at the top to {last} at the bottom."
    caption = f"Influence of source units on the whole task by {names[0]}{', with 95 % intervals' if bars else ''}."
    if len(names) > 1:
        caption += f" Hollow diamonds: the same by {names[1]}."
    units, before_gap = shown_units(task, plots.RANKED_UNITS)
    if before_gap < len(units):
        after = len(units) - before_gap
        caption += f" Shown are the {before_gap} most helpful and {after} most harmful of {len(order)} units."
    if findings.truth:
        caption += " Colours and shapes: the kind of each unit, which the models were not told."
    if num_known < len(order):
        caption += f" {len(order) - num_known} units are unknown: the models cannot tell them."
    return alt, caption


def _accuracy_words(findings: TargetFindings) -> tuple[str, str]:
    accuracy, baseline = finite(findings.accuracy), finite(findings.random_accuracy)
    if not len(accuracy):
        return "Empty histogram: no accuracies were measured.", "No accuracies were measured."
    alt = (
        f"Histogram of the accuracy of {len(accuracy)} models on {clean(findings.target)}, from "
        f"{percent(accuracy.min())} to {percent(accuracy.max())}, mean {percent(accuracy.mean())}."
    )
    caption = f"Accuracy of the {len(accuracy)} models on the target."
    if len(baseline):
        words = baseline_words(findings.mode)
        alt += f" The accuracy of {words} is {percent(baseline.mean())}, marked by a dashed line."
        caption += (
            f" Dashed line: {words} (mean of {len(baseline)} models that never saw the source). Influences mean "
            "little where the models are not clearly better than that."
        )
    return alt, caption


def _reliability_words(findings: TargetFindings) -> tuple[str, str]:
    known = {name: e for name, e in findings.estimators.items() if np.isfinite(e.reliability.value)}
    if not known:
        return "Empty plot: too few models to be halved.", "There are too few models to tell the reliability."
    points = "; ".join(f"{name} {decimal(e.reliability.value, 2)}" for name, e in known.items())
    number = next(iter(known.values())).reliability.n
    alt = f"Split-half reliability against the number of models. With {number:,} models: {points}."
    caption = (
        "Split-half reliability of class-level influence from fewer models, as random subsets of them give it (bars: "
        "95 % of subsets and splits), and dashed, what the Spearman-Brown formula expects of more."
    )
    return alt, caption
