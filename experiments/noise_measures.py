"""What noise in the source does downstream: accuracies and spectra of a study, from what its run has stored."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

import jdt
from experiments.noise_setup import SCRATCH, Study, Variant, by_arm

Center = Literal["column", "row"]


@dataclasses.dataclass(frozen=True, eq=False)
class Accuracy:
    """Accuracies on one test set, after one tuner.

    Attributes:
      variant: Of the target.
      mode: The tuner.
      view: The rendering, or the other dataset, that is out of distribution; empty for the test split as it is.
      values: float64 `[arms, seeds]`; NaN for models that diverged.
    """

    variant: Variant
    mode: str
    view: str
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """The spectrum of the features that one tuner's heads read on one test set.

    Attributes:
      variant: Of the target.
      mode: The tuner; features are the frozen ones for a linear probe.
      view: As for accuracies.
      center: `column` or `row`: see `jdt.analyses.singular_values`.
      sve: float64 `[arms, seeds]`: singular value entropy, in nats; higher is flatter.
      lsvr: float64 `[arms, seeds]`: `-ln(s_1 / sum s)`; higher is less dominated by one direction.
      values: float64 `[arms, features]`: singular values as parts of their sum, descending; means over seeds.
    """

    variant: Variant
    mode: str
    view: str
    center: str
    sve: np.ndarray
    lsvr: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ByClass:
    """How test images fare by their class, over all models that did not diverge.

    Attributes:
      right: float64 `[classes]`: share of the images of each class that are right.
      chance: Share that would be right if predictions were as many of each class, and had nothing to do with the
        images: sum over classes of the share of predictions times the share of labels.
    """

    right: np.ndarray
    chance: float


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """All that a study has measured.

    Attributes:
      arms: Source variants: rates ascending, then models that saw no source image.
      rates: Of the noise.
      source: float64 `[arms, seeds]`: accuracy on clean test images of the source.
      accuracies: By variant, tuner and test set.
      spectra: Of whole targets.
      shuffled: By (variant with shuffled labels, tuner).
    """

    arms: tuple[str, ...]
    rates: np.ndarray
    source: np.ndarray
    accuracies: tuple[Accuracy, ...]
    spectra: tuple[Spectrum, ...]
    shuffled: Mapping[tuple[str, str], ByClass]

    @property
    def modes(self) -> tuple[str, ...]:
        """Tuners."""
        return tuple(dict.fromkeys(one.mode for one in self.accuracies))

    @property
    def fractions(self) -> tuple[float, ...]:
        """Shares of the targets' training images that were used, ascending."""
        return tuple(sorted({one.variant.fraction for one in self.accuracies if not one.variant.is_shuffled}))

    def scores(self, mode: str, *, ood: bool, fraction: float = 1.0) -> np.ndarray:
        """float64 `[arms, seeds]`: mean accuracy over targets, or over all out-of-distribution test sets of them.

        Every test set has the same weight (section 3.6 of the specification).
        """
        found = [
            one.values
            for one in self.accuracies
            if one.mode == mode and bool(one.view) == ood
            and one.variant.fraction == fraction and not one.variant.is_shuffled
        ]  # fmt: skip
        return np.mean(found, axis=0) if found else np.full((len(self.arms), self.source.shape[1]), np.nan)

    @property
    def has_ood(self) -> bool:
        """Whether there is any out-of-distribution test set."""
        return any(one.view for one in self.accuracies)

    def spectrum_of(self, mode: str, name: str, *, ood: bool, center: str = "column") -> np.ndarray:
        """float64 `[arms, seeds]`: mean of `sve` or `lsvr` over test sets."""
        found = [
            getattr(one, name)
            for one in self.spectra
            if one.mode == mode and bool(one.view) == ood and one.center == center
        ]
        return np.mean(found, axis=0) if found else np.full((len(self.arms), self.source.shape[1]), np.nan)

    def to_plain(self) -> dict[str, Any]:
        """What `noise.json` has of it; NaN as null."""

        def plain(values: np.ndarray) -> Any:
            return [plain(row) for row in values] if values.ndim else None if np.isnan(values) else float(values)

        def described(one: Accuracy | Spectrum) -> dict[str, Any]:
            return {"target": one.variant.target, "variant": one.variant.name, "mode": one.mode, "view": one.view}

        return {
            "arms": list(self.arms),
            "rates": self.rates.tolist(),
            "source_accuracy": plain(self.source),
            "accuracies": [{**described(one), "values": plain(one.values)} for one in self.accuracies],
            "spectra": [
                {**described(one), "center": one.center, "sve": plain(one.sve), "lsvr": plain(one.lsvr)}
                for one in self.spectra
            ],
        }  # fmt: skip


