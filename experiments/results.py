"""Write down what finished runs found, as Markdown: commands, commits, devices, seconds, figures with intervals.

Question  What came out, by which command, and could it be noise? Reliability is given at several numbers of models and
          beside masks whose rows were exchanged, where nothing is to be found.
Source    arXiv 2207.05739 (source-data influence for transfer learning); its checks A2 to A4 in small.
Run       python -m experiments.results --runs runs/demo --out docs/results.md
Smoke     python -m experiments.results --preset smoke
Related   python -m experiments.results --runs runs/real --related benchmarks/related/cifar10_from_groups.json
"""

import dataclasses
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import jdt
from experiments.bias_report import FILE as BIAS_FILE
from experiments.import_log import FILE as LOG_FILE
from experiments.noise_report import FILE as NOISE_FILE
from experiments.planting import PLANTED_FILE
from experiments.pretraining_report import FILE as PRETRAINING_FILE
from experiments.verdicts import Verdict

SHUFFLES = 20
"""Negative controls: how often rows of the masks are exchanged."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Every knob of the experiment."""

    runs: tuple[jdt.cli.RunPath, ...]
    """Finished runs and imported logs, in the order of the page; what was retrained for a run is found inside it."""
    out: pathlib.Path = pathlib.Path("docs/results.md")
    """The page."""
    related: tuple[pathlib.Path, ...] = ()
    """JSON files of target class -> source units that mean the same, written down before any run; each is used for
    the runs that have all of its units."""


PRESETS = {
    "demo": Config(runs=(pathlib.Path("runs/demo"),)),
    "smoke": Config(runs=(pathlib.Path("runs/smoke"),), out=pathlib.Path("runs/smoke/results.md")),
    "paper": Config(runs=(pathlib.Path("runs/paper"),)),
}


def main(config: Config) -> None:
    """Write the page."""
    related = [read_related(path) for path in config.related]
    parts = [
        "# Results",
        "Written by `python -m experiments.results` from the runs themselves; intervals are 95 %. How each figure is "
        "made is in the [glossary](glossary.md).",
    ]
    for place in config.runs:
        with jdt.cli.console.status(f"reading {place}"):
            names = jdt.store.names_in(jdt.store.run_path(place))
            if LOG_FILE in names:
                parts += list(_log(jdt.store.run_path(place)))
            if LOG_FILE not in names or "run.json" in names:
                parts += list(describe(jdt.open_run(place), related))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    jdt.store.write_bytes(config.out, ("\n\n".join(parts) + "\n").encode())
    jdt.cli.console.print(f"results: {config.out}", markup=False, soft_wrap=True)


def read_related(path: pathlib.Path) -> dict[str, list[str]]:
    """Read target class -> units.

    Raises:
      UserError: If the file cannot be read or has another form.
    """
    try:
        related = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise jdt.UserError(f"cannot read --related {str(path)!r}: {error}.") from error
    if not isinstance(related, dict) or not all(isinstance(names, list) for names in related.values()):
        raise jdt.UserError(f'--related {str(path)!r} must map target classes to lists of units: {{"dog": ["dogs"]}}.')
    return related


def describe(run: jdt.store.Run, related: Sequence[Mapping[str, Sequence[str]]]) -> Iterator[str]:
    """All paragraphs about one run."""
    if run.config.get("experiment") == "bias_transfer":
        yield from _bias(run)
        return
    if run.config.get("experiment") == "noisy_pretraining":
        yield from _noise(run)
        return
    if run.config.get("experiment") == "pretraining_data":
        yield from _pretraining(run)
        return
    source, units = run.config.get("source", run.path.name), run.config.get("units", "units")
    yield f"## {source} ({units}) → {', '.join(run.layout.num_examples)}{_planted_words(run)}"
    yield from _how(run)
    yield from _key_figures(run.path)
    output = str(run.provenance.get("output", "confidence"))
    for target in run.layout.num_examples:
        for mode in run.modes:
            yield from _reliability(run, target, mode, output)
            names = run.target(target).class_names
            for one in related:
                fits = {unit for units in one.values() for unit in units} <= set(run.unit_names)
                if fits and set(one) <= set(names):
                    yield from _related(run, target, mode, output, one)
    for place in sorted(jdt.store.names_in(run.path / "counterfactuals")):
        if "run.json" in jdt.store.names_in(run.path / "counterfactuals" / place):
            yield from _counterfactual(jdt.open_run(run.path / "counterfactuals" / place), run)


