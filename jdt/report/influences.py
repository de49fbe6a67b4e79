"""The sections of the main experiment: what was found on every target, key figures, provenance."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jdt import checks
from jdt.report import csvs, summary, tables
from jdt.report.blocks import Block, Facts, Reading, Section, Text, Tile, Tiles
from jdt.report.content import Content, TargetFindings
from jdt.report.figures import Picture, plate, target_scale, target_stem
from jdt.report.heatmap import heatmap_block
from jdt.report.parts import figure_table
from jdt.report.select import finite
from jdt.report.words import MODES, baseline_words, capital, clean, decimal, metric_words, mode_words, percent
from jdt.store.files import jsonable

PREFIX = "influences"
"""Names of these sections begin so: a new page of influences replaces all of them."""


def check_content(content: Content) -> None:
    """Refuse findings that do not fit together.

    Raises:
      UserError: If they do not.
    """
    for findings in content.targets:
        if not findings.estimators:
            raise checks.UserError(f"target {findings.target!r} has no estimator, but a report needs at least one.")
        names = [e.task.unit_names for e in findings.estimators.values()]
        names += [e.classes.unit_names for e in findings.estimators.values()]
        if any(other != names[0] for other in names):
            raise checks.UserError(
                f"the estimators of target {findings.target!r} do not name the same units in one order."
            )
        if findings.truth and len(findings.truth.kinds) != len(names[0]):
            raise checks.UserError(
                f"the planted truth of target {findings.target!r} has {len(findings.truth.kinds)} kinds, but there are "
                f"{len(names[0])} units."
            )


def influence_sections(content: Content, pictures: list[tuple[Picture, ...]]) -> list[Section]:
    """A section a target, then what explains their numbers, key figures and provenance."""
    made = [
        _target_section(content, findings, drawn, number)
        for number, (findings, drawn) in enumerate(zip(content.targets, pictures, strict=True), start=1)
    ]
    made.append(Section(f"{PREFIX}-reading", 900, "How to read these numbers", (Reading(content.relative),)))
    if content.figures:
        link = "tables/figures.csv"
        block = figure_table(content.figures, label="Key figures", link=link)
        made.append(Section(f"{PREFIX}-figures", 910, "Key figures", (block,)))
    if content.provenance:
        facts = tuple((clean(name), _provenance_text(value)) for name, value in content.provenance.items())
        block = Facts(facts, "Command, configuration, versions, device")
        made.append(Section(f"{PREFIX}-provenance", 920, "Provenance", (block,)))
    return [dataclasses.replace(made[0], page_title=clean(content.title), warnings=content.warnings), *made[1:]]


def influence_tables(content: Content) -> dict[str, bytes]:
    """The CSV files of a content by their names in `tables/`."""
    files = {}
    for number, findings in enumerate(content.targets, start=1):
        stem = target_stem(number, findings)
        files |= {
            f"{stem}_classes.csv": csvs.class_csv(findings),
            f"{stem}_task.csv": csvs.task_csv(findings),
            f"{stem}_accuracy.csv": csvs.accuracy_csv(findings),
            f"{stem}_reliability.csv": csvs.reliability_csv(findings),
        }
    if content.figures:
        files["figures.csv"] = csvs.csv_bytes(csvs.FIGURE_HEADER, csvs.figure_rows(content.figures))
    return files


def _target_section(content: Content, findings: TargetFindings, drawn: tuple[Picture, ...], number: int) -> Section:
    stem, scale = target_stem(number, findings), target_scale(findings)
    by_name = {picture.name: picture for picture in drawn}

    def figure(name: str, title: str, table: str) -> Block:
        made = plate(by_name[name], stem, title)
        return dataclasses.replace(made, links=(f"tables/{stem}_{table}.csv", *made.links))

    parts: list[Block] = [Tiles(tuple(_tiles(findings)))]
    if findings.truth:
        answer = f"{capital(findings.truth.question)} {summary.truth_sentence(findings.truth)}"
        parts += [
            Text(answer, "Was the planted truth found?"),
            Text("AUROC 1 would be a perfect ranking and 0.5 is chance; with rows of the masks permuted nothing can be "
                 "found, so the control should stay near 0.5.", small=True),
        ]  # fmt: skip
    parts += [
        heatmap_block(content, findings, scale, by_name["influence"], stem),
        figure("ranking", "Which units move the whole task", "task"),
        *tables.class_tables(findings, scale, content.relative, f"tables/{stem}_classes.csv"),
    ]
    if strips := tables.class_strips(content, findings, scale):
        parts.append(strips)
    parts += [
        figure("accuracy", "How well the models do", "accuracy"),
        figure("reliability", "How far to trust the influences", "reliability"),
        tables.reliability_table(findings),
    ]
    if findings.pair_correlation:
        label = f"Correlation within antithetic pairs on {clean(findings.target)}"
        parts += [
            figure_table(findings.pair_correlation, label=label, title="Correlation within antithetic pairs"),
            Text(summary.PAIR_SENTENCE, small=True),
        ]
    mode = MODES.get(findings.mode) or clean(mode_words(findings.mode))
    return Section(
        f"{PREFIX}-{number}", 100 + number, clean(findings.target), tuple(parts), mode,
        summary=(summary.target_summary(findings, content.relative),),
    )  # fmt: skip


def _tiles(findings: TargetFindings) -> list[Tile]:
    """The numbers at the head of a section."""
    models, untrained = finite(findings.accuracy), finite(findings.random_accuracy)
    name, found = next(iter(findings.estimators.items()))
    tiles = [Tile("models", f"{len(findings.accuracy):,}", f"{len(found.task.unit_names):,} source units")]
    if len(models):
        small = f"± {decimal(100 * models.std(), 1)} points (s.d.)"
        if len(trained := finite(findings.train_accuracy)):
            small += f"; {percent(trained.mean())} on its training images"
        tiles.append(Tile("target accuracy", percent(models.mean()), small))
    tiles += [Tile(metric_words(metric), decimal(figure.value, 3), "mean over models") for metric, figure in
              findings.metrics.items()]  # fmt: skip
    if len(untrained):
        baseline = baseline_words(findings.mode)
        tiles.append(Tile(baseline, percent(untrained.mean()), f"untrained models: {len(untrained)}"))
    small = f"{clean(name)}; 1: other models would find the same, 0: chance"
    tiles.append(Tile("split-half reliability", decimal(found.reliability.value, 2), small))
    needed = found.models_needed
    tiles.append(Tile("models needed", f"{needed.value:,.0f}" if np.isfinite(needed.value) else "unknown", needed.text))
    if findings.truth:
        auroc = f"AUROC {decimal(findings.truth.auroc.value, 2)}, control {decimal(findings.truth.control.value, 2)}"
        tiles.append(Tile("planted truth", "found" if findings.truth.passed else "not found", auroc))
    return tiles


def _provenance_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value) or isinstance(value, (Mapping, list, tuple, np.ndarray)):
        return json.dumps(jsonable(value), indent=1, ensure_ascii=False, default=str)
    return "none" if value is None else str(value)
