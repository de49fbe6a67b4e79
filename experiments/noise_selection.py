"""Learning rates and weights of the tuners, chosen where a study of noisy pre-training does not look.

Source models without noise, of other seeds than the study's, are transferred to a part of each target's training
images; the settings with the best accuracy on the rest of them are taken. No test image takes part, and no rendering.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

import jdt
from experiments.influence_run import train_run
from experiments.influence_setup import planned
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
    """The tuners of a study, and what was tried; None while other processes train models for it.

    Raises:
      UserError: If the folder of an earlier choice is damaged, or of another study.
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
    own = dataclasses.replace(config, out=folder, until_reliability=None, save_models=False)
    saved = None if config.overwrite else jdt.store.saved_run(folder)
    plan = saved.provenance["plan"]["name"] if saved and config.plan == "auto" else config.plan
    task, choice = planned(task, plan, config.block_size or (saved.layout.block_size if saved else None))
    say(
        f"{len(grid)} settings of {len({one.tuner for one in grid})} tuners are tried with {config.selection_seeds} "
        "other models, on images that are held out of the targets' training splits."
    )
    if not train_run(own, task, choice, hosts, say, _identity(config, study, task))[1]:
        return None
    run = jdt.open_run(folder)
    means = [float(mean(np.stack([run.metric(t.name, one.mode) for t in targets]))) for one in grid]
    tried = best([dataclasses.replace(one, accuracy=mean) for one, mean in zip(grid, means, strict=True)])
    jdt.store.write_json(folder / FILE, [dataclasses.asdict(one) for one in tried])
    taken = {one.tuner: tuned(base[one.tuner], one) for one in tried if one.chosen}
    return with_ablation(config, taken), tried


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
        **{name: value for name, value in known.items() if name not in ("arms", "subsets", "variants", "seeds")},
        "experiment": f"noisy_pretraining/{FOLDER}",
        "transfer": list(task.modes),
        "pool_size": task.pool_size,
        "fingerprints": {one.name: one.fingerprint for one in (study.base.source, *data)},
    }
