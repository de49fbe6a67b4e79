"""The tables of pre-training data: accuracies, spreads, equivalences, gaps, and the other parts of a study."""

import math
from collections.abc import Iterable, Sequence

from jdt.report.blocks import Cell, Column, Rows, Table
from jdt.report.content import Figure
from jdt.report.parts import between, correlation_words, difference_cell, ends, whisker
from jdt.report.pretraining_content import (
    Pretraining,
    PretrainingGain,
    PretrainingGap,
    PretrainingOptimism,
    PretrainingRanking,
    PretrainingReference,
    PretrainingSize,
    PretrainingSource,
    PretrainingSpread,
    PretrainingStability,
    PretrainingZeroShot,
    Shots,
)
from jdt.report.pretraining_words import (
    fade_clause,
    has_interval,
    images_words,
    interval_sentence,
    needed_interval,
    needed_words,
    ratio_words,
    runs_sentence,
    setting_words,
    shots_words,
    transfer_note,
)
from jdt.report.words import ABSENT, MINUS, NBSP, NOT_MEASURED, capital, clean, decimal, percent, shorten

OPEN_ROWS, SHORT_ROWS = 24, 8
"""Rows of a table that are shown without a click; of one that stands below a figure of the same."""


def source_table(sources: Sequence[PretrainingSource], link: str) -> Table:
    """What the sources are."""
    rows = tuple((Cell(clean(one.name)), Cell(clean(one.text) if one.text else ""), _count(one.images))
                 for one in sources)  # fmt: skip
    columns = (Column("source"), Column("what it is", key=False), Column("images", True))
    return Table("The sources", columns, (Rows(rows),), "The sources", "", (link,))


def ranking_block(ranking: PretrainingRanking, link: str) -> Table:
    """Candidates for one target, the best first."""
    has_setting = any(one.method or one.transfer for one in ranking.candidates)
    rows = tuple(
        (
            Cell(f"{place}. {clean(one.source)}", value=float(place)),
            *((Cell(setting_words(one.method, one.transfer)),) if has_setting else ()),
            share_cell(one.accuracy),
            _difference(one.behind),
            Cell(percent(one.best, 0) if math.isfinite(one.best) else ABSENT, value=one.best),
            Cell(small=clean(one.note) if one.note else ""),
        )
        for place, one in enumerate(ranking.candidates, start=1)
    )
    columns = (
        Column("source"), *((Column("method and transfer"),) if has_setting else ()), Column("accuracy", True),
        Column("behind the first", True), Column("best of all", True), Column("", key=False),
    )  # fmt: skip
    figures = [one.accuracy for one in ranking.candidates]
    note = (
        f"“Best of all” is the probability of being that, by bootstrap. {interval_sentence(figures)} "
        f"{_points_note(one.behind for one in ranking.candidates)}"
        f"{f' {capital(clean(ranking.text))}' if ranking.text else ''}"
    )
    title = f"Which source to take: {clean(ranking.target)}, {shots_words(ranking.shots)}"
    return Table(title, columns, (Rows(rows),), title, note, (link,))


def accuracy_tables(found: Pretraining, link: str) -> list[Table]:
    """Accuracy by source and shots, a group a method and transfer: the first target's open, then all others'."""
    targets = list(dict.fromkeys(one.target for one in found.accuracies))
    made = [_accuracy_table(found, some, link) for some in (targets[:1], targets[1:]) if some]
    # The page is long without the others.
    return [_folded(table, clean(table.label), most=SHORT_ROWS if i else OPEN_ROWS) for i, table in enumerate(made)]


def _accuracy_table(found: Pretraining, targets: Sequence[str], link: str) -> Table:
    these = [one for one in found.accuracies if one.target in targets]
    shots = [k for k in found.shots if any(k in one.accuracy for one in these)]
    groups = []
    for target in targets:
        for key in dict.fromkeys((one.method, one.transfer) for one in these if one.target == target):
            ours = [one for one in these if (one.target, one.method, one.transfer) == (target, *key)]
            tops = {k: _top(one.accuracy.get(k) for one in ours) for k in shots} if len(ours) > 1 else {}
            rows = tuple(
                (Cell(clean(one.source)), *(share_cell(one.accuracy.get(k), tops.get(k, math.nan)) for k in shots))
                for one in ours
            )
            groups.append(Rows(rows, f"{clean(target)}: " * (len(targets) > 1) + setting_words(*key)))
    every = [figure for one in these for figure in one.accuracy.values()]
    note = (
        f"Bold: the best source of its group. {runs_sentence(every)}{interval_sentence(every)} "
        f"{capital(transfer_note(one.transfer for one in these))}"
    )
    columns = (Column("source"), *(Column(shots_words(k), True) for k in shots))
    title = f"Accuracy on {clean(targets[0])}" if len(targets) == 1 else f"Accuracy on {len(targets)} other targets"
    return Table(title, columns, tuple(groups), title, note.strip(), (link,))


