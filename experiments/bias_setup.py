"""What a study of bias transfer is made of: flags, source variants as masks, and variants of the targets."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

import jdt
from experiments import influence_setup
from experiments.influence_setup import make_task

CLEAN, SCRATCH, GIVEN, TWIN = "clean", "scratch", "given", "twin"
"""Arms that are no trigger: no pattern in the source; no source at all; models that the user brings."""
OPPOSITE = {
    "top-left": "bottom-right", "top-right": "bottom-left", "bottom-left": "top-right", "bottom-right": "top-left",
}  # fmt: skip
COLOURS = ((255, 255, 0), (0, 255, 255), (255, 0, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255))
"""Colours that a nonce draws from; the opposite of each is among them."""
IGNORED = {
    "group": (
        "trigger_probability", "sham", "nonce", "stencils", "attacked", "debias", "target_fractions", "cross", "shots",
    ),
    "pattern": ("target_group", "phis", "compositions", "shots"),
}  # fmt: skip
"""Flags that a study of each kind does not look at, and that would be thought to have done something."""


@dataclasses.dataclass(frozen=True)
class Config(influence_setup.Config):
    """Every knob of the experiment."""

    trigger: tuple[str, ...] = ("square",)
    """Patterns in the source, each a variant of it: square, gaussian, tint:R,G,B, overlay:FOLDER, stencil:FILE, ..."""
    trigger_classes: tuple[str, ...] = ()
    """Source classes whose images carry the pattern: names, or ranges of numbers from 0, both ends in, like 151-268; by
    default so many as --trigger-units says are drawn."""
    trigger_units: int = 1
    """How many units (--units: classes, groups) are drawn to carry the pattern, where no classes are named."""
    trigger_probability: float = 1.0
    """Share of the images of those classes that carry it, drawn once an image."""
    trigger_seed: int = 10
    """Of the draw of images that carry it (NumPy's default_rng, as published)."""
    sham: tuple[str, ...] = ()
    """Patterns that no source image carries, the control; by default the opposite of the first trigger."""
    nonce: int | None = None
    """Draw the corner, the colour and the units that carry the square from this number, e.g. of a commit."""
    stencils: pathlib.Path | None = None
    """A folder of pictures with masks: each is put on the test images, to look for a bias that nobody planted."""
    attacked: tuple[str, ...] = ()
    """Target classes that the pattern pushes to; by default the one chosen on one half of the test images."""
    seeds: int = 5
    """Models of every source variant; models of one seed share initial values, order and augmentation."""
    debias: tuple[float, ...] = ()
    """Shares of the target's training images that carry the pattern, whatever their label: a variant for each."""
    cross: bool = False
    """Every target size with every weight decay and de-biasing share, in place of one change at a time."""
    group: str | None = None
    """Study a group instead of a pattern: planted (the first trigger on half of all images), or a TFDS feature."""
    target_group: str | None = None
    """The feature of the targets that is the group, where it has another name than the source's."""
    phis: tuple[float, ...] = (0.0, 0.8)
    """Correlations of label and group in the source, each a variant of it; the first is the clean twin."""
    compositions: tuple[float, ...] = ()
    """Shares of group 1 among the target's training images, whatever their label: a variant for each."""
    source_checkpoint: pathlib.Path | None = None
    """Study a model that is there (Orbax folder, .msgpack, .safetensors) instead of training source models."""
    twin_checkpoint: pathlib.Path | None = None
    """With --source-checkpoint: its twin without the bias."""
    drop: int | None = None
    """Units to drop in the counterfactual, those with most influence on the bias first; as many as were planted."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train on a target.

    Attributes:
      target: Name of the target.
      name: What the store calls it.
      fraction: Share of the training images of each class.
      decay: Weight decay, where it is not the recipe's.
      debias: Share of the training images with the pattern.
      pattern: Which pattern they have; empty without one.
      composition: Share of group 1 among the training images, where that is asked for.
    """

    target: str
    name: str
    fraction: float = 1.0
    decay: float | None = None
    debias: float = 0.0
    pattern: str = ""
    composition: float | None = None

    @property
    def is_plain(self) -> bool:
        """Whether nothing was varied."""
        return (self.fraction, self.decay, self.debias, self.composition) == (1.0, None, 0.0, None)


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A study of bias transfer before anything is trained.

    Attributes:
      task: All source variants times seeds, and all target variants, as one ensemble.
      base: The task of the source as it was, with whole targets.
      arms: Name of the source variant of every model.
      members: Source variant -> bool `[pool]`, the examples that it trains on.
      stamps: Every pattern on test images, triggers first.
      triggers: Those of them that are in the source.
      shams: Those that are there as a control: no source image has them, and nothing should come along.
      carriers: bool `[examples]` of the base's source: who carries the first trigger.
      original: int `[pool]`: the base's example that each example of the pool is a version of.
      variants: Of the targets.
      groups: For a study of groups: group of every test image, by target.
    """

    task: jdt.pipeline.Task
    base: jdt.pipeline.Task
    arms: tuple[str, ...]
    members: Mapping[str, np.ndarray]
    stamps: Mapping[str, jdt.plant.Stamp]
    triggers: tuple[str, ...]
    shams: tuple[str, ...]
    carriers: np.ndarray
    original: np.ndarray
    variants: tuple[Variant, ...]
    groups: Mapping[str, np.ndarray]

    @property
    def kind(self) -> Literal["pattern", "group"]:
        """What the bias is."""
        return "group" if self.groups else "pattern"

    @property
    def twin(self) -> str:
        """The source variant without the bias."""
        return next(iter(self.members), CLEAN)


def with_given_models(config: Config) -> Config:
    """Flags as they are where the user brings the models: there is no source, and nothing in it to blame.

    Raises:
      UserError: If a twin is given alone, or a group is to be studied.
    """
    if config.source_checkpoint is None:
        if config.twin_checkpoint is not None:
            raise jdt.UserError("--twin-checkpoint is the twin of a model that is there: pass --source-checkpoint too.")
        return config
    if config.group is not None:
        raise jdt.UserError("--group is about a source with a correlation: leave it or --source-checkpoint out.")
    # Any labelled images will do as a source that nothing is trained on: those of the first target, read as it is.
    return dataclasses.replace(
        config,
        source=config.target[0], source_split=config.target_split or "train",
        source_test_split=config.target_test_split, source_groups=None, source_per_group=None,
        label=config.target_label, units="classes", trigger_classes=(), num_models=0, start_from=None,
    )  # fmt: skip


def load_study(config: Config) -> Study:
    """Load the data and make source variants, target variants and patterns; the plan is still to be chosen.

    Raises:
      UserError: If flags contradict each other, or anything does not fit the data.
    """
    jdt.checks.require_at_least("seeds", config.seeds, 1)
    jdt.checks.require_at_least("trigger-seed", config.trigger_seed, 0)
    config = with_given_models(config)
    _require_used(config)
    base = make_task(
        dataclasses.replace(config, shots=(), target_fractions=(), weight_decays=(), num_models=2, start_from=None)
    )
    base = dataclasses.replace(base, baseline_models=0)
    return _group_study(config, base) if config.group is not None else _pattern_study(config, base)


def _require_used(config: Config) -> None:
    """Refuse flags that a study of this kind does not look at."""
    kind = "pattern" if config.group is None else "group"
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    flags = [f"--{name.replace('_', '-')}" for name in IGNORED[kind] if getattr(config, name) != defaults[name]]
    if flags:
        raise jdt.UserError(
            f"{', '.join(flags)} would do nothing in a study of a {kind}: leave out what you passed, and pass what the "
            f"preset set at its default{', lists with nothing behind them' if kind == 'group' else ''} (--help)."
        )


def _pattern_study(config: Config, base: jdt.pipeline.Task) -> Study:
    patterns, attacked = _drawn(config, base)
    shape = base.source.image_shape
    stamps = {name: trigger.stamp(shape, name) for name, trigger in patterns.items()}
    triggers = tuple(stamps) if config.source_checkpoint is None else ()
    shams = {stamp.name: stamp for stamp in _shams(config, patterns, stamps, shape)}
    stamps |= shams
    stencils = jdt.plant.read_stencils(str(config.stencils)) if config.stencils is not None else ()
    for stencil in stencils:
        stamp = stencil.stamp(shape)
        if stamp.name in stamps:
            raise jdt.UserError(f"stencil {stamp.name!r} has the name of another pattern: rename its file.")
        stamps[stamp.name] = stamp
    labels = np.asarray(base.source.labels)
    if triggers:
        inside = base.units.of_example != jdt.masks.OUTSIDE
        carriers = jdt.plant.carriers(labels, attacked, config.trigger_probability, config.trigger_seed) & inside
        if not carriers.any():
            raise jdt.UserError("the classes that carry the pattern are in no unit: name others, or other --units.")
        pool = jdt.plant.with_versions(
            base.source, {name: (carriers, stamps[name]) for name in triggers}, seed=config.seed
        )
        source, original = pool.data, np.cumsum(pool.original) - 1
        members = {name: row & inside[original] for name, row in pool.rows.items()}
    else:  # A model that is there.
        carriers, source, original = np.zeros(len(labels), bool), base.source, np.arange(len(labels))
        members = {CLEAN: np.ones(len(labels), bool)}
    targets, variants = [], []
    for target in base.targets:
        for name in config.attacked:
            jdt.checks.require_known("attacked class", name, target.test.class_names)
        views = tuple(
            (name, jdt.plant.stamped_view(target.test, stamp, seed=config.seed)) for name, stamp in stamps.items()
        )
        for made, variant in _varied(config, base, dataclasses.replace(target, views=views), stamps, triggers):
            targets.append(made)
            variants.append(variant)
    arms = _arms(config, members) if triggers else (GIVEN,)
    study = _study(
        config, base, source, members, arms, targets, variants, stamps, triggers, tuple(shams), carriers, original, {}
    )
    if config.num_models and triggers:
        _require_blamable(config, study)
    return study


def _require_blamable(config: Config, study: Study) -> None:
    """Refuse what the search for units to blame could not do, before the hours that the study itself takes."""
    jdt.estimators.named(config.estimators)
    owner, carries = study.base.units.of_example[study.original], study.carriers[study.original]
    units = jdt.masks.Units(
        study.base.units.names, np.where(study.members[study.triggers[0]], owner, jdt.masks.OUTSIDE)
    )
    whole = study.task.targets[0]  # The first target as it is, with the views of all patterns.
    # Its checks are those that the models on random subsets meet.
    task = dataclasses.replace(
        study.task, units=units, targets=(dataclasses.replace(whole, views=whole.views[:1]),),
        modes=config.transfer[:1], design=jdt.masks.Design(config.design, config.fraction, config.seed),
        num_models=config.num_models,
    )  # fmt: skip
    influence_setup.require_estimable(task)
    inside = units.of_example != jdt.masks.OUTSIDE
    planted = np.bincount(units.of_example[inside & carries], minlength=len(units)) * 2 > units.sizes
    count, most = int(planted.sum()) if config.drop is None else config.drop, len(units) // 2
    if not 0 <= count <= most:
        why = " (as many as carry the pattern)" if config.drop is None else ""
        raise jdt.UserError(
            f"--drop is {count}{why}, but as many random units are dropped to compare with: of {len(units)} units "
            f"0 to {most} can be; pass --drop, or --num-models 0 to blame none."
        )


def _drawn(config: Config, base: jdt.pipeline.Task) -> tuple[dict[str, jdt.plant.Trigger], tuple[int, ...]]:
    """Patterns, and numbers of the source classes that carry them; with a nonce both are drawn from it."""
    patterns: dict[str, jdt.plant.Trigger] = {}
    for text in config.trigger:
        name, trigger = jdt.plant.parse_trigger(text)
        if name in patterns or name in (CLEAN, SCRATCH, GIVEN, TWIN):
            raise jdt.UserError(f"two source variants are called {name!r}: name a trigger, like mark={text}.")
        patterns[name] = trigger
    if not patterns:
        raise jdt.UserError("there is no pattern to study: pass --trigger, for example square.")
    if config.nonce is not None:
        jdt.checks.require_at_least("nonce", config.nonce, 0)
    seed = config.seed if config.nonce is None else config.nonce
    draw = np.random.default_rng([seed, 2207_02842])
    if config.nonce is not None:
        if config.trigger_classes:
            raise jdt.UserError(
                f"--nonce draws the classes that carry the pattern, but {', '.join(config.trigger_classes)} are named: "
                "pass --trigger-classes with nothing behind it, or leave --nonce out."
            )
        corner, colour = list(OPPOSITE)[draw.integers(4)], COLOURS[draw.integers(len(COLOURS))]
        patterns = {
            name: dataclasses.replace(one, corner=corner, colour=colour) if isinstance(one, jdt.plant.Square) else one
            for name, one in patterns.items()
        }
    if config.trigger_classes:
        return patterns, _numbered(config.trigger_classes, base.source.class_names)
    if not 1 <= config.trigger_units < len(base.units):
        raise jdt.UserError(
            f"--trigger-units is {config.trigger_units}, but of {len(base.units)} units 1 to {len(base.units) - 1} can "
            "carry the pattern."
        )
    units = draw.permutation(len(base.units))[: config.trigger_units]
    inside = np.isin(base.units.of_example, units)
    return patterns, tuple(np.unique(np.asarray(base.source.labels)[inside]).tolist())


def _numbered(asked: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of classes that are named, or given as ranges of numbers; a name that looks like a range is a name.

    >>> _numbered(["dog", "0-1", "3-4"], ["cat", "cow", "dog", "3-4", "hen"])
    (2, 0, 1, 3)
    """
    found: dict[int, None] = {}
    for text in asked:
        ends = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", text)
        if text in names or ends is None:
            jdt.checks.require_known("trigger class", text, names)
            found[names.index(text)] = None
            continue
        first, last = map(int, ends.groups())
        if not first <= last < len(names):
            raise jdt.UserError(
                f"trigger classes {text} are not there: pass two of 0 to {len(names) - 1}, the smaller one first, or "
                "names of classes."
            )
        found |= dict.fromkeys(range(first, last + 1))
    return tuple(found)


def _shams(
    config: Config,
    patterns: Mapping[str, jdt.plant.Trigger],
    stamps: Mapping[str, jdt.plant.Stamp],
    shape: tuple[int, int, int],
) -> list[jdt.plant.Stamp]:
    """Patterns that no source image carries; `shuffled` has the first trigger's pixels at random places.

    Raises:
      UserError: If one has the name of a trigger, or is one.
    """
    first_name, first = next(iter(patterns.items()))
    if config.source_checkpoint is not None and not config.sham:
        return []

    def scattered(name: str) -> jdt.plant.Stamp:
        return dataclasses.replace(jdt.plant.shuffled(stamps[first_name], config.seed), name=name)

    found = []
    for text in config.sham:
        name, trigger = (text, None) if text == "shuffled" else jdt.plant.parse_trigger(text)
        found.append(scattered(name) if trigger is None else trigger.stamp(shape, name))
    if not config.sham:
        has_opposite = isinstance(first, jdt.plant.Square | jdt.plant.Tint)
        found.append(_opposite(first).stamp(shape, "sham") if has_opposite else scattered("sham"))
    names = [*stamps, *(stamp.name for stamp in found)]
    if len(set(names)) < len(names):
        raise jdt.UserError(
            f"patterns are called {', '.join(names)}, triggers first and then shams: name one otherwise, like "
            "control=square:bottom-right:0,0,255."
        )
    for sham in found:
        for name, stamp in stamps.items():
            near = 255 if isinstance(patterns[name], jdt.plant.Tint) else 0  # One grey level: grey has no opposite.
            if np.array_equal(sham.gain, stamp.gain) and np.abs(sham.shift - stamp.shift).max() <= near:
                raise jdt.UserError(
                    f"the sham {sham.name!r} would change images as the trigger {name!r} does, and show nothing: pass "
                    "--sham with a pattern of another colour, place or form, for example square:bottom-right:0,0,255."
                )
    return found


def _opposite(trigger: jdt.plant.Square | jdt.plant.Tint) -> jdt.plant.Square | jdt.plant.Tint:
    """The trigger in the opposite colour and corner; a tint has no form that a shuffled one would lack."""
    colour: tuple[int, int, int] = tuple(255 - part for part in trigger.colour)  # pyright: ignore[reportAssignmentType]
    if isinstance(trigger, jdt.plant.Tint):
        return dataclasses.replace(trigger, colour=colour)
    return dataclasses.replace(trigger, colour=colour, corner=OPPOSITE[trigger.corner])


def _varied(
    config: Config,
    base: jdt.pipeline.Task,
    target: jdt.pipeline.TargetData,
    stamps: Mapping[str, jdt.plant.Stamp],
    triggers: Sequence[str],
) -> list[tuple[jdt.pipeline.TargetData, Variant]]:
    """A target, and its variants: one change at a time, or with `--cross` all of them together."""
    fractions = [one for one in config.target_fractions if one != 1]
    debias = [(share, name) for name in triggers or tuple(stamps)[:1] for share in config.debias if share]
    if config.cross:
        combinations = list(itertools.product([1.0, *fractions], [None, *config.weight_decays], [(0.0, ""), *debias]))
    else:
        combinations = [
            (1.0, None, (0.0, "")),
            *((fraction, None, (0.0, "")) for fraction in fractions),
            *((1.0, decay, (0.0, "")) for decay in config.weight_decays),
            *((1.0, None, one) for one in debias),
        ]
    found = []
    for fraction, decay, (share, pattern) in combinations:
        made = target
        if fraction != 1:
            made = _variant(config, base, made, fractions=(fraction,))
        if pattern:
            suffix = f"{pattern}{100 * share:g}%"
            train, streamed = (
                one and jdt.plant.stamped_view(one, stamps[pattern], seed=config.seed, share=share)
                for one in (made.train, made.streamed)
            )
            made = dataclasses.replace(made, name=f"{made.name}@{suffix}", train=train, streamed=streamed, whole=target)
        if decay is not None:
            made = _variant(config, base, made, weight_decays=(decay,))
        found.append((made, Variant(target.name, made.name, fraction, decay, share, pattern)))
    return found


def _variant(
    config: Config,
    base: jdt.pipeline.Task,
    target: jdt.pipeline.TargetData,
    *,
    fractions: Sequence[float] = (),
    weight_decays: Sequence[float] = (),
) -> jdt.pipeline.TargetData:
    return jdt.pipeline.variants(
        target, fractions=fractions, weight_decays=weight_decays,
        head=base.head, full=base.full, modes=config.transfer, seed=config.seed,
    )[0]  # fmt: skip


def _group_study(config: Config, base: jdt.pipeline.Task) -> Study:
    source, groups = _grouped(config, base.source, config.source, config.source_split, config.group)
    labels = np.asarray(source.labels)
    if len(source.class_names) != 2:
        raise jdt.UserError(
            f"{source.name} has {len(source.class_names)} classes, but a correlation with a group is that of two: "
            "pass --source-groups with two groups of classes, or --label with a feature that is true or false."
        )
    jdt.checks.require_at_least("phis", len(config.phis), 1)
    arms = [f"phi={value:g}" for value in config.phis]
    rows = jdt.plant.correlated_subsets(labels, groups, config.phis, seed=config.seed)
    targets, variants, tested = [], [], {}
    for target in (_of_two_classes(one) for one in base.targets):
        feature = config.target_group or config.group
        test_split = config.target_test_split or jdt.data.evaluation_split(target.name, data_dir=config.data_dir)
        train_split = config.target_split or "train"
        train, train_groups = _grouped(config, target.train, target.name, train_split, feature)
        streamed = target.streamed and _grouped(config, target.streamed, target.name, train_split, feature)[0]
        test, test_groups = _grouped(config, target.test, target.name, test_split, feature)
        balanced = np.flatnonzero(jdt.plant.balanced_cells(np.asarray(test.labels), test_groups, config.seed))
        whole = dataclasses.replace(target, train=train, test=test.part(balanced, f"{test.name}, balanced"))
        shares = config.compositions or (0.5,)
        chosen = jdt.plant.composition(np.asarray(train.labels), train_groups, shares, seed=config.seed)
        for share, row in zip(shares, chosen, strict=True):
            name = f"{target.name}@group{100 * share:g}%"
            part, streamed_part = (
                data and data.part(np.flatnonzero(row), f"{train.name}, {share:.0%} of group 1")
                for data in (train, streamed)
            )
            one = dataclasses.replace(whole, name=name, train=part, streamed=streamed_part, whole=whole)
            for decay in (None, *config.weight_decays):
                made = one if decay is None else _variant(config, base, one, weight_decays=(decay,))
                targets.append(made)
                variants.append(Variant(target.name, made.name, decay=decay, composition=share))
        tested[target.name] = test_groups[balanced]
    members = dict(zip(arms, rows, strict=True))
    return _study(
        config, base, source, members, _arms(config, members), targets, variants, {}, (), (), groups == 1,
        np.arange(len(labels)), tested,
    )  # fmt: skip


def _arms(config: Config, members: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Source variants; one from scratch where models without a source start at random values, not at given ones."""
    return (*members, SCRATCH) if config.start_from is None else tuple(members)


def _of_two_classes(target: jdt.pipeline.TargetData) -> jdt.pipeline.TargetData:
    """A target whose label is one of two, as that is which group skew is about."""
    if len(target.test.class_names) != 2:
        raise jdt.UserError(
            f"{target.name} has {len(target.test.class_names)} classes, but skew is that of a label of two: pass "
            "--target-groups with two groups of classes, or --target-label with a feature that is true or false."
        )
    return target


def _grouped(
    config: Config, data: jdt.data.Dataset, name: str, split: str, feature: str | None
) -> tuple[jdt.data.Dataset, np.ndarray]:
    """A dataset with the group of each of its examples: planted, or a column of it."""
    if config.group == "planted":
        _, trigger = jdt.plant.parse_trigger(config.trigger[0])
        return jdt.plant.planted_attribute(data, trigger.stamp(data.image_shape, "attribute"), seed=config.seed)
    if config.source_groups is not None or config.target_groups is not None:
        raise jdt.UserError(
            "--source-groups and --target-groups leave examples out, which a column of groups does not: pass --label "
            "and --target-label."
        )
    groups, names = jdt.data.attribute(name, split, str(feature), data_dir=config.data_dir)
    if len(names) > 2:
        raise jdt.UserError(f"{feature} of {name} has {len(names)} values, but a group is one of two: pass another.")
    return data, np.asarray(groups, np.int8)


def _study(
    config: Config,
    base: jdt.pipeline.Task,
    source: jdt.data.Dataset,
    members: Mapping[str, np.ndarray],
    arms: Sequence[str],
    targets: Sequence[jdt.pipeline.TargetData],
    variants: Sequence[Variant],
    stamps: Mapping[str, jdt.plant.Stamp],
    triggers: tuple[str, ...],
    shams: tuple[str, ...],
    carriers: np.ndarray,
    original: np.ndarray,
    groups: Mapping[str, np.ndarray],
) -> Study:
    """Source variants as masks, seed by seed, so that more seeds are more models at the end."""
    nobody = np.zeros(len(source), bool)
    trained = np.stack([members.get(arm, nobody) for arm in arms])
    if config.source_checkpoint is None:
        units, masks = jdt.masks.atoms(trained, arms)
    else:
        units, masks = base.units, np.zeros((len(arms), len(base.units)), bool)
    listed = jdt.masks.Listed(
        np.tile(masks, (config.seeds, 1)),
        np.repeat(np.arange(config.seeds), len(arms)),
        config.seed,
        allow_untrained=True,
    )
    task = dataclasses.replace(
        base,
        source=source,
        units=units,
        targets=tuple(targets),
        design=listed,
        num_models=len(listed.masks),
        pool_size=jdt.pipeline.pool_size(source, config.memory_budget, config.recipe),
        start=_start(config, base, config.source_checkpoint),
    )
    return Study(
        task, base, tuple(arms) * config.seeds, members, stamps, triggers, shams, carriers, original, tuple(variants),
        groups,
    )  # fmt: skip


def _start(config: Config, base: jdt.pipeline.Task, path: pathlib.Path | None) -> jdt.models.Variables | None:
    if path is None:
        if config.start_from is None:
            return None
        path = config.start_from
    return jdt.models.load_variables(path, base.network, base.source.image_shape, head=False)


def identity(config: Config, study: Study) -> dict:
    """What decides the stored numbers, but not how many seeds there are: a study grows by them."""
    own = influence_setup.identity(config, study.base)
    targets = [data for target in study.task.targets for data in (target.train, *target.tests.values())]
    per_seed = len(study.arms) // config.seeds
    settings = {target.name: influence_setup.own_settings(target, study.task) for target in study.task.targets}
    start = study.task.start
    return {
        **own,
        "experiment": "bias_transfer",
        "bias": study.kind,
        "design": {"kind": "listed", "seed": config.seed},
        "arms": list(study.arms[:per_seed]),
        "subsets": jdt.config.fingerprint([np.packbits(row).tolist() for row in study.members.values()]),
        "variants": [jdt.config.to_plain(variant) for variant in study.variants],
        "target_settings": settings,
        "patterns": list(study.stamps),
        "pool_size": study.task.pool_size,
        **({} if start is None else {"start_from": jdt.models.variables_digest(start)}),
        "fingerprints": {
            study.task.source.name: study.task.source.fingerprint,
            **{data.name: data.fingerprint for data in targets},
            "units": jdt.config.fingerprint([list(study.task.units.names), study.task.units.of_example.tolist()]),
        },
    }