def _how(run: jdt.store.Run) -> Iterator[str]:
    about = run.provenance
    seconds = sum(record["seconds"] for record in run.records())
    yield f"```\n{without_folders(str(about.get('command', 'command unknown')))}\n```"
    yield (
        f"{len(run.complete)} of {run.num_models} models, {run.layout.num_units} units; {about.get('device')}, "
        f"{seconds:,.0f} s of training and transfer in all; commit {str(about.get('commit'))[:10]}, jax "
        f"{about.get('versions', {}).get('jax')}."
    )


def _bias(run: jdt.store.Run) -> Iterator[str]:
    """What a study of bias transfer found: verdicts, then the rates on targets of which nothing was varied."""
    if BIAS_FILE not in jdt.store.names_in(run.path):
        raise jdt.UserError(f"{run.path} has no {BIAS_FILE} yet: finish it with experiments.bias_transfer.")
    found: Mapping[str, Any] = json.loads((run.path / BIAS_FILE).read_text())
    target = run.config.get("target", "")
    names = ", ".join(target) if isinstance(target, list) else str(target)
    yield f"## Bias transfer ({found['kind']}), {run.path.name}: {run.config.get('source')} → {names}"
    yield from _how(run)
    words = {True: "reached", False: "**missed**"}
    verdicts = [(one["name"], one["words"], words[one["passed"]]) for one in found["verdicts"]]
    yield table(("requirement", "what was found, and the bar", "result"), verdicts)
    rows = []
    for one in found["measured"]:
        is_plain = one["variant"] == one["target"] or found["kind"] == "group"
        if is_plain and one["metric"] in ("attack success rate", "group skew"):
            values = np.array([np.nan if value is None else value for value in one["values"]], float)
            gap = one.get("transfer")
            gap_words = _with_interval(gap["mean"], gap["low"], gap["high"]) if gap else ""
            share = f"{np.nanmean(values):.3f}" if np.isfinite(values).any() else "no images"
            counted = f"{min(one['of']):,} to {max(one['of']):,}" if one["of"] else ""
            rows.append((one["variant"], one["mode"], one["pattern"], one["arm"], share, counted, gap_words))
    metric = "Group skew" if found["kind"] == "group" else "Attack success rate"
    yield f"{metric}, mean over {found['seeds']} seeds; differences are to the twin ({found['twin']}) of the same seed."
    yield table(("target", "mode", "pattern", "source", "rate", "of images", "difference (95 % interval)"), rows)
    if blame := found.get("blame"):
        yield _blame_words(blame, found["twin"])


def _noise(run: jdt.store.Run) -> Iterator[str]:
    """What a study of noisy pre-training found: verdicts, then accuracies and spectra of whole targets by rate."""
    if NOISE_FILE not in jdt.store.names_in(run.path):
        raise jdt.UserError(f"{run.path} has no {NOISE_FILE} yet: finish it with experiments.noisy_pretraining.")
    found: Mapping[str, Any] = json.loads((run.path / NOISE_FILE).read_text())
    yield f"## Noisy pre-training, {run.path.name}: {run.config.get('source')} → {', '.join(run.config['target'])}"
    yield from _how(run)
    yield _verdicts(found)
    modes = list(dict.fromkeys(one["mode"] for one in found["accuracies"]))
    rows = []
    for one in found["accuracies"]:
        if one["variant"] == one["target"] and "-no-" not in one["mode"]:  # Ablations are among the requirements.
            cells = [_mean_of_seeds(values, 100, ".1f") for values in one["values"]]
            rows.append((modes.index(one["mode"]), (one["mode"], one["view"] or "as it is", *cells)))
    yield f"Accuracy in per cent, mean over {found['seeds']} seeds with its interval, by label noise in the source."
    yield table(("tuner", "test images", *found["arms"]), [row for _, row in sorted(rows, key=lambda row: row[0])])
    rows = [
        (one["view"] or "as it is", one["center"], name.upper(), *(_mean_of_seeds(v, 1, ".3f") for v in one[name]))
        for one in found["spectra"]
        if one["mode"] == "linear" and one["variant"] == one["target"]
        for name in ("sve", "lsvr")
    ]
    yield "Spectra of the frozen features, in nats; LSVR = -ln(s1 / sum s): higher is less dominated by one direction."
    yield table(("test images", "centred by", "", *found["arms"]), rows)
    if summary := jdt.open_run(run.path).summary:
        chosen = {name: one for name, one in summary.items() if name.startswith("suspects/")}
        lines = [
            (name.removeprefix("suspects/"), _with_interval(one["value"], one["low"], one["high"]), one["text"])
            for name, one in chosen.items()
        ]
        if lines:
            yield "The search for wrong labels, by models on random subsets of a noisy source:"
            yield table(("figure", "value (95 % interval)", "what it is"), lines)


