"""Which source labels are wrong: noise is planted, and found by influence, by confident learning and by loss.

Models are trained on random subsets of a source with noisy labels. Three rankings of its examples, and of units some
of which are noisy throughout, are judged by the area under their ROC curve; then the suspects are dropped or relabelled
and models are trained anew. Clean images help: the source's own test split in two halves, one for the scores, the other
for the accuracy of the models that are trained anew.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import jdt
from experiments.influence_run import train_run
from experiments.influence_setup import identity, planned

if TYPE_CHECKING:
    from experiments.noise_setup import Config

EXAMPLES, UNITS, REPAIRED = "suspects", "suspect-units", "suspects-repaired"
"""Folders of the run: models that find noisy examples, and noisy units, and models without the suspects.

The last ends in a digest of what its models were trained on: more models may suspect other examples.
"""
INFLUENCE, CONFIDENT, LOSS = "influence", "confident learning", "loss"
RANKINGS = (INFLUENCE, CONFIDENT, LOSS)
EVEN, SELF_DOUBT, NEIGHBOURS = "influence on all images alike", "self-confidence", "neighbours alone"
"""Further rankings: influence without similarity, the other score of confident learning, similarity without influence.
"""
NOISY, ORACLE, RANDOM = "noisy", "true flips dropped", "random dropped"
PERMUTATIONS = 50
"""Of which labels are wrong, for the negative control."""
MASK_PERMUTATIONS = 10
"""Of mask rows, for the negative control of influence."""
PARTS = 2
"""Parts of a unit that masks switch, so that models know its classes without having seen a part of it."""
SMALLEST = 1e-6
"""Probability below which logarithms fall no more: a class that a model never saw would outweigh all others."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ranking:
    """One way to rank, and how well it finds what was planted.

    Attributes:
      scores: float64 `[suspects]`: larger is more suspicious; NaN where nothing is known.
      detection: Area under the ROC curve, with its interval.
      control: The same with the planted truth permuted: mean and 95 % range.
      curve: Shares of right and of wrong ones above each threshold.
      precision: Share of wrong ones among as many as there are wrong ones.
    """

    scores: np.ndarray
    detection: jdt.analyses.Detection
    control: jdt.report.Figure
    curve: tuple[np.ndarray, np.ndarray]
    precision: float


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """How well one kind of thing was found.

    Attributes:
      what: "examples" or "units".
      run: Folder of the run that holds the models.
      num_models: Models that the rankings rest on.
      left_out: Ids of models whose training diverged, and of their partners.
      planted: bool `[suspects]`: which are wrong.
      names: Of units; empty for examples.
      rate: At which share labels are wrong: of all examples, or of those in noisy units.
      estimated_rate: What confident learning says of all examples.
      true_rate: What is true of all examples.
      rankings: By name; the first three are `RANKINGS`.
      mask_control: Of influence, with mask rows permuted: mean and 95 % range of the area.
      never_out: Examples that every model trained on: without an out-of-sample prediction.
      never_in: Examples that no model trained on: without a loss.
      given: int `[examples]`: labels as given.
      likely: int `[examples]`: most probable class out of sample; -1 where nothing is known.
      picked: bool `[examples]`: what confident learning would remove.
    """

    what: str
    run: str
    num_models: int
    left_out: tuple[int, ...]
    planted: np.ndarray
    names: tuple[str, ...]
    rate: float
    estimated_rate: float
    true_rate: float
    rankings: Mapping[str, Ranking]
    mask_control: jdt.report.Figure
    never_out: np.ndarray
    never_in: np.ndarray
    given: np.ndarray
    likely: np.ndarray
    picked: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Repair:
    """What it is worth to drop or relabel suspects.

    Attributes:
      run: Folder of the run that holds the models.
      dropped: How many suspects each arm drops or relabels.
      target: Name of the target of `transfer`.
      mode: Mode of `transfer`.
      wrong: Arm -> wrong labels that are left in it.
      accuracy: Arm -> float64 `[seeds]`: on the clean source images that scored nobody.
      transfer: Arm -> float64 `[seeds]`: on the target's test split.
      gain: Arm -> its accuracy minus that of `NOISY`, paired over seeds.
      transfer_gain: The same of transfer.
    """

    run: str
    dropped: int
    target: str
    mode: str
    wrong: Mapping[str, int]
    accuracy: Mapping[str, np.ndarray]
    transfer: Mapping[str, np.ndarray]
    gain: Mapping[str, jdt.analyses.Difference]
    transfer_gain: Mapping[str, jdt.analyses.Difference]


