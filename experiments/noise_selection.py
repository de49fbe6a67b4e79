"""Learning rates and weights of the tuners, chosen where a study of noisy pre-training does not look.

Source models without noise, of other seeds than the study's, are transferred to a part of each target's training
images; the settings with the best accuracy on the rest of them are taken. No test image takes part, and no rendering.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import jdt
from experiments.influence_run import train_run
from experiments.influence_setup import planned_on
from experiments.noise_measures import mean
from experiments.noise_setup import (
    CODE,
    FIRST_SELECTION_ID,
    LINEAR,
    MLP,
    PAPER,
    Config,
    Study,
    identity,
    published,
    with_ablation,
)

FOLDER, FILE = "selection", "selection.json"
TRAINED_ON = 0.8
"""Share of a target's training images of each class that tuners see while settings are chosen."""
NOT_CHOSEN_BY = ("arms", "subsets", "variants", "seeds", "save_models")
"""Parts of the study's identity that the choice does not depend on."""
POLL_SECONDS = 5.0
"""Between two looks at what other processes have trained."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """Settings of one tuner that were tried.

    Attributes:
      tuner: Name of its mode.
      rate: Multiple of the published learning rate.
      weight: Multiple of the published weights of NMTune's terms; 1 for the others.
      accuracy: Mean over models and targets, on images that were held out.
      chosen: Whether it is taken.
    """

    tuner: str
    rate: float
    weight: float
    accuracy: float = float("nan")
    chosen: bool = False

    @property
    def mode(self) -> str:
        """What the store calls it."""
        return f"{self.tuner}-lr{self.rate:g}-w{self.weight:g}"


def chosen_tuners(
    config: Config, study: Study, hosts: jdt.hosts.Hosts, say: Callable[..., None]
) -> tuple[dict[str, jdt.transfer.Tuning], tuple[Choice, ...]] | None:
    """The tuners of a study, and what was tried; None if models for it are missing and no other process trains them.

    Where other processes train some of these models, this waits for them.

    Raises:
      UserError: If the folder of an earlier choice is damaged, or of another study, or settings were chosen otherwise
        when models of the study were trained.
    """
    base = published(config)
    if not config.selection_seeds:
        return base, ()
    grid = choices(config)
    folder = jdt.store.run_path(config.out) / FOLDER
    if jdt.store.is_local(folder):
        jdt.store.refuse_links(jdt.store.run_path(config.out), FOLDER)
    tuners = {one.mode: tuned(base[one.tuner], one) for one in grid}
    targets = tuple(_split(target, config.seed) for target in study.base.targets)
    design = jdt.masks.Listed(
        np.ones((config.selection_seeds, len(study.base.units)), bool),
        FIRST_SELECTION_ID + np.arange(config.selection_seeds),
        config.seed,
    )
    task = dataclasses.replace(
        study.base, targets=targets, allow_overlap=True, design=design, num_models=config.selection_seeds,
        modes=tuple(tuners), tuners=tuners,
    )  # fmt: skip
    own = dataclasses.replace(
        config, out=folder, until_reliability=None, save_models=False, overwrite=False, resume=True
    )
    task, choice = planned_on(own, task)
    say(
        f"{len(grid)} settings of {len({one.tuner for one in grid})} tuners are tried with {config.selection_seeds} "
        "other models, on images that are held out of the targets' training splits."
    )
    writer, done = train_run(own, task, choice, hosts, say, _identity(config, study, task))
    if not done:
        if hosts.count == 1:
            return None
        wait_for(writer, say)
    run = jdt.open_run(folder)
    means = [_accuracy(np.stack([run.metric(target.name, one.mode) for target in targets])) for one in grid]
    tried = best([dataclasses.replace(one, accuracy=mean) for one, mean in zip(grid, means, strict=True)])
    _require_same(config, folder, tried)
    jdt.store.write_json(folder / FILE, [dataclasses.asdict(one) for one in tried])
    taken = {one.tuner: tuned(base[one.tuner], one) for one in tried if one.chosen}
    return with_ablation(config, taken), tried


def wait_for(writer: jdt.store.RunWriter, say: Callable[..., None]) -> None:
    """Wait until the processes that share the choice have trained its models: no process can go on without it."""
    said = None
    while missing := len(writer.unrecorded_blocks()):
        if missing != said:
            say(
                f"waiting for other processes to choose settings: {missing} blocks in {writer.path} are theirs. If one "
                "was killed, stop this (Ctrl-C) and run the same command again.",
                markup=False,
            )
            said = missing
        time.sleep(POLL_SECONDS)


def _accuracy(values: np.ndarray) -> float:
    """Mean over targets and models; NaN where any of them diverged, so that what may diverge is not chosen."""
    return float(mean(values)) if np.isfinite(values).all() else float("nan")


def _require_same(config: Config, folder: jdt.cli.RunPath, tried: Sequence[Choice]) -> None:
    """Refuse another choice than that with which models of the study were made, rather than mix the two.

    Raises:
      UserError: With what was chosen then and now.
    """
    made = jdt.store.saved_run(config.out)
    if made is None or not len(made.complete) or FILE not in jdt.store.names_in(folder):
        return
    before = {str(one["tuner"]): (one["rate"], one["weight"]) for one in _read(folder) if one["chosen"]}
    now = {one.tuner: (one.rate, one.weight) for one in tried if one.chosen}
    if before != now:
        tuner = next(name for name in (*now, *before) if before.get(name) != now.get(name))
        raise jdt.UserError(
            f"{folder / FILE} chose {before.get(tuner)} times the published rate and weights for {tuner}, with which "
            f"models in {config.out} were trained, and now {now.get(tuner)} is best: pass --overwrite to train them "
            "anew, or another --out."
        )


def _read(folder: jdt.cli.RunPath) -> Sequence[Mapping[str, Any]]:
    try:
        found = json.loads((folder / FILE).read_text())
        if not all({"tuner", "rate", "weight", "chosen"} <= one.keys() for one in found):
            raise ValueError("a choice lacks a part")
    except (ValueError, AttributeError, TypeError) as error:
        raise jdt.UserError(f"{folder / FILE} is damaged ({error}): remove it; it is made again.") from error
    return found


def choices(config: Config) -> tuple[Choice, ...]:
    """All that is tried, for each tuner what is published first where it is there."""

    def ordered(values: Sequence[float]) -> list[float]:
        return sorted(dict.fromkeys(values), key=lambda value: (value != 1, value))

    rates, weights = ordered(config.selection_rates), ordered(config.selection_weights)
    return (
        *(Choice(tuner, rate, 1.0) for tuner in (LINEAR, MLP) for rate in rates),
        *(Choice(tuner, *pair) for tuner in (PAPER, CODE) for pair in itertools.product(rates, weights)),
    )


def best(tried: Sequence[Choice]) -> tuple[Choice, ...]:
    """Mark the best of each tuner; of equal ones the first.

    Raises:
      UserError: If all settings of a tuner diverged.

    >>> [one.chosen for one in best([Choice("mlp", 1, 1, 0.5), Choice("mlp", 3, 1, 0.6), Choice("linear", 1, 1, 0.6)])]
    [False, True, True]
    """
    found = []
    tops = {}
    for tuner in dict.fromkeys(one.tuner for one in tried):
        mine = [one for one in tried if one.tuner == tuner and np.isfinite(one.accuracy)]
        if not mine:
            raise jdt.UserError(f"{tuner} diverged with all settings that were tried: pass smaller --selection-rates.")
        tops[tuner] = max(mine, key=lambda one: one.accuracy)
    for one in tried:
        found.append(dataclasses.replace(one, chosen=one is tops[one.tuner]))
    return tuple(found)


def tuned(tuner: jdt.transfer.Tuning, choice: Choice) -> jdt.transfer.Tuning:
    """A tuner with multiples of its learning rate and weights."""
    changed: dict[str, float] = {"learning_rate": choice.rate * tuner.rate}
    if choice.tuner in (PAPER, CODE):
        changed |= {name: choice.weight * value for name, value in tuner.weights._asdict().items()}
    return dataclasses.replace(tuner, **changed)


def _split(target: jdt.pipeline.TargetData, seed: int) -> jdt.pipeline.TargetData:
    """A target whose test images are held out of its training split."""
    rows = jdt.transfer.target_fraction(np.asarray(target.train.labels), TRAINED_ON, seed=seed)
    rest = np.setdiff1d(np.arange(len(target.train)), rows)
    if not len(rest):
        raise jdt.UserError(
            f"{target.name} has {len(target.train)} training images, too few to hold some out: pass "
            "--selection-seeds 0 to take the published settings."
        )
    return dataclasses.replace(
        target,
        train=target.train.part(rows, f"{target.train.name}, to choose on"),
        test=target.train.part(rest, f"{target.train.name}, held out"),
        whole=None, views=(), spectra=False,
    )  # fmt: skip


def _identity(config: Config, study: Study, task: jdt.pipeline.Task) -> Mapping[str, object]:
    known = identity(config, study)
    data = [data for target in task.targets for data in (target.train, target.test)]
    return {
        **{name: value for name, value in known.items() if name not in NOT_CHOSEN_BY},
        "experiment": f"noisy_pretraining/{FOLDER}",
        "transfer": list(task.modes),
        "pool_size": task.pool_size,
        "fingerprints": {one.name: one.fingerprint for one in (study.base.source, *data)},
    }