def _verdicts(found: Mapping[str, Any]) -> str:
    """Requirements of a study, and whether they are met."""
    verdicts = [(one["name"], one["words"], Verdict(**one).result) for one in found["verdicts"]]
    verdicts = [(*rest, "**missed**" if result == "MISSED" else result) for *rest, result in verdicts]
    return table(("requirement", "what was found, and the bar", "result"), verdicts)


def _pretraining(run: jdt.store.Run) -> Iterator[str]:
    """What a study of pre-training data found: verdicts, accuracies by shots, and what images are worth."""
    if PRETRAINING_FILE not in jdt.store.names_in(run.path):
        raise jdt.UserError(f"{run.path} has no {PRETRAINING_FILE} yet: finish it with experiments.pretraining_data.")
    found: Mapping[str, Any] = json.loads((run.path / PRETRAINING_FILE).read_text())
    yield f"## Pre-training data, {run.path.name}: {run.config.get('source')} → {', '.join(run.config['target'])}"
    yield from _how(run)
    for method in list(found["methods"])[1:]:
        yield from list(_how(jdt.open_run(run.path / method)))[1:]
    sources = ", ".join(f"{name} {count:,}" for name, count in found["sources"].items())
    yield f"Images of the sources: {sources}. Few-shot draws of each seed: {found['draws']}."
    yield _verdicts(found)
    shots = sorted({one["shots"] for one in found["cells"]}, key=lambda k: (k is None, k))
    rows: dict[tuple[str, str, str, str], dict[int | None, str]] = {}
    for cell in found["cells"]:
        for number, arm in enumerate(cell["arms"]):
            chosen = cell["chosen"][number]
            by_seed = [np.mean(draws) for draws in cell["test"][chosen][number]] if chosen >= 0 else []
            key = (cell["target"], cell["method"], cell["rule"], arm)
            rows.setdefault(key, {})[cell["shots"]] = _mean_of_seeds(by_seed, 100, ".1f")
    yield f"Accuracy in per cent by shots, mean over {found['seeds']} seeds and their draws, and interval over seeds."
    names = ["all" if k is None else f"{k}" for k in shots]
    yield table(
        ("target", "method", "transfer", "source", *names),
        [(*key, *(cells.get(k, "") for k in shots)) for key, cells in rows.items()],
    )
    if found["equivalences"]:
        yield "How many images of a family equal a reference:"
        lines = []
        for one in found["equivalences"]:
            ends = [one.get(name) for name in ("size", "low", "high")]
            size, low, high = (f"{end:,.0f}" if isinstance(end, float) else str(end or "unknown") for end in ends)
            ratio = one.get("ratio")
            lines.append((
                one["family"], one["reference"], one["target"], "all" if one["shots"] is None else f"{one['shots']}",
                f"{size} ({low} to {high})", f"{ratio:.2f}" if isinstance(ratio, float) else str(ratio),
                "" if one["planted"] is None else f"{one['planted']:g}",
            ))  # fmt: skip
        yield table(("family", "reference", "target", "shots", "images (interval)", "for one", "planted"), lines)