@dataclasses.dataclass(frozen=True, eq=False)
class Suspects:
    """What the search for noisy source data found.

    Attributes:
      examples: Single labels.
      units: Units of which some are noisy.
      repair: Models without the suspects; None where there is nobody to drop.
      scoring: Clean images that scores rest on.
      reporting: Clean images that retrained models are judged on.
    """

    examples: Found
    units: Found
    repair: Repair | None
    scoring: int
    reporting: int


@dataclasses.dataclass(frozen=True, eq=False)
class _Said:
    """What the models on random subsets say, and where they learned.

    Attributes:
      models: Ids, in order.
      masks: bool `[models, units]`.
      paired: Whether models 2i and 2i+1 are an antithetic pair.
      left_out: Ids of models that cannot be used.
      out: Of models that did not train on an example.
      inside: Of models that did.
      similarity: float64 `[examples, images]`: cosine of features, mean over the models of `out`.
      clean: float32 `[models, images, classes]`: probabilities of the clean images that score.
      clean_labels: int `[images]`.
    """

    models: np.ndarray
    masks: np.ndarray
    paired: bool
    left_out: tuple[int, ...]
    out: jdt.analyses.Predicted
    inside: jdt.analyses.Predicted
    similarity: np.ndarray
    clean: np.ndarray
    clean_labels: np.ndarray


def find(
    config: "Config", base: jdt.pipeline.Task, hosts: jdt.hosts.Hosts, say: Callable[..., None]
) -> Suspects | None:
    """Plant noise, train models on random subsets, rank examples and units, and train without the suspects.

    Args:
      config: The flags.
      base: The source with its true labels, its units and targets.
      hosts: The processes that share the models.
      say: Prints.

    Returns:
      What was found; None while other processes have models to train.

    Raises:
      UserError: If flags contradict the data, before anything is trained.
    """
    require_searchable(config, base)
    halves = jdt.analyses.halves(np.asarray(_clean(base).labels), config.seed)
    # Both runs first: other processes may train one while this one trains the other.
    tasks = [_examples_task(config, base), _units_task(config, base)]
    trained = [
        _train(config, name, task, hosts, say, more)
        for name, (task, more, _) in zip((EXAMPLES, UNITS), tasks, strict=True)
    ]
    if not all(done for _, done in trained):
        return None
    scoring = _clean(base).part(np.flatnonzero(halves.score), f"{_clean(base).name}, half that scores")
    with jdt.cli.console.status("asking the models about every label"):
        examples = _examples_found(config, trained[0][0], tasks[0][2], scoring)
        units = _units_found(config, base, trained[1][0], tasks[1][2], scoring)
    done, repair = _repaired(config, base, tasks[0][0].source, examples, halves, hosts, say)
    return Suspects(examples, units, repair, len(scoring), int(halves.report.sum())) if done else None


def require_searchable(config: "Config", base: jdt.pipeline.Task) -> None:
    """Refuse flags that ask for no search, before anything is trained.

    Raises:
      UserError: Naming the flag.
    """
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
    labels = np.asarray(_clean(base).labels)
    few = np.flatnonzero(np.bincount(labels, minlength=len(base.source.class_names)) < 2)
    if len(few):
        raise jdt.UserError(
            f"class {base.source.class_names[few[0]]!r} has fewer than 2 images in the source's test split "
            f"({len(few)} such classes), of which one half scores labels and the other judges: pass another "
            "--source-test-split."
        )


