"""What a study of pre-training data says: on the terminal, in `pretraining.json`, and on the page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import jdt
from experiments import pretraining_page
from experiments.pretraining_bars import judge
from experiments.pretraining_families import clean_of, count_of
from experiments.pretraining_measures import Cell, Measured, plain, rule_of, shots_name
from experiments.pretraining_setup import Config, Study, near_of
from experiments.pretraining_worth import Worth, equivalences
from experiments.verdicts import Verdict

FILE, CHOICE = "pretraining.json", "choice.json"
"""What a study found, and which source experiments.choose_source says to take."""
SHOWN = ("accuracies", "spreads", "gaps", "gains", "stability", "zero_shot")
"""Figures of the page that `pretraining.json` has as well."""


def publish(config: Config, study: Study, measured: Measured, say: Callable[..., None]) -> jdt.store.Place:
    """Judge, print, and write beside the models; returns the place of the page."""
    run = jdt.store.run_path(config.out)
    worth = equivalences(config, study, measured)
    verdicts = judge(config, study, measured, worth)
    found = content(config, study, measured, verdicts, worth)
    groups: dict[tuple[str, str, str], list[jdt.report.PretrainingAccuracy]] = {}
    for one in found.accuracies:
        groups.setdefault((one.target, one.method, one.transfer), []).append(one)
    for group in groups.values():
        say(jdt.report.shots_table(group, study.shots))
    for one in worth:
        say(one.words, markup=False)
    for one in verdicts:
        say(str(one), markup=False)
    shown = {name: [dataclasses.asdict(one) for one in getattr(found, name)] for name in SHOWN}
    jdt.store.write_json(run / FILE, {**_plain(config, study, measured, verdicts, worth), "page": shown})
    figures = {name: dataclasses.asdict(one) for name, one in found.figures.items()}
    jdt.store.write_json(run / "summary.json", figures)
    return jdt.report.add_pretraining(run, found, warnings=warnings_of(measured))


def content(
    config: Config, study: Study, measured: Measured, verdicts: Sequence[Verdict], worth: Sequence[Worth]
) -> jdt.report.Pretraining:
    """All that the page has."""
    shown = pretraining_page.sizes(config, study, measured, worth)
    noisy = {name for name in study.sources.names if clean_of(study.sources, name) is not None}
    accuracies = pretraining_page.accuracies(measured)
    spreads = pretraining_page.spreads(study, measured)
    gains = pretraining_page.gains(config, study, measured)
    return jdt.report.Pretraining(
        title=f"Pre-training data, {config.source} → {', '.join(config.target)}",
        text=_question(config, study),
        shots=study.shots,
        bars=pretraining_page.bars(verdicts),
        sources=pretraining_page.sources(study),
        accuracies=accuracies,
        spreads=spreads,
        sizes=tuple(one for one in shown if one.source not in noisy),
        label_worth=tuple(one for one in shown if one.source in noisy),
        gaps=pretraining_page.gaps(config, measured),
        optimism=pretraining_page.optimism(measured),
        gains=gains,
        stability=pretraining_page.stability(study, measured),
        zero_shot=pretraining_page.zero_shot(config, study, measured),
        heat_shots=config.at_shots,
        candidates=study.compared,
        figures=_figures(study, accuracies, spreads, shown),
    )


def _figures(
    study: Study,
    accuracies: Sequence[jdt.report.PretrainingAccuracy],
    spreads: Sequence[jdt.report.PretrainingSpread],
    sizes: Sequence[jdt.report.PretrainingSize],
) -> dict[str, jdt.report.Figure]:
    """Key figures: of the first method and rule."""
    found: dict[str, jdt.report.Figure] = {}
    method, rule = study.blocks[0].method, rule_of(study)
    for one in spreads:
        if (one.method, one.transfer) == (method, rule):
            found |= {f"spread on {one.target}, {shots_name(k)}": value for k, value in one.spread.items()}
            if one.faded is not None:
                found[f"fade of the spread on {one.target}"] = one.faded
    for one in sizes:
        for reference in one.references:
            if reference.ratio is not None:
                name = f"images of {one.source} for one of {reference.name}, {one.target}, {shots_name(one.shots)}"
                found[name] = reference.ratio
    for one in accuracies:
        if (one.method, one.transfer) == (method, rule) and one.source in study.compared:
            found[f"accuracy of {one.source} on {one.target}, {shots_name(None)}"] = one.accuracy[None]
    return {name: one for name, one in found.items() if np.isfinite(one.value)}


def _question(config: Config, study: Study) -> str:
    counts = {count_of(study.sources, name) for name in study.compared}
    return (
        f"{config.seeds} source models of each of {len(study.compared)} sources of equal size "
        f"({', '.join(f'{count:,}' for count in sorted(counts))} images), those of a seed with equal initial values "
        f"and equal few-shot draws ({config.draws} of each seed). Every model takes equally many steps. Settings of "
        f"transfer are chosen on {config.validation:.0%} of the targets' training images, which nothing is trained "
        "with; all accuracies are of the same test images."
    )


def warnings_of(measured: Measured) -> list[str]:
    """What the reader must know."""
    words = []
    if measured.lost:
        words.append(
            f"{measured.lost} transfers diverged with some setting; a setting with which any model did is not chosen."
        )
    if measured.cells and measured.cells[0].correct.shape[1] < 2:
        words.append("There is one seed, so that intervals are over draws and test images alone: pass --seeds 5.")
    return words


def _plain(
    config: Config,
    study: Study,
    measured: Measured,
    verdicts: Sequence[Verdict],
    worth: Sequence[Worth],
) -> Mapping[str, object]:
    """All that was measured, so that another program can compute it again from what the runs have stored."""

    def of(cell: Cell) -> dict[str, object]:
        return {
            "method": cell.method,
            "target": cell.target,
            "shots": cell.shots,
            "rule": cell.rule,
            "modes": list(cell.modes),
            "arms": list(cell.arms),
            "validation": plain(cell.validation),
            "test": plain(cell.test),
            "chosen": cell.selected.chosen.tolist(),
            "optimism": plain(cell.selected.optimism),
        }

    return {
        "seeds": config.seeds,
        "draws": config.draws,
        "nonce": config.nonce,
        "asked": {
            "near": near_of(config, study.compared), "far": list(config.far), "at_shots": config.at_shots,
            "reference": config.reference_method or config.methods[0], "equivalents": list(config.equivalents),
        },
        "methods": {block.method: list(block.arms) for block in study.blocks},
        "compared": list(study.compared),
        "twin": list(study.twin or ()),
        "sources": {name: count_of(study.sources, name) for name in study.sources.names},
        "notes": list(study.sources.notes),
        "variants": [dataclasses.asdict(one) for one in study.variants],
        "settings": [dataclasses.asdict(one) for one in study.settings],
        "cells": [of(cell) for cell in measured.cells],
        "shuffled": [of(cell) for cell in measured.shuffled],
        "zero_shot": [
            {
                "target": one.target, "arms": list(one.arms), "classes": one.classes, "examples": one.examples,
                "aligned": plain(one.aligned), "permuted": plain(one.permuted),
            }
            for one in measured.zero_shot
        ],
        "source_accuracy": {method: plain(values) for method, values in measured.source.items()},
        "equivalences": [one.to_plain() for one in worth],
        "verdicts": [dataclasses.asdict(one) for one in verdicts],
    }  # fmt: skip
