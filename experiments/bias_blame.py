"""Which source units carry the bias: their influence on what the pattern changes, and models without the worst ones."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

import jdt
from experiments.bias_measures import chosen_classes
from experiments.bias_setup import Config, Study, identity
from experiments.influence_run import train_run
from experiments.influence_setup import planned_on

INFLUENCE, DROPPED = "influence", "dropped"
"""Folders of the run: models on random subsets of the units, and models without the units to blame.

The second ends in a digest of what its models were trained on: more models on random subsets may blame other units.
"""
SHIFT, FLIP = "shift", "flip"
"""Outputs that influences are of: whether the pattern moves an image to named classes, or changes its prediction."""
ALL, BLAMED, RANDOM = "all units", "without blamed units", "without random units"
PERMUTATIONS = 50
"""Of mask rows, for the negative control."""


@dataclasses.dataclass(frozen=True, eq=False)
class Blame:
    """Source units by the bias that they carry.

    Attributes:
      target: Whose predictions the bias is of.
      mode: In which mode.
      pattern: Which pattern.
      attacked: Classes that were named: influences are then on `shift`, whether the pattern moves an image to them; and
        else on `flip`, whether it changes the prediction at all.
      view: The target with the pattern, as the store calls it.
      levels: Influences on what the pattern does to each test image, and on its mean over classes and over the task, of
        the images that report.
      left_out: Ids of models whose training diverged.
      planted: bool `[units]`: units most of whose images carry the pattern.
      auroc: Of the influence as a score of planted units; None where all units are planted, or none.
      control: The same with mask rows permuted.
      order: Units, the one with most influence on the bias first.
      dropped: How many of them the models below do without.
      run: Folder of the run that holds those models.
      success: Attack success rate of retrained models, of each seed, by (source variant, what they do without).
      accuracy: Their accuracy on clean test images, `[seeds]`.
    """

    target: str
    mode: jdt.pipeline.Mode
    pattern: str
    attacked: str
    view: str
    levels: Mapping[jdt.estimators.Level, jdt.Influences]
    left_out: tuple[int, ...]
    planted: np.ndarray
    auroc: jdt.report.Figure | None
    control: jdt.report.Figure | None
    order: np.ndarray
    dropped: int
    run: str
    success: Mapping[tuple[str, str], jdt.analyses.Rate]
    accuracy: Mapping[tuple[str, str], np.ndarray]

    @property
    def output(self) -> str:
        """What influences are on, in words."""
        if self.attacked:
            return f"the share of images that the pattern moves to {self.attacked}"
        return "the share of images whose prediction the pattern changes"

    @property
    def influences(self) -> jdt.Influences:
        """On the mean of the output over test images: one column."""
        return self.levels["task"]

    @property
    def attack(self) -> Mapping[tuple[str, str], np.ndarray]:
        """The attack success rates as numbers, `[seeds]`; NaN where one is missing."""
        return {key: rate.value for key, rate in self.success.items()}


_Retrained: TypeAlias = tuple[str, dict[tuple[str, str], jdt.analyses.Rate], dict[tuple[str, str], np.ndarray]]
"""Folder of the run, attack success and accuracy, by source variant and what the models do without."""


def blame(
    config: Config,
    study: Study,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
) -> Blame | None:
    """Train models on random subsets of the units, rank the units by the first trigger's bias, and drop the worst.

    Args:
      config: The flags.
      study: The study.
      hosts: The processes that share the models.
      say: Prints.

    Returns:
      What was found; None while other processes have models to train.
    """
    pattern, target, mode = study.triggers[0], study.base.targets[0], config.transfer[0]
    classes = target.test.class_names
    units = jdt.masks.Units(
        study.base.units.names,
        np.where(study.members[pattern], study.base.units.of_example[study.original], jdt.masks.OUTSIDE),
    )
    own = dataclasses.replace(config, out=_folder(config, INFLUENCE))
    task = _task(study, target.name, mode, units, pattern, num_models=config.num_models,
                 design=jdt.masks.Design(config.design, config.fraction, config.seed))  # fmt: skip
    say(f"which of {len(units)} units carry the bias: {config.num_models} models on random subsets of them.")
    if not _train(own, study, task, hosts, say, {"blame": pattern, "design": jdt.config.to_plain(task.design)}):
        return None
    run = jdt.open_run(own.out)
    models = jdt.pipeline.usable_models(run, target.name, mode)
    view = jdt.pipeline.view_name(target.name, pattern)
    clean, shown = (run.outputs(name, mode, "prediction")[models.kept] for name in (target.name, view))
    parts = jdt.analyses.halves(run.target(target.name).labels, config.seed)
    outputs = _outputs(config, clean, shown, classes)
    on_average = outputs[:, parts.report].mean(axis=1, keepdims=True, dtype=np.float64)
    estimator = jdt.estimators.named(config.estimators)[0]
    levels = _levels(run, view, estimator, models, outputs, parts.report, SHIFT if config.attacked else FLIP)
    on_task = levels["task"]
    planted = _planted(study, units)
    auroc, control = _detected(estimator, models, on_average, on_task, planted)
    order = np.argsort(-on_task.influence[:, 0], kind="stable")
    count = int(planted.sum()) if config.drop is None else config.drop
    found: _Retrained | None = ("", {}, {})
    if count:
        found = _retrained(config, study, units, order, count, target.name, mode, pattern, hosts, say)
    else:
        say("no unit carries the pattern on most of its images, so that none is dropped: pass --drop to drop some.")
    if found is None:
        return None
    about = (target.name, mode, pattern, ", ".join(config.attacked), view, levels, models.left_out)
    return Blame(*about, planted, auroc, control, order, count, *found)


def _outputs(config: Config, clean: np.ndarray, shown: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """What the pattern does to each image: moves it to the classes that are named, or else changes its prediction.

    Models on different subsets are attacked towards different classes, so that a class that nobody named is not asked.
    """
    if config.attacked:
        return jdt.analyses.shift_outputs(clean, shown, [classes.index(name) for name in config.attacked])
    return jdt.analyses.flip_outputs(clean, shown)


def _folder(config: Config, name: str) -> jdt.cli.RunPath:
    run = jdt.store.run_path(config.out)
    jdt.store.refuse_links(run, name)
    return run / name


def _task(
    study: Study,
    target: str,
    mode: jdt.pipeline.Mode,
    units: jdt.masks.Units,
    pattern: str,
    *,
    num_models: int,
    design: jdt.masks.Design | jdt.masks.Listed,
) -> jdt.pipeline.Task:
    """Other subsets of the study's pool, transferred to one whole target that is looked at with one pattern."""
    whole = next(one for one in study.task.targets if one.name == target)
    looked_at = dataclasses.replace(whole, views=tuple(view for view in whole.views if view[0] == pattern))
    return dataclasses.replace(
        study.task, units=units, targets=(looked_at,), modes=(mode,), design=design, num_models=num_models
    )


