"""What a study of bias transfer says on the terminal: a table, sweeps as lines, the units to blame in words."""

from collections.abc import Iterator, Sequence

import numpy as np
from rich import box
from rich.table import Table

import jdt
from experiments import bias_page
from experiments.bias_blame import ALL, BLAMED, RANDOM, Blame
from experiments.bias_measures import Measured, find
from experiments.bias_setup import CLEAN, SCRATCH, Study, Variant


def table(study: Study, measured: Sequence[Measured]) -> Table:
    """Of plain targets; what was varied is told sweep by sweep."""
    metric = bias_page.SHOWN[study.kind][0]
    base = bias_page.base_composition(study)
    shown = [one for one in find(measured, metric=metric) if not _changes(one.variant, base)]
    twin = next((one.twin for one in shown), CLEAN)
    title = f"{metric}, mean over seeds; difference to {twin} in points"
    if any(map(bias_page.is_one_model, shown)):
        title += ",\nwith intervals over test images where all seeds are one model"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    arms = dict.fromkeys(one.arm for one in shown)
    has_of = any(one.of or study.groups for one in shown)
    for name in ("target", *(("pattern",) if study.stamps else ()), *arms, *(("of",) if has_of else ()), "difference"):
        table.add_column(name, overflow="fold")
    rows: dict[tuple[str, str, str], dict[str, Measured]] = {}
    for one in shown:
        rows.setdefault((one.variant.name, one.mode, one.pattern), {})[one.arm] = one
    for (name, mode, pattern), found in rows.items():
        gaps = {
            arm: _in_points(bias_page.gap_figure(gap, ""), unit="", between="\n")
            for arm, one in found.items()
            if (gap := bias_page.transfer_of(one)) is not None and arm != SCRATCH
        }
        cells = [
            f"{name}\n{mode}",
            *((f"{pattern}\n→ {bias_page.pushed_to(study, list(found.values()))}",) * bool(study.stamps)),
        ]
        cells += [_percent(found[arm].values) if arm in found else "" for arm in arms]
        cells += [_of_all(study, list(found.values()))] if has_of else []
        only = len(gaps) == 1
        table.add_row(*cells, "\n".join(words if only else f"{arm} {words}" for arm, words in gaps.items()))
    return table


def _of_all(study: Study, row: Sequence[Measured]) -> str:
    """Smallest to largest denominator of the rates of a row."""
    counts = [count for one in row for count in one.of]
    if not counts:
        counts = np.bincount(study.groups[row[0].variant.target], minlength=2).tolist()
    return bias_page.range_words(counts).replace(" to ", "\nto ")


def sweep_words(study: Study, curves: Sequence[jdt.report.BiasCurve], measured: Sequence[Measured]) -> Iterator[str]:
    """Each thing that was varied as a line a mode and source."""
    for curve in curves:
        yield f"{curve.title} ({curve.metric}): {' '.join(f'{x:g}' for x in curve.x)}"
        for line, figures in curve.lines.items():
            yield f"  {line}: {' '.join('none' if np.isnan(one.value) else f'{one.value:.1%}' for one in figures)}"
    crossed = {one.variant.name for one in measured if _changes(one.variant, bias_page.base_composition(study)) > 1}
    if crossed:
        yield f"{len(crossed)} variants of targets differ in more than one thing: they are in bias.json alone."


def _changes(variant: Variant, composition: float | None) -> int:
    """How many things were varied."""
    varied = variant.fraction != 1, variant.decay is not None, variant.debias != 0, variant.composition != composition
    return sum(varied)


def _percent(values: np.ndarray) -> str:
    return f"{np.nanmean(values):.1%}" if np.isfinite(values).any() else "no images"


def blame_words(study: Study, blame: Blame) -> list[str]:
    """Which units carry the bias, and what dropping them does, in lines."""
    names = study.base.units.names
    words = [
        f"most influence on {blame.output} ({blame.target}, {blame.mode}): "
        + ", ".join(f"{names[u]} {blame.influences.influence[u, 0]:+.3f}" for u in blame.order[:5])
    ]
    if blame.auroc is not None and blame.control is not None:
        control = blame.control
        words.append(
            f"units that carry the pattern: AUROC {blame.auroc.value:.3f}, permuted masks "
            f"{control.value:.3f} ({control.low:.3f} to {control.high:.3f})"
        )
    words += [f"{name}: {_in_points(one)}" for name, one in _drop_figures(study, blame).items()]
    return words


def _in_points(one: jdt.report.Figure, *, unit: str = " points", between: str = " ") -> str:
    if np.isnan(one.value):
        return "no images"
    ends = "" if one.low is None or one.high is None else f"{between}({100 * one.low:+.1f} to {100 * one.high:+.1f})"
    return f"{100 * one.value:+.1f}{unit}{ends}"


def _drop_figures(study: Study, blame: Blame) -> dict[str, jdt.report.Figure]:
    """What dropping the units to blame leaves of the bias, and what it costs; paired over seeds."""
    arm, twin, found = blame.pattern, study.twin, {}
    if not blame.dropped:
        return found
    for what in (ALL, BLAMED, RANDOM):
        gap = jdt.analyses.paired(blame.attack[arm, what], blame.attack[twin, ALL])
        found[f"attack success above the twin that has all units, {what}"] = bias_page.gap_figure(
            gap, f"attack success rate of {arm} models {what} minus that of clean ones with all units"
        )
    lost = jdt.analyses.paired(blame.accuracy[arm, BLAMED], blame.accuracy[arm, ALL])
    found[f"accuracy {BLAMED}"] = bias_page.gap_figure(lost, f"clean accuracy of {arm} models {BLAMED} minus with all")
    return found
