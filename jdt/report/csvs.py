"""Tables as CSV files (RFC 4180), every number in full."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jdt.report.content import Figure, TargetFindings
from jdt.report.sections import tidy
from jdt.report.select import effects

FIGURE_HEADER = ("name", "value", "low", "high", "n", "unit", "text")
# Spreadsheets run a cell that begins so as a formula, and names come from anywhere.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_bytes(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> bytes:
    """A table as CSV in UTF-8. Numbers that are not finite and None are empty; texts never begin a formula.

    >>> csv_bytes(["unit", "influence"], [["=1+1", 0.25], ["a, b", None]]).decode().splitlines()
    ['unit,influence', "'=1+1,0.25", '"a, b",']
    """
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow([_entry(name) for name in header])
    texts: dict[str, str] = {}  # Names come again and again in tables of a million rows.
    for row in rows:
        entries = []
        for value in row:
            if type(value) is str:
                if value not in texts:
                    texts[value] = _entry(value)
                entries.append(texts[value])
            elif value is None or type(value) is int or (type(value) is float and math.isfinite(value)):
                entries.append(value)
            else:
                entries.append(_entry(value))
        writer.writerow(entries)
    return buffer.getvalue().encode()


def _entry(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, int, np.integer)):
        return str(value)
    if isinstance(value, (float, np.floating)):
        return str(value) if math.isfinite(value) else ""  # The shortest digits that give the same number again.
    # Tabs and line breaks inside a name say nothing and upset simple readers.
    text = tidy(str(value)).replace("\n", " ").replace("\t", " ")
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def figure_rows(figures: Mapping[str, Figure]) -> Iterable[Sequence[Any]]:
    """Key figures as rows under `FIGURE_HEADER`."""
    for name, one in figures.items():
        yield name, one.value, one.low, one.high, one.n, one.unit, one.text


def class_csv(findings: TargetFindings) -> bytes:
    """Influence of every unit on every class by every estimator, in the output's own unit."""
    header = ("unit", "class", "estimator", "output", "influence", "standard_error", "low", "high", "z")
    return csv_bytes(header, _influence_rows(findings, "classes"))


def task_csv(findings: TargetFindings) -> bytes:
    """Influence of every unit on the whole task by every estimator, in the output's own unit."""
    header = ("unit", "estimator", "output", "influence", "standard_error", "low", "high", "z")
    return csv_bytes(header, ((row[0], *row[2:]) for row in _influence_rows(findings, "task")))


def _influence_rows(findings: TargetFindings, level: str) -> Iterable[Sequence[Any]]:
    for name, found in findings.estimators.items():
        influences = getattr(found, level)
        for column, target in enumerate(influences.target_names):
            for unit, value, error, low, high, z in effects(influences, column):
                yield unit, target, name, findings.output, value, error, low, high, z


def reliability_csv(findings: TargetFindings) -> bytes:
    """Split-half reliability of every estimator at every number of models, with 95 % intervals."""
    rows = []
    for name, found in findings.estimators.items():
        growth, end = found.growth, found.reliability
        rows += [(name, *point) for point in zip(growth.sizes, growth.mean, growth.low, growth.high, strict=True)]
        rows.append((name, end.n, end.value, end.low, end.high))
        rows.append((f"{name}, models needed", found.models_needed.value, None, None, None))
    return csv_bytes(("estimator", "models", "split_half_reliability", "low", "high"), rows)


def accuracy_csv(findings: TargetFindings) -> bytes:
    """Target accuracy of every model, and of those that never saw the source."""
    rows = [("source", i, value) for i, value in enumerate(findings.accuracy)]
    rows += [("untrained", i, value) for i, value in enumerate(findings.random_accuracy)]
    return csv_bytes(("models", "model", "accuracy"), rows)
