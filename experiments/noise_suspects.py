"""Which source labels are wrong: noise is planted, and found by influence, by confident learning and by loss.

Models are trained on random subsets of a source with noisy labels. Three rankings of its examples, and of units some
of which are noisy throughout, are judged by the area under their ROC curve; then the suspects are dropped or relabelled
and models are trained anew. Clean images help: the source's own test split in two halves, one for the scores, the other
for the accuracy of the models that are trained anew.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import jdt
from experiments.noise_rankings import (
    CONFIDENT,
    EVEN,
    INFLUENCE,
    LOSS,
    MARGIN,
    NEIGHBOURS,
    Found,
    ranked,
    spread,
)  # fmt: skip
from experiments.noise_repair import Repair, repaired
from experiments.noise_setup import Config, noise_seed
from experiments.noise_subruns import FIRST_DRAW, Said, clean_images, listen, noisy_source, train

EXAMPLES, UNITS = "suspects", "suspect-units"
"""Folders of the run: models that find noisy examples, and noisy units."""
FILE = "suspects.json"
FLIPS = jdt.plant.LabelNoise("flip_to_other")
NEAREST = 5
"""Clean images that an example's influence is averaged over. Of 1, 3, 5, 10, 20, 50, 100 and all of them, 3 to 10 were
best in trials: the digits with seed 101, and 2,500 images of CIFAR-10 with seed 111. No reported figure is of these.
"""
MASK_PERMUTATIONS = {EXAMPLES: 10, UNITS: 50}
"""Of mask rows, for the negative control of influence; an area over few units scatters widely."""
PARTS = 2
"""Parts of a unit that masks switch, so that models know its classes without having seen a part of it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Suspects:
    """What the search for noisy source data found.

    Attributes:
      examples: Single labels.
      units: Units of which some are noisy; None where a unit is a single example, as there is nothing else to rank.
      repair: Models without the suspects; None where there is nobody to drop.
      scoring: Clean images that scores rest on.
      reporting: Clean images that retrained models are judged on.
    """

    examples: Found
    units: Found | None
    repair: Repair | None
    scoring: int
    reporting: int


def find(
    config: Config,
    base: jdt.pipeline.Task,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
    noise: jdt.plant.LabelNoise,
    tasks: Mapping[str, "Planned"] | None = None,
) -> Suspects | None:
    """Plant noise, train models on random subsets, rank examples and units, and train without the suspects.

    Args:
      config: The flags.
      base: The source with its true labels, its units and targets.
      hosts: The processes that share the models.
      say: Prints.
      noise: Kind of the noise in examples; noisy units have flips to any other class.
      tasks: What `require_searchable` made of all this, where that was asked before.

    Returns:
      What was found; None while other processes have models to train.

    Raises:
      UserError: If flags contradict the data, before anything is trained.
    """
    tasks = require_searchable(config, base, noise) if tasks is None else tasks
    halves = jdt.analyses.halves(np.asarray(clean_images(base).labels), config.seed)
    # All runs first: other processes may train one while this one trains another.
    trained = {name: train(config, name, task, hosts, say, more) for name, (task, more, _) in tasks.items()}
    if not all(done for _, done in trained.values()):
        return None
    scoring = clean_images(base).part(np.flatnonzero(halves.score), f"{clean_images(base).name}, half that scores")
    with jdt.cli.console.status("asking the models about every label"):
        examples = _examples_found(config, trained[EXAMPLES][0], tasks[EXAMPLES][2], scoring)
        units = None
        if UNITS in tasks:
            units = _units_found(config, base, trained[UNITS][0], tasks[UNITS][2], scoring)
    done, repair = repaired(config, base, tasks[EXAMPLES][0].source, examples, halves, hosts, say)
    return Suspects(examples, units, repair, len(scoring), int(halves.report.sum())) if done else None


def require_searchable(config: Config, base: jdt.pipeline.Task, noise: jdt.plant.LabelNoise) -> dict[str, "Planned"]:
    """Refuse flags that ask for no search, before anything is trained; returns what is to be trained.

    Raises:
      UserError: Naming the flag.
    """
    jdt.checks.require_at_least("num-models", config.num_models, 4)
    jdt.checks.require_at_least("seeds", config.seeds, 1)
    jdt.estimators.named(config.estimators)
    jdt.checks.require_fraction("suspect-rate", config.suspect_rate)
    if not 0 < config.unit_rate <= 1:
        raise jdt.UserError(f"unit-rate is {config.unit_rate}, but must be above 0 and at most 1.")
    count = len(base.units)
    if not 1 <= config.noisy_units < count:
        raise jdt.UserError(f"noisy-units is {config.noisy_units}, but of {count} units 1 to {count - 1} can be noisy.")
    num_examples = int((base.units.of_example != jdt.masks.OUTSIDE).sum())
    if config.drop is not None and not 0 <= config.drop <= num_examples // 2:
        raise jdt.UserError(
            f"drop is {config.drop}, but of {num_examples} examples 0 to {num_examples // 2} can be dropped."
        )
    there = np.unique(np.asarray(base.source.labels)[base.units.of_example != jdt.masks.OUTSIDE])
    labels = np.asarray(clean_images(base).labels)
    few = there[np.bincount(labels, minlength=len(base.source.class_names))[there] < 2]
    if len(few):
        raise jdt.UserError(
            f"class {base.source.class_names[few[0]]!r} has fewer than 2 images in the source's test split "
            f"({len(few)} such classes), of which one half scores labels and the other judges: pass another "
            "--source-test-split."
        )
    return _tasks(config, base, noise)


