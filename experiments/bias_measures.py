"""How strongly a bias comes along: every metric of a study of bias transfer, from what its run has stored."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jdt
from experiments.bias_setup import CLEAN, SCRATCH, TWIN, Study, Variant

ASR, ASR_OTHERS = "attack success rate", "attack success rate, images of other classes"
FLIPS, SHIFT, DROP, ACCURACY = "flip rate", "total shift", "accuracy drop", "accuracy"
SKEW, GAP_0, GAP_1, WORST = "group skew", "equal-opportunity gap, y = 0", "equal-opportunity gap, y = 1", "worst group"
RESAMPLES = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One metric of the models of one source variant, on one target variant in one mode.

    Attributes:
      variant: Of the target.
      mode: `fixed` or `full`.
      pattern: On the test images; empty for a study of groups.
      metric: Its name.
      arm: The source variant.
      attacked: Target classes that the pattern pushes to.
      values: float64 `[seeds]`; NaN where nothing is in the denominator, or the model diverged.
      hits: What the rate counts, `[seeds]`; empty for metrics that are no share.
      of: What it is a share of, `[seeds]`.
      transfer: To the twin: mean difference with its t interval over seeds; None for the twin itself.
      over_examples: The same mean with its bootstrap interval over test images; None where it was not asked for.
    """

    variant: Variant
    mode: str
    pattern: str
    metric: str
    arm: str
    attacked: tuple[str, ...]
    values: np.ndarray
    hits: tuple[int, ...] = ()
    of: tuple[int, ...] = ()
    transfer: jdt.analyses.Difference | None = None
    over_examples: jdt.analyses.Difference | None = None

    def to_plain(self) -> dict[str, Any]:
        """What `bias.json` has of it; NaN as null."""
        plain = {
            "target": self.variant.target,
            "variant": self.variant.name,
            **{name: getattr(self, name) for name in ("mode", "pattern", "metric", "arm", "attacked", "hits", "of")},
            "values": [None if np.isnan(value) else float(value) for value in self.values],
        }
        for name, found in (("transfer", self.transfer), ("over_examples", self.over_examples)):
            if found is not None:
                fields = dataclasses.asdict(found)
                plain[name] = {key: None if np.isnan(value) else value for key, value in fields.items()}
        return jdt.config.to_plain(plain)


class Predictions:
    """Predictions of a study's models, by source variant, on the test images that report and on those that choose."""

    def __init__(self, study: Study, run: jdt.store.Run, others: Mapping[str, jdt.store.Run], seed: int) -> None:
        """Take them from a run.

        Args:
          study: What the run was made of.
          run: The run.
          others: Further runs by name of the only source variant in each: models that the user brings, from scratch.
          seed: Root seed of the study, which divides test images in halves.
        """
        self._study, self._run, self._others, self._seed = study, run, others, seed
        self._rows = {arm: np.flatnonzero(np.array(study.arms) == arm) for arm in dict.fromkeys(study.arms)}
        self._read = functools.lru_cache(maxsize=None)(
            lambda path, name, mode: jdt.open_run(path).outputs(name, mode, "prediction")
        )

    @property
    def arms(self) -> tuple[str, ...]:
        """Source variants, the twin first, models from scratch last."""
        there = [*self._rows, *self._others]
        first = [arm for arm in (self.twin,) if arm in there]
        return (*first, *(a for a in there if a not in (*first, SCRATCH)), *(a for a in there if a == SCRATCH))

    @property
    def twin(self) -> str:
        """The source variant that others are compared with: the one without the bias, else models from scratch."""
        there = [*self._rows, *self._others]
        return next((arm for arm in (TWIN, self._study.twin) if arm in there), SCRATCH)

    def of(self, name: str, mode: str, arm: str) -> np.ndarray:
        """int32 `[seeds, examples]`: predictions on all test images that the store has under a name."""
        if arm in self._others:
            return self._read(self._others[arm].path, name, mode)
        return self._read(self._run.path, name, mode)[self._rows[arm]]

    def halves(self, target: str) -> jdt.analyses.Halves:
        """Test images of a target that choose, and those that report."""
        return jdt.analyses.halves(self._run.target(target).labels, self._seed)

    def labels(self, target: str) -> np.ndarray:
        """Classes of a target's test images."""
        return self._run.target(target).labels


def attacked_classes(study: Study, predictions: Predictions, named: Sequence[str]) -> dict[tuple[str, str, str], int]:
    """The class that each pattern pushes to, by (target, mode, pattern), chosen on the half that does not report.

    Of a trigger, by the models that had it in their source; of a sham, the one of the first trigger; of a pattern that
    no source had, by the models of the first source variant. With classes that are named, none is chosen: -1.
    """
    chosen = {}
    plain = [variant for variant in study.variants if variant.is_plain]
    for variant in plain:
        classes = _class_names(study, variant.target)
        for name in named:
            jdt.checks.require_known("attacked class", name, classes)
        half = predictions.halves(variant.name).score
        for mode in study.task.modes:
            for pattern in study.stamps:
                if named:
                    chosen[variant.target, mode, pattern] = -1
                    continue
                of = pattern if pattern in study.triggers else next(iter(study.triggers), "")
                arm = of or next(arm for arm in predictions.arms if arm not in (TWIN, SCRATCH))
                is_natural = pattern not in study.triggers and pattern not in study.shams
                shown = pattern if is_natural or not of else of
                arm = CLEAN if is_natural and of else arm
                clean = predictions.of(variant.name, mode, arm)
                with_pattern = predictions.of(jdt.pipeline.view_name(variant.name, shown), mode, arm)
                found = jdt.analyses.attacked_class(clean, with_pattern, len(classes), half)
                if found is None:
                    raise jdt.UserError(
                        f"all models of source variant {arm!r} diverged on {variant.name} ({mode}): lower "
                        "--recipe.learning-rate or --full.recipe.learning-rate."
                    )
                chosen[variant.target, mode, pattern] = found
    return chosen