def _log(folder: jdt.store.Place) -> Iterator[str]:
    """What an imported log of results says: spreads, what images are worth, and what it was measured on."""
    found: Mapping[str, Any] = json.loads((folder / LOG_FILE).read_text())
    if missing := {"log", "equal", "images_tested"} - found.keys():
        raise jdt.UserError(
            f"{folder / LOG_FILE} lacks {min(missing)}, as jdt wrote it before: run experiments.import_log once more."
        )
    accuracies = sum(cell["attempts"] for cell in found["cells"])
    yield f"## Somebody else's results: {found['log']}"
    yield f"```\npython -m experiments.import_log --csv {found['log']}\n```"
    yield f"{accuracies:,} accuracies, the best of each grid in {len(found['cells'])} cells. {' '.join(found['notes'])}"
    shots = sorted({k for one in found["spreads"] for k in one["spread"]}, key=lambda k: float(k.replace("all", "inf")))
    rows = []
    for one in found["spreads"]:
        fade = "" if one["fade"] is None else f"{one['fade']:.0%}"
        cells = [f"{100 * one['spread'][k]:.1f}" if k in one["spread"] else "" for k in shots]
        rows.append((one["method"], one["transfer"], one["target"], *cells, fade))
    yield (
        f"Best minus worst source in points, of {', '.join(found['equal'])} where they are there; what is left of the "
        "largest at few shots with all images:"
    )
    yield table(("method", "transfer", "target", *shots, "left"), rows)
    if found["equivalence"]:
        yield "How many images of a curve equal a reference, with all target images:"
        keys = ("target", "method", "transfer", "source", "reference", "images", "ratio")
        lines = [tuple(str(one[key]) for key in keys) for one in found["equivalence"] if one["shots"] == "all"]
        yield table(("target", "method", "transfer", "curve", "reference", "images", "for one"), lines)
    if found["images_tested"]:
        yield "Test images that accuracies can be shares of, at least (times the runs that they are means of):"
        rows = [
            (one["target"], "all" if one["shots"] is None else f"{one['shots']}", f"{one['images']:,}",
             f"{one['fitting']} of {one['accuracies']}")
            for one in found["images_tested"]
        ]  # fmt: skip
        yield table(("target", "shots", "test images", "accuracies that fit"), rows)


def _mean_of_seeds(values: Sequence[float | None], factor: float, form: str) -> str:
    mean, low, high = jdt.analyses.mean_interval(
        factor * np.array([np.nan if value is None else value for value in values], float)
    )
    if np.isnan(mean):
        return ""
    return f"{mean:{form}}" if np.isnan(low) else f"{mean:{form}} ({low:{form}} to {high:{form}})"


def _blame_words(blame: Mapping[str, Any], twin: str) -> str:
    """Which units carry the bias, and what is left of it without them."""
    units = zip(blame["units"][:5], blame["influence"], blame["planted"], strict=False)
    listed = ", ".join(
        f"{name} {value:+.3f}{' (carries the pattern)' if marked else ''}" for name, value, marked in units
    )
    moved = f"moves to {blame['attacked']}" if blame["attacked"] else "changes the prediction of"
    words = f"Units with most influence on the share of images that {blame['pattern']} {moved} "
    words += f"({blame['target']}, {blame['mode']}): "
    words += listed + "."
    if blame["auroc"] is not None:
        words += f" AUROC of units that carry it {blame['auroc']:.3f}, with rows exchanged {blame['control']:.3f}."
    success = {key: np.array(values, float) for key, values in blame["attack_success"].items()}
    for what in ("all units", "without blamed units", "without random units"):
        pair = success.get(f"{blame['pattern']} / {what}"), success.get(f"{twin} / all units")
        if pair[0] is not None and pair[1] is not None:
            gap = jdt.analyses.paired(pair[0], pair[1])
            left = _with_interval(gap.mean, gap.low, gap.high)
            words += f" Attack success above the twin that has all units, {what}: {left}."
    return words


def _planted_words(run: jdt.store.Run) -> str:
    """What was planted in the source of a run, for its heading."""
    if PLANTED_FILE not in jdt.store.names_in(run.path):
        return ""
    planted = json.loads((run.path / PLANTED_FILE).read_text())["planted"]
    kinds = ", ".join(f"{one['kind']}{' (control)' if one['is_control'] else ''}" for one in planted)
    return f", planted: {kinds}"


def without_folders(command: str) -> str:
    """A command without the folders of the machine that it ran on.

    >>> without_folders("python -m x --out /home/me/runs/demo --units 'groups:/data/a b.json' --fraction 0.5")
    "python -m x --out demo --units 'groups:a b.json' --fraction 0.5"
    """
    return re.sub(r"(^|[\s:='\"])(/[^/\s'\"]+)*/(?=[^/\s])", r"\1", command)


def _key_figures(folder: jdt.store.Place) -> Iterator[str]:
    if "summary.json" not in jdt.store.names_in(folder):
        return
    summary: Mapping[str, Mapping[str, Any]] = json.loads((folder / "summary.json").read_text())
    rows = [
        (name, _with_interval(one["value"], one["low"], one["high"]), str(one["unit"]), f"{one['n']:,}", one["text"])
        for name, one in summary.items()
    ]
    yield table(("figure", "value (95 % interval)", "unit", "n", "what it is"), rows)