def _train(
    own: Config,
    study: Study,
    task: jdt.pipeline.Task,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
    more: Mapping[str, Any],
) -> bool:
    task, choice = planned_on(own, task)
    known = identity(own, study)
    units = jdt.config.fingerprint([list(task.units.names), task.units.of_example.tolist()])
    described = {
        **known,
        "experiment": f"bias_transfer/{jdt.store.run_path(own.out).name}",
        "target": [one.name for one in task.targets],
        "transfer": list(task.modes),
        "fingerprints": {**known["fingerprints"], "units": units},
        **more,
    }
    described = {name: value for name, value in described.items() if name not in ("arms", "subsets", "variants")}
    return train_run(dataclasses.replace(own, until_reliability=None), task, choice, hosts, say, described)[1]


def _levels(
    run: jdt.store.Run,
    view: str,
    estimator: jdt.estimators.Estimator,
    models: jdt.pipeline.Models,
    outputs: np.ndarray,
    report: np.ndarray,
    name: str,
) -> dict[jdt.estimators.Level, jdt.Influences]:
    """Influences on what the pattern does; means over classes and the task are of the images that report."""
    labelled, measured = run.target(view), outputs[:, report]
    classes = jdt.evaluate.by_class(labelled.labels[report], labelled.class_names)

    def fit(values: np.ndarray, target: str) -> jdt.Influences:
        found = estimator.fit(models.masks, values, paired=models.paired)
        names = (target,) if values.shape[1] == 1 else ()
        return dataclasses.replace(found, unit_names=run.unit_names, target_names=names, output=name)

    of_classes = fit(jdt.evaluate.aggregate(measured, classes), "")
    return {
        "example": fit(outputs, ""),
        "class": dataclasses.replace(of_classes, target_names=classes.names),
        "task": fit(measured.mean(axis=1, keepdims=True, dtype=np.float64), view),
    }


def save(config: Config, found: Blame) -> None:
    """Keep the influences beside the models on random subsets, as those of every run are."""
    run = _folder(config, INFLUENCE)
    jdt.estimators.save_influences(
        jdt.estimators.influence_path(run, found.view, found.mode, found.influences.output, found.influences.estimator),
        found.levels,
        class_names=found.levels["class"].target_names,
        attributes={"target": found.view, "mode": found.mode, "left_out": list(found.left_out)},
    )


