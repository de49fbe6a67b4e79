"""Pre-training data on the page: which source, method and how many images, as a function of the target's shots."""

import os
from collections.abc import Iterable, Mapping, Sequence

from jdt import checks
from jdt.report import plots
from jdt.report.blocks import Block, Section, Text
from jdt.report.content import Figure
from jdt.report.figures import plates_of
from jdt.report.page import add_section
from jdt.report.parts import figure_table, figure_tiles
from jdt.report.pretraining_content import ALL, Pretraining, PretrainingSize, Shots
from jdt.report.pretraining_csvs import pretraining_csvs
from jdt.report.pretraining_pictures import (
    ACCURACY,
    GAIN,
    GAP,
    HEAT,
    LABELS,
    OPTIMISM,
    SIZE,
    SPREAD,
    ZERO_SHOT,
    pretraining_pictures,
)
from jdt.report.pretraining_tables import (
    accuracy_tables,
    gain_table,
    gap_table,
    optimism_table,
    ranking_block,
    size_curve_table,
    size_table,
    source_table,
    spread_table,
    stability_table,
    zero_shot_table,
)
from jdt.report.pretraining_words import shots_words, spread_sentence, study_summary
from jdt.report.requirements import VERDICTS, bar_table, exploratory_words
from jdt.report.words import NOT_MEASURED, clean
from jdt.store.files import Place

ORDER = 240
MOST_TILES, MOST_SENTENCES = 6, 4
"""Key figures at the head of the section; spreads that are told in sentences, too."""


def add_pretraining(
    run: str | os.PathLike[str],
    found: Pretraining,
    *,
    name: str = "pretraining",
    warnings: Sequence[str] = (),
) -> Place:
    """Show on the page of a run what pre-training data are worth for its targets (arXiv 2302.13602).

    Args:
      run: The run directory.
      found: What was measured; parts without data are left out.
      name: Of the section; the same name again replaces it.
      warnings: What the reader must know before believing a number.

    Returns:
      The path of the page.

    Raises:
      UserError: If parts do not fit together, or where the run cannot be written.
    """
    _check(found)
    with plots.drawing():
        plates, pictures = plates_of(name, pretraining_pictures(found))
    title = clean(found.title)
    section = Section(name, ORDER, title, tuple(_blocks(found, name, plates)), page_title=title,
                      summary=tuple(study_summary(found)), warnings=tuple(warnings))  # fmt: skip
    return add_section(run, section, pictures=pictures, tables=pretraining_csvs(found, name))


def _blocks(found: Pretraining, name: str, plates: Mapping[str, list[Block]]) -> list[Block]:
    """All parts in their order."""

    def link(table: str) -> str:
        return f"tables/{name}_{table}.csv"

    parts: list[Block] = [Text(found.text)] if found.text else []
    parts += figure_tiles(found.figures, MOST_TILES, NOT_MEASURED)
    if found.bars:
        parts.append(bar_table(found.bars, link("bars")))
        parts += [Text(words) for words in exploratory_words(found.bars)]
    parts += [ranking_block(one, link("ranking")) for one in found.rankings]
    if found.sources:
        parts.append(source_table(found.sources, link("sources")))
    parts += plates.get(ACCURACY, [])
    parts += accuracy_tables(found, link("accuracy"))
    parts += plates.get(HEAT, [])
    parts += plates.get(SPREAD, [])
    if found.spreads:
        if len(found.spreads) <= MOST_SENTENCES:
            parts += [Text(words) for words in map(spread_sentence, found.spreads) if words]
        parts.append(spread_table(found.spreads, found.shots, link("spread")))
    if found.stability:
        parts.append(stability_table(found.stability, link("stability")))
    for part, sizes, label in (
        (SIZE, found.sizes, "What images are worth"),
        (LABELS, found.label_worth, "What right labels are worth"),
    ):
        parts += plates.get(part, [])
        if any(one.references for one in sizes):
            parts.append(size_table(sizes, link(part), label))
        if sizes:
            parts.append(size_curve_table(sizes, link(part), f"{label}: accuracy by size"))
    for part, table in (
        (GAP, found.gaps and gap_table(found.gaps, link(GAP))),
        (GAIN, found.gains and gain_table(found.gains, link(GAIN))),
        (ZERO_SHOT, found.zero_shot and zero_shot_table(found.zero_shot, link(ZERO_SHOT))),
        (OPTIMISM, found.optimism and optimism_table(found.optimism, link(OPTIMISM))),
    ):
        parts += [*plates.get(part, []), *([table] if table else [])]
    if found.figures:
        label = f"Key figures of {clean(found.title)}"
        parts.append(figure_table(found.figures, label=label, title="Key figures", link=link("figures")))
    return parts


def _check(found: Pretraining) -> None:
    if not any((found.bars, found.accuracies, found.spreads, found.sizes, found.label_worth, found.gaps, found.gains,
                found.optimism, found.stability, found.zero_shot, found.rankings)):  # fmt: skip
        raise checks.UserError(
            f"the study of pre-training data {found.title!r} has nothing to show: give it at least one accuracy."
        )
    few = [shots for shots in found.shots if shots is not None]
    if few != sorted({*few}) or min(few, default=0) < 0 or ALL in found.shots[:-1]:
        raise checks.UserError(f"shots are {found.shots}, but must ascend from 0 on, with None (all images) last.")
    for bar in found.bars:
        checks.require_known(f"verdict of {bar.name}", bar.verdict, VERDICTS)
    for one in found.accuracies:
        _check_shots(found, one.accuracy, f"accuracy of {one.source!r} on {one.target!r}")
    for one in found.spreads:
        for by in (one.spread, one.relative, one.pairwise, one.null):
            _check_shots(found, by, f"spread on {one.target!r}")
    for what, entries in (("gap", found.gaps), ("gain", found.gains), ("optimism", found.optimism)):
        for one in entries:
            _check_shots(found, (one.shots,), f"{what} of {one.source!r} on {one.target!r}")
    for one in (*found.sizes, *found.label_worth):
        _check_size(one)
    for one in found.label_worth:
        if not one.references or one.references[0].images < 1:
            raise checks.UserError(
                f"the worth of labels of {one.source!r} has no clean reference with images, but is counted in those."
            )


def _check_shots(found: Pretraining, shots: Iterable[Shots], what: str) -> None:
    if unknown := {*shots} - {*found.shots}:
        words = ", ".join(map(shots_words, unknown))
        raise checks.UserError(f"the {what} has {words}, but the study has {', '.join(map(shots_words, found.shots))}.")


def _check_size(one: PretrainingSize) -> None:
    what = f"the size curve of {one.source!r} on {one.target!r}"
    if not one.sizes or list(one.sizes) != sorted({*one.sizes}) or one.sizes[0] < 1:
        raise checks.UserError(f"{what} has sizes {one.sizes}, but they must ascend from 1 on, and there must be one.")
    lines: list[tuple[Figure, ...]] = [one.accuracy, *(by.difference for by in one.references if by.difference)]
    for figures in lines:
        if len(figures) != len(one.sizes):
            raise checks.UserError(f"{what} has {len(figures)} figures, but there are {len(one.sizes)} sizes.")