def measure(study: Study, run: jdt.store.Run) -> Measured:
    """Read a run: every accuracy from its stored predictions, every spectrum from its stored singular values."""
    arms = study.arms
    accuracies, spectra, shuffled = [], [], {}
    for variant in study.variants:
        for mode in study.task.modes:
            for view in ("", *study.views[variant.target]):
                name = jdt.pipeline.view_name(variant.name, view) if view else variant.name
                values = by_arm(run.metric(name, mode).astype(np.float64), len(arms))
                accuracies.append(Accuracy(variant, mode, view, values))
                if variant.is_shuffled and not view:
                    shuffled[variant.name, mode] = _by_class(run, name, mode)
                if variant.is_plain and mode in study.task.tuners:
                    spectra += [
                        _spectrum(run, name, variant, mode, view, center, len(arms)) for center in jdt.store.SPECTRA
                    ]
    return Measured(
        arms,
        np.asarray(study.rates),
        by_arm(run.column("source/accuracy").astype(np.float64), len(arms)),
        tuple(accuracies),
        tuple(spectra),
        shuffled,
    )


def _by_class(run: jdt.store.Run, name: str, mode: str) -> ByClass:
    labels, told = run.target(name).labels, run.outputs(name, mode, "prediction")
    return by_class(labels, told[(told >= 0).all(axis=1)])


def by_class(labels: np.ndarray, told: np.ndarray) -> ByClass:
    """Of labels `[images]` and predictions `[models, images]` of models that did not diverge; NaN without any.

    >>> found = by_class(np.array([0, 0, 0, 1]), np.array([[0, 0, 0, 0]]))
    >>> found.right.tolist(), found.chance
    ([1.0, 0.0], 0.75)
    """
    present, count = np.unique(labels, return_counts=True)
    if not len(told):
        return ByClass(np.full(len(present), np.nan), float("nan"))
    right = (told == labels).mean(axis=0)
    predicted = np.array([(told == label).mean() for label in present])
    return ByClass(
        np.array([right[labels == label].mean() for label in present]), float((predicted * count / len(labels)).sum())
    )


def _spectrum(
    run: jdt.store.Run, name: str, variant: Variant, mode: str, view: str, center: Center, num_arms: int
) -> Spectrum:
    values = run.column(f"targets/{name}/{mode}/{jdt.store.SPECTRA[center]}")
    there = np.isfinite(values).all(axis=1) & (values > 0).any(axis=1)  # Features may be the same for all images.
    found = {what: np.full(len(values), np.nan) for what in ("sve", "lsvr")}
    found["sve"][there], found["lsvr"][there] = jdt.analyses.sve(values[there]), jdt.analyses.lsvr(values[there])
    parts = np.full_like(values, np.nan)
    parts[there] = values[there] / values[there].sum(axis=1, keepdims=True)
    return Spectrum(
        variant, mode, view, center,
        by_arm(found["sve"], num_arms), by_arm(found["lsvr"], num_arms), mean(by_arm(parts, num_arms), 1),
    )  # fmt: skip


def mean(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Of what is there, as models that diverged are not; NaN where nothing is.

    >>> mean(np.array([[0.5, np.nan], [np.nan, np.nan]]), 1).tolist()
    [0.5, nan]
    """
    there = np.isfinite(values)
    count = there.sum(axis=axis)
    return np.where(count > 0, np.where(there, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)


def of_rates(measured: Measured, values: np.ndarray) -> np.ndarray:
    """Values by arm without the models that saw no source image: float64 `[rates, seeds]`."""
    return values[: len(measured.rates)]


def effects(measured: Measured, values: np.ndarray) -> Sequence[jdt.analyses.Difference]:
    """What each rate of noise above 0 does to a value, paired by seed with the models without noise."""
    rows = of_rates(measured, values)
    return [jdt.analyses.paired(row, rows[0]) for row in rows[1:]]


def scratch_of(measured: Measured, values: np.ndarray) -> np.ndarray:
    """float64 `[seeds]`: values of the models that saw no source image."""
    return values[measured.arms.index(SCRATCH)]