def spread_table(spreads: Sequence[PretrainingSpread], shots: Sequence[Shots], link: str) -> Table:
    """Spread, relative spread and noise band by shots, and what is left with full data."""
    measured = [k for k in shots if any(k in one.spread for one in spreads)]
    groups = []
    for one in spreads:
        rows = [(Cell("best minus worst"), *(_spread_cell(one, k) for k in measured))]
        for name, by, cell in (
            ("in % of the best", one.relative, share_cell),
            ("mean difference of two", one.pairwise, _difference),
            ("noise alone", one.null, _band),
        ):
            if by:
                rows.append((Cell(name), *(cell(by.get(k)) for k in measured)))
        for name, names in (("best source", one.best), ("worst source", one.worst)):
            if names:
                rows.append((Cell(name), *(Cell(shorten(names[k], 14) if k in names else ABSENT) for k in measured)))
        title = f"{clean(one.target)}: {setting_words(one.method, one.transfer)}{fade_clause(one)}"
        groups.append(Rows(tuple(rows), title))
    columns = (Column("spread"), *(Column(shots_words(k), True) for k in measured))
    note = (
        f"Differences are in percentage points (pp). {interval_sentence(f for o in spreads for f in o.spread.values())}"
    )
    return _folded(Table("Spread between sources", columns, tuple(groups), "", note, (link,)), "All spreads")


def _spread_cell(one: PretrainingSpread, shots: Shots) -> Cell:
    figure = one.spread.get(shots)
    if figure is None or not math.isfinite(ends(figure)[0]):
        return _missing(figure)
    value, low, high = ends(figure)
    return Cell(f"{decimal(100 * value, 1)}{NBSP}pp", between(low, high), value, strong=True)


def _band(figure: Figure | None) -> Cell:
    if figure is None or not math.isfinite(ends(figure)[2]):
        return _missing(figure)
    value, _, high = ends(figure)
    return Cell(f"≤ {decimal(100 * high, 1)}{NBSP}pp", f"middle {decimal(100 * value, 1)}", high)


def size_table(sizes: Sequence[PretrainingSize], link: str, label: str) -> Table:
    """What images of references are worth in those of a source."""
    rows = tuple(
        (
            Cell(
                f"{clean(one.target)}, {shots_words(one.shots)}",
                f"{setting_words(one.method, one.transfer)}{f'; {clean(one.note)}' if one.note else ''}",
            ),
            Cell(f"{images_words(by.images)} of {clean(by.name)}", value=float(by.images)),
            share_cell(by.accuracy),
            _needed(one, by),
            Cell(ratio_words(by, one.sizes), value=by.ratio.value if by.ratio else None),
            _difference(by.difference[-1] if by.difference else None),
        )
        for one in sizes
        for by in one.references
    )
    columns = (
        Column("target"), Column("these images"), Column("reach", True), Column("as many images of the source", True),
        Column("ratio", True), Column("largest size minus them", True),
    )  # fmt: skip
    note = (
        "How many images of the source are as good, by the curve between the sizes that were measured: “>” where the "
        "largest is not enough, “≤” where the smallest is enough already. The ratio is of numbers of images."
    )
    return Table(label, columns, (Rows(rows),), "", note, (link,))


