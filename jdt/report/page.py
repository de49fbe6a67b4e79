"""`write_report`: everything a run found, as one HTML file that needs nothing else."""

import dataclasses
import json
import os
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from jdt import checks
from jdt.report import summary, tables
from jdt.report.content import Content, TargetFindings
from jdt.report.figures import Picture, save_pictures, target_pictures, target_scale
from jdt.report.select import finite
from jdt.report.words import ABSENT, MODES, baseline_words, clean, decimal, metric_words, mode_words, percent
from jdt.store.files import Place, explained, jsonable, run_path, write_bytes

_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, " ")


def write_report(path: str | os.PathLike[str], content: Content) -> Place:
    """Write the page, and its figures as PNG files to `figures/` beside it.

    Args:
      path: Of the page; missing parent directories are made.
      content: What to show.

    Returns:
      The path of the page.

    Raises:
      UserError: If the content does not fit together, or where the disk is full or the path cannot be written.
    """
    path = run_path(path)
    for findings in content.targets:
        _check(findings)
    pictures = [target_pictures(findings) for findings in content.targets]
    page = _render(content, pictures)
    save_pictures(path.parent / "figures", content, pictures)
    with explained(f"writing {path}"):
        write_bytes(path, page.encode("utf-8", "replace"))  # "replace": broken Unicode in a name is no reason to fail.
    return path


def _check(findings: TargetFindings) -> None:
    if not findings.estimators:
        raise checks.UserError(f"target {findings.target!r} has no estimator, but a report needs at least one.")
    names = [e.task.unit_names for e in findings.estimators.values()]
    names += [e.classes.unit_names for e in findings.estimators.values()]
    if any(other != names[0] for other in names):
        raise checks.UserError(f"the estimators of target {findings.target!r} do not name the same units in one order.")
    if findings.truth and len(findings.truth.kinds) != len(names[0]):
        raise checks.UserError(
            f"the planted truth of target {findings.target!r} has {len(findings.truth.kinds)} kinds, but there are "
            f"{len(names[0])} units."
        )


def _render(content: Content, pictures: list[tuple[Picture, ...]]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template), autoescape=True, undefined=jinja2.StrictUndefined,
        finalize=_printable, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        title=clean(content.title),
        relative=content.relative,
        warnings=content.warnings,
        paragraphs=summary.summary_paragraphs(content),
        targets=[_section(content, *pair) for pair in zip(content.targets, pictures, strict=True)],
        figures=[tables.figure_row(*item) for item in content.figures.items()],
        provenance=[(clean(name), _provenance_text(value)) for name, value in content.provenance.items()],
        pair_sentence=summary.PAIR_SENTENCE,
    )


def _printable(value: Any) -> Any:
    """Text of any origin without control characters, which no page may hold."""
    return value.translate(_CONTROLS) if type(value) is str else value  # Markup is what was escaped already.


def _template(name: str) -> str:
    return resources.files("jdt.report").joinpath(name).read_text("utf-8")


def _section(content: Content, findings: TargetFindings, pictures: tuple[Picture, ...]) -> dict[str, Any]:
    scale = target_scale(findings)
    drawn = {p.name: dataclasses.asdict(p) | {"address": tables.data_address(p.png)} for p in pictures}
    class_tables = tables.class_tables(findings, scale)
    return {
        "name": clean(findings.target),
        "mode": MODES.get(findings.mode) or clean(mode_words(findings.mode)),
        "scale": scale,
        "tiles": _tiles(findings),
        "truth": findings.truth,
        "truth_sentence": summary.truth_sentence(findings.truth) if findings.truth else "",
        "pictures": drawn,
        "estimators": list(findings.estimators),
        "tables": (class_tables[: tables.OPEN_CLASSES], class_tables[tables.OPEN_CLASSES :]),
        "strips": tables.class_strips(content, findings, scale),
        "num_classes": len(next(iter(findings.estimators.values())).classes.target_names),
        "reliability": [_reliability_row(name, found) for name, found in findings.estimators.items()],
        "pairs": [tables.figure_row(*item) for item in findings.pair_correlation.items()],
    }


def _reliability_row(name: str, found: summary.EstimatorFindings) -> dict[str, Any]:
    models_needed = summary.models_needed_words(found).capitalize()
    return {
        "name": name,
        "reliability": summary.with_interval(found.reliability),
        "reliability_sentence": f"{summary.reliability_sentence(found)} {models_needed}.",
        "significant": [(f"{figure.value:,.0f}", figure.text) for figure in found.significant.values()],
        "z_variance": summary.with_interval(found.z_variance) if found.z_variance else ABSENT,
        "z_variance_sentence": summary.z_variance_sentence(found),
        "n": f"{found.reliability.n:,}",
    }


def _tiles(findings: TargetFindings) -> list[tuple[str, str, str]]:
    """The numbers at the head of a section: label, value, small print."""
    models, untrained = finite(findings.accuracy), finite(findings.random_accuracy)
    found = next(iter(findings.estimators.items()))
    tiles = [("models", f"{len(findings.accuracy):,}", f"{len(found[1].task.unit_names)} source units")]
    if len(models):
        small = f"± {decimal(100 * models.std(), 1)} points (s.d.)"
        if len(trained := finite(findings.train_accuracy)):
            small += f"; {percent(trained.mean())} on its training images"
        tiles.append(("target accuracy", percent(models.mean()), small))
    tiles += [(metric_words(name), decimal(figure.value, 3), "mean over models") for name, figure in
              findings.metrics.items()]  # fmt: skip
    if len(untrained):
        tiles.append((baseline_words(findings.mode), percent(untrained.mean()), f"untrained models: {len(untrained)}"))
    reliability = found[1].reliability
    tiles.append(("split-half reliability", decimal(reliability.value, 2), found[0]))
    if findings.truth:
        auroc = f"AUROC {decimal(findings.truth.auroc.value, 2)}, control {decimal(findings.truth.control.value, 2)}"
        tiles.append(("planted truth", "found" if findings.truth.passed else "not found", auroc))
    return tiles


def _provenance_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value) or isinstance(value, (Mapping, list, tuple, np.ndarray)):
        return json.dumps(jsonable(value), indent=1, ensure_ascii=False, default=str)
    return "none" if value is None else str(value)