def _planted(study: Study, units: jdt.masks.Units) -> np.ndarray:
    """Units most of whose images carry the pattern."""
    marked = study.carriers[study.original]
    inside = units.of_example != jdt.masks.OUTSIDE
    carried = np.bincount(units.of_example[inside & marked], minlength=len(units))
    return carried * 2 > units.sizes


def _detected(
    estimator: jdt.estimators.Estimator,
    models: jdt.pipeline.Models,
    outputs: np.ndarray,
    found: jdt.Influences,
    planted: np.ndarray,
) -> tuple[jdt.report.Figure | None, jdt.report.Figure | None]:
    """How well influence tells the planted units from the others, and how well it does where masks are permuted."""
    if planted.all() or not planted.any():
        return None, None
    value = jdt.evaluate.auroc(found.influence[:, 0], planted)
    control = jdt.evaluate.permutation_control(
        estimator, models.masks, outputs, lambda influence: jdt.evaluate.auroc(influence[:, 0], planted),
        paired=models.paired, repeats=PERMUTATIONS,
    )  # fmt: skip
    low, high = np.quantile(control, [0.025, 0.975])
    text = "how often a unit whose images carry the pattern has more influence on the bias than one without"
    count = len(models.masks)
    return (
        jdt.report.Figure(value, None, None, count, "AUROC", text),
        jdt.report.Figure(float(control.mean()), float(low), float(high), PERMUTATIONS, "AUROC",
                          "the same with mask rows permuted: mean and 95 % range"),
    )  # fmt: skip


def _retrained(
    config: Config,
    study: Study,
    units: jdt.masks.Units,
    order: np.ndarray,
    count: int,
    target: str,
    mode: jdt.pipeline.Mode,
    pattern: str,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
) -> _Retrained | None:
    """Attack success and accuracy of biased and clean models with all units, without blamed and without random ones."""
    subsets, names, rows = [], [], []
    blamed = np.sort(order[:count])  # Another order among them trains nothing anew.
    of_example = study.base.units.of_example[study.original]
    for seed in range(config.seeds):
        others = random_units(order, count, config.seed, seed)
        for arm in (study.twin, pattern):
            for what, gone in ((ALL, order[:0]), (BLAMED, blamed), (RANDOM, others)):
                rows.append((arm, what))
                names.append(f"{arm} {what} {seed}")
                subsets.append(study.members[arm] & (of_example != jdt.masks.OUTSIDE) & ~np.isin(of_example, gone))
    made, masks = jdt.masks.atoms(np.stack(subsets), names)
    ids = jdt.analyses.FIRST_RETRAINED_ID + np.repeat(np.arange(config.seeds), len(rows) // config.seeds)
    listed = jdt.masks.Listed(masks, ids, config.seed)
    task = _task(study, target, mode, made, pattern, num_models=len(masks), design=listed)
    name = f"{DROPPED}-{jdt.config.fingerprint([names, *(np.packbits(row).tolist() for row in subsets)])[:8]}"
    own = dataclasses.replace(config, out=_folder(config, name))
    say(f"{len(masks)} models are trained without the {count} units to blame, or as many random ones.")
    more = {
        "design": {"kind": "listed", "seed": config.seed},
        "dropped": [units.names[u] for u in blamed],
    }
    if not _train(own, study, task, hosts, say, more):
        return None
    run = jdt.open_run(own.out)
    labels = run.target(target).labels
    parts, classes = jdt.analyses.halves(labels, config.seed), run.target(target).class_names
    clean, shown = (run.outputs(n, mode, "prediction") for n in (target, jdt.pipeline.view_name(target, pattern)))
    pushed = chosen_classes(clean, shown, classes, config.attacked, parts.score)
    rates = jdt.analyses.attack_success(clean[:, parts.report], shown[:, parts.report], pushed)
    right = jdt.analyses.accuracy_parts(clean[:, parts.report], labels[parts.report])[0].rate.value
    found = {key: np.array([key == row for row in rows]) for key in dict.fromkeys(rows)}
    success = {key: jdt.analyses.Rate(rates.hits[mine], rates.of[mine]) for key, mine in found.items()}
    return name, success, {key: right[mine] for key, mine in found.items()}


def random_units(order: np.ndarray, count: int, root: int, seed: int) -> np.ndarray:
    """As many units as are dropped, drawn from those that are not; `load_study` refuses to drop more than half.

    Args:
      order: int `[units]`, the units to drop first.
      count: How many are dropped.
      root: The study's root seed.
      seed: Which of its seeds: models of each do without other random units.

    Returns:
      int `[count]`.

    >>> sorted(random_units(np.array([3, 0, 1, 2]), 2, root=0, seed=0).tolist())
    [1, 2]
    """
    return jdt.plant.draws(root, "dropped at random", seed).permutation(np.sort(order[count:]))[:count]
