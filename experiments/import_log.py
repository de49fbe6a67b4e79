"""Does the choice of pre-training data matter in somebody else's results? Their log, through the same analyses.

Question  Given accuracies of runs by source, method, target and shots: how far are sources apart, does that fade with
          shots, do sources rank alike, and how many images of one source equal another?
Source    arXiv 2302.13602 and its published results file (947 rows), whose column names are the defaults.
Run       python -m experiments.import_log --csv Hyperparameters_results.csv --out runs/log
File      A line for each run, comma or tab between columns: where its source, target and method stand (us, ds, loss),
          and accuracies in per cent in columns named by shots (1, 5, 10, 20, 100, 200, full); blank or -1 is missing.
          Further columns (us_epochs, ds_lr, ...) are settings, of which the best is taken.
              loss,us,ds,ds_lr,5,full
              CLIP_LP-FT,LAION2.7m,CIFAR100,0.001,47.0,83.7
Limits    A log has no predictions of single images and, here, one seed: nothing has an interval. The best of a grid is
          chosen on the test set, as its authors chose it, so that every accuracy is optimistic. How many images it was
          measured on is told where the accuracies themselves show it.
"""

import csv
import dataclasses
import io
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

import jdt

EQUAL = ("CC3m", "CC12m", "Redcaps2.7m", "YFCC2.7m", "LAION2.7m", "WIT2.7m", "Shutterstock2.7m")
CURVE = ("LAION1m=1e6", "LAION2.7m=2.7e6", "LAION5m=5e6", "LAION7.5m=7.5e6", "LAION9.6m=9.6e6", "LAION15m=15e6")
REFERENCES = ("IN1K=1.28e6",)
FEW = 20
"""Shots up to which the fade looks for the largest spread, as in the paper."""
FILE = "log.json"
"""In the folder of an imported log: everything that was found."""
NOTE = (
    "One run for each setting and no predictions of single images: no figure has an interval, and small differences may"
    " be noise."
)
DRAWN = (
    "Test images grow with the shots, as accuracies tell, which are multiples of 1 / images: {}. Accuracies at"
    " different shots are of other test images there, and those at few shots of very few."
)
SELECTED = "Every accuracy is the best of its grid on the test set, as the log's authors select: all are optimistic."


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    csv: pathlib.Path = pathlib.Path("Hyperparameters_results.csv")
    """The results file."""
    out: pathlib.Path = pathlib.Path("runs/log")
    """Folder for tables, log.json and the page."""
    source: str = "us"
    """Column with the names of sources."""
    target: str = "ds"
    """Column with the names of targets."""
    method: str = "loss"
    """Column with the names of methods, METHOD or METHOD_TRANSFER."""
    architecture: str = "arch"
    """Column with the names of architectures, where there is one."""
    shares: bool = False
    """Accuracies run to 1 rather than to 100."""
    equal: tuple[str, ...] = ()
    """Sources of equal size, which spreads are taken over; those of the published log that are there when left out, and
    else all but --scratch."""
    curve: tuple[str, ...] = ()
    """Sizes of one source, as NAME=IMAGES ascending; those of the published log that are there when left out."""
    references: tuple[str, ...] = ()
    """What the curve is compared with, as NAME=IMAGES; likewise."""
    scratch: str = "Scratch"
    """Name of the source that is none."""


PRESETS = {"demo": Config()}


