"""From stored outputs to influences and to what a report says about them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jdt import checks, store
from jdt.analyses import mean_interval
from jdt.estimators import TABLE, Estimator, Influences, Level, influence_path, save_influences
from jdt.evaluate import (
    aggregate,
    auroc,
    by_class,
    models_needed,
    pair_correlation,
    permutation_control,
    reliability_curve,
    significance,
    split_half,
    whole_task,
)
from jdt.evaluate.reliability import halved_sizes
from jdt.pipeline.blocks import random_accuracy
from jdt.pipeline.rows import OUTPUTS, Rows, usable_rows
from jdt.report import baseline_words
from jdt.report.content import EstimatorFindings, Figure, PlantedTruth, TargetFindings
from jdt.types import Float, UInt8

WANTED_RELIABILITY = 0.9
"""Findings say how many models would reach it."""
UNEVEN = 1.25
"""Findings tell accuracy by class where the largest has more than so many times the test images of the smallest."""
FALSE_DISCOVERY = 0.05
"""Findings count influences that are significant at this false discovery rate."""


@dataclasses.dataclass(frozen=True)
class Truth:
    """A planted truth to look for: units of one kind help more than units of another.

    Attributes:
      question: What is asked, in words.
      kinds: Kind of every unit, in unit order.
      helpful: The kind that helps.
      useless: The kind that does not.
    """

    question: str
    kinds: tuple[str, ...]
    helpful: str
    useless: str

    def statistic(self, influence: Float[np.ndarray, "units targets"]) -> float:
        """AUROC of helpful against useless units, of influence averaged over targets."""
        kinds = np.array(self.kinds)
        compared = (kinds == self.helpful) | (kinds == self.useless)
        return auroc(influence.mean(axis=1)[compared], kinds[compared] == self.helpful)


def estimate_target(
    run: store.Run,
    target: str,
    mode: str,
    *,
    output: str,
    class_images: Mapping[str, UInt8[np.ndarray, "count height width channels"]],
    truth: Truth | None = None,
    estimators: Sequence[Estimator] = TABLE,
    progress: Callable[[str], None] | None = None,
) -> tuple[TargetFindings, tuple[int, ...]]:
    """Estimate, save and judge the influences on one target.

    Influences of both outputs (those of them that the run holds) and all estimators are saved in the run; the findings
    are about `output`.

    Args:
      run: A run with at least 2 complete models.
      target: Which target.
      mode: Which transfer mode.
      output: Which output the findings are about.
      class_images: A few test images of every class, for the page.
      truth: Planted truth to look for, if any.
      estimators: Which estimators, the one to show first first.
      progress: Called with what is being done.

    Returns:
      The findings, and the ids of models left out.

    Raises:
      UserError: If the run does not hold the output, or no class of the target is known, or fewer than 2 models can be
        used.
    """
    checks.require_known("output", output, OUTPUTS)
    run = run.holding(target)
    run.output_column(target, mode, output)  # Refuses what the run does not hold before anything is read.
    labelled = run.target(target)
    if not labelled.class_names:
        raise checks.UserError(
            f"no class of target {target!r} is known in {run.path}, and findings are about classes: import it with "
            "labels, or fit examples and task alone with experiments.fit_datamodels."
        )
    rows = usable_rows(run, target, mode)
    classes = by_class(labelled.labels, labelled.class_names)
    found: dict[str, EstimatorFindings] = {}
    for name in dict.fromkeys((output, *rows.outputs)):
        outputs: dict[Level, tuple[np.ndarray, tuple[str, ...]]] = {
            "example": (rows.outputs[name], tuple(str(i) for i in range(rows.outputs[name].shape[1]))),
            "class": (aggregate(rows.outputs[name], classes), classes.names),
            "task": (aggregate(rows.outputs[name], whole_task(len(classes.of_target), target)), (target,)),
        }
        for estimator in estimators:
            if progress is not None:
                progress(f"{estimator.name} on {target}/{mode}/{name}")
            levels: dict[Level, Influences] = {
                level: dataclasses.replace(
                    estimator.fit(rows.masks, values, paired=rows.paired),
                    unit_names=run.unit_names, target_names=names, output=name,
                )
                for level, (values, names) in outputs.items()
            }  # fmt: skip
            save_influences(
                influence_path(run.path, target, mode, name, estimator.name),
                levels,
                class_names=classes.names,
                attributes={"target": target, "mode": mode, "left_out": list(rows.left_out)},
            )
            if name == output:
                found[estimator.name] = _judge(estimator, rows, outputs["class"][0], levels)
    first, by_class_means = estimators[0], aggregate(rows.outputs[output], classes)
    findings = TargetFindings(
        target=target,
        mode=mode,
        output=output,
        accuracy=rows.accuracy,
        random_accuracy=random_accuracy(run, target, mode),
        estimators=found,
        class_images={name: class_images[name] for name in classes.names if name in class_images},
        pair_correlation=_pair_correlations(rows, by_class_means, found[first.name].classes) if rows.paired else {},
        truth=_look_for(truth, first, rows, by_class_means.mean(axis=1, keepdims=True)) if truth is not None else None,
        train_accuracy=rows.train_accuracy[np.isfinite(rows.train_accuracy)],
        metrics=_metrics(run, target, mode, rows),
    )
    return findings, rows.left_out


def _metrics(run: store.Run, target: str, mode: str, rows: Rows) -> dict[str, Figure]:
    """What says more than accuracy, where the run holds it: AUROC of two classes, the mean over uneven classes."""
    labels, classes = run.target(target).labels, run.target(target).class_names
    if not {"margin", "prediction"} <= {*run.layout.example_outputs} or (labels < 0).any():
        return {}
    sizes = np.bincount(labels, minlength=len(classes))
    wanted = {}
    if len(classes) == 2 and sizes.min() > 0:
        wanted["auroc"] = ("AUROC", "area under the ROC curve of the probability of class 1, mean over models")
    if sizes.max() > UNEVEN * sizes.min():
        wanted["per_class_accuracy"] = (
            "accuracy",
            "mean over target classes of the accuracy on each, mean over models",
        )
    return {
        name: mean_figure(run.metric(target, mode, name)[rows.kept], unit, f"{text} with its 95 % interval")
        for name, (unit, text) in wanted.items()
    }


def _judge(
    estimator: Estimator, rows: Rows, by_class: Float[np.ndarray, "models classes"], levels: Mapping[Level, Influences]
) -> EstimatorFindings:
    z = levels["class"].z
    count = len(rows.masks)
    # Without theory for its errors an estimator is one that iterates: a tenth as fast, it gets fewer splits and sizes.
    splits, growth_splits, sizes = (5, 5, 1) if z is None else (20, 10, 3)
    value, low, high = split_half(estimator, rows.masks, by_class, paired=rows.paired, repeats=splits)

    def needed(reliability: float) -> float:
        return models_needed(reliability, count, WANTED_RELIABILITY, paired=rows.paired)

    return EstimatorFindings(
        classes=levels["class"],
        task=levels["task"],
        reliability=Figure(
            value, low, high, count, "correlation",
            f"split-half reliability of class-level {estimator.name} influence, Spearman-Brown corrected",
        ),
        growth=reliability_curve(
            estimator, rows.masks, by_class, paired=rows.paired, repeats=growth_splits,
            sizes=halved_sizes(count, paired=rows.paired)[-1 - sizes : -1],
        ),
        models_needed=Figure(
            needed(value), needed(high), needed(low), count, "models",
            f"models for split-half reliability {WANTED_RELIABILITY} (Spearman-Brown)",
        ),
        significant={} if z is None else _significant(levels),
        z_variance=None if z is None else Figure(
            float(z.var()), None, None, count, "1 is noise",
            f"variance of z of class-level {estimator.name} influence over units and classes",
        ),
    )  # fmt: skip


def _significant(levels: Mapping[Level, Influences]) -> dict[str, Figure]:
    task, classes = significance(levels["task"], FALSE_DISCOVERY), significance(levels["class"], FALSE_DISCOVERY)
    count, beyond = levels["task"].num_models, f"beyond noise (q < {FALSE_DISCOVERY})"
    text = f"of {task.tested:,} units {beyond} on the whole task"
    of_classes = f"of {classes.tested:,} influences on target classes {beyond}"
    return {
        "task": Figure(task.count, None, None, count, "units", text),
        "class": Figure(classes.count, None, None, count, "influences", of_classes),
    }


def _pair_correlations(
    rows: Rows, by_class: Float[np.ndarray, "models classes"], classes: Influences
) -> dict[str, Figure]:
    pairs = len(rows.masks) // 2
    if pairs < 3:
        return {}
    residual = by_class - classes.predict(rows.masks)
    return {
        "raw": Figure(
            pair_correlation(by_class), None, None, pairs, "correlation",
            "correlation of class-mean outputs within antithetic pairs",
        ),
        "residual": Figure(
            pair_correlation(residual), None, None, pairs, "correlation",
            "the same after what the units explain is taken out: the noise that pairing removes",
        ),
    }  # fmt: skip


def _look_for(truth: Truth, estimator: Estimator, rows: Rows, outputs: Float[np.ndarray, "models one"]) -> PlantedTruth:
    influence = estimator.fit(rows.masks, outputs, paired=rows.paired).influence
    value = truth.statistic(influence)
    control = permutation_control(estimator, rows.masks, outputs, truth.statistic, paired=rows.paired)
    low, high = np.quantile(control, [0.025, 0.975])
    p = (1 + int((control >= value).sum())) / (1 + len(control))
    mean = float(control.mean())
    return PlantedTruth(
        question=truth.question,
        auroc=Figure(
            value, None, None, len(rows.masks), "AUROC",
            f"{truth.helpful} against {truth.useless} units, task-level influence; permutation p = {p:.3f}",
        ),
        control=Figure(
            mean, float(low), float(high), len(control), "AUROC",
            "negative control: the same with mask rows permuted, mean and 95 % range over permutations",
        ),
        passed=value >= 0.95 and abs(mean - 0.5) <= 0.15,
        kinds=truth.kinds,
    )  # fmt: skip


def summary_of(findings: Sequence[TargetFindings], figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Key figures as `summary.json` keeps them: name -> value, low, high, n, unit, text."""
    summary = dict(figures)
    for found in findings:
        prefix = f"{found.target}/{found.mode}/"
        if np.isfinite(found.accuracy).any():
            summary[f"{prefix}accuracy"] = mean_figure(
                found.accuracy, "accuracy", "target accuracy, mean over models with its 95 % interval"
            )
        if len(found.train_accuracy):
            summary[f"{prefix}train_accuracy"] = mean_figure(
                found.train_accuracy, "accuracy", "accuracy on the target's training images, mean over models"
            )
        summary |= {prefix + name: figure for name, figure in found.metrics.items()}
        if len(found.random_accuracy):
            summary[f"{prefix}random_accuracy"] = mean_figure(
                found.random_accuracy, "accuracy", "target accuracy of models that never saw the source"
            )
        for name, one in found.estimators.items():
            summary[f"{prefix}{name}/reliability"] = one.reliability
            summary[f"{prefix}{name}/models_needed"] = one.models_needed
            summary |= {f"{prefix}{name}/significant/{level}": figure for level, figure in one.significant.items()}
            if one.z_variance is not None:
                summary[f"{prefix}{name}/z_variance"] = one.z_variance
        for name, figure in found.pair_correlation.items():
            summary[f"{prefix}pair_correlation/{name}"] = figure
        if found.truth is not None:
            summary[f"{prefix}truth/auroc"] = found.truth.auroc
            summary[f"{prefix}truth/control"] = found.truth.control
    return {name: dataclasses.asdict(figure) for name, figure in summary.items()}


def mean_figure(values: Float[np.ndarray, " models"], unit: str, text: str) -> Figure:
    """Mean of one value a model, with the 95 % t interval of the mean (None below 2 models)."""
    mean, low, high = mean_interval(values)
    known = (low, high) if np.isfinite(low) else (None, None)
    return Figure(mean, *known, len(values), unit, text)


def feature_gap_warning(found: TargetFindings) -> str | None:
    """Warn when source training hardly improves on random features: then influence is about nothing.

    The bar: the gap must exceed 2 points of accuracy and the spread of accuracy between models.
    """
    if not len(found.random_accuracy):
        return None
    gap = float(found.accuracy.mean() - found.random_accuracy.mean())
    spread = float(found.accuracy.std())
    if gap > max(0.02, spread):
        return None
    return (
        f"{found.target} ({found.mode}): models reach {found.accuracy.mean():.1%}, {baseline_words(found.mode)} "
        f"{found.random_accuracy.mean():.1%}; with a gap of {100 * gap:.1f} points (spread between models "
        f"{100 * spread:.1f}) source data hardly matter, and influence is mostly noise: train longer, on more data, "
        "or use a network whose random features are worse."
    )
