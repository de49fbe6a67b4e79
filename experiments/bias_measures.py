"""How strongly a bias comes along: every metric of a study of bias transfer, from what its run has stored."""

import collections
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jdt
from experiments.bias_setup import GIVEN, SCRATCH, TWIN, Study, Variant

ASR, ASR_OTHERS = "attack success rate", "attack success rate, images of other classes"
FLIPS, SHIFT, DROP, ACCURACY = "flip rate", "total shift", "accuracy drop", "accuracy"
SKEW, GAP_0, GAP_1, WORST = "group skew", "equal-opportunity gap, y = 0", "equal-opportunity gap, y = 1", "worst group"
RESAMPLES, MOST_NAMED = 1000, 3


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """One metric of the models of one source variant, on one target variant in one mode.

    Attributes:
      variant: Of the target.
      mode: `fixed` or `full`.
      pattern: On the test images; empty for a study of groups.
      metric: Its name.
      arm: The source variant.
      attacked: The class that the pattern pushes each model to, `[seeds]`; or those that were named, for all of them.
      values: float64 `[seeds]`; NaN where nothing is in the denominator, or the model diverged.
      hits: What the rate counts, `[seeds]`; empty for metrics that are no share.
      of: What it is a share of, `[seeds]`.
      twin: The source variant that it is compared with.
      transfer: To the twin: mean difference with its t interval over seeds; None for the twin itself.
      over_examples: The same mean with its bootstrap interval over test images; None where it was not asked for.
      from_scratch: To models from scratch of the same seeds, in full mode where there is one: under a head alone, a
        network that nothing trained is random. Mean difference with its t interval over seeds.
      named: Whether the user named the attacked classes.
    """

    variant: Variant
    mode: str
    pattern: str
    metric: str
    arm: str
    attacked: tuple[str, ...]
    twin: str
    values: np.ndarray
    hits: tuple[int, ...] = ()
    of: tuple[int, ...] = ()
    transfer: jdt.analyses.Difference | None = None
    over_examples: jdt.analyses.Difference | None = None
    from_scratch: jdt.analyses.Difference | None = None
    named: bool = False

    @property
    def pushed_to(self) -> str:
        """Classes that the pattern pushes models to, in words: those that were named, else of models with a value."""
        if self.named:
            return ", ".join(self.attacked)
        there = np.isfinite(self.values).tolist()
        return words_of([name for name, is_there in zip(self.attacked, there, strict=False) if is_there], MOST_NAMED)

    def to_plain(self) -> dict[str, Any]:
        """What `bias.json` has of it; NaN as null."""
        plain = {
            "target": self.variant.target,
            "variant": self.variant.name,
            **{name: getattr(self, name) for name in ("mode", "pattern", "metric", "arm", "attacked", "hits", "of")},
            "values": [None if np.isnan(value) else float(value) for value in self.values],
        }
        for name in ("transfer", "over_examples", "from_scratch"):
            found = getattr(self, name)
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
        self._halves = functools.lru_cache(maxsize=None)(
            lambda target: jdt.analyses.halves(self._run.target(target).labels, self._seed)
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
        return self._halves(target)

    def labels(self, target: str) -> np.ndarray:
        """Classes of a target's test images."""
        return self._run.target(target).labels


def attacked_by(
    predictions: Predictions, name: str, mode: str, pattern: str, arm: str, classes: Sequence[str], named: Sequence[str]
) -> np.ndarray:
    """Int `[models, attacked]`: the classes that a pattern pushes each model to, each chosen on the half that chooses.

    Models of one source need not agree, and twins choose as well, so that a pattern which moves both equally has no
    difference. With classes that are named, none is chosen.
    """
    clean, shown = (predictions.of(one, mode, arm) for one in (name, jdt.pipeline.view_name(name, pattern)))
    return chosen_classes(clean, shown, classes, named, predictions.halves(name).score)


def chosen_classes(
    clean: np.ndarray, shown: np.ndarray, classes: Sequence[str], named: Sequence[str], chosen_on: np.ndarray
) -> np.ndarray:
    """Int `[models, attacked]`: the classes that are named, or the one of each model that images which choose say."""
    if named:
        return np.repeat(np.array([[classes.index(one) for one in named]]), len(clean), axis=0)
    return jdt.analyses.attacked_classes(clean, shown, len(classes), chosen_on)


def measure(study: Study, predictions: Predictions, named: Sequence[str], seed: int) -> list[Measured]:
    """Every metric of a study."""
    if study.kind == "group":
        return _measure_groups(study, predictions, seed)
    found = []
    for variant in study.variants:
        for mode in study.task.modes:
            for pattern in study.stamps:
                found += _measure_pattern(study, predictions, variant, mode, pattern, named, seed)
    # A given model under a convex head is the same in every seed, which says nothing of other models.
    is_one = GIVEN in study.arms and study.task.head.solver == "convex"
    return [_without_interval(one) if is_one and one.mode == "fixed" else one for one in found]


def _without_interval(one: Measured) -> Measured:
    if one.transfer is None or SCRATCH in (one.arm, one.twin):
        return one
    missing = dataclasses.replace(one.transfer, low=float("nan"), high=float("nan"))
    return dataclasses.replace(one, transfer=missing)


def _measure_pattern(
    study: Study,
    predictions: Predictions,
    variant: Variant,
    mode: str,
    pattern: str,
    named: Sequence[str],
    seed: int,
) -> list[Measured]:
    """Every metric of one pattern on one target variant in one mode, of each source variant that it is asked of."""
    arms = [a for a in predictions.arms if pattern not in study.triggers or a not in study.triggers or a == pattern]
    values, attacked, parts = {}, {}, {}
    for arm in arms:
        values[arm], attacked[arm], parts[arm] = _of_arm(study, predictions, variant, mode, pattern, arm, named)
    scratch = values.get(SCRATCH)
    if scratch is not None and (other := _scratch_mode(study, mode)) != mode:
        scratch = _of_arm(study, predictions, variant, other, pattern, SCRATCH, named)[0]
    twin = predictions.twin
    return [
        _measured((variant, mode, pattern, metric, arm, attacked[arm], twin), value, values[twin][metric], arm != twin,
                  (parts[arm], parts[twin]) if metric == ASR else None, seed,
                  None if scratch is None or arm == SCRATCH else scratch[metric], bool(named))
        for arm, metrics in values.items()
        for metric, value in metrics.items()
    ]  # fmt: skip


def _scratch_mode(study: Study, mode: str) -> str:
    """The mode whose models without a source are trained from scratch, where there is one."""
    return "full" if "full" in study.task.modes else mode


def _of_arm(
    study: Study,
    predictions: Predictions,
    variant: Variant,
    mode: str,
    pattern: str,
    arm: str,
    named: Sequence[str],
) -> tuple[dict[str, Any], tuple[str, ...], Sequence[jdt.analyses.Counted]]:
    """Metrics of one source variant's models, the classes that they are pushed to, and what attack success counts."""
    classes, report = _class_names(study, variant.target), predictions.halves(variant.name).report
    labels, view = predictions.labels(variant.name)[report], jdt.pipeline.view_name(variant.name, pattern)
    clean, shown = (predictions.of(name, mode, arm)[:, report] for name in (variant.name, view))
    attacked = attacked_by(predictions, variant.name, mode, pattern, arm, classes, named)
    parts = jdt.analyses.attack_parts(clean, shown, attacked)
    values = {
        ASR: parts[0].rate,
        ASR_OTHERS: jdt.analyses.attack_success(clean, shown, attacked, labels),
        FLIPS: jdt.analyses.flip_rate(clean, shown),
        ACCURACY: jdt.analyses.accuracy_parts(clean, labels)[0].rate,
        DROP: jdt.analyses.accuracy_drop(clean, shown, labels).value,
        SHIFT: jdt.analyses.total_shift(jdt.analyses.prediction_shift(clean, shown, len(classes))),
    }
    return values, tuple(classes[c] for c in (attacked[0] if named else attacked[:, 0])), parts


def words_of(attacked: Sequence[str], most: int | None = None) -> str:
    """The classes that models are pushed to, the most frequent first, of which `most` are named.

    >>> words_of(["ship", "cat", "ship"]), words_of(["ship", "ship"])
    ('ship (2 of 3), cat (1 of 3)', 'ship')
    """
    counts = collections.Counter(attacked).most_common()
    if len(counts) == 1 or (all(count == 1 for _, count in counts) and len(counts) < 3):
        return ", ".join(name for name, _ in counts)
    words = ", ".join(f"{name} ({count} of {len(attacked)})" for name, count in counts[:most])
    return words if most is None or len(counts) <= most else f"{words} and {len(counts) - most} more"


def _measure_groups(study: Study, predictions: Predictions, seed: int) -> list[Measured]:
    found, twin = [], predictions.twin
    for variant in study.variants:
        labels, groups = predictions.labels(variant.name), study.groups[variant.target]
        for mode in study.task.modes:
            values, parts = {}, {}
            for arm in predictions.arms:
                own = predictions.of(variant.name, mode, arm)
                values[arm] = _of_groups(own, labels, groups)
                parts[arm] = jdt.analyses.skew_parts(own, groups)
            scratch = values.get(SCRATCH)
            if scratch is not None and (other := _scratch_mode(study, mode)) != mode:
                scratch = _of_groups(predictions.of(variant.name, other, SCRATCH), labels, groups)
            found += [
                _measured((variant, mode, "", metric, arm, (), twin), value, values[twin][metric],
                          arm != twin, (parts[arm], parts[twin]) if metric == SKEW else None, seed,
                          None if scratch is None or arm == SCRATCH else scratch[metric])
                for arm, metrics in values.items()
                for metric, value in metrics.items()
            ]  # fmt: skip
    return found


def _of_groups(own: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    gaps = jdt.analyses.opportunity_gaps(own, labels, groups)
    return {
        SKEW: jdt.analyses.group_skew(own, groups).value,
        GAP_0: gaps[0].value,
        GAP_1: gaps[1].value,
        WORST: jdt.analyses.worst_group(own, labels, groups).value,
        ACCURACY: jdt.analyses.accuracy_parts(own, labels)[0].rate,
    }


def _measured(
    about: tuple[Variant, str, str, str, str, tuple[str, ...], str],
    value: jdt.analyses.Rate | np.ndarray,
    twin: jdt.analyses.Rate | np.ndarray,
    is_compared: bool,
    parts: tuple[Sequence[jdt.analyses.Counted], Sequence[jdt.analyses.Counted]] | None,
    seed: int,
    scratch: jdt.analyses.Rate | np.ndarray | None = None,
    named: bool = False,
) -> Measured:
    def of(one: jdt.analyses.Rate | np.ndarray) -> np.ndarray:
        return np.asarray(one.value if isinstance(one, jdt.analyses.Rate) else one, np.float64)

    hits = value.hits.tolist() if isinstance(value, jdt.analyses.Rate) else ()
    total = value.of.tolist() if isinstance(value, jdt.analyses.Rate) else ()
    transfer = jdt.analyses.paired(of(value), of(twin)) if is_compared else None
    examples = None
    if is_compared and parts is not None:
        examples = jdt.analyses.bootstrap_examples(*parts, resamples=RESAMPLES, seed=seed)
    from_scratch = None if scratch is None else jdt.analyses.paired(of(value), of(scratch))
    return Measured(
        *about, of(value), tuple(hits), tuple(total), transfer, examples, from_scratch, named  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


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
