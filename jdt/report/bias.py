"""Bias transfer on the page: verdicts, bars by target and mode, curves, predictions, and the units that carry it."""

import os
from collections.abc import Sequence

from jdt import checks
from jdt.report import plots
from jdt.report.bias_content import Bias, BiasStrip
from jdt.report.bias_pictures import bar_pictures, curve_picture, histogram_picture
from jdt.report.bias_plots import arm_looks, split_line
from jdt.report.bias_tables import bar_table, bias_tables, blamed_table, verdict_table
from jdt.report.bias_words import NO_IMAGES, bias_summary
from jdt.report.blocks import Block, Section, Strip, StripGroup, Strips, Text
from jdt.report.figures import Picture, plate, safe_stem
from jdt.report.page import add_section
from jdt.report.parts import figure_table, figure_tiles
from jdt.report.thumbnails import embedded
from jdt.report.words import clean
from jdt.store.files import Place

MOST_TILES, MOST_PAIRS = 6, 5
"""Key figures at the head of the section; pairs of images in a strip."""
_STRIP_NOTE = "In every pair, the left image is without the pattern and the right one is the same image with it."


def add_bias(
    run: str | os.PathLike[str],
    found: Bias,
    *,
    name: str = "bias",
    relative: bool = False,
    warnings: Sequence[str] = (),
) -> Place:
    """Show on the page of a run whether a bias of the source comes along (arXiv 2207.02842), with figures and tables.

    Args:
      run: The run directory.
      found: What was measured.
      name: Of the section; the same name again replaces it.
      relative: Whether influences of the units to blame are relative to the average unit (subsets of one size).
      warnings: What the reader must know before believing a number.

    Returns:
      The path of the page.

    Raises:
      UserError: If parts do not fit together, or where the run cannot be written.
    """
    _check(found)
    parts: list[Block] = [Text(found.text)] if found.text else []
    parts += figure_tiles(found.figures, MOST_TILES, NO_IMAGES)
    if found.bars:
        parts.append(verdict_table(found.bars, found.compared_with))
    drawn = _pictures(found, name)
    parts += [plate(one, stem, title) for stem, title, one in drawn if one.name == "bars"]
    if found.bars:
        parts.append(bar_table(found.bars, f"tables/{name}_bars.csv", found.compared_with))
    parts += [plate(one, stem, title) for stem, title, one in drawn if one.name != "bars"]
    tables = bias_tables(found, name)
    if found.strips:
        groups_of = tuple(map(_strip_group, found.strips))
        paired = [one.paired for one in found.strips]
        title = "With and without the pattern" if all(paired) else "Images of the groups"
        parts.append(Strips(groups_of, title, _STRIP_NOTE if any(paired) else ""))
    if found.blamed:
        parts.append(blamed_table(found, relative, f"tables/{name}_blamed.csv"))
    if found.figures:
        label = f"Key figures of {clean(found.title)}"
        parts.append(figure_table(found.figures, label=label, title="Key figures", link=f"tables/{name}_figures.csv"))
    others = tuple(f"tables/{file}" for file in tables if file.endswith(("_curves.csv", "_predictions.csv")))
    if others:
        parts.append(Strips((), note="Curves and predictions are in tables, too.", links=others))
    title = clean(found.title)
    summary = tuple(bias_summary(found.bars, found.compared_with))
    section = Section(name, 200, title, tuple(parts), page_title=title, summary=summary, warnings=tuple(warnings))
    pictures = {f"{stem}_{one.name}": one for stem, _, one in drawn}
    return add_section(run, section, pictures=pictures, tables=tables)


def _pictures(found: Bias, name: str) -> list[tuple[str, str, Picture]]:
    """All figures in their order, with the stems of their files and their titles."""
    arms = [arm for bar in found.bars for arm in bar.rates]
    arms += [split_line(line)[0] for curve in found.curves for line in curve.lines]
    looks = arm_looks(arms)
    with plots.drawing():
        made = [(metric, title, one) for metric, title, one in bar_pictures(found.bars, looks)]
        made += [(curve.title, clean(curve.title), curve_picture(curve, looks)) for curve in found.curves]
        made += [(one.title, f"Predictions: {clean(one.title)}", histogram_picture(one)) for one in found.histograms]
    # Numbered, so that titles which differ only in unsafe characters stay apart.
    return [(f"{name}_{i}_{safe_stem(what)}", title, one) for i, (what, title, one) in enumerate(made, start=1)]


def _check(found: Bias) -> None:
    if not (found.bars or found.curves or found.histograms or found.strips or found.blamed):
        raise checks.UserError(f"the bias study {found.title!r} has nothing to show: give it at least one bar.")
    for bar in found.bars:
        if unknown := {*bar.transfer, *bar.denominators, *bar.from_scratch} - {*bar.rates}:
            raise checks.UserError(
                f"the bar of {bar.pattern!r} on {bar.target!r} has a difference or denominator of "
                f"{sorted(unknown)}, but rates of {sorted(bar.rates)} alone."
            )
    for curve in found.curves:
        if not curve.x or (curve.log_x and min(curve.x) < 0):
            raise checks.UserError(f"the curve {curve.title!r} has points {curve.x}, which its axis cannot show.")
        for line, figures in curve.lines.items():
            if len(figures) != len(curve.x):
                raise checks.UserError(
                    f"the line {line!r} of the curve {curve.title!r} has {len(figures)} points in place of "
                    f"{len(curve.x)}."
                )
    for strip in found.strips:
        if not len(strip.images) or (strip.paired and len(strip.images) % 2):
            raise checks.UserError(
                f"the images {strip.caption!r} are {len(strip.images)}, but every image needs the same one with the "
                "pattern after it."
            )
    for one in found.histograms:
        for kind, counts in one.panels.items():
            if any(len(part) != len(one.class_names) for part in counts):
                raise checks.UserError(
                    f"the predictions of {kind!r} in {one.title!r} are of {[len(part) for part in counts]} classes, "
                    f"but {len(one.class_names)} are named."
                )


def _strip_group(strip: BiasStrip) -> StripGroup:
    step = 2 if strip.paired else 1
    pairs = [strip.images[i : i + step] for i in range(0, len(strip.images), step)][:MOST_PAIRS]
    alt = f"{'an image without and with the pattern' if strip.paired else 'an image'}: {clean(strip.caption)}"
    return StripGroup(tuple(Strip("", "target", image=embedded(pair, alt)) for pair in pairs), text=strip.caption)
