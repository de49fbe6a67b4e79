"""The tables of noisy pre-training: accuracies, tuners, spectra, suspects, and the CSV files."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jdt.report import csvs
from jdt.report.blocks import Cell, Column, Rows, Table
from jdt.report.content import Figure
from jdt.report.noise_content import (
    ID,
    LINEAR,
    MLP,
    OOD,
    Noise,
    NoiseBar,
    NoiseScatter,
    NoiseSet,
    NoiseSuspects,
    NoiseTuning,
)
from jdt.report.noise_plots import rate_percent, rate_words
from jdt.report.noise_words import in_order, spectrum_words, stage_words, tuner_words
from jdt.report.parts import between, correlation_words, difference_cell, ends
from jdt.report.thumbnails import embedded
from jdt.report.words import ABSENT, NBSP, NOT_MEASURED, clean, decimal, figure_number, percent

OPEN_ROWS, MOST_UNITS, MOST_EXAMPLES = 24, 40, 24
"""Rows of a table that are shown without a click; units and examples that the page shows, while CSV files have all."""
_FIGURE = ("value", "low", "high", "n")


def accuracy_table(sets: Sequence[NoiseSet], rates: Sequence[float], link: str) -> Table:
    """Accuracy of every tuner at every noise rate, a group a set of test images."""
    groups = tuple(
        Rows(
            tuple(
                (Cell(tuner_words(tuner)), *map(_share, figures)) for tuner, figures in one.accuracy.items()
            ),
            f"{clean(one.name)} ({clean(one.role)})",
        )
        for one in sets
    )  # fmt: skip
    columns = (Column("tuner"), *(Column(rate_words(rate), True) for rate in rates))
    note = f"Means over seeds with 95{NBSP}% intervals."
    return _folded(Table("Accuracy by tuner and noise rate", columns, groups, "", note, (link,)), "accuracies")


def effect_table(sets: Sequence[NoiseSet], rates: Sequence[float], link: str) -> Table | None:
    """Accuracy minus that at the lowest rate; None where nobody measured it."""
    groups = tuple(
        Rows(
            tuple((Cell(tuner_words(tuner)), *map(_difference, figures[1:])) for tuner, figures in one.effect.items()),
            f"{clean(one.name)} ({clean(one.role)})",
        )
        for one in sets
        if one.effect
    )
    if not groups or len(rates) < 2:
        return None
    columns = (Column("tuner"), *(Column(rate_words(rate), True) for rate in rates[1:]))
    note = (
        f"Accuracy minus that at {rate_percent(rates[0])} noise in percentage points (pp), paired by seed, with "
        f"95{NBSP}% intervals; coloured where they leave 0 out."
    )
    return _folded(Table("What noise changes", columns, groups, "", note, (link,)), "changes of accuracy")


def tuning_table(tuning: Sequence[NoiseTuning], link: str) -> Table:
    """What every tuner reaches at every noise rate, and its gain over the linear probe and the MLP."""
    roles = in_order((role for one in tuning for role in one.accuracy), (ID, OOD))
    others = in_order((other for one in tuning for other in one.gain), (LINEAR, MLP))
    groups = tuple(
        Rows(
            tuple(
                (
                    Cell(tuner_words(one.tuner)),
                    *(_share(one.accuracy.get(role)) for role in roles),
                    *(_difference(one.gain.get(other, {}).get(role)) for other in others for role in roles),
                )
                for one in tuning
                if one.rate == rate
            ),
            rate_words(rate),
        )
        for rate in dict.fromkeys(one.rate for one in tuning)
    )
    columns = (
        Column("tuner"),
        *(Column(role, True) for role in roles),
        *(Column(f"{role} minus {tuner_words(other)}", True) for other in others for role in roles),
    )
    note = (
        f"Means over seeds with 95{NBSP}% intervals; differences are to the same models under another tuner, in "
        "percentage points (pp), paired by seed, coloured where their interval leaves 0 out. The paper and the code "
        "that was published with it weight the terms differently and are two methods: both are shown."
    )
    return Table("Tuners at every noise rate", columns, groups, "What tuning repairs", note, (link,))


def spectrum_table(found: Noise, link: str) -> Table:
    """SVE and LSVR of every set of test images at every noise rate, before and after tuning."""
    keys = dict.fromkeys((one.name, one.role, one.center) for one in found.spectra)
    groups = tuple(
        Rows(
            tuple(
                (Cell(f"{name}, {stage_words(one.tuner)}"), *map(_nats, figures))
                for one in found.spectra
                if (one.name, one.role, one.center) == key
                for name, figures in (("SVE", one.sve), ("LSVR", one.lsvr))
            ),
            f"{clean(key[0])} ({clean(key[1])}), centred by {clean(key[2])}",
        )
        for key in keys
    )
    columns = (Column("features"), *(Column(rate_words(rate), True) for rate in found.rates))
    note = f"{spectrum_words(one.center for one in found.spectra)} Means over seeds with 95{NBSP}% intervals."
    return _folded(Table("SVE and LSVR by noise rate", columns, groups, "", note, (link,)), "values of SVE and LSVR")


def unit_table(found: NoiseSuspects, link: str) -> Table:
    """Source units by how suspicious rankings find them."""
    rankings = list(dict.fromkeys(name for unit in found.units for name in unit.place))
    is_known = any(unit.wrong is not None for unit in found.units)
    shown = found.units[:MOST_UNITS]
    rows = tuple(
        (
            Cell(clean(unit.name)),
            *((Cell(ABSENT if unit.wrong is None else percent(unit.wrong), value=unit.wrong),) if is_known else ()),
            *(_place(unit.place.get(name), unit.score.get(name)) for name in rankings),
        )
        for unit in shown
    )
    columns = (
        Column("source unit"),
        *((Column("wrong labels", True),) if is_known else ()),
        *(Column(f"place by {clean(name)}", True) for name in rankings),
    )
    note = "Place 1 is the most suspicious; below it, the ranking's own score."
    if len(shown) < len(found.units):
        note += f" Shown are the first {len(shown)} of {len(found.units):,}."
    return Table("Source units by suspicion", columns, (Rows(rows),), "Which units are noisy", note, (link,))


def retraining_table(found: NoiseSuspects, link: str) -> Table:
    """Accuracy of models that were trained anew, and what that changes."""
    places = list(dict.fromkeys(place for by in found.retraining.values() for place in by))
    rows = tuple(
        (
            Cell(clean(arm)),
            *(_share(by.get(place)) for place in places),
            *(_difference(found.change.get(arm, {}).get(place)) for place in places if found.change),
        )
        for arm, by in found.retraining.items()
    )
    columns = (
        Column("trained on"), *(Column(clean(place), True) for place in places),
        *(Column(f"{clean(place)}, minus noisy", True) for place in places if found.change),
    )  # fmt: skip
    note = f"Means over seeds with 95{NBSP}% intervals; differences in percentage points (pp), paired by seed."
    return Table("Models trained anew", columns, (Rows(rows),), "", note, (link,))


def example_table(found: NoiseSuspects, link: str) -> Table:
    """The most suspicious examples with their images, given and suggested labels."""
    shown = found.examples[:MOST_EXAMPLES]
    is_known = any(one.true for one in shown)
    rows = tuple(
        (
            Cell(clean(one.name)),
            Cell(images=(embedded(one.image[None], f"{clean(one.name)}, labelled {clean(one.given)}"),)),
            Cell(clean(one.given)),
            Cell(clean(one.suggested), strong=True),
            *((Cell(clean(one.true) if one.true else ABSENT),) if is_known else ()),
            Cell(small=one.note),
        )
        for one in shown
    )
    columns = (
        Column("source example"), Column("image", key=False), Column("given label"), Column("suggested label"),
        *((Column("true label"),) if is_known else ()), Column("note", key=False),
    )  # fmt: skip
    note = "" if len(shown) == len(found.examples) else f"Shown are the first {len(shown)} of {len(found.examples):,}."
    return Table("The most suspicious examples", columns, (Rows(rows),), "The most suspicious examples", note, (link,))


def _folded(table: Table, what: str) -> Table:
    """A long table behind a click."""
    count = sum(len(group.rows) * (len(table.columns) - 1) for group in table.groups)
    rows = sum(len(group.rows) for group in table.groups)
    folded = f"All {count} {what}" if rows > OPEN_ROWS else ""
    return Table(table.label, table.columns, table.groups, table.title, table.note, table.links, folded)


def _share(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(ABSENT)
    value, low, high = ends(figure)
    return Cell(percent(value), between(low, high), value) if math.isfinite(value) else Cell(NOT_MEASURED)


def _difference(figure: Figure | None) -> Cell:
    if figure is None:
        return Cell(ABSENT)
    return difference_cell(*ends(figure)) if math.isfinite(ends(figure)[0]) else Cell(NOT_MEASURED)


def _nats(figure: Figure) -> Cell:
    value, low, high = ends(figure)
    if not math.isfinite(value):
        return Cell(NOT_MEASURED)
    sure = math.isfinite(low) and math.isfinite(high)
    return Cell(decimal(value, 3), f"{decimal(low, 3)} to {decimal(high, 3)}" if sure else "", value)


def _place(place: int | None, score: float | None) -> Cell:
    if place is None:
        return Cell(ABSENT)
    return Cell(f"{place:,}", "" if score is None else figure_number(score), float(place))


def noise_tables(found: Noise, name: str) -> dict[str, bytes]:
    """The CSV files of a study by their names."""
    suspects = found.suspects or NoiseSuspects("")
    files: dict[str, tuple[Any, Sequence[str], Iterable[Sequence[Any]]]] = {
        "bars": (found.bars, ("requirement", "verdict", "asked", "found", *_FIGURE, "unit"), _bar_rows(found.bars)),
        "accuracy": (
            found.sets,
            ("set", "role", "is_mean", "tuner", "noise", "accuracy", *_FIGURE[1:], *(f"effect_{x}" for x in _FIGURE)),
            _set_rows(found),
        ),
        "spectra": (
            found.spectra,
            ("set", "role", "tuner", "center", "noise", *(f"{m}_{x}" for m in ("sve", "lsvr") for x in _FIGURE)),
            _spectrum_rows(found),
        ),
        "singular_values": (
            [one for one in found.spectra if one.curve is not None],
            ("set", "role", "tuner", "center", "noise", "place", "share"),
            _curve_rows(found),
        ),
        "scatters": (found.scatters, _SCATTER, _scatter_rows(found.scatters)),
        "robustness": (found.robustness, _SCATTER, _scatter_rows(found.robustness)),
        "tuning": (
            found.tuning, ("noise", "tuner", "compared_with", "role", *_FIGURE), _tuning_rows(found.tuning),
        ),
        "ablation": (
            found.ablations,
            ("tuner", "noise", "without", "role", *_FIGURE),
            (
                (one.full, one.rate, label, role, *_row(figure))
                for one in found.ablations
                for label, by in one.change.items()
                for role, figure in by.items()
            ),
        ),
        "fractions": (
            found.fractions,
            ("set", "noise", "tuner", "fraction", *_FIGURE),
            (
                (one.name, one.rate, tuner, fraction, *_row(figure))
                for one in found.fractions
                for tuner, figures in one.accuracy.items()
                for fraction, figure in zip(one.fractions, figures, strict=True)
            ),
        ),
        "roc": (
            suspects.rankings,
            ("ranking", "auroc", "false_positives", "true_positives"),
            (
                (one.name, one.auroc.value, float(x), float(y))
                for one in suspects.rankings
                for x, y in zip(one.false_positives, one.true_positives, strict=True)
            ),
        ),
        "units": (
            suspects.units,
            ("unit", "wrong", "ranking", "place", "score"),
            (
                (unit.name, unit.wrong, ranking, place, unit.score.get(ranking))
                for unit in suspects.units
                for ranking, place in unit.place.items()
            ),
        ),
        "retraining": (
            suspects.retraining or suspects.change,
            ("source", "set", "what", *_FIGURE),
            (
                (arm, place, what, *_row(figure))
                for what, by_arm in (("accuracy", suspects.retraining), ("minus noisy", suspects.change))
                for arm, by in by_arm.items()
                for place, figure in by.items()
            ),
        ),
        "examples": (
            suspects.examples,
            ("place", "example", "given", "suggested", "true", "note"),
            ((i, e.name, e.given, e.suggested, e.true, e.note) for i, e in enumerate(suspects.examples, start=1)),
        ),
        "figures": (found.figures, csvs.FIGURE_HEADER, csvs.figure_rows(found.figures)),
    }  # fmt: skip
    return {f"{name}_{file}.csv": csvs.csv_bytes(header, rows) for file, (any_, header, rows) in files.items() if any_}


_SCATTER = ("panel", "x_is", "y_is", "noise", "x", "y", "rank_correlation")


def _row(figure: Figure | None) -> tuple[float | None, float | None, float | None, int | None]:
    return (None, None, None, None) if figure is None else (figure.value, figure.low, figure.high, figure.n)


def _bar_rows(bars: Sequence[NoiseBar]) -> Iterator[Sequence[Any]]:
    for bar in bars:
        unit = bar.figure.unit if bar.figure else ""
        yield bar.name, bar.verdict, bar.asked, bar.found, *_row(bar.figure), unit


def _set_rows(found: Noise) -> Iterator[Sequence[Any]]:
    for one in found.sets:
        for tuner, figures in one.accuracy.items():
            effects = one.effect.get(tuner, (None,) * len(figures))
            for rate, figure, effect in zip(found.rates, figures, effects, strict=True):
                is_mean = "yes" if one.is_mean else "no"
                yield one.name, one.role, is_mean, tuner, rate, *_row(figure), *_row(effect)


def _spectrum_rows(found: Noise) -> Iterator[Sequence[Any]]:
    for one in found.spectra:
        for rate, sve, lsvr in zip(found.rates, one.sve, one.lsvr, strict=True):
            yield one.name, one.role, one.tuner, one.center, rate, *_row(sve), *_row(lsvr)


def _curve_rows(found: Noise) -> Iterator[Sequence[Any]]:
    for one in found.spectra:
        for rate, curve in zip(found.rates, one.curve if one.curve is not None else (), strict=False):
            for place, share in enumerate(curve, start=1):
                yield one.name, one.role, one.tuner, one.center, rate, place, float(share)


def _scatter_rows(scatters: Sequence[NoiseScatter]) -> Iterator[Sequence[Any]]:
    for one in scatters:
        rank = None if one.correlation is None else one.correlation.value
        for rate, x, y in zip(one.rate, one.x, one.y, strict=True):
            yield one.title, one.x_label, one.y_label, float(rate), float(x), float(y), rank


def _tuning_rows(tuning: Sequence[NoiseTuning]) -> Iterator[Sequence[Any]]:
    for one in tuning:
        compared: Mapping[str, Mapping[str, Figure]] = {"": one.accuracy, **one.gain}
        for other, by in compared.items():
            for role, figure in by.items():
                yield one.rate, one.tuner, other, role, *_row(figure)


def auroc_words(found: NoiseSuspects) -> str:
    """Areas under the curves of all rankings, in one sentence."""
    words = "; ".join(f"{clean(one.name)} {correlation_words(one.auroc)}" for one in found.rankings)
    return f"Wrong labels are found with an area under the ROC curve of: {words}." if words else ""