def _reliability(run: jdt.store.Run, target: str, mode: str, output: str) -> Iterator[str]:
    """Split-half reliability at several numbers of models, and with rows of the masks exchanged."""
    rows = jdt.pipeline.usable_rows(run, target, mode)
    if output not in rows.outputs or len(rows.masks) < 16:
        return
    outputs, ridge = rows.outputs[output], jdt.Ridge()
    labelled, draw = run.target(target), np.random.default_rng(0)
    levels = {"whole task": jdt.evaluate.aggregate(outputs, jdt.evaluate.whole_task(outputs.shape[1]))}
    if labelled.class_names:
        classes = jdt.evaluate.by_class(labelled.labels, labelled.class_names)
        levels["target classes"] = jdt.evaluate.aggregate(outputs, classes)
    lines = []
    for level, values in levels.items():
        curve = jdt.evaluate.reliability_curve(ridge, rows.masks, values, paired=rows.paired)
        shuffled = [
            jdt.evaluate.split_half(
                ridge, jdt.evaluate.permuted_masks(rows.masks, draw, paired=rows.paired), values,
                paired=rows.paired, repeats=1, seed=shuffle,
            )[0]
            for shuffle in range(SHUFFLES)
        ]  # fmt: skip
        for size, mean, low, high in zip(curve.sizes, curve.mean, curve.low, curve.high, strict=True):
            if np.isfinite(mean):
                lines.append((level, f"{size}", _with_interval(mean, low, high)))
        low, high = np.quantile(shuffled, [0.025, 0.975])
        lines.append((level, f"{len(rows.masks)}, rows exchanged", _with_interval(float(np.mean(shuffled)), low, high)))
    yield f"Split-half reliability of ridge influences on {output} of {target} ({mode}), range over splits:"
    yield table(("influence on", "models", "reliability"), lines)


def _related(
    run: jdt.store.Run, target: str, mode: str, output: str, related: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Where the units stand that mean the same as a class."""
    there = jdt.store.names_in(jdt.estimators.influence_path(run.path, target, mode, output, "ridge").parent)
    known = [name for name in ("ridge", "difference", "lasso") if f"{name}.zarr" in there]
    if not known:
        return
    found = jdt.load_influences(run.path, target=target, mode=mode, output=output, level="class", estimator=known[0])
    masks = jdt.analyses.related_masks(related, found.target_names, found.unit_names)
    result = jdt.analyses.relatedness(found.influence, masks, found.target_names)
    rows = []
    for name, rank, auroc in zip(result.classes, result.best_rank, result.auroc, strict=True):
        column = found.target_names.index(name)
        mine = np.flatnonzero(masks[column])
        best = int(mine[np.argmax(found.influence[mine, column])])
        z = "" if found.z is None else f"{found.z[best, column]:.1f}"
        rows.append((name, found.unit_names[best], f"{rank} of {len(found.unit_names)}", z, f"{auroc:.2f}"))
    yield (
        f"Units that mean the same as a class of {target} ({mode}), by a list made beforehand, by {known[0]}: "
        f"pooled AUROC {result.pooled_auroc:.3f}, permutation p = {result.p:.4f} (mean of permutations "
        f"{result.expected:.3f}). The z is that of the best related unit."
    )
    yield table(("target class", "best related unit", "rank", "z", "AUROC against the rest"), rows)


def _counterfactual(run: jdt.store.Run, parent: jdt.store.Run) -> Iterator[str]:
    """Accuracy of models that were trained without some units, where they are of the run that is there now."""
    asked, own = run.config, {"experiment", "target", "transfer", "design"}
    if asked.get("experiment") != "counterfactual":
        return
    if any(asked.get(name) != value for name, value in parent.config.items() if name not in own):
        yield f"(`{run.path.name}` was retrained for another run that was there before, and is left out.)"
        return
    subject = f", class {asked['target_class']}" if "target_class" in asked else ""
    place = f"{', '.join(run.layout.num_examples)}{subject}, {', '.join(run.modes)} transfer"
    yield f"### Units removed and models retrained: {place}"
    yield from _how(run)
    yield from _key_figures(run.path)


def _with_interval(value: float | None, low: float | None, high: float | None) -> str:
    if value is None:
        return "unknown"
    interval = "" if low is None or high is None else f" ({low:.3g} to {high:.3g})"
    return f"{value:.3g}{interval}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A Markdown table.

    >>> table(("a", "b"), [("1", "x|y")]).splitlines()[-1]
    '| 1 | x\\|y |'
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