def main(config: Config) -> None:
    """Read, analyse, save and print."""
    columns = jdt.analyses.LogColumns(config.source, config.target, config.method, config.architecture)
    log = jdt.analyses.read_accuracy_log(config.csv, columns, percent=not config.shares)
    cells = jdt.analyses.best_of_grid(log)
    names = list(dict.fromkeys(log.source))
    equal = chosen(config.equal, EQUAL, names) or tuple(name for name in names if name != config.scratch)
    curve = sized(config.curve, CURVE, names)
    references = sized(config.references, REFERENCES, names)
    shots = sorted({*log.shots}, key=lambda k: (k is None, k or 0))
    content = jdt.report.Pretraining(
        title=f"Pre-training data in {config.csv.name}",
        text=f"{len(log.accuracy)} accuracies of {len(names)} sources on {len({*log.target})} targets.",
        shots=tuple(shots),
        candidates=equal,
        accuracies=accuracies(cells),
        spreads=tuple(spreads(cells, equal, shots)),
        sizes=tuple(sizes(cells, curve, references, shots)),
        gaps=tuple(gaps(cells)),
        gains=tuple(gains(cells, config.scratch)),
        stability=tuple(stability(cells, equal, shots)),
    )
    tested = jdt.analyses.images_tested(log)
    drawn = jdt.analyses.drawn_tests(tested)
    notes = (SELECTED, NOTE, *([DRAWN.format(listed(drawn, tested))] if drawn else []))
    save(config, cells, content, equal, tested, notes)
    page = jdt.report.add_pretraining(config.out, content, name="log", warnings=notes)
    print(f"{len(cells)} cells, {len(content.spreads)} spreads, {len(content.sizes)} size curves: {page}")
    if drawn:
        print(notes[-1])


def listed(drawn: Mapping[str, int], tested: Sequence[jdt.analyses.ImagesTested]) -> str:
    """Targets with their test images at every number of shots, in words."""

    def of(target: str) -> str:
        known = sorted((one.shots, one.images) for one in tested if one.target == target and one.shots)
        return ", ".join(f"{images:,} at {k} {'shot' if k == 1 else 'shots'}" for k, images in known)

    return "; ".join(f"{target} ({of(target)})" for target in drawn)


