"""Pre-training data on the terminal: which source to take, and accuracy by source and shots."""

import math
from collections.abc import Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from jdt.report.content import Figure
from jdt.report.parts import between, ends
from jdt.report.pretraining_content import PretrainingAccuracy, PretrainingRanking, Shots
from jdt.report.pretraining_words import interval_sentence, setting_words, shots_words
from jdt.report.words import ABSENT, MINUS, NBSP, NOT_MEASURED, clean, decimal, percent, shorten


def ranking_table(ranking: PretrainingRanking) -> Table:
    """Candidates for one target, the best first, with intervals and how likely each is the best of all.

    Args:
      ranking: What was found.

    Returns:
      A table with a row for every candidate; what follows from it stands below.
    """
    has_setting = any(one.method or one.transfer for one in ranking.candidates)
    has_behind = any(one.behind for one in ranking.candidates)
    has_note = any(one.note for one in ranking.candidates)
    notes = [interval_sentence(one.accuracy for one in ranking.candidates), ranking.text]
    table = _table(f"sources for {clean(ranking.target)}, {shots_words(ranking.shots)}", " ".join(filter(None, notes)))
    for name in ("", "source", *(("method, transfer",) if has_setting else ()), "accuracy (%)",
                 *(("behind the first (pp)",) if has_behind else ()), "best of all",
                 *(("note",) if has_note else ())):  # fmt: skip
        table.add_column(name, overflow="fold")
    for place, one in enumerate(ranking.candidates, start=1):
        cells = [str(place), shorten(one.source, 28)]
        cells += [setting_words(one.method, one.transfer)] * has_setting
        cells += [_narrow(one.accuracy)]
        cells += [_points(one.behind) if one.behind else ""] * has_behind
        cells += [percent(one.best, 0) if math.isfinite(one.best) else ABSENT]
        cells += [clean(one.note) if one.note else ""] * has_note
        table.add_row(*map(_plain, cells))
    return table


def shots_table(accuracies: Sequence[PretrainingAccuracy], shots: Sequence[Shots], title: str = "") -> Table:
    """Accuracy by source and shots, a row a source, method and transfer.

    Args:
      accuracies: What was measured, of one target or of several.
      shots: Of the columns; those that nobody measured are left out.
      title: Above the table; by default what all rows have in common.

    Returns:
      A table with accuracies in per cent and their intervals below them.
    """
    shown = [k for k in shots if any(k in one.accuracy for one in accuracies)]
    targets = list(dict.fromkeys(one.target for one in accuracies))
    settings = list(dict.fromkeys(setting_words(one.method, one.transfer) for one in accuracies))
    alike = [clean(names[0]) for names in (targets, settings) if len(names) == 1]
    every = [figure for one in accuracies for figure in one.accuracy.values()]
    table = _table(title or ", ".join(["accuracy (%)", *alike]), interval_sentence(every))
    heads = ["target"] * (len(targets) > 1) + ["source"] + ["method, transfer"] * (len(settings) > 1)
    for name in (*heads, *map(shots_words, shown)):
        table.add_column(name, overflow="fold")
    for one in accuracies:
        cells = [shorten(one.target, 24)] * (len(targets) > 1) + [shorten(one.source, 28)]
        cells += [setting_words(one.method, one.transfer)] * (len(settings) > 1)
        cells += [_narrow(one.accuracy[k]) if k in one.accuracy else ABSENT for k in shown]
        table.add_row(*map(_plain, cells))
    return table


def _table(title: str, caption: str) -> Table:
    return Table(
        title=_plain(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
        caption=_plain(caption) if caption else None, caption_justify="left",
    )  # fmt: skip


def _narrow(figure: Figure) -> str:
    """A share with its interval below it: tables are wide."""
    value, low, high = (100 * end for end in ends(figure))
    if not math.isfinite(value):
        return NOT_MEASURED
    interval = f"\n{decimal(low, 1)}-{decimal(high, 1)}" if math.isfinite(low) and math.isfinite(high) else ""
    return decimal(value, 1) + interval


def _points(figure: Figure) -> str:
    value, low, high = ends(figure)
    interval = between(low, high, signed=True)
    return decimal(100 * value, 1, signed=True) + (f"\n{interval}" if interval else "")


def _plain(text: str) -> str:
    # Plain characters: not every terminal has a true minus sign, and people search and copy these lines.
    return escape(text.replace(MINUS, "-").replace(NBSP, " ").replace(ABSENT, "-"))
