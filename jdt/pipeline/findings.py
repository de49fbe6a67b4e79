"""From stored outputs to influences and to what a report says about them."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jdt import checks, store
from jdt.estimators import (
    TABLE,
    Estimator,
    Influences,
    Level,
    complete_pairs,
    finite_models,
    influence_path,
    save_influences,
)
from jdt.evaluate import auroc, pair_correlation, permutation_control, split_half
from jdt.pipeline.blocks import random_accuracy
from jdt.report import baseline_words
from jdt.report.content import EstimatorFindings, Figure, PlantedTruth, TargetFindings
from jdt.types import Bool, Float, UInt8

OUTPUTS = ("confidence", "margin")
"""Outputs that influences are estimated for."""


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


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The models of a run that estimators can use.

    Attributes:
      masks: bool `[models, units]`.
      outputs: Output name -> float32 `[models, examples]`.
      accuracy: float32 `[models]`.
      left_out: Ids of complete models that cannot be used: diverged ones, and the partners of such in pairs.
      paired: Whether rows 2i and 2i+1 are an antithetic pair.
    """

    masks: Bool[np.ndarray, "models units"]
    outputs: Mapping[str, Float[np.ndarray, "models examples"]]
    accuracy: Float[np.ndarray, " models"]
    left_out: tuple[int, ...]
    paired: bool


def usable_rows(run: store.Run, target: str, mode: str) -> Rows:
    """Read the models of a run that estimators can use: complete, finite, and when paired, with their partner.

    Raises:
      UserError: If fewer than 2 are left.
    """
    paired = run.config["design"]["kind"] == "antithetic"
    together = complete_pairs(run.complete, paired=paired)
    outputs = {name: run.outputs(target, mode, name)[together] for name in OUTPUTS}
    usable = finite_models(np.concatenate(list(outputs.values()), axis=1), paired=paired)
    if usable.sum() < 2:
        raise checks.UserError(
            f"{int(usable.sum())} of {len(run.complete)} trained models can be used for target {target!r}, but an "
            "effect is a difference between models: lower --recipe.learning-rate if they diverged, or train more."
        )
    kept = np.flatnonzero(together)[usable]
    return Rows(
        masks=run.mask()[kept],
        outputs={name: values[usable] for name, values in outputs.items()},
        accuracy=run.column(f"targets/{target}/{mode}/accuracy")[kept],
        left_out=tuple(int(i) for i in np.setdiff1d(run.complete, run.complete[kept])),
        paired=paired,
    )


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

    Influences of both outputs and all estimators are saved in the run; the findings are about `output`.

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
    """
    rows = usable_rows(run, target, mode)
    labels, names = run.targets[target].labels, run.targets[target].class_names
    present = np.unique(labels)
    class_names = tuple(names[c] for c in present)
    found: dict[str, EstimatorFindings] = {}
    for name in dict.fromkeys((output, *OUTPUTS)):
        values = rows.outputs[name].astype(np.float64)
        by_class = np.stack([values[:, labels == c].mean(axis=1) for c in present], axis=1)
        for estimator in estimators:
            if progress is not None:
                progress(f"{estimator.name} on {target}/{mode}/{name}")
            levels = _fit_levels(estimator, rows, values, by_class, run.unit_names, class_names, target, name)
            save_influences(
                influence_path(run.path, target, mode, name, estimator.name),
                levels,
                class_names=class_names,
                attributes={"target": target, "mode": mode, "left_out": list(rows.left_out)},
            )
            if name == output:
                found[estimator.name] = _judge(estimator, rows, by_class, levels)
    first = estimators[0]
    by_class = np.stack([rows.outputs[output][:, labels == c].mean(axis=1) for c in present], axis=1)
    findings = TargetFindings(
        target=target,
        mode=mode,
        output=output,
        accuracy=rows.accuracy,
        random_accuracy=random_accuracy(run, target, mode),
        estimators=found,
        class_images={name: class_images[name] for name in class_names if name in class_images},
        pair_correlation=_pair_correlations(rows, by_class, found[first.name].classes) if rows.paired else {},
        truth=_look_for(truth, first, rows, by_class.mean(axis=1, keepdims=True)) if truth is not None else None,
    )
    return findings, rows.left_out


def _fit_levels(
    estimator: Estimator,
    rows: Rows,
    values: Float[np.ndarray, "models examples"],
    by_class: Float[np.ndarray, "models classes"],
    unit_names: tuple[str, ...],
    class_names: tuple[str, ...],
    target: str,
    output: str,
) -> dict[Level, Influences]:
    def fit(outputs: np.ndarray, names: tuple[str, ...]) -> Influences:
        found = estimator.fit(rows.masks, outputs, paired=rows.paired)
        return dataclasses.replace(found, unit_names=unit_names, target_names=names, output=output)

    return {
        "example": fit(values, tuple(str(i) for i in range(values.shape[1]))),
        "class": fit(by_class, class_names),
        "task": fit(values.mean(axis=1, keepdims=True), (target,)),
    }


def _judge(
    estimator: Estimator, rows: Rows, by_class: Float[np.ndarray, "models classes"], levels: Mapping[Level, Influences]
) -> EstimatorFindings:
    value, low, high = split_half(estimator, rows.masks, by_class, paired=rows.paired)
    z = levels["class"].z
    count = len(rows.masks)
    return EstimatorFindings(
        classes=levels["class"],
        task=levels["task"],
        reliability=Figure(
            value, low, high, count, "correlation",
            f"split-half reliability of class-level {estimator.name} influence, Spearman-Brown corrected",
        ),
        z_variance=Figure(
            float(z.var()), None, None, count, "1 is noise",
            f"variance of z of class-level {estimator.name} influence over units and classes",
        ),
    )  # fmt: skip


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
        summary[f"{prefix}accuracy"] = mean_figure(
            found.accuracy, "accuracy", "target accuracy, mean over models with its 95 % interval"
        )
        if len(found.random_accuracy):
            summary[f"{prefix}random_accuracy"] = mean_figure(
                found.random_accuracy, "accuracy", "target accuracy of models that never saw the source"
            )
        for name, one in found.estimators.items():
            summary[f"{prefix}{name}/reliability"] = one.reliability
            summary[f"{prefix}{name}/z_variance"] = one.z_variance
        for name, figure in found.pair_correlation.items():
            summary[f"{prefix}pair_correlation/{name}"] = figure
        if found.truth is not None:
            summary[f"{prefix}truth/auroc"] = found.truth.auroc
            summary[f"{prefix}truth/control"] = found.truth.control
    return {name: dataclasses.asdict(figure) for name, figure in summary.items()}


def mean_figure(values: Float[np.ndarray, " models"], unit: str, text: str) -> Figure:
    """Mean of one value a model, with the 95 % interval of the mean (normal; None below 2 models)."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Figure(mean, None, None, count, unit, text)
    reach = 1.96 * float(np.std(values, ddof=1)) / np.sqrt(count)
    return Figure(mean, mean - reach, mean + reach, count, unit, text)


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