Planned = tuple[jdt.pipeline.Task, dict[str, Any], np.ndarray]
"""A task, what else decides its numbers, and which examples are wrong (of their units: which are noisy)."""


def _tasks(config: Config, base: jdt.pipeline.Task, noise: jdt.plant.LabelNoise) -> dict[str, Planned]:
    """What is trained to find noisy examples, and noisy units where a unit is more than an example."""
    found = {EXAMPLES: _examples_task(config, base, noise)}
    if (base.units.sizes > 1).any():
        found[UNITS] = _units_task(config, base)
    return found


def _examples_task(config: Config, base: jdt.pipeline.Task, noise: jdt.plant.LabelNoise) -> Planned:
    inside = base.units.of_example != jdt.masks.OUTSIDE
    source, flipped = noisy_source(
        base.source, noise, config.suspect_rate, inside, seed=noise_seed(config), draw=FIRST_DRAW
    )
    if config.suspect_units == "examples":
        of_example = np.full(len(inside), jdt.masks.OUTSIDE, np.int32)
        of_example[inside] = np.arange(inside.sum())
        units = jdt.masks.Units(tuple(map(str, np.flatnonzero(inside))), of_example)
    else:
        # Of the true labels, as units are; divided, so that a class is known to models that never saw an example.
        labels = np.asarray(base.source.labels)
        units = jdt.masks.parse(config.suspect_units, labels, base.source.class_names)
        units = jdt.masks.divided(units, labels, PARTS, config.seed)
    more = {"suspects": EXAMPLES, "rate": config.suspect_rate, "noise": jdt.config.to_plain(noise)}
    return _on_subsets(config, base, source, units), more, flipped


def _units_task(config: Config, base: jdt.pipeline.Task) -> Planned:
    key = jdt.plant.draws(noise_seed(config), "noisy units")
    noisy = np.zeros(len(base.units), bool)
    noisy[key.permutation(len(noisy))[: config.noisy_units]] = True
    inside = base.units.of_example != jdt.masks.OUTSIDE
    source, _ = noisy_source(
        base.source, FLIPS, config.unit_rate, inside & noisy[base.units.of_example], inside,
        seed=noise_seed(config), draw=FIRST_DRAW + 1,
    )  # fmt: skip
    units = jdt.masks.divided(base.units, np.asarray(base.source.labels), PARTS, config.seed)
    more = {"suspects": UNITS, "rate": config.unit_rate, "noisy": int(noisy.sum())}
    return _on_subsets(config, base, source, units), more, noisy


def _on_subsets(
    config: Config, base: jdt.pipeline.Task, source: jdt.data.Dataset, units: jdt.masks.Units
) -> jdt.pipeline.Task:
    """Models on random subsets; nothing is transferred, as they are asked under their own heads."""
    return dataclasses.replace(
        base,
        source=source,
        units=units,
        targets=(),
        design=jdt.masks.Design(config.design, config.fraction, config.seed),
        num_models=config.num_models,
        baseline_models=0,
    )


