"""What a study asked before its run and whether it was met: in sentences, and as a table."""

import dataclasses
import math
from collections.abc import Sequence

from jdt.report.blocks import Cell, Column, Rows, Table
from jdt.report.content import DIFFERENCE, SHARE, Figure
from jdt.report.parts import between, ends
from jdt.report.words import NBSP, NOT_MEASURED, capital, clean, decimal, figure_interval, figure_number, percent

REACHED, MISSED, EXPLORATORY, NOT_RUN, NOT_JUDGED = "reached", "missed", "exploratory", "not run", "not judged"
VERDICTS = (REACHED, MISSED, EXPLORATORY, NOT_RUN, NOT_JUDGED)
_NOTES = {
    EXPLORATORY: "“Exploratory” is reported whatever it is and decides nothing",
    NOT_RUN: "“not run” was left out of this study, or cannot be judged in it",
    NOT_JUDGED: "“not judged” is what this study cannot tell, or nobody asked of it",
}


@dataclasses.dataclass(frozen=True)
class Requirement:
    """One requirement, fixed before the run, and whether it was met.

    Attributes:
      name: E.g. "C3".
      asked: What was asked, in words with the threshold.
      found: What was found, in words with figures; may be empty where it was not run.
      verdict: One of `VERDICTS`; "exploratory" for what is reported whatever it is.
      figure: The figure that the verdict rests on; None where it is none, or several.
      headline: Whether the head of the page says it.
    """

    name: str
    asked: str
    found: str
    verdict: str
    figure: Figure | None = None
    headline: bool = False


def verdict_words(verdict: str) -> str:
    """A verdict; what was missed is in capitals."""
    return "MISSED" if verdict == MISSED else verdict


def figure_words(figure: Figure) -> str:
    """A figure with its interval in its own unit, e.g. "+3.1 pp (+1.0 to +5.2)"."""
    value, low, high = ends(figure)
    if not math.isfinite(value):
        return NOT_MEASURED
    if figure.unit in (SHARE, DIFFERENCE):
        signed = figure.unit == DIFFERENCE
        words = f"{decimal(100 * value, 1, signed=True)}{NBSP}pp" if signed else percent(value)
        interval = between(low, high, signed=signed)
        return words + (f" ({interval})" if interval else "")
    interval = figure_interval(figure.low, figure.high) if math.isfinite(low) and math.isfinite(high) else ""
    unit = f" {clean(figure.unit)}" if figure.unit else ""
    return f"{figure_number(value)}{f' ({interval})' if interval else ''}{unit}"


def bar_sentence(bar: Requirement) -> str:
    """One requirement in a sentence, e.g. "C3 (reached): OOD accuracy falls. Found: +3.1 pp ..."."""
    found = "; ".join(
        filter(None, [figure_words(bar.figure) if bar.figure else "", clean(bar.found) if bar.found else ""])
    )
    said = f"{clean(bar.name)} ({verdict_words(bar.verdict)}): {capital(clean(bar.asked)).rstrip('.')}."
    return f"{said} Found: {found.rstrip('.')}." if found else said


def bar_summary(bars: Sequence[Requirement]) -> list[str]:
    """What was found, for the head of the page: the headlines, then how many requirements were met, by name."""
    if not bars:
        return []
    by_verdict = {verdict: [clean(bar.name) for bar in bars if bar.verdict == verdict] for verdict in VERDICTS}
    parts = [
        f"{len(names)} {verdict_words(verdict)} ({', '.join(names)})" for verdict, names in by_verdict.items() if names
    ]
    counted = f"Of {len(bars)} requirements that were fixed before the run: {'; '.join(parts)}."
    return [*(bar_sentence(bar) for bar in bars if bar.headline), counted]


def exploratory_words(bars: Sequence[Requirement]) -> list[str]:
    """What is reported whatever it is."""
    return [bar_sentence(bar) for bar in bars if bar.verdict == EXPLORATORY]


def bar_table(bars: Sequence[Requirement], link: str) -> Table:
    """Requirements with what was found."""
    rows = tuple(
        (
            Cell(clean(bar.name)),
            Cell(
                verdict_words(bar.verdict), tone={REACHED: "helps", MISSED: "harms"}.get(bar.verdict, ""), strong=True
            ),
            Cell(clean(bar.asked)),
            Cell(figure_words(bar.figure) if bar.figure else "", clean(bar.found) if bar.found else ""),
        )
        for bar in bars
    )
    columns = (
        Column("requirement"), Column("verdict"), Column("what was asked", key=False),
        Column("what was found", key=False),
    )  # fmt: skip
    verdicts = {bar.verdict for bar in bars}
    explained = "; ".join(words for verdict, words in _NOTES.items() if verdict in verdicts)
    note = f"Thresholds were fixed before the run. {f'{capital(explained)}. ' if explained else ''}Intervals are "
    return Table("Requirements and what was found", columns, (Rows(rows),), "What was asked and what was found",
                 f"{note}95{NBSP}%.", (link,))  # fmt: skip