def _clean(base: jdt.pipeline.Task) -> jdt.data.Dataset:
    if base.source_test is None:
        raise jdt.UserError("the search for noisy labels needs clean source images: pass --source-test-split.")
    return base.source_test


def noise_seed(config: "Config") -> int:
    """What noise is drawn from: the nonce, where one was fixed."""
    return config.seed if config.nonce is None else config.nonce


_Planned = tuple[jdt.pipeline.Task, dict[str, Any], np.ndarray]
"""A task, what else decides its numbers, and which examples are wrong (of their units: which are noisy)."""


def _examples_task(config: "Config", base: jdt.pipeline.Task) -> _Planned:
    inside = base.units.of_example != jdt.masks.OUTSIDE
    source, flipped = noisy_source(base.source, config.suspect_rate, noise_seed(config), inside)
    if config.suspect_units == "examples":
        of_example = np.full(len(inside), jdt.masks.OUTSIDE, np.int32)
        of_example[inside] = np.arange(inside.sum())
        units = jdt.masks.Units(tuple(map(str, np.flatnonzero(inside))), of_example)
    else:
        # Of the true labels, as units are; divided, so that a class is known to models that never saw an example.
        labels = np.asarray(base.source.labels)
        units = jdt.masks.parse(config.suspect_units, labels, base.source.class_names)
        units = jdt.masks.divided(units, labels, PARTS, config.seed)
    return _on_subsets(config, base, source, units), {"suspects": EXAMPLES, "rate": config.suspect_rate}, flipped


def _units_task(config: "Config", base: jdt.pipeline.Task) -> _Planned:
    key = jdt.plant.draws(noise_seed(config), "noisy units")
    noisy = np.zeros(len(base.units), bool)
    noisy[key.permutation(len(noisy))[: config.noisy_units]] = True
    within = (base.units.of_example != jdt.masks.OUTSIDE) & noisy[base.units.of_example]
    source, _ = noisy_source(base.source, config.unit_rate, noise_seed(config), within)
    units = jdt.masks.divided(base.units, np.asarray(base.source.labels), PARTS, config.seed)
    more = {"suspects": UNITS, "rate": config.unit_rate, "noisy": int(noisy.sum())}
    return _on_subsets(config, base, source, units), more, noisy


def noisy_source(
    source: jdt.data.Dataset, rate: float, seed: int, within: np.ndarray
) -> tuple[jdt.data.Dataset, np.ndarray]:
    """A source in which a share of the labels is wrong, each that of another class.

    Args:
      source: With its true labels.
      rate: Share of the examples within, exactly (rounded).
      seed: Of the noise.
      within: bool `[examples]`: who may be mislabelled.

    Returns:
      The source with noisy labels, and which are wrong, bool `[examples]`.
    """
    labels, wrong = np.asarray(source.labels).copy(), np.zeros(len(source), bool)
    draw, members, classes = jdt.plant.draws(seed, "suspects"), np.flatnonzero(within), len(source.class_names)
    chosen = draw.permutation(members)[: round(rate * len(members))]
    labels[chosen] = (labels[chosen] + draw.integers(1, classes, len(chosen))) % classes
    wrong[chosen] = True
    return relabelled(source, labels, f"{source.name}, {rate:.0%} noise"), wrong


def relabelled(source: jdt.data.Dataset, labels: np.ndarray, name: str) -> jdt.data.Dataset:
    """The same images under other labels."""
    labels = np.asarray(labels, np.int32)
    mark = jdt.config.fingerprint([source.fingerprint, labels.tolist()])
    return dataclasses.replace(source, labels=labels, name=name, fingerprint=mark)