def chosen(asked: Sequence[str], default: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The names asked for, each of which must be there, or those of the default that are."""
    for name in asked:
        jdt.checks.require_known("source", name, names)
    return tuple(asked) or tuple(name for name in default if name in names)


def sized(asked: Sequence[str], default: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Sources with their numbers of images."""
    found = {}
    for pair in asked or [pair for pair in default if pair.partition("=")[0] in names]:
        name, _, images = pair.partition("=")
        jdt.checks.require_known("source", name, names)
        try:
            found[name] = int(float(images))
        except (ValueError, OverflowError) as error:
            raise jdt.checks.UserError(f"{pair!r} has no number of images: write NAME=IMAGES, like X=2.7e6.") from error
        jdt.checks.require_at_least(f"images of {name}", found[name], 1)
    return found


def figure(value: float, unit: str, text: str = "", n: int = 1) -> jdt.report.Figure:
    """A figure without an interval."""
    return jdt.report.Figure(float(value), None, None, n, unit, text)


def share(value: float) -> jdt.report.Figure:
    """A share, one run."""
    return figure(value, jdt.report.SHARE)


def difference(value: float) -> jdt.report.Figure:
    """A difference of shares, one run each."""
    return figure(value, jdt.report.DIFFERENCE)


def rules(cells: Sequence[jdt.analyses.BestOfGrid]) -> list[tuple[str, str]]:
    """Methods with their transfers, in the order of the file."""
    return list(dict.fromkeys((cell.method, cell.transfer) for cell in cells))


def accuracies(cells: Sequence[jdt.analyses.BestOfGrid]) -> tuple[jdt.report.PretrainingAccuracy, ...]:
    """The study's table."""
    found: dict[tuple[str, str, str, str], dict[int | None, jdt.report.Figure]] = {}
    for cell in cells:
        key = (cell.method, cell.source, cell.target, cell.transfer)
        found.setdefault(key, {})[cell.shots] = share(cell.accuracy)
    return tuple(jdt.report.PretrainingAccuracy(*key, accuracy) for key, accuracy in found.items())


def spreads(cells: Sequence[jdt.analyses.BestOfGrid], equal: Sequence[str], shots: Sequence[int | None]):
    """Spread between sources of equal size, of each method, transfer and target."""
    few = [i for i, k in enumerate(shots) if k is not None and k <= FEW]
    for method, transfer in rules(cells):
        targets = list(dict.fromkeys(cell.target for cell in cells))
        table = jdt.analyses.cell_table(cells, method, transfer, targets=targets, shots=shots, sources=equal)
        parts = {
            "spread": (jdt.analyses.spread(table), difference),
            "relative": (jdt.analyses.relative_spread(table), share),
            "pairwise": (jdt.analyses.pairwise_difference(table), difference),
        }
        whole = parts["spread"][0]
        for t, target in enumerate(targets):
            there = [i for i in range(len(shots)) if math.isfinite(whole[t, i])]
            if not there:
                continue
            full = shots.index(None) if None in shots and shots.index(None) in there else None
            fades = full is not None and any(i in there for i in few)
            yield jdt.report.PretrainingSpread(
                target=target,
                method=method,
                transfer=transfer,
                **{name: {shots[i]: made(values[t, i]) for i in there} for name, (values, made) in parts.items()},
                best={shots[i]: equal[max(_there(table[t, i]), key=table[t, i].__getitem__)] for i in there},
                worst={shots[i]: equal[min(_there(table[t, i]), key=table[t, i].__getitem__)] for i in there},
                left=share(float(jdt.analyses.fade(whole[t, few], whole[t, full]))) if fades else None,
                faded=difference(float(jdt.analyses.fade_gap(whole[t, few], whole[t, full]))) if fades else None,
            )


def _there(values) -> list[int]:
    return [i for i, value in enumerate(values) if math.isfinite(value)]


def sizes(
    cells: Sequence[jdt.analyses.BestOfGrid],
    curve: Mapping[str, int],
    references: Mapping[str, int],
    shots: Sequence[int | None],
):
    """Size curves with the equivalence of every reference read off, at the transfer of the curve."""
    for method, transfer in rules(cells):
        for target in dict.fromkeys(cell.target for cell in cells):
            for k in shots:
                at = {
                    (c.source, c.method): c for c in cells if (c.transfer, c.target, c.shots) == (transfer, target, k)
                }
                points = [(at[name, method], images) for name, images in curve.items() if (name, method) in at]
                if len(points) < 2:
                    continue
                rates = jdt.analyses.exactly(np.array([point.accuracy for point, _ in points]))
                images = [size for _, size in points]
                lines = [
                    reference(name, size, cell, rates, images)
                    for name, size in references.items()
                    for (source, _), cell in at.items()
                    if source == name
                ]
                networks = sorted({point.architecture for point, _ in points} | {""})[1:]
                mixed = f"Networks differ along the curve: {', '.join(networks)}." if len(networks) > 1 else ""
                yield jdt.report.PretrainingSize(
                    source=f"{points[0][0].source} to {points[-1][0].source}",
                    method=method,
                    target=target,
                    transfer=transfer,
                    shots=k,
                    sizes=tuple(images),
                    accuracy=tuple(share(point.accuracy) for point, _ in points),
                    references=tuple(lines),
                    note=mixed,
                )


def reference(
    name: str, images: int, cell: jdt.analyses.BestOfGrid, curve: jdt.analyses.Resampled, points: Sequence[int]
) -> jdt.report.PretrainingReference:
    """What a source of one size is worth in images of the curve."""
    found = jdt.analyses.data_equivalence(points, curve, jdt.analyses.exactly(cell.accuracy), images)
    needed = found.size.value if found.size.value else float(points[0])  # At most the smallest size.
    return jdt.report.PretrainingReference(
        name=f"{name}, {cell.method}",
        images=images,
        accuracy=share(cell.accuracy),
        needed=figure(needed, "images", found.size.text),
        ratio=figure(needed / images, "ratio", found.ratio.text),
        difference=tuple(difference(value - cell.accuracy) for value in curve.value),
    )


def gaps(cells: Sequence[jdt.analyses.BestOfGrid]):
    """Accuracy of one method minus that of another, at the same source, target, transfer and shots."""
    at = {(cell.method, cell.source, cell.target, cell.transfer, cell.shots): cell.accuracy for cell in cells}
    methods = list(dict.fromkeys(cell.method for cell in cells))
    for other, method in itertools.combinations(methods, 2):
        for cell in cells:
            theirs = at.get((other, cell.source, cell.target, cell.transfer, cell.shots))
            if cell.method == method and theirs is not None:
                yield jdt.report.PretrainingGap(
                    method, other, cell.source, cell.target, cell.transfer, cell.shots,
                    difference(cell.accuracy - theirs),
                )  # fmt: skip


def gains(cells: Sequence[jdt.analyses.BestOfGrid], scratch: str):
    """Gain over training from scratch, where the log has that, with whatever transfer it has."""
    without = {(cell.target, cell.shots): cell.accuracy for cell in cells if cell.source == scratch}
    for cell in cells:
        alone = without.get((cell.target, cell.shots))
        if alone is None or cell.source == scratch:
            continue
        rate = np.array([cell.accuracy])
        yield jdt.report.PretrainingGain(
            method=cell.method,
            source=cell.source,
            target=cell.target,
            transfer=cell.transfer,
            shots=cell.shots,
            gain=difference(jdt.analyses.gain_over_scratch(rate, alone)[0]),
            error_reduction=share(jdt.analyses.error_reduction(rate, alone)[0]),
        )


def stability(cells: Sequence[jdt.analyses.BestOfGrid], equal: Sequence[str], shots: Sequence[int | None]):
    """Whether sources rank alike at few shots and with all images, on each target."""
    if None not in shots:
        return
    for method, transfer in rules(cells):
        targets = list(dict.fromkeys(cell.target for cell in cells))
        table = jdt.analyses.cell_table(cells, method, transfer, targets=targets, shots=shots, sources=equal)
        ranks = jdt.analyses.rank_stability(table)  # [targets, shots, shots]
        for t, target in enumerate(targets):
            for i, k in enumerate(shots[:-1]):
                if math.isfinite(ranks[t, i, -1]):
                    both = len({*_there(table[t, i])} & {*_there(table[t, -1])})
                    found = figure(ranks[t, i, -1], "Spearman correlation", n=both)
                    where = f"{target}, {method} {transfer}"
                    yield jdt.report.PretrainingStability(f"{where}, {k} shots", f"{where}, all images", found, both)


def save(
    config: Config,
    cells: Sequence[jdt.analyses.BestOfGrid],
    content: jdt.report.Pretraining,
    equal: Sequence[str],
    tested: Sequence[jdt.analyses.ImagesTested],
    notes: Sequence[str],
) -> None:
    """Write the cells as CSV and JSON; equal input writes equal files."""
    rows = [dataclasses.asdict(cell) for cell in cells]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows([{**row, "shots": "all" if row["shots"] is None else row["shots"]} for row in rows])
    found = {
        "log": config.csv.name,
        "equal": list(equal),
        "selected_on": "test",
        "intervals": None,
        "notes": list(notes),
        "images_tested": [dataclasses.asdict(one) for one in tested],
        "cells": rows,
        "spreads": [
            {
                **{name: getattr(one, name) for name in ("target", "method", "transfer")},
                "spread": {_words(k): each.value for k, each in one.spread.items()},
                "relative": {_words(k): each.value for k, each in one.relative.items()},
                "fade": one.left.value if one.left else None,
            }
            for one in content.spreads
        ],
        "equivalence": [
            {
                **{name: getattr(one, name) for name in ("target", "method", "transfer", "source")},
                "shots": _words(one.shots),
                "reference": by.name,
                "images": by.needed.text if by.needed else None,
                "ratio": by.ratio.text if by.ratio else None,
            }
            for one in content.sizes
            for by in one.references
        ],
        "gaps": [
            {
                **{name: getattr(one, name) for name in ("method", "other", "source", "target", "transfer")},
                "shots": _words(one.shots),
                "gap": one.gap.value,
            }
            for one in content.gaps
        ],
    }
    plain = json.dumps(found, indent=2, allow_nan=False)
    config.out.mkdir(parents=True, exist_ok=True)
    for name, written in (("cells.csv", text.getvalue()), (FILE, plain)):
        staged = config.out / f".{name}"
        staged.write_text(written, encoding="utf-8")
        staged.replace(config.out / name)


def _words(shots: int | None) -> str:
    return "all" if shots is None else str(shots)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
