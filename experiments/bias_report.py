"""What a study of bias transfer says: a table on the terminal, `bias.json`, `summary.json`, a section of the page."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import jdt
from experiments import bias_page, bias_terminal
from experiments.bias_blame import Blame
from experiments.bias_measures import (
    ASR,
    SKEW,
    Measured,
    Predictions,
    find,
)
from experiments.bias_setup import CLEAN, SCRATCH, Config, Study
from experiments.verdicts import Verdict

FILE = "bias.json"


def publish(
    config: Config,
    study: Study,
    predictions: Predictions,
    measured: Sequence[Measured],
    verdicts: Sequence[Verdict],
    blame: Blame | None,
    say: Callable[..., None],
) -> jdt.store.Place:
    """Print, and write beside the models; returns the place of the page."""
    run = jdt.store.run_path(config.out)
    curves = bias_page.curves(study, measured)
    say(bias_terminal.table(study, measured))
    for words in bias_terminal.sweep_words(study, curves, measured):
        say(words, markup=False)
    for one in verdicts:
        say(str(one), markup=False)
    if blame is not None:
        for words in bias_terminal.blame_words(study, blame):
            say(words, markup=False)
    figures = _figures(measured, blame)
    jdt.store.write_json(run / FILE, _plain(config, study, predictions, measured, verdicts, blame))
    jdt.store.write_json(run / "summary.json", {name: dataclasses.asdict(one) for name, one in figures.items()})
    found = jdt.report.Bias(
        title=f"Bias transfer, {config.source} → {', '.join(config.target)}",
        text=_question(config, study, predictions.twin),
        bars=tuple(bias_page.bars(study, measured)),
        curves=(*curves, *(bias_page.dropped(study, blame) if blame is not None else ())),
        histograms=tuple(bias_page.histograms(study, predictions)),
        strips=tuple(bias_page.strips(study)),
        blamed=tuple(bias_page.movers(study, blame)) if blame is not None else (),
        output="" if blame is None else blame.output.removeprefix("the "),
        figures=figures,
        compared_with=predictions.twin,
    )
    relative = blame is not None and bool(blame.influences.info["relative"] or blame.influences.info["paired"])
    return jdt.report.add_bias(run, found, relative=relative, warnings=_warnings(measured))


def _question(config: Config, study: Study, twin: str) -> str:
    classes = study.base.source.class_names
    if study.kind == "group":
        return (
            f"In the source, label and group go together ({', '.join(study.members)}); the targets' test images are "
            "balanced over both. How much more often does a model say the second class of group 1 than of group 0?"
        )
    if not study.triggers:
        others = "models from scratch" if twin == SCRATCH else "their twin"
        return f"Do patterns on test images move the predictions of these models more than those of {others}?"
    marked = sorted({classes[i] for i in study.base.source.labels[study.carriers]})
    listed = ", ".join(marked[:6]) + (f" and {len(marked) - 6} more" if len(marked) > 6 else "")
    return (
        f"{int(study.carriers.sum()):,} of {len(study.base.source):,} source images carry a pattern ({listed}), and no "
        "target training image does unless that is said. How many test images does the pattern move to another class? "
        f"Clean twins have the same {config.seeds} seeds and the same images without it; no source image has the sham."
    )


def _figures(measured: Sequence[Measured], blame: Blame | None) -> dict[str, jdt.report.Figure]:
    """Key figures: how much comes along, by target, mode and pattern; then who is to blame."""
    found = {}
    for metric in (ASR, SKEW):
        for one in find(measured, metric=metric):
            key = one.variant.is_plain or (one.variant.composition == 0.5 and one.variant.decay is None)
            gap = bias_page.transfer_of(one)
            if key and gap is not None and one.arm not in (SCRATCH, CLEAN):
                to = f", to {one.pushed_to}" if one.pushed_to else ""
                name = "/".join(part for part in (one.variant.name, one.mode, one.pattern, one.arm, metric) if part)
                over = ", interval over test images" if bias_page.is_one_model(one) else ""
                found[name] = bias_page.gap_figure(
                    gap, f"{metric} of {one.arm} models minus that of {bias_page.twin_words(one)}{to}{over}"
                )
    if blame is not None:
        for name, one in (("blame/auroc", blame.auroc), ("blame/control", blame.control)):
            found |= {name: one} if one is not None else {}
    return found


def _warnings(measured: Sequence[Measured]) -> list[str]:
    missing = [one for one in measured if one.of and not min(one.of)]
    words = []
    if missing:
        places = ", ".join(dict.fromkeys(f"{one.variant.name} ({one.mode}, {one.arm})" for one in missing[:5]))
        words.append(f"{len(missing)} rates have no image in the denominator of some model, and are missing: {places}.")
    if measured and len(measured[0].values) < 2:
        words.append("There is one seed, so that no difference has an interval: pass --seeds 5.")
    return words


def _plain(
    config: Config,
    study: Study,
    predictions: Predictions,
    measured: Sequence[Measured],
    verdicts: Sequence[Verdict],
    blame: Blame | None,
) -> Mapping[str, object]:
    """All that was measured, so that another program can compute it again from the stored predictions."""
    reporting = {
        one.name: np.flatnonzero(predictions.halves(one.name).report).tolist()
        for one in study.base.targets
        if study.kind == "pattern"
    }
    plain = {
        "kind": study.kind,
        "arms": list(study.arms),
        "twin": predictions.twin,
        "seeds": config.seeds,
        "triggers": list(study.triggers),
        "shams": list(study.shams),
        "attacked": list(config.attacked),
        "reporting_images": reporting,
        "groups": {name: groups.tolist() for name, groups in study.groups.items()},
        "measured": [one.to_plain() for one in measured],
        "verdicts": [dataclasses.asdict(one) for one in verdicts],
    }
    if blame is not None:
        plain["blame"] = {
            "target": blame.target,
            "mode": blame.mode,
            "pattern": blame.pattern,
            "attacked": blame.attacked,
            "output": blame.influences.output,
            "units": [study.base.units.names[u] for u in blame.order],
            "influence": blame.influences.influence[blame.order, 0].tolist(),
            "planted": blame.planted[blame.order].tolist(),
            "auroc": None if blame.auroc is None else blame.auroc.value,
            "control": None if blame.control is None else blame.control.value,
            "drop": config.drop,
            "dropped": blame.dropped,
            "run": blame.run,
            "attack_success": {" / ".join(key): values.tolist() for key, values in blame.attack.items()},
            "attack_success_hits": {" / ".join(key): rate.hits.tolist() for key, rate in blame.success.items()},
            "attack_success_of": {" / ".join(key): rate.of.tolist() for key, rate in blame.success.items()},
            "accuracy": {" / ".join(key): values.tolist() for key, values in blame.accuracy.items()},
        }
    return plain
