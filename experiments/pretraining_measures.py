"""What pre-training data are worth downstream: accuracies of a study, from what its runs have stored."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import jdt
from experiments.noise_setup import by_arm
from experiments.pretraining_setup import ALIGNED, OWN, PERMUTED, SCRATCH, VALIDATION, Block, Rule, Study

RESAMPLES = 1000
"""Of every bootstrap."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """Sources beside each other: of one method, on one target, at one number of shots, under one rule of transfer.

    Attributes:
      method: How sources were learnt.
      target: Name of the target.
      shots: Training images of each class; None for all of them.
      rule: How models were transferred.
      modes: Settings that were tried, by the store's names.
      arms: Sources, `scratch` and the twin among them.
      validation: float64 `[settings, arms, seeds, draws]`: accuracy on the validation images; NaN where a model
        diverged.
      test: The same on the test images.
      selected: Of each arm the setting with the best mean on validation images, over seeds and draws, and what choosing
        on test images would have claimed.
      told: int `[arms, seeds, draws, examples]`: predictions of the test images with the chosen setting, with the first
        one where there is none; -1 of models that diverged.
      labels: int `[examples]`.
    """

    method: str
    target: str
    shots: int | None
    rule: Rule
    modes: tuple[str, ...]
    arms: tuple[str, ...]
    validation: np.ndarray
    test: np.ndarray
    selected: jdt.analyses.Selection
    told: np.ndarray
    labels: np.ndarray

    @functools.cached_property
    def correct(self) -> np.ndarray:
        """Which test images are right, bool `[arms, seeds, draws, examples]`."""
        return self.told == self.labels

    def accuracy(self, *arms: str) -> np.ndarray:
        """float64 `[arms, seeds, draws]` with the chosen settings; NaN where there is none."""
        rows = [self.arms.index(arm) for arm in arms]
        return np.stack([
            self.test[self.selected.chosen[row], row] if self.selected.chosen[row] >= 0
            else np.full(self.test.shape[2:], np.nan)
            for row in rows
        ])  # fmt: skip

    def of(self, *arms: str) -> np.ndarray:
        """Bool `[arms, seeds, draws, examples]`: which test images are right."""
        return self.correct[[self.arms.index(arm) for arm in arms]]

    def has(self, *arms: str) -> bool:
        """Whether all these arms are there, with a setting."""
        return all(arm in self.arms and self.selected.chosen[self.arms.index(arm)] >= 0 for arm in arms)


@dataclasses.dataclass(frozen=True, eq=False)
class ZeroShot:
    """Zero-shot accuracy of CLIP models, with names where they belong and with those of other classes.

    Attributes:
      target: A target, or `own`: the classes of the near source, on test images of the source dataset.
      arms: Sources.
      classes: Number of classes.
      examples: Number of test images.
      aligned: float64 `[arms, seeds]`.
      permuted: float64 `[arms, seeds]`.
    """

    target: str
    arms: tuple[str, ...]
    classes: int
    examples: int
    aligned: np.ndarray
    permuted: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """All that a study has measured.

    Attributes:
      cells: By method, target, shots and rule.
      shuffled: The same after training on shuffled labels.
      zero_shot: Where there are CLIP models.
      source: Source accuracy by method: float64 `[arms, seeds]`.
    """

    cells: tuple[Cell, ...]
    shuffled: tuple[Cell, ...]
    zero_shot: tuple[ZeroShot, ...]
    source: Mapping[str, np.ndarray]

    def cell(self, method: str, target: str, shots: int | None, rule: str) -> Cell:
        """One of them."""
        wanted = (method, target, shots, rule)
        return next(one for one in self.cells if (one.method, one.target, one.shots, one.rule) == wanted)

    @property
    def lost(self) -> int:
        """Models that diverged on some setting, counted once for each setting, target and draw."""
        return sum(int(np.isnan(one.test).sum()) for one in (*self.cells, *self.shuffled))


def measure(study: Study) -> Measured:
    """Read the runs of all methods: every accuracy from stored predictions."""
    cells: list[Cell] = []
    shuffled: list[Cell] = []
    zero_shot: list[ZeroShot] = []
    source = {}
    for block in study.blocks:
        run = jdt.open_run(block.out)
        source[block.method] = by_arm(run.column("source/accuracy").astype(np.float64), len(block.arms))
        cells += _cells(study, block, run, is_shuffled=False)
        shuffled += _cells(study, block, run, is_shuffled=True)
        if PERMUTED in block.task.modes:
            zero_shot += [_zero_shot(block, run, name) for name in (OWN, *study.targets)]
    return Measured(tuple(cells), tuple(shuffled), tuple(zero_shot), source)


def _cells(study: Study, block: Block, run: jdt.store.Run, *, is_shuffled: bool) -> Iterator[Cell]:
    """Cells of one method; those of shuffled labels apart."""
    rules: tuple[Rule, ...] = tuple(dict.fromkeys(one.rule for one in study.settings))
    for target in study.targets:
        for shots in study.shots:
            names = [
                one.name
                for one in study.variants
                if one.target == target and one.shots == shots and one.is_shuffled == is_shuffled
            ]
            for rule in rules:
                modes = tuple(one.mode for one in study.settings if one.rule == rule and one.mode in block.task.modes)
                if names and modes:
                    yield _cell(block, run, target, shots, rule, modes, names)


def _cell(
    block: Block, run: jdt.store.Run, target: str, shots: int | None, rule: Rule, modes: tuple[str, ...],
    names: Sequence[str],
) -> Cell:  # fmt: skip
    count = len(block.arms)

    def accuracies(view: str) -> np.ndarray:
        """[settings, arms, seeds, draws]."""
        stored = [jdt.pipeline.view_name(name, view) if view else name for name in names]
        values = [[by_arm(run.metric(name, mode).astype(np.float64), count) for name in stored] for mode in modes]
        return np.moveaxis(np.array(values), 1, -1)

    validation, test = accuracies(VALIDATION), accuracies("")
    # A setting with which any model diverged is not chosen: a mean over the others would be that of the lucky ones.
    means = [values.mean(axis=(2, 3)).T for values in (validation, test)]  # [arms, settings]
    missing = np.isnan(means[0]) | np.isnan(means[1])
    selected = jdt.analyses.select(*(np.where(missing, np.nan, values) for values in means))
    chosen = selected.chosen
    told = {mode: [run.outputs(name, mode, "prediction") for name in names] for mode in modes}
    labels = run.target(names[0]).labels
    of_arms = np.stack([
        np.stack([by_arm(one, count)[row] for one in told[modes[max(chosen[row], 0)]]], axis=1) for row in range(count)
    ])  # fmt: skip
    return Cell(block.method, target, shots, rule, modes, block.arms, validation, test, selected, of_arms, labels)


def _zero_shot(block: Block, run: jdt.store.Run, name: str) -> ZeroShot:
    target = run.target(name)
    right = {
        mode: by_arm((run.outputs(name, mode, "prediction") == target.labels).mean(axis=1), len(block.arms))
        for mode in (ALIGNED, PERMUTED)
    }
    return ZeroShot(
        name, block.arms, len(target.class_names), len(target.labels), right[ALIGNED], right[PERMUTED]
    )  # fmt: skip


def rule_of(study: Study) -> str:
    """The rule of transfer that bars are judged under: the first one that trains a head."""
    found = dict.fromkeys(one.rule for one in study.settings)
    return next((rule for rule in found if rule not in ("zero-shot", "prototype")), next(iter(found)))


def shots_name(shots: int | None) -> str:
    """In words."""
    return "all images" if shots is None else f"{shots} shot{'s' if shots > 1 else ''}"


@functools.lru_cache(maxsize=4096)  # The page, the bars and the key figures ask for the same cells.
def mean_of(cell: Cell, *arms: str) -> jdt.analyses.Resampled:
    """Accuracy of some sources, as measured and resampled; resamples of all cells of a study belong together."""
    return jdt.analyses.resample(cell.of(*arms), resamples=RESAMPLES)


def trained(arms: Sequence[str]) -> tuple[str, ...]:
    """Arms without the models that saw nothing."""
    return tuple(arm for arm in arms if arm != SCRATCH)


def plain(values: np.ndarray) -> Any:
    """Nested lists, NaN as None."""
    return [plain(row) for row in values] if values.ndim else None if np.isnan(values) else values.item()