def size_curve_table(sizes: Sequence[PretrainingSize], link: str, label: str) -> Table:
    """Accuracy at every size, and its difference to references."""
    groups = []
    for one in sizes:
        with_difference = [by for by in one.references if by.difference]
        rows = tuple(
            (
                Cell(images_words(size), value=float(size)),
                share_cell(figure),
                Cell(
                    small="; ".join(f"{_points(by.difference[i])} against {clean(by.name)}" for by in with_difference)
                ),
            )
            for i, (size, figure) in enumerate(zip(one.sizes, one.accuracy, strict=True))
        )
        setting = f"{shots_words(one.shots)}, {setting_words(one.method, one.transfer)}"
        groups.append(Rows(rows, f"{clean(one.source)} on {clean(one.target)}: {setting}"))
    columns = (Column("images"), Column("accuracy", True), Column("difference", key=False))
    return _folded(Table(label, columns, tuple(groups), "", "", (link,)), "All accuracies by size")


def _needed(one: PretrainingSize, by: PretrainingReference) -> Cell:
    if by.needed is None:
        return Cell(ABSENT)
    return Cell(needed_words(by, one.sizes), needed_interval(by, one.sizes), by.needed.value, strong=True)


def gap_table(gaps: Sequence[PretrainingGap], link: str) -> Table:
    """Method gaps with their intervals over everything, over examples, and over draws."""
    kinds = {"over test images": [one.examples for one in gaps], "over seeds and draws": [one.draws for one in gaps]}
    kinds = {title: figures for title, figures in kinds.items() if any(figures)}
    reach = _reach(one.gap for one in gaps)
    groups = tuple(
        Rows(
            tuple(
                (
                    Cell(clean(one.source), f"{clean(one.transfer)}, {shots_words(one.shots)}"),
                    Cell(whisker=_whisker(one.gap, reach)),
                    _difference(one.gap),
                    *(Cell(_interval(figures[gaps.index(one)])) for figures in kinds.values()),
                )
                for one in gaps
                if (one.method, one.other, one.target) == key
            ),
            f"{setting_words(key[0], '')} minus {setting_words(key[1], '')} on {clean(key[2])}",
        )
        for key in dict.fromkeys((one.method, one.other, one.target) for one in gaps)
    )
    columns = (
        Column("source"), Column("interval", key=False), Column("gap", True),
        *(Column(f"95{NBSP}% {title}", True, key=False) for title in kinds),
    )  # fmt: skip
    every = [one.gap for one in gaps]
    note = f"The same source, target and transfer. {_points_note(every)} {interval_sentence(every)}"
    return _folded(Table("Gaps between methods", columns, groups, "", note, (link,)), "All gaps")


def gain_table(gains: Sequence[PretrainingGain], link: str) -> Table:
    """What pre-training is worth."""
    has_errors = any(one.error_reduction for one in gains)
    reach = _reach(one.gain for one in gains)
    groups = tuple(
        Rows(
            tuple(
                (
                    Cell(clean(one.source), f"{setting_words(one.method, one.transfer)}, {shots_words(one.shots)}"),
                    Cell(whisker=_whisker(one.gain, reach)),
                    _difference(one.gain),
                    *((share_cell(one.error_reduction),) if has_errors else ()),
                )
                for one in gains
                if one.target == target
            ),
            clean(target),
        )
        for target in dict.fromkeys(one.target for one in gains)
    )
    columns = (
        Column("source"), Column("interval", key=False), Column("gain over scratch", True),
        *((Column("errors that are gone", True),) if has_errors else ()),
    )  # fmt: skip
    note = f"{_points_note(one.gain for one in gains)} {interval_sentence(one.gain for one in gains)}"
    return _folded(Table("Gain over training from scratch", columns, groups, "", note, (link,)), "All gains")


def stability_table(stability: Sequence[PretrainingStability], link: str) -> Table:
    """Whether settings rank the sources alike."""
    rows = tuple(
        (
            Cell(clean(one.first)),
            Cell(clean(one.second)),
            Cell(whisker=_whisker(one.correlation, 1.0)),
            Cell(correlation_words(one.correlation), value=one.correlation.value),
            _count(one.sources),
        )
        for one in stability
    )
    columns = (
        Column("ranking by"), Column("against"), Column(f"from {MINUS}1 to 1", key=False),
        Column("rank correlation", True), Column("sources", True),
    )  # fmt: skip
    note = (
        "Rank correlation (Spearman) of two rankings of the same sources: 1 is the same order, at 0 neither tells the "
        f"other. {interval_sentence(one.correlation for one in stability)}"
    )
    label = "Are sources ranked alike?"
    return _folded(Table(label, columns, (Rows(rows),), label, note, (link,)), "All correlations")


