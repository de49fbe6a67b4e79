"""The tables of pre-training data as CSV files, every number in full."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jdt.report import csvs
from jdt.report.content import Figure
from jdt.report.pretraining_content import Pretraining, PretrainingSize, Shots

_FIGURE = ("value", "low", "high", "n")
_CELL = ("method", "source", "target", "transfer", "shots")
_SPREAD = tuple(f"{part}_{x}" for part in ("spread", "relative", "pairwise", "null") for x in _FIGURE[:3])
_SIZE = (*_CELL, "images", "accuracy", "low", "high", "n")
_WORTH = ("reference", "reference_images", "reference_accuracy", "images_needed", "needed_low", "needed_high", "ratio",
          "ratio_low", "ratio_high", "difference", "difference_low", "difference_high")  # fmt: skip


def pretraining_csvs(found: Pretraining, name: str) -> dict[str, bytes]:
    """The CSV files of a study by their names; empty parts have none."""
    files: dict[str, tuple[Any, Sequence[str], Iterable[Sequence[Any]]]] = {
        "bars": (
            found.bars,
            ("requirement", "verdict", "asked", "found", *_FIGURE, "unit"),
            (
                (bar.name, bar.verdict, bar.asked, bar.found, *_row(bar.figure), bar.figure.unit if bar.figure else "")
                for bar in found.bars
            ),
        ),
        "sources": (
            found.sources,
            ("source", "text", "images"),
            ((one.name, one.text, one.images) for one in found.sources),
        ),
        "accuracy": (
            found.accuracies,
            (*_CELL, "accuracy", *_FIGURE[1:]),
            (
                (*_cell(one, shots), *_row(figure))
                for one in found.accuracies
                for shots, figure in one.accuracy.items()
            ),
        ),
        "spread": (
            found.spreads,
            ("target", "method", "transfer", "shots", *_SPREAD, "best", "worst", "left", "faded"),
            _spread_rows(found),
        ),
        "size": (found.sizes, (*_SIZE, *_WORTH), _size_rows(found.sizes)),
        "label_worth": (found.label_worth, (*_SIZE, *_WORTH), _size_rows(found.label_worth)),
        "gap": (
            found.gaps,
            ("minus", *_CELL, "gap", *_FIGURE[1:], "examples_low", "examples_high", "draws_low", "draws_high"),
            (
                (one.other, *_cell(one, one.shots), *_row(one.gap), *_row(one.examples)[1:3], *_row(one.draws)[1:3])
                for one in found.gaps
            ),
        ),
        "gain": (
            found.gains,
            (*_CELL, "gain", *_FIGURE[1:], "error_reduction", "error_reduction_low", "error_reduction_high"),
            ((*_cell(one, one.shots), *_row(one.gain), *_row(one.error_reduction)[:3]) for one in found.gains),
        ),
        "optimism": (
            found.optimism,
            (*_CELL, "chosen", "chosen_by_test", "settings", "accuracy", *_FIGURE[1:], "optimism", "optimism_low",
             "optimism_high"),
            (
                (*_cell(one, one.shots), one.chosen, one.flattering, one.settings, *_row(one.accuracy),
                 *_row(one.optimism)[:3])
                for one in found.optimism
            ),
        ),
        "stability": (
            found.stability,
            ("first", "second", "sources", "rank_correlation", *_FIGURE[1:]),
            ((one.first, one.second, one.sources, *_row(one.correlation)) for one in found.stability),
        ),
        "zero_shot": (
            found.zero_shot,
            ("method", "source", "classes_of", "head", "classes", "chance", "aligned", "aligned_low", "aligned_high",
             "permuted", "permuted_low", "permuted_high"),
            (
                (one.method, one.source, one.classes_of, one.head, one.classes, one.chance, *_row(one.aligned)[:3],
                 *_row(one.permuted)[:3])
                for one in found.zero_shot
            ),
        ),
        "ranking": (
            found.rankings,
            ("target", "shots", "place", "source", "method", "transfer", "accuracy", *_FIGURE[1:], "best_of_all",
             "behind", "behind_low", "behind_high", "note"),
            (
                (one.target, _shots(one.shots), place, row.source, row.method, row.transfer, *_row(row.accuracy),
                 row.best, *_row(row.behind)[:3], row.note)
                for one in found.rankings
                for place, row in enumerate(one.candidates, start=1)
            ),
        ),
        "figures": (found.figures, csvs.FIGURE_HEADER, csvs.figure_rows(found.figures)),
    }  # fmt: skip
    return {f"{name}_{file}.csv": csvs.csv_bytes(header, rows) for file, (any_, header, rows) in files.items() if any_}


def _shots(shots: Shots) -> int | str:
    return "full" if shots is None else shots


def _cell(one: Any, shots: Shots) -> tuple[Any, ...]:
    return one.method, one.source, one.target, one.transfer, _shots(shots)


def _row(figure: Figure | None) -> tuple[Any, Any, Any, Any]:
    """Value, low, high and n; what is beyond the largest size is "inf", which empty would hide."""
    if figure is None:
        return None, None, None, None
    value, low, high = (
        "inf" if x is not None and math.isinf(x) else x for x in (figure.value, figure.low, figure.high)
    )
    return value, low, high, figure.n


def _spread_rows(found: Pretraining) -> Iterator[Sequence[Any]]:
    for one in found.spreads:
        for shots in one.spread:
            parts = (one.spread, one.relative, one.pairwise, one.null)
            numbers = (x for by in parts for x in _row(by.get(shots))[:3])
            left, faded = (_row(figure)[0] for figure in (one.left, one.faded))
            yield (one.target, one.method, one.transfer, _shots(shots), *numbers, one.best.get(shots),
                   one.worst.get(shots), left, faded)  # fmt: skip


def _size_rows(sizes: Sequence[PretrainingSize]) -> Iterator[Sequence[Any]]:
    for one in sizes:
        for i, (size, figure) in enumerate(zip(one.sizes, one.accuracy, strict=True)):
            start = (*_cell(one, one.shots), size, *_row(figure))
            for by in one.references:
                difference = by.difference[i] if by.difference else None
                yield (*start, by.name, by.images, by.accuracy.value, *_row(by.needed)[:3], *_row(by.ratio)[:3],
                       *_row(difference)[:3])  # fmt: skip
            if not one.references:
                yield (*start, *(None for _ in _WORTH))