def _examples_found(config: Config, task: jdt.pipeline.Task, flipped: np.ndarray, clean: jdt.data.Dataset) -> Found:
    said, labels = listen(config, EXAMPLES, task, clean), np.asarray(task.source.labels)
    learned = jdt.analyses.confident_learning(said.out.mean, labels)
    weights = jdt.analyses.neighbour_weights(said.similarity, NEAREST)

    def influence(masks: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        return jdt.analyses.influence_scores(
            task.units.members(masks), said.clean, labels, said.clean_labels, weights, paired=said.paired
        )

    scores = {
        INFLUENCE: influence(said.masks, weights),
        CONFIDENT: learned.self_doubt,
        LOSS: said.inside.mean_loss,
        EVEN: influence(said.masks, None),
        MARGIN: learned.margin,
        NEIGHBOURS: jdt.analyses.neighbour_disagreement(weights, labels, said.clean_labels),
    }
    inside = task.units.of_example != jdt.masks.OUTSIDE
    scores = {name: np.where(inside, values, np.nan) for name, values in scores.items()}
    control = _mask_control(config, EXAMPLES, said, lambda masks: influence(masks, weights), flipped)
    return _found(
        config, EXAMPLES, said, flipped, (), config.suspect_rate, learned, float(flipped[inside].mean()), scores,
        control, labels, inside,
    )  # fmt: skip


def _units_found(
    config: Config, base: jdt.pipeline.Task, task: jdt.pipeline.Task, noisy: np.ndarray, clean: jdt.data.Dataset
) -> Found:
    said, labels = listen(config, UNITS, task, clean), np.asarray(task.source.labels)
    learned = jdt.analyses.confident_learning(said.out.mean, labels)
    confidence = np.exp(said.clean[:, np.arange(len(clean)), said.clean_labels])
    own = confidence.mean(axis=1, keepdims=True, dtype=np.float64)
    estimator = jdt.estimators.named(config.estimators)[0]

    def influence(masks: np.ndarray) -> np.ndarray:
        of_parts = estimator.fit(masks, own.astype(np.float32), paired=said.paired).influence[:, 0]
        return -of_parts.reshape(-1, PARTS).sum(axis=1)

    def mean_of(values: np.ndarray) -> np.ndarray:
        inside = (base.units.of_example != jdt.masks.OUTSIDE) & np.isfinite(values)
        which = base.units.of_example[inside]
        count = np.bincount(which, minlength=len(base.units))
        total = np.bincount(which, values[inside], len(base.units))
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    scores = {
        INFLUENCE: influence(said.masks),
        CONFIDENT: mean_of(learned.self_doubt),
        LOSS: mean_of(said.inside.mean_loss),
        MARGIN: mean_of(learned.margin),
    }
    inside = base.units.of_example != jdt.masks.OUTSIDE
    wrong = labels != np.asarray(base.source.labels)
    control = _mask_control(config, UNITS, said, influence, noisy)
    return _found(
        config, UNITS, said, noisy, base.units.names, config.unit_rate, learned, float(wrong[inside].mean()), scores,
        control, labels, inside,
    )  # fmt: skip


def _mask_control(
    config: Config, what: str, said: Said, influence: Callable[[np.ndarray], np.ndarray], planted: np.ndarray
) -> jdt.report.Figure:
    rng = jdt.plant.draws(config.seed, "permuted masks")
    values = [
        jdt.analyses.detection_auc(
            influence(jdt.evaluate.permuted_masks(said.masks, rng, paired=said.paired)), planted
        ).value
        for _ in range(MASK_PERMUTATIONS[what])
    ]
    return spread(values, "of influence, with mask rows permuted: mean and 95 % range")


def _found(
    config: Config,
    name: str,
    said: Said,
    planted: np.ndarray,
    names: tuple[str, ...],
    rate: float,
    learned: jdt.analyses.ConfidentLearning,
    true_rate: float,
    scores: Mapping[str, np.ndarray],
    control: jdt.report.Figure,
    labels: np.ndarray,
    inside: np.ndarray,
) -> Found:
    return Found(
        what="units" if names else "examples",
        run=name,
        num_models=len(said.models),
        left_out=said.left_out,
        planted=planted,
        names=names,
        rate=rate,
        estimated_rate=learned.noise_rate,
        true_rate=true_rate,
        rankings={one: ranked(values, planted, config.seed) for one, values in scores.items()},
        mask_control=control,
        never_out=np.intersect1d(said.out.unknown, np.flatnonzero(inside)),
        never_in=np.intersect1d(said.inside.unknown, np.flatnonzero(inside)),
        given=labels,
        likely=learned.likely,
        picked=learned.picked,
    )


def described(found: Suspects) -> dict[str, Any]:
    """What was found, as JSON keeps it: every score of every example, and where they came from."""

    def one(part: Found) -> dict[str, Any]:
        return {
            "run": part.run,
            "models": part.num_models,
            "left_out": list(part.left_out),
            "names": list(part.names),
            "rate": part.rate,
            "noise_rate": {"true": part.true_rate, "confident learning": part.estimated_rate},
            "planted": np.flatnonzero(part.planted).tolist(),
            "never_out_of_sample": part.never_out.tolist(),
            "never_in_sample": part.never_in.tolist(),
            "picked": np.flatnonzero(part.picked).tolist(),
            "given": part.given.tolist(),
            "likely": part.likely.tolist(),
            "influence_with_permuted_masks": dataclasses.asdict(part.mask_control),
            "rankings": {
                name: {
                    "auroc": dataclasses.asdict(ranking.detection),
                    "control": dataclasses.asdict(ranking.control),
                    "precision": ranking.precision,
                    "scores": ranking.scores.tolist(),
                }
                for name, ranking in part.rankings.items()
            },
        }

    made: dict[str, Any] = {
        "images": {"scoring": found.scoring, "reporting": found.reporting},
        "examples": one(found.examples),
        "units": found.units and one(found.units),
    }
    if (repair := found.repair) is not None:
        made["repair"] = {
            "run": repair.run,
            "dropped": repair.dropped,
            "target": repair.target,
            "mode": repair.mode,
            "wrong": dict(repair.wrong),
            "accuracy": {arm: values.tolist() for arm, values in repair.accuracy.items()},
            "transfer": {arm: values.tolist() for arm, values in repair.transfer.items()},
            "gain": {arm: dataclasses.asdict(value) for arm, value in repair.gain.items()},
            "transfer_gain": {arm: dataclasses.asdict(value) for arm, value in repair.transfer_gain.items()},
        }
    return made


def save(config: Config, found: Suspects) -> None:
    """Keep every score, the truth and the figures in `suspects.json` of the run."""
    jdt.store.write_json(jdt.store.run_path(config.out) / FILE, described(found))