def measure(study: Study, predictions: Predictions, named: Sequence[str], seed: int) -> list[Measured]:
    """Every metric of a study."""
    if study.kind == "group":
        return _measure_groups(study, predictions, seed)
    attacked, found = attacked_classes(study, predictions, named), []
    for variant in study.variants:
        names = _class_names(study, variant.target)
        labels, report = predictions.labels(variant.name), predictions.halves(variant.name).report
        for mode in study.task.modes:
            for pattern in study.stamps:
                class_id = attacked[variant.target, mode, pattern]
                classes = [names.index(name) for name in named] if class_id < 0 else [class_id]
                view = jdt.pipeline.view_name(variant.name, pattern)
                pairs = {
                    arm: (
                        predictions.of(variant.name, mode, arm)[:, report],
                        predictions.of(view, mode, arm)[:, report],
                    )
                    for arm in predictions.arms
                    if pattern not in study.triggers or arm not in study.triggers or arm == pattern
                }
                about = (variant, mode, pattern, tuple(names[c] for c in classes))
                found += _pattern_metrics(about, pairs, labels[report], classes, len(names), predictions.twin, seed)
    return found


def _pattern_metrics(
    about: tuple[Variant, str, str, tuple[str, ...]],
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: np.ndarray,
    classes: Sequence[int],
    num_classes: int,
    twin: str,
    seed: int,
) -> list[Measured]:
    variant, mode, pattern, names = about
    values: dict[str, dict[str, Any]] = {}
    for arm, (clean, shown) in pairs.items():
        right = jdt.analyses.accuracy_parts(clean, labels)[0].rate
        values[arm] = {
            ASR: jdt.analyses.attack_success(clean, shown, classes),
            ASR_OTHERS: jdt.analyses.attack_success(clean, shown, classes, labels),
            FLIPS: jdt.analyses.flip_rate(clean, shown),
            ACCURACY: right,
            DROP: jdt.analyses.accuracy_drop(clean, shown, labels).value,
            SHIFT: jdt.analyses.total_shift(jdt.analyses.prediction_shift(clean, shown, num_classes)),
        }
    parts = {arm: jdt.analyses.attack_parts(*pair, classes) for arm, pair in pairs.items()}
    return [
        _measured((variant, mode, pattern, metric, arm, names), value, values[twin][metric], arm != twin,
                  (parts[arm], parts[twin]) if metric == ASR else None, seed)
        for arm, metrics in values.items()
        for metric, value in metrics.items()
    ]  # fmt: skip


def _measure_groups(study: Study, predictions: Predictions, seed: int) -> list[Measured]:
    found = []
    for variant in study.variants:
        labels, groups = predictions.labels(variant.name), study.groups[variant.target]
        for mode in study.task.modes:
            values, parts = {}, {}
            for arm in predictions.arms:
                own = predictions.of(variant.name, mode, arm)
                gaps = jdt.analyses.opportunity_gaps(own, labels, groups)
                values[arm] = {
                    SKEW: jdt.analyses.group_skew(own, groups).value,
                    GAP_0: gaps[0].value,
                    GAP_1: gaps[1].value,
                    WORST: jdt.analyses.worst_group(own, labels, groups).value,
                    ACCURACY: jdt.analyses.accuracy_parts(own, labels)[0].rate,
                }
                parts[arm] = jdt.analyses.skew_parts(own, groups)
            found += [
                _measured((variant, mode, "", metric, arm, ()), value, values[predictions.twin][metric],
                          arm != predictions.twin,
                          (parts[arm], parts[predictions.twin]) if metric == SKEW else None, seed)
                for arm, metrics in values.items()
                for metric, value in metrics.items()
            ]  # fmt: skip
    return found


def _measured(
    about: tuple[Variant, str, str, str, str, tuple[str, ...]],
    value: jdt.analyses.Rate | np.ndarray,
    twin: jdt.analyses.Rate | np.ndarray,
    is_compared: bool,
    parts: tuple[Sequence[jdt.analyses.Counted], Sequence[jdt.analyses.Counted]] | None,
    seed: int,
) -> Measured:
    def of(one: jdt.analyses.Rate | np.ndarray) -> np.ndarray:
        return np.asarray(one.value if isinstance(one, jdt.analyses.Rate) else one, np.float64)

    hits = value.hits.tolist() if isinstance(value, jdt.analyses.Rate) else ()
    total = value.of.tolist() if isinstance(value, jdt.analyses.Rate) else ()
    transfer = jdt.analyses.paired(of(value), of(twin)) if is_compared else None
    examples = None
    if is_compared and parts is not None:
        examples = jdt.analyses.bootstrap_examples(*parts, resamples=RESAMPLES, seed=seed)
    return Measured(*about, of(value), tuple(hits), tuple(total), transfer, examples)  # pyright: ignore[reportArgumentType]


def _class_names(study: Study, target: str) -> tuple[str, ...]:
    return next(one.test.class_names for one in study.base.targets if one.name == target)


def find(
    measured: Sequence[Measured],
    *,
    metric: str,
    mode: str | None = None,
    pattern: str | None = None,
    arm: str | None = None,
    target: str | None = None,
    plain: bool | None = None,
) -> list[Measured]:
    """Those that are asked for."""
    wanted = {"metric": metric, "mode": mode, "pattern": pattern, "arm": arm}
    return [
        one
        for one in measured
        if all(value is None or getattr(one, name) == value for name, value in wanted.items())
        and (target is None or one.variant.target == target)
        and (plain is None or one.variant.is_plain == plain)
    ]