def optimism_table(optimism: Sequence[PretrainingOptimism], link: str) -> Table:
    """What every cell would gain by choosing on test images."""
    keys = dict.fromkeys((one.target, one.method, one.transfer) for one in optimism)
    groups = tuple(
        Rows(
            tuple(
                (
                    Cell(clean(one.source), shots_words(one.shots)),
                    share_cell(one.accuracy),
                    Cell(clean(one.chosen)),
                    _difference(one.optimism),
                    Cell(clean(one.flattering) if one.flattering != one.chosen else "the same"),
                    _count(one.settings),
                )
                for one in optimism
                if (one.target, one.method, one.transfer) == key
            ),
            f"{clean(key[0])}: {setting_words(key[1], key[2])}",
        )
        for key in keys
    )
    columns = (
        Column("source"), Column("accuracy", True), Column("chosen by validation"), Column("optimism", True),
        Column("chosen by test"), Column("settings", True),
    )  # fmt: skip
    note = (
        "The accuracy is that of the setting that validation images chose; optimism is how much more the best setting "
        "on the test images has, in percentage points (pp). More settings flatter more."
    )
    table = Table("Optimism of choosing by test images", columns, groups, "", note, (link,))
    return _folded(table, "All cells with their chosen settings")


def zero_shot_table(zero_shot: Sequence[PretrainingZeroShot], link: str) -> Table:
    """Aligned and permuted names against chance."""
    rows = tuple(
        (
            Cell(clean(one.source), setting_words(one.method, one.head)),
            Cell(clean(one.classes_of), f"{one.classes:,} classes"),
            share_cell(one.aligned),
            share_cell(one.permuted),
            Cell(percent(one.chance), value=one.chance),
        )
        for one in zero_shot
    )
    columns = (
        Column("source"), Column("classes of"), Column("names at their classes", True), Column("permuted", True),
        Column("chance", True),
    )  # fmt: skip
    sure = interval_sentence(figure for one in zero_shot for figure in (one.aligned, one.permuted))
    note = f"Permuted: every class has the name of another one, so that accuracy must be at chance. {sure}"
    return Table("Names at their classes", columns, (Rows(rows),), "", note, (link,))


def share_cell(figure: Figure | None, top: float = math.nan) -> Cell:
    """A share with its interval, standing out where it is `top`; a dash where nobody asked."""
    if figure is None or not math.isfinite(ends(figure)[0]):
        return _missing(figure)
    value, low, high = ends(figure)
    return Cell(percent(value), between(low, high), value, strong=value == top)


def _points_note(figures: Iterable[Figure | None]) -> str:
    """What differences are in, and what their colours say where they have any."""
    coloured = any(figure and has_interval(figure) for figure in figures)
    more = ", coloured where their interval leaves 0 out" if coloured else ""
    return f"Differences are in percentage points (pp){more}."


def _missing(figure: Figure | None) -> Cell:
    return Cell(ABSENT if figure is None else NOT_MEASURED)


def _difference(figure: Figure | None) -> Cell:
    if figure is None or not math.isfinite(ends(figure)[0]):
        return _missing(figure)
    return difference_cell(*ends(figure))


def _points(figure: Figure) -> str:
    cell = _difference(figure)
    return f"{cell.text}{f' ({cell.small})' if cell.small else ''}"


def _interval(figure: Figure | None) -> str:
    return (between(*ends(figure)[1:], signed=True) if figure else "") or ABSENT


def _count(count: int | None) -> Cell:
    return Cell(ABSENT) if count is None else Cell(f"{count:,}", value=float(count))


def _top(figures: Iterable[Figure | None]) -> float:
    return max((f.value for f in figures if f and math.isfinite(ends(f)[0])), default=math.nan)


def _reach(figures: Iterable[Figure]) -> float:
    return max((abs(end) for figure in figures for end in ends(figure) if math.isfinite(end)), default=0.0)


def _whisker(figure: Figure, reach: float) -> tuple[float, float, float] | None:
    value, low, high = ends(figure)
    return whisker(low, value, high, reach)


def _folded(table: Table, what: str, *, most: int = SHORT_ROWS) -> Table:
    """A long table behind a click."""
    rows = sum(len(group.rows) for group in table.groups)
    if rows <= most:
        return table
    return Table(table.label, table.columns, table.groups, table.title, table.note, table.links, what)
