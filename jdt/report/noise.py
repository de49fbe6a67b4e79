"""Noisy pre-training on the page: verdicts, accuracy against noise, spectra, what tuning repairs, suspects."""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jdt import checks
from jdt.report import plots
from jdt.report.blocks import Block, Section, Strip, StripGroup, Strips, Text
from jdt.report.content import Figure
from jdt.report.figures import plates_of
from jdt.report.noise_content import Noise, NoiseScatter
from jdt.report.noise_pictures import (
    ABLATION,
    ACCURACY,
    EFFECT,
    FRACTIONS,
    RETRAINING,
    ROBUSTNESS,
    ROC,
    SCATTERS,
    SPECTRA,
    noise_pictures,
)
from jdt.report.noise_tables import (
    accuracy_table,
    auroc_words,
    effect_table,
    example_table,
    noise_tables,
    retraining_table,
    spectrum_table,
    tuning_table,
    unit_table,
)
from jdt.report.noise_words import spectrum_words
from jdt.report.page import add_section
from jdt.report.parts import figure_table, figure_tiles
from jdt.report.requirements import VERDICTS, bar_summary, bar_table, exploratory_words
from jdt.report.thumbnails import embedded
from jdt.report.words import NOT_MEASURED, clean
from jdt.store.files import Place

ORDER = 220
MOST_TILES, MOST_VIEW_IMAGES = 6, 3
"""Key figures at the head of the section; images of every set of test images."""


def add_noise(
    run: str | os.PathLike[str],
    found: Noise,
    *,
    name: str = "noise",
    warnings: Sequence[str] = (),
) -> Place:
    """Show on the page of a run what label noise in the source does to transfer (arXiv 2309.17002).

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
        plates, pictures = plates_of(name, noise_pictures(found))
    title = clean(found.title)
    section = Section(name, ORDER, title, tuple(_blocks(found, name, plates)), page_title=title,
                      summary=tuple(bar_summary(found.bars)), warnings=tuple(warnings))  # fmt: skip
    return add_section(run, section, pictures=pictures, tables=noise_tables(found, name))


def _blocks(found: Noise, name: str, plates: Mapping[str, list[Block]]) -> list[Block]:
    """All parts in their order."""

    def link(table: str) -> str:
        return f"tables/{name}_{table}.csv"

    parts: list[Block] = [Text(found.text)] if found.text else []
    parts += figure_tiles(found.figures, MOST_TILES, NOT_MEASURED)
    if found.bars:
        parts.append(bar_table(found.bars, link("bars")))
    if any(len(images) for images in found.views.values()):
        parts.append(_views(found))
    parts += plates.get(ACCURACY, [])
    if found.sets:
        parts.append(accuracy_table(found.sets, found.rates, link("accuracy")))
    parts += plates.get(EFFECT, [])
    parts += [Text(words) for words in exploratory_words(found.bars)]
    if table := effect_table(found.sets, found.rates, link("accuracy")):
        parts.append(table)
    if found.spectra:
        how = spectrum_words(one.center for one in found.spectra)
        parts += [
            Text(how, "The spectrum of features"),
            *plates.get(SPECTRA, []),
            spectrum_table(found, link("spectra")),
        ]
    parts += plates.get(SCATTERS, [])
    if found.tuning:
        parts.append(tuning_table(found.tuning, link("tuning")))
    for part in (ABLATION, FRACTIONS, ROBUSTNESS):
        parts += plates.get(part, [])
    parts += _suspects(found, link, plates)
    if found.figures:
        label = f"Key figures of {clean(found.title)}"
        parts.append(figure_table(found.figures, label=label, title="Key figures", link=link("figures")))
    return parts


def _suspects(found: Noise, link: Callable[[str], str], plates: Mapping[str, list[Block]]) -> list[Block]:
    if (suspects := found.suspects) is None:
        return []
    words = " ".join(filter(None, [suspects.text, auroc_words(suspects)]))
    parts: list[Block] = [Text(words, "Which source labels are wrong")] if words else []
    parts += plates.get(ROC, [])
    if suspects.units:
        parts.append(unit_table(suspects, link("units")))
    if suspects.examples:
        parts.append(example_table(suspects, link("examples")))
    parts += plates.get(RETRAINING, [])
    if suspects.retraining:
        parts.append(retraining_table(suspects, link("retraining")))
    return parts


def _views(found: Noise) -> Strips:
    strips = tuple(
        Strip(
            clean(view.rpartition("+")[2] or view),
            "target",
            image=embedded(images[:MOST_VIEW_IMAGES], f"images of {clean(view)}"),
        )
        for view, images in found.views.items()
        if len(images)
    )
    return Strips((StripGroup(strips),), "What test images look like", "The same images in every set, where it is one.")


def _check(found: Noise) -> None:
    if not any((found.bars, found.sets, found.spectra, found.scatters, found.robustness, found.tuning,
                found.ablations, found.fractions, found.suspects)):  # fmt: skip
        raise checks.UserError(
            f"the noise study {found.title!r} has nothing to show: give it at least one requirement."
        )
    if not found.rates or list(found.rates) != sorted({*found.rates}):
        raise checks.UserError(f"noise rates are {found.rates}, but must ascend, and there must be one.")
    for bar in found.bars:
        checks.require_known(f"verdict of {bar.name}", bar.verdict, VERDICTS)
    for one in found.sets:
        for what, lines in (("accuracy", one.accuracy), ("effect", one.effect)):
            _check_lines(lines, len(found.rates), f"{what} on {one.name!r}", "noise rates")
    for one in found.spectra:
        _check_lines({"SVE": one.sve, "LSVR": one.lsvr}, len(found.rates), f"spectrum of {one.name!r}", "noise rates")
        if one.curve is not None and len(one.curve) != len(found.rates):
            raise checks.UserError(
                f"the spectrum of {one.name!r} has {len(one.curve)} curves, but there are {len(found.rates)} noise "
                "rates."
            )
    for one in found.fractions:
        _check_lines(one.accuracy, len(one.fractions), f"accuracy on {one.name!r}", "fractions")
    for one in (*found.scatters, *found.robustness):
        _check_scatter(one)
    for one in found.suspects.rankings if found.suspects else ():
        if np.shape(one.false_positives) != np.shape(one.true_positives):
            raise checks.UserError(
                f"the ROC curve of {one.name!r} has {len(one.false_positives)} false and {len(one.true_positives)} "
                "true positive rates: give a pair for each point."
            )


def _check_lines(lines: Mapping[str, tuple[Figure, ...]], count: int, what: str, of: str) -> None:
    for line, figures in lines.items():
        if len(figures) != count:
            raise checks.UserError(f"{line!r} of the {what} has {len(figures)} figures, but there are {count} {of}.")


def _check_scatter(one: NoiseScatter) -> None:
    if len({np.shape(one.x), np.shape(one.y), np.shape(one.rate)}) != 1:
        raise checks.UserError(
            f"the scatter {one.title!r} has {len(one.x)} x, {len(one.y)} y and {len(one.rate)} noise rates: give one "
            "of each for every model."
        )
