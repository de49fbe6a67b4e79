"""From a run's outputs to influences, to the table on the terminal and to the page."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

import jdt
from experiments import planting
from experiments.influence_setup import Config


def planted_truth(config: Config, task: jdt.pipeline.Task) -> jdt.pipeline.Truth | None:
    """What was planted; else, the embedded digits know which source classes help: upright more than scrambled ones."""
    if task.planted:
        return planting.truth_of(task.planted, task.units)
    return digits_truth(config.source, config.units, task.units.names)


def digits_truth(source: str, units: str, unit_names: Sequence[str]) -> jdt.pipeline.Truth | None:
    """What is known of the embedded digits, None of any other source."""
    if source != "jdt_digits_source" or units != "classes":
        return None
    return jdt.pipeline.Truth(
        question="do upright source digits help the upright target digits more than scrambled ones?",
        kinds=tuple(name.split()[0] for name in unit_names),
        helpful="upright",
        useless="scrambled",
    )


def publish(
    run: jdt.store.Run,
    targets: Sequence[jdt.pipeline.TargetData],
    modes: Sequence[str],
    say: Callable[..., None],
    *,
    title: str,
    output: Literal["confidence", "margin"],
    unit_images: Mapping[str, np.ndarray],
    truth: jdt.pipeline.Truth | None,
    estimators: Sequence[jdt.estimators.Estimator],
    task: jdt.pipeline.Task | None = None,
) -> tuple[list[jdt.report.TargetFindings], list[str], jdt.store.Place]:
    """Estimate the influences on targets, and write summary and report into the run; also returns the page's place.

    With the run's task, what was planted in its source is looked for as well.
    """
    findings, warnings = [], [words + "." for target in targets if (words := target.overlap_words())]
    for target, mode in itertools.product(targets, modes):
        with jdt.cli.console.status(f"estimating influences on {target.name}, {mode} transfer"):
            found, left_out = jdt.pipeline.estimate_target(
                run,
                target.name,
                mode,
                output=output,
                class_images=jdt.report.sample_images(target.test.images, target.test.labels, target.test.class_names),
                truth=truth,
                estimators=estimators,
            )
        findings.append(found)
        if left_out:
            warnings.append(
                f"{len(left_out)} of {len(run.complete)} models are left out of {target.name} ({mode}): their training "
                f"diverged, or their partner's did (model ids {', '.join(map(str, left_out[:10]))})."
            )
        gap = jdt.pipeline.feature_gap_warning(found)
        warnings += [gap] if gap else []
    seconds = [record["seconds"] / len(range(*record["models"])) for record in run.records()]
    figures = {"seconds_per_model": jdt.pipeline.mean_figure(np.array(seconds), "seconds", "wall time of one model")}
    if (compared := jdt.pipeline.compared(run)) is not None:
        figures |= compared.figures()
        say(str(compared), markup=False)
    for one in planting.find(run, task, output, estimators) if task is not None else []:
        figures |= {f"{one.name}/{name}": figure for name, figure in one.figures.items()}
        say(one.words, markup=False)
    jdt.store.write_json(run.path / "summary.json", jdt.pipeline.summary_of(findings, figures))
    page = jdt.report.write_report(
        run.path / "report.html",
        jdt.report.Content(
            title=title,
            relative=design_is_relative(findings[0]),
            warnings=tuple(warnings),
            targets=tuple(findings),
            unit_images=unit_images,
            figures=figures,
            provenance=jdt.config.flatten({**run.provenance, "config": run.config}),
        ),
    )
    return findings, warnings, page


def design_is_relative(found: jdt.report.TargetFindings) -> bool:
    """Whether influences are relative to the average unit: subsets of one size, or antithetic halves."""
    info = next(iter(found.estimators.values())).classes.info
    return bool(info["relative"] or info["paired"])


def conclude(findings: Sequence[jdt.report.TargetFindings], warnings: list[str], say: Callable[..., None]) -> None:
    """Print the final tables, the accuracies, and what to be careful about."""
    for found in findings:
        say(jdt.report.findings_table(found))
        untrained = (
            f", {jdt.report.baseline_words(found.mode)} {found.random_accuracy.mean():.1%}"
            if len(found.random_accuracy)
            else ""
        )
        trained = f", on its training images {found.train_accuracy.mean():.1%}" if len(found.train_accuracy) else ""
        say(f"target accuracy {found.accuracy.mean():.1%} (spread {found.accuracy.std():.1%}){trained}{untrained}")
        for name, figure in found.metrics.items():
            say(f"{jdt.report.metric_words(name)} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})")
        for name, one in found.estimators.items():
            z = f", variance of z {one.z_variance.value:.1f} (1 is pure noise)" if one.z_variance else ""
            say(f"{name}: split-half reliability {one.reliability.value:.2f}{z}")
            say(f"  {jdt.report.evidence_words(one)}", markup=False)
        for name, figure in found.pair_correlation.items():
            say(f"within-pair correlation ({name}): {figure.value:.2f}")
        if found.truth is not None:
            verdict = "found" if found.truth.passed else "NOT found"
            say(
                f"planted truth {verdict}: AUROC {found.truth.auroc.value:.3f} (needs 0.95), permuted masks "
                f"{found.truth.control.value:.3f} (needs 0.5 ± 0.15)"
            )
    for warning in warnings:
        say(f"warning: {warning}", style="bold", markup=False)