def _on_subsets(
    config: "Config", base: jdt.pipeline.Task, source: jdt.data.Dataset, units: jdt.masks.Units
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


def _train(
    config: "Config",
    name: str,
    task: jdt.pipeline.Task,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
    more: Mapping[str, Any],
    *,
    save_models: bool = True,
) -> tuple[jdt.pipeline.Task, bool]:
    """Train what a run inside the run lacks; returns the task with its plan, and whether nothing more is to be done."""
    out = _folder(config, name)
    own = dataclasses.replace(config, out=out, save_models=save_models, until_reliability=None)
    saved = None if own.overwrite else jdt.store.saved_run(out)
    plan = saved.provenance["plan"]["name"] if saved and own.plan == "auto" else own.plan
    task, choice = planned(task, plan, own.block_size or (saved.layout.block_size if saved else None))
    # Listed subsets are known by what they were made of, which `more` says.
    drawn = dataclasses.replace(task, design=jdt.masks.Design(seed=config.seed), num_models=2)
    described = {
        **identity(own, drawn if isinstance(task.design, jdt.masks.Listed) else task),
        "experiment": f"noisy_pretraining/{out.name}",
        "target": [target.name for target in task.targets],
        "transfer": list(task.modes) if task.targets else [],
        "units": config.suspect_units.partition(":")[0],
        "noise_seed": noise_seed(config),
        **more,
    }
    say(f"{out.name}: {task.num_models} models.", markup=False)
    return task, train_run(own, task, choice, hosts, say, described)[1]


def _folder(config: "Config", name: str) -> jdt.cli.RunPath:
    run = jdt.store.run_path(config.out)
    jdt.store.refuse_links(run, name)
    return run / name


def _listen(config: "Config", name: str, task: jdt.pipeline.Task, clean: jdt.data.Dataset) -> _Said:
    """Ask every model about the noisy source and the clean images that score: forward passes, block by block.

    Where units are in parts, an example is out of sample if its part is out and the other is in: models that have
    neither may not know its class.
    """
    run = jdt.open_run(_folder(config, name))
    labels, of_example = np.asarray(task.source.labels), task.units.of_example
    there, in_parts = of_example != jdt.masks.OUTSIDE, len(task.units) < int((of_example != jdt.masks.OUTSIDE).sum())
    images = {"clean": jdt.data.as_shown(clean).images, "source": task.source.images}
    out: dict[int, jdt.analyses.Predicted] = {}
    inside: dict[int, jdt.analyses.Predicted] = {}
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    of_clean: list[list[np.ndarray]] = []  # Of each block, in pieces.
    alike, asked, directions = np.zeros((len(labels), len(clean))), np.zeros(len(labels), int), ()
    raw: list[np.ndarray] = []
    for kind, said in jdt.pipeline.own_outputs(run, task.ensemble, images):
        if kind == "clean":
            if said.first == 0:
                ids.append(said.models)
                masks.append(said.masks)
                of_clean.append([])
                raw = []
            of_clean[-1].append(said.probabilities)
            raw.append(said.features)
            continue
        if said.first == 0:
            features = np.concatenate(raw, axis=1)
            centre = features.mean(axis=1, keepdims=True)
            directions = _directions(features, centre), centre
        rows = slice(said.first, said.first + said.probabilities.shape[1])
        members = task.units.members(said.masks)[:, rows]
        absent = ~members & there[rows]
        if in_parts:
            absent &= said.masks[:, np.where(there[rows], of_example[rows] ^ 1, 0)]
        one = labels[rows]
        out[said.first] = jdt.analyses.out_of_sample(said.probabilities, ~absent, one, out.get(said.first))
        inside[said.first] = jdt.analyses.in_sample(said.probabilities, members, one, inside.get(said.first))
        shown, centre = directions
        for own, who, images_of in zip(_directions(said.features, centre), absent, shown, strict=True):
            alike[np.flatnonzero(who) + said.first] += own[who] @ images_of.T
        asked[rows] += absent.sum(axis=0)
    models, paired = np.concatenate(ids), config.design in jdt.masks.PAIRED
    kept = np.isin(models ^ 1, models) if paired else np.ones(len(models), bool)
    if kept.sum() < 4:
        raise jdt.UserError(
            f"{int(kept.sum())} of {run.num_models} models in {run.path} can be used, but rankings need at least 4: "
            "lower --recipe.learning-rate if they diverged, or train more."
        )
    similarity = np.divide(alike, asked[:, None], out=np.full(alike.shape, np.nan), where=asked[:, None] > 0)
    said_of_clean = np.concatenate([np.concatenate(pieces, axis=1) for pieces in of_clean])
    return _Said(
        models[kept], np.concatenate(masks)[kept], paired, tuple(np.setdiff1d(run.complete, models[kept]).tolist()),
        _joined(out), _joined(inside), similarity, said_of_clean[kept], np.asarray(clean.labels),
    )  # fmt: skip


def _directions(features: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Features of length 1, less what all clean images share."""
    centred = features - centre
    return centred / np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), 1e-9)


def _joined(parts: Mapping[int, jdt.analyses.Predicted]) -> jdt.analyses.Predicted:
    fields = ("probability", "loss", "count")
    return jdt.analyses.Predicted(*(np.concatenate([getattr(p, name) for p in parts.values()]) for name in fields))


def _examples_found(config: "Config", task: jdt.pipeline.Task, flipped: np.ndarray, clean: jdt.data.Dataset) -> Found:
    said, labels = _listen(config, EXAMPLES, task, clean), np.asarray(task.source.labels)
    learned = jdt.analyses.confident_learning(said.out.mean, labels)
    weights = jdt.analyses.neighbour_weights(said.similarity)
    log_clean = np.log(np.maximum(said.clean, SMALLEST))

    def influence(masks: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        return jdt.analyses.influence_scores(
            task.units.members(masks), log_clean, labels, said.clean_labels, weights, paired=said.paired
        )

    scores = {
        INFLUENCE: influence(said.masks, weights),
        CONFIDENT: learned.margin,
        LOSS: said.inside.mean_loss,
        EVEN: influence(said.masks, None),
        SELF_DOUBT: learned.self_doubt,
        NEIGHBOURS: jdt.analyses.neighbour_disagreement(weights, labels, said.clean_labels),
    }
    inside = task.units.of_example != jdt.masks.OUTSIDE
    scores = {name: np.where(inside, values, np.nan) for name, values in scores.items()}
    control = _mask_control(config, said, lambda masks: influence(masks, weights), flipped)
    return _found(
        config, EXAMPLES, said, flipped, (), config.suspect_rate, learned, float(flipped[inside].mean()), scores,
        control, labels, inside,
    )  # fmt: skip


def _units_found(
    config: "Config", base: jdt.pipeline.Task, task: jdt.pipeline.Task, noisy: np.ndarray, clean: jdt.data.Dataset
) -> Found:
    said, labels = _listen(config, UNITS, task, clean), np.asarray(task.source.labels)
    learned = jdt.analyses.confident_learning(said.out.mean, labels)
    own = said.clean[:, np.arange(len(clean)), said.clean_labels].mean(axis=1, keepdims=True, dtype=np.float64)
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
        CONFIDENT: mean_of(learned.margin),
        LOSS: mean_of(said.inside.mean_loss),
        SELF_DOUBT: mean_of(learned.self_doubt),
    }
    inside = base.units.of_example != jdt.masks.OUTSIDE
    wrong = labels != np.asarray(base.source.labels)
    control = _mask_control(config, said, influence, noisy)
    return _found(
        config, UNITS, said, noisy, base.units.names, config.unit_rate, learned, float(wrong[inside].mean()), scores,
        control, labels, inside,
    )  # fmt: skip


def _mask_control(
    config: "Config", said: _Said, influence: Callable[[np.ndarray], np.ndarray], planted: np.ndarray
) -> jdt.report.Figure:
    rng = jdt.plant.draws(config.seed, "permuted masks")
    values = [
        jdt.analyses.detection_auc(
            influence(jdt.evaluate.permuted_masks(said.masks, rng, paired=said.paired)), planted
        ).value
        for _ in range(MASK_PERMUTATIONS)
    ]
    return _spread(values, "of influence, with mask rows permuted: mean and 95 % range")


def _spread(values: Sequence[float], text: str) -> jdt.report.Figure:
    low, high = np.quantile(values, [0.025, 0.975])
    return jdt.report.Figure(float(np.mean(values)), float(low), float(high), len(values), "AUROC", text)


def _found(
    config: "Config",
    name: str,
    said: _Said,
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
        rankings={one: _ranking(config, values, planted) for one, values in scores.items()},
        mask_control=control,
        never_out=np.intersect1d(said.out.unknown, np.flatnonzero(inside)),
        never_in=np.intersect1d(said.inside.unknown, np.flatnonzero(inside)),
        given=labels,
        likely=learned.likely,
        picked=learned.picked,
    )


def _ranking(config: "Config", scores: np.ndarray, planted: np.ndarray) -> Ranking:
    detection, rng = jdt.analyses.detection_auc(scores, planted), jdt.plant.draws(config.seed, "permuted truth")
    known = np.isfinite(scores)
    permuted = [
        jdt.analyses.detection_auc(scores[known], rng.permutation(planted[known])).value for _ in range(PERMUTATIONS)
    ]
    precision = jdt.analyses.precision_at(scores, planted, detection.positives) if detection.positives else np.nan
    text = "with the planted truth permuted: mean and 95 % range"
    curve = jdt.analyses.detection_curve(scores, planted, 200)
    return Ranking(np.asarray(scores, np.float64), detection, _spread(permuted, text), curve, precision)


def suspected(scores: np.ndarray, count: int) -> np.ndarray:
    """The examples of largest score, bool `[examples]`; those without a score come last and are never taken.

    >>> suspected(np.array([0.1, np.nan, 0.7, 0.3]), 2).tolist()
    [False, False, True, True]
    """
    found = np.zeros(len(scores), bool)
    order = np.argsort(-scores, kind="stable")  # NaN last.
    found[order[: min(count, int(np.isfinite(scores).sum()))]] = True
    return found


def pool_of(
    source: jdt.data.Dataset, likely: np.ndarray, corrected: np.ndarray
) -> tuple[jdt.data.Dataset, np.ndarray, np.ndarray]:
    """The source with another version of some examples beside them: the same image under another label.

    Args:
      source: With labels as given.
      likely: int `[examples]`: the other label.
      corrected: bool `[examples]`: who has another version.

    Returns:
      The pool; int `[pool]`, whose version each is; bool `[pool]`, whether it has the other label.
    """
    of = np.repeat(np.arange(len(source)), 1 + corrected)
    other = np.r_[False, of[1:] == of[:-1]]
    labels = np.where(other, likely[of], np.asarray(source.labels)[of])
    pool = relabelled(source.part(of), labels, f"{source.name}, with corrections")
    return dataclasses.replace(pool, version_of=np.searchsorted(of, of).astype(np.int32)), of, other


def _repaired(
    config: "Config",
    base: jdt.pipeline.Task,
    noisy: jdt.data.Dataset,
    found: Found,
    halves: jdt.analyses.Halves,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
) -> tuple[bool, Repair | None]:
    """Models without the suspects, and with their labels corrected, beside models of the noisy source.

    Returns:
      Whether nothing more is to be trained; what came out, or None where nobody is dropped.
    """
    count = int(found.picked.sum()) if config.drop is None else config.drop
    if not count:
        say("confident learning picks nobody, so that none is dropped: pass --drop to drop some.")
        return True, None
    inside = base.units.of_example != jdt.masks.OUTSIDE
    chosen = {name: suspected(found.rankings[name].scores, count) for name in RANKINGS}
    corrected = {
        name: chosen[name] & (found.likely != found.given) & (found.likely >= 0) for name in (INFLUENCE, CONFIDENT)
    }
    pool, of, other = pool_of(noisy, found.likely, np.logical_or.reduce(list(corrected.values())))

    def row(gone: np.ndarray, changed: np.ndarray | None = None) -> np.ndarray:
        kept = (inside & ~gone)[of]
        return kept & (~other if changed is None else other == changed[of])

    nobody = np.zeros(len(inside), bool)
    arms: list[str] = []
    rows: list[np.ndarray] = []
    for seed in range(config.seeds):
        draw = jdt.plant.draws(config.seed, "random suspects", seed).permutation(np.flatnonzero(inside))[:count]
        anyone = nobody.copy()
        anyone[draw] = True
        made = {
            NOISY: row(nobody),
            ORACLE: row(found.planted),
            **{f"dropped by {name}": row(chosen[name]) for name in RANKINGS},
            RANDOM: row(anyone),
            **{f"relabelled by {name}": row(nobody, corrected[name]) for name in corrected},
        }
        arms += list(made)
        rows += list(made.values())
    names = [f"{arm} {i}" for i, arm in enumerate(arms)]
    units, masks = jdt.masks.atoms(np.stack(rows), names)
    ids = jdt.analyses.FIRST_RETRAINED_ID + np.repeat(np.arange(config.seeds), len(rows) // config.seeds)
    target, mode = dataclasses.replace(base.targets[0], views=()), base.modes[0]
    task = dataclasses.replace(
        base,
        source=pool,
        source_test=_clean(base).part(np.flatnonzero(halves.report), f"{_clean(base).name}, half that judges"),
        units=units,
        targets=(target,),
        modes=(mode,),
        design=jdt.masks.Listed(masks, ids, config.seed),
        num_models=len(masks),
        baseline_models=0,
        pool_size=jdt.pipeline.pool_size(pool, config.memory_budget, config.recipe),
    )
    name = f"{REPAIRED}-{jdt.config.fingerprint([names, *(np.packbits(one).tolist() for one in rows)])[:8]}"
    say(f"{len(masks)} models are trained without {count} suspects, or with their labels corrected.")
    more = {"design": {"kind": "listed", "seed": config.seed}, "arms": sorted(set(arms)), "dropped": count}
    if not _train(config, name, task, hosts, say, more, save_models=False)[1]:
        return False, None
    run = jdt.open_run(_folder(config, name))
    wrong = pool.labels != np.asarray(base.source.labels)[of]
    mine = {arm: np.array([arm == one for one in arms]) for arm in dict.fromkeys(arms)}
    accuracy = run.column("source/accuracy")
    moved = run.column(f"targets/{target.name}/{mode}/accuracy")
    by_arm = {arm: np.asarray(accuracy[rows_of], np.float64) for arm, rows_of in mine.items()}
    transfer = {arm: np.asarray(moved[rows_of], np.float64) for arm, rows_of in mine.items()}
    return True, Repair(
        run=name,
        dropped=count,
        target=target.name,
        mode=mode,
        wrong={arm: int((rows[arms.index(arm)] & wrong).sum()) for arm in mine},
        accuracy=by_arm,
        transfer=transfer,
        gain={arm: jdt.analyses.paired(values, by_arm[NOISY]) for arm, values in by_arm.items()},
        transfer_gain={arm: jdt.analyses.paired(values, transfer[NOISY]) for arm, values in transfer.items()},
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
        "units": one(found.units),
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


def save(config: "Config", found: Suspects) -> None:
    """Keep every score, the truth and the figures in `suspects.json` of the run."""
    jdt.store.write_json(jdt.store.run_path(config.out) / "suspects.json", described(found))
