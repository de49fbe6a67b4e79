"""What a study of pre-training data is made of: flags, sources as masks, methods as runs, few-shot draws as targets."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

import jdt
from experiments import influence_setup, pretraining_source_specs, pretraining_sources
from experiments.influence_setup import make_task
from experiments.pretraining_families import candidates, count_of, essence, row_of
from experiments.pretraining_reuse import kept_run, require_same_sources

Method = Literal["supervised", "simclr", "clip", "simclr-shuffled"]
METHODS: tuple[Method, ...] = get_args(Method)
Rule = Literal["LP", "FT", "LP-FT", "prototype", "zero-shot"]
SCRATCH = "scratch"
"""Source models that saw no source image."""
SHUFFLED = "shuffled"
"""Variant of a target whose training labels were shuffled: the negative control."""
VALIDATION = "validation"
"""View of a target that settings are chosen on: training images that nothing is trained with."""
ALIGNED, PERMUTED = "zero-shot", "zero-shot-permuted"
"""Modes of zero-shot heads: with the names of the classes, and as a control with names of other classes."""
OWN = "own"
"""Target of a study with CLIP: the near source's own classes."""
TWIN_ID = 500_009
"""Added to the randomness of the models of the twin, which no seed of the study is as large as."""
IGNORED = (
    "weight_decays", "target_fractions", "head", "transfer", "target_recipes", "plant", "plant_fits", "plant_changes",
    "plant_control", "until_reliability", "start_from", "output", "baseline_models", "units", "equalize", "design",
    "fraction", "num_models", "source_groups", "source_per_group", "estimators",
)  # fmt: skip
"""Flags that such a study does not look at, and that would be thought to have done something."""


@dataclasses.dataclass(frozen=True)
class Config(influence_setup.Config):
    """Every knob of the experiment."""

    transfer: tuple[jdt.pipeline.Mode, ...] = ()
    """Not of this experiment: --rules says how models are transferred."""
    sources: tuple[str, ...] = ()
    """Candidate sources, NAME=WHAT each, all of one size: near=classes:a,b far=groups:G grey=near|grey
    noisy=near|noise:0.4 half=near|size:0.5 big=near|times:2 mix=near|useful:0.25 textures=textures pixels=pixels."""
    source_sets: pathlib.Path | None = None
    """JSON file of group -> source classes, which groups: in --sources speaks of."""
    source_size: int | None = None
    """Images of every source (before size: and times:); by default as many as the smallest has."""
    methods: tuple[Method, ...] = ("supervised",)
    """How sources are learnt: supervised, simclr (no labels), clip (captions), and as a control simclr-shuffled, whose
    positive pairs are views of two images."""
    method_sources: tuple[str, ...] = ()
    """Sources of a method, METHOD:NAME,NAME each, e.g. simclr:near,far; by default those of equal size, of
    simclr-shuffled the near one. The first method learns all."""
    seeds: int = 5
    """Models of every source; models of one seed share initial values, order of batches and few-shot draws. With more
    of them than before the run grows, and trains the new ones alone."""
    room: int | None = None
    """Seeds that label noise is drawn for at once, up to which a run of noisy sources can grow; by default --seeds.
    Without noise: any number of them."""
    nonce: int | None = None
    """Draw sources (who is in a smaller one, noise, mixtures, procedural images) and shuffled labels from this number,
    e.g. of a commit, in place of --seed. Few-shot draws, like all else that models differ in, are of --seed."""
    shots: tuple[int, ...] = (1, 5, 10, 20)
    """Training images of each target class, beside all there are."""
    draws: int = 3
    """Few-shot draws of every seed, nested in the shots."""
    validation: float = 0.2
    """Share of the targets' training images that settings are chosen on; nothing is trained with them."""
    rules: tuple[Rule, ...] = ("LP",)
    """How models are transferred: LP (convex head on frozen features), FT (all weights), LP-FT (FT from LP's head),
    prototype (class means), zero-shot (CLIP's text tower on class names)."""
    penalties: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Grid of LP, whose convex head has no learning rate: C of its penalty."""
    rates: tuple[float, ...] = (0.003, 0.01, 0.03)
    """Grid of FT and LP-FT: learning rates."""
    full: jdt.transfer.FullNetwork = dataclasses.field(
        default_factory=lambda: jdt.transfer.FullNetwork(
            jdt.train.Recipe(epochs=30, batch_size=64, warmup_steps=500, decay="cosine", weight_decay=5e-4)
        )
    )
    """How whole networks are fine-tuned; the learning rate is that of --rates."""
    simclr: jdt.train.SimCLR = dataclasses.field(default_factory=jdt.train.SimCLR)
    """SimCLR's loss, projection head and augmentation."""
    simclr_recipe: jdt.train.Recipe = dataclasses.field(
        default_factory=lambda: jdt.train.Recipe(
            epochs=20, learning_rate=0.001, algorithm="adamw", weight_decay=0.01, decay="cosine"
        )
    )
    """How SimCLR source models are trained."""
    clip: jdt.train.CLIP = dataclasses.field(default_factory=jdt.train.CLIP)
    """CLIP's loss and text tower."""
    clip_recipe: jdt.train.Recipe = dataclasses.field(
        default_factory=lambda: jdt.train.Recipe(
            epochs=20, learning_rate=0.003, algorithm="adamw", betas=(0.9, 0.98), weight_decay=0.1, decay="cosine"
        )
    )
    """How CLIP source models are trained."""
    captions: str | None = None
    """Text feature of the source that holds captions; by default they are made of class names."""
    reference_method: Method | None = None
    """Method that the others' gap is measured to; by default the first."""
    near: str | None = None
    """Source that is thought to be near the targets; by default the first one."""
    far: tuple[str, ...] = ()
    """Sources that are thought to be far from them; nothing is required of the order where none is given."""
    equivalents: tuple[str, ...] = ()
    """How many images of FAMILY equal SOURCE: FAMILY:SOURCE each; a family is a source and what size: and times: make
    of it. With a planted answer FAMILY:SOURCE:RATIO."""
    at_shots: int = 5
    """Where sizes, equivalents, methods and the map of sources and targets are compared, beside all training images."""
    twin: str | None = None
    """Source that is learnt once more with other seeds, for the spread that seeds alone make; by default the last of
    equal size, or none."""
    models_from: jdt.cli.RunPath | None = None
    """Study that was made with --save-models: its source models are transferred and none is trained. Sources, methods,
    seeds and recipes are then those; targets, shots, draws, rules and grids are free, but zero-shot needs training."""
    control: bool = True
    """Also every target with shuffled training labels, on which nothing can be learnt."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train on a target.

    Attributes:
      target: Name of the target.
      name: What the store calls it.
      shots: Training images of each class; None for all of them.
      draw: Number of the draw.
      is_shuffled: Whether training labels were shuffled.
    """

    target: str
    name: str
    shots: int | None = None
    draw: int = 0
    is_shuffled: bool = False


@dataclasses.dataclass(frozen=True)
class Setting:
    """One point of the grid of a rule.

    Attributes:
      rule: LP, FT, LP-FT, prototype or zero-shot.
      mode: What the store calls it.
      value: C or the learning rate; None where a rule has no grid.
    """

    rule: Rule
    mode: str
    value: float | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """All models of one method: a run.

    Attributes:
      method: supervised, simclr or clip.
      arms: Sources, `scratch` and the twin among them, in the order of the models of a seed.
      task: What is trained and transferred.
      subsets: Fingerprint of who learns what, whatever the number of seeds.
      out: Where the run is: the study's own folder for the first method, a folder in it for others.
    """

    method: Method
    arms: tuple[str, ...]
    task: jdt.pipeline.Task
    subsets: str
    out: jdt.cli.RunPath


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A study of pre-training data before anything is trained.

    Attributes:
      base: The task of the source as it was, with whole targets.
      sources: The pool of all sources' images, and whose they are.
      blocks: One a method.
      variants: Of the targets.
      settings: All points of all grids.
      compared: Sources of equal size, which are candidates: without sizes, mixtures and the twin.
      twin: Name of the twin, and the source that it is of; None where there is none.
    """

    base: jdt.pipeline.Task
    sources: pretraining_sources.Sources
    blocks: tuple[Block, ...]
    variants: tuple[Variant, ...]
    settings: tuple[Setting, ...]
    compared: tuple[str, ...]
    twin: tuple[str, str] | None

    def block(self, method: str) -> Block:
        """That of a method."""
        return next(block for block in self.blocks if block.method == method)

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the targets, in order."""
        return tuple(dict.fromkeys(one.target for one in self.variants))

    @property
    def shots(self) -> tuple[int | None, ...]:
        """Shots ascending, all training images (None) last."""
        found = {one.shots for one in self.variants if not one.is_shuffled}
        return (*sorted(k for k in found if k is not None), None)


def load_study(config: Config) -> Study:
    """Load the data and make sources, methods, few-shot draws and grids; plans are still to be chosen.

    Raises:
      UserError: If flags contradict each other, or anything does not fit the data.
    """
    _require_sound(config)
    base = make_task(_plain(config))
    sources = _sources(config, base)
    source_test = _tested(base.source_test, sources.pool)
    settings = grid(config)
    targets, variants = [], []
    for target in base.targets:
        for made, variant in _varied(config, target):
            targets.append(made)
            variants.append(variant)
    compared = candidates(sources)
    twin = _twin(config, sources, compared)
    _require_known(config, sources, compared)
    network = jdt.models.make(
        config.model,
        len(sources.pool.class_names),
        arguments=jdt.models.parse_arguments(config.model_args),
        features=config.features,
    )
    blocks = []
    for method in config.methods:
        # The twin is the last arm, and has other randomness; models that saw nothing are the same for all methods.
        own = [name for name in sources.names if name in _learnt(config, method, sources, compared)]
        extra = (SCRATCH, *([twin[0]] if twin else [])) if method == config.methods[0] else ()
        arms = (*own, *extra)
        units, by_seed = _subsets(sources, arms, twin)
        masks = np.concatenate([by_seed[:, min(seed, by_seed.shape[1] - 1)] for seed in range(config.seeds)])
        ids = [seed + TWIN_ID * (twin is not None and arm == twin[0]) for seed in range(config.seeds) for arm in arms]
        listed = jdt.masks.Listed(masks, np.array(ids), config.seed, allow_untrained=True)
        is_clip = method == "clip"
        modes = {one.mode: _settings(config, one) for one in settings if is_clip or one.rule != "zero-shot"}
        if is_clip and "zero-shot" in config.rules:
            modes[PERMUTED] = jdt.transfer.ZeroShot(config.clip.templates, permuted=config.seed)
        task = dataclasses.replace(
            base,
            source=_captioned(config, sources) if is_clip else sources.pool,
            source_test=source_test,
            units=units,
            targets=(
                *targets,
                *(
                    [_own_classes(sources, source_test, near_of(config, compared))]
                    if is_clip and "zero-shot" in config.rules
                    else []
                ),
            ),
            design=listed,
            num_models=len(masks),
            network=network,
            recipe=recipe_of(config, method),
            objective=objective_of(config, method),
            modes=tuple(modes),
            tuners=modes,
            pool_size=jdt.pipeline.pool_size(sources.pool, config.memory_budget, recipe_of(config, method)),
            kept=None if config.models_from is None else kept_run(config.models_from, config.out, method),
        )
        run = jdt.store.run_path(config.out)
        out = config.out if method == config.methods[0] else run / method
        blocks.append(Block(method, arms, task, jdt.config.fingerprint(np.packbits(by_seed).tolist()), out))
    study = Study(base, sources, tuple(blocks), tuple(variants), settings, compared, twin)
    for block in study.blocks:
        if block.task.kept is not None:
            require_same_sources(block.task.kept, identity(config, study, block), block.task)
    return study


def _subsets(
    sources: pretraining_sources.Sources, arms: Sequence[str], twin: tuple[str, str] | None
) -> tuple[jdt.masks.Units, np.ndarray]:
    """Units of a method, and what each arm learns in each seed that noise was drawn for: bool `[arms, seeds, units]`.

    Neither depends on how many models there are, so that a run can grow by seeds.
    """
    seeds = sources.rows.shape[1]
    rows, names = [], []
    for arm in arms:
        of = twin[1] if twin and arm == twin[0] else arm
        for seed in range(seeds):
            rows.append(np.zeros(len(sources.pool), bool) if arm == SCRATCH else row_of(sources, of, seed))
            names.append(f"{arm}, seed {seed}" if seeds > 1 else arm)
    units, masks = jdt.masks.atoms(np.stack(rows), names)
    return units, masks.reshape(len(arms), seeds, -1)


def room_of(config: Config, specs: Sequence[pretraining_source_specs.SourceSpec]) -> int:
    """Seeds that sources are made for: those that noise is drawn for, and one where seeds have equal sources."""
    is_noisy = any(change.kind == "noise" for spec in specs for change in spec.changes)
    return (config.room or config.seeds) if is_noisy else 1


def recipe_of(config: Config, method: Method) -> jdt.train.Recipe:
    """How source models of a method are trained."""
    return {"supervised": config.recipe, "clip": config.clip_recipe}.get(method, config.simclr_recipe)


def objective_of(config: Config, method: Method) -> jdt.train.Objective:
    """What source models of a method minimise."""
    match method:
        case "supervised":
            return jdt.train.Supervised()
        case "clip":
            return config.clip
        case _:
            return dataclasses.replace(config.simclr, shuffled_pairs=method == "simclr-shuffled")


def draw_seed(config: Config) -> int:
    """What sources and shuffled labels are drawn from: the nonce, where one was fixed."""
    return config.seed if config.nonce is None else config.nonce


def grid(config: Config) -> tuple[Setting, ...]:
    """All settings of all rules, in the order of their values."""
    found = []
    for rule in config.rules:
        values = {"LP": config.penalties, "FT": config.rates, "LP-FT": config.rates}.get(rule)
        if values is None:
            found.append(Setting(rule, rule))
        else:
            found += [Setting(rule, f"{rule}@{value:g}", value) for value in sorted(values)]
    return tuple(found)


def _settings(
    config: Config, one: Setting
) -> jdt.transfer.FixedFeature | jdt.transfer.FullNetwork | jdt.transfer.ZeroShot:
    match one.rule:
        case "LP":
            return jdt.transfer.FixedFeature(inverse_penalty=float(one.value or 0))
        case "prototype":
            return jdt.transfer.FixedFeature(solver="prototype")
        case "zero-shot":
            return jdt.transfer.ZeroShot(config.clip.templates)
        case _:
            recipe = dataclasses.replace(config.full.recipe, learning_rate=float(one.value or 0))
            start = "probe" if one.rule == "LP-FT" else "random"
            return dataclasses.replace(config.full, recipe=recipe, start=start)


def _require_sound(config: Config) -> None:
    """Refuse flags that make no study."""
    defaults = {field.name: field for field in dataclasses.fields(Config)}
    changed = [name for name in IGNORED if getattr(config, name) != default_of(defaults[name])]
    if changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise jdt.UserError(f"{flags} would do nothing in a study of pre-training data: leave out what you passed.")
    for flag, given, default, instead in (
        ("full.start", config.full.start, jdt.transfer.FullNetwork().start, "--rules FT or LP-FT"),
        ("simclr.shuffled-pairs", config.simclr.shuffled_pairs, False, "--methods simclr-shuffled"),
    ):
        if given != default:
            raise jdt.UserError(f"--{flag} {given} would do nothing here: leave it out, and pass {instead}.")
    if len(config.sources) < 2:
        raise jdt.UserError(
            f"--sources are {' '.join(config.sources) or 'none'}, but sources are compared: name two or more, such as "
            "near=classes:a,b far=classes:c,d."
        )
    for what in ("methods", "rules"):
        given = getattr(config, what)
        if not given or len(set(given)) < len(given):
            raise jdt.UserError(f"--{what} are {' '.join(given) or 'none'}: name one or more, each once.")
    jdt.checks.require_at_least("seeds", config.seeds, 1)
    if config.room is not None and config.room < config.seeds:
        raise jdt.UserError(
            f"--room is {config.room}, but {config.seeds} seeds are asked for: pass {config.seeds} or more."
        )
    jdt.checks.require_at_least("draws", config.draws, 1)
    jdt.checks.require_fraction("validation", config.validation)
    if config.nonce is not None and not 0 <= config.nonce < 2**31:
        raise jdt.UserError(f"--nonce is {config.nonce}, but must be 0 to 2147483647 (31 bits): shorten it.")
    if not config.shots or len(set(config.shots)) < len(config.shots):
        raise jdt.UserError(f"--shots are {' '.join(map(str, config.shots)) or 'none'}: pass one or more, each once.")
    if config.at_shots not in config.shots:
        raise jdt.UserError(
            f"--at-shots, where sizes and methods are compared, is {config.at_shots}, but --shots are "
            f"{' '.join(map(str, config.shots))}: pass --at-shots {config.shots[0]}."
        )
    for name, rules in (("penalties", {"LP"}), ("rates", {"FT", "LP-FT"})):
        values = getattr(config, name)
        if not rules & set(config.rules):
            continue
        # Settings are called by six digits of their values.
        is_grid = 2 <= len(values) == len({f"{value:g}" for value in values})
        if not (is_grid and all(math.isfinite(value) and value > 0 for value in values)):
            raise jdt.UserError(
                f"--{name} are {' '.join(map(str, values)) or 'none'}, but are a grid to choose from: pass two or more "
                "positive values, each once."
            )
    if set(config.rules) == {"zero-shot"}:
        raise jdt.UserError(
            "--rules are zero-shot alone, which trains on no target image, so that nothing depends on shots: add LP or "
            "another rule."
        )
    if "zero-shot" in config.rules and "clip" not in config.methods:
        raise jdt.UserError("--rules zero-shot needs a text tower, which supervised and SimCLR models lack: add clip.")
    if config.captions is not None and "clip" not in config.methods:
        raise jdt.UserError("--captions are read by CLIP alone: add clip to --methods, or leave --captions out.")


def default_of(field: "dataclasses.Field[object]") -> object:
    """What a flag is where it is not given."""
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # pyright: ignore


def _plain(config: Config) -> Config:
    """The flags of the task of the source as it is: a task needs a mode and a number of models to be made at all."""
    return dataclasses.replace(
        config, shots=(), transfer=("fixed",), num_models=2, baseline_models=0, save_models=False, block_size=None,
        full=jdt.transfer.FullNetwork(),
    )  # fmt: skip


def _learnt(config: Config, method: Method, sources: pretraining_sources.Sources, compared: Sequence[str]) -> set[str]:
    """Sources that a method learns: all of them for the first one, else those asked for, or those of equal size."""
    asked = _pairs("method-sources", config.method_sources)
    for name in asked:
        jdt.checks.require_known("method in --method-sources", name, config.methods)
    if method in asked:
        names = asked[method].split(",")
        for name in names:
            require_source("method-sources", name, sources.names)
        left = [name for name in sources.names if name not in names]
        if left and method == config.methods[0]:
            raise jdt.UserError(
                f"--method-sources has {method} without {', '.join(left)}, but the first of --methods learns all "
                "--sources, since bars and tables compare these: leave it out, or the source."
            )
        return set(names)
    if method == config.methods[0]:
        return set(sources.names)
    return {near_of(config, compared)} if method == "simclr-shuffled" else set(compared)


def require_source(flag: str, name: str, known: Sequence[str]) -> None:
    """Refuse a source that there is not, which may be one of a preset and not of the user."""
    if name not in known:
        raise jdt.UserError(
            f"unknown source in --{flag} {name!r}; known: {', '.join(known)}. Name one of these; if you did not pass "
            f"--{flag}, a preset did: for --sources of your own, pass --preset own."
        )


def _pairs(flag: str, given: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, colon, rest = text.partition(":")
        if not (name and colon and rest) or name in found:
            raise jdt.UserError(f"--{flag} has {text!r}, expected NAME:REST with each name once.")
        found[name] = rest
    return found


def _varied(config: Config, target: jdt.pipeline.TargetData) -> list[tuple[jdt.pipeline.TargetData, Variant]]:
    """A target without its validation images, its few-shot draws, and the same with shuffled labels."""
    fitted = without_validation(target, config.validation, config.seed)
    found = _drawn(config, fitted, is_shuffled=False)
    if config.control:
        labels = jdt.plant.evenly_shuffled(fitted.train.labels, seed=draw_seed(config))
        mark = jdt.config.fingerprint([fitted.train.fingerprint, labels.tolist()])
        shuffled = dataclasses.replace(
            fitted.train, labels=labels, name=f"{fitted.train.name}@{SHUFFLED}", fingerprint=mark
        )
        control = dataclasses.replace(fitted, name=f"{target.name}@{SHUFFLED}", train=shuffled, whole=fitted)
        found += _drawn(config, control, is_shuffled=True)
    return found


def _drawn(
    config: Config, target: jdt.pipeline.TargetData, *, is_shuffled: bool
) -> list[tuple[jdt.pipeline.TargetData, Variant]]:
    name = target.name.removesuffix(f"@{SHUFFLED}")
    draws = 1 if is_shuffled else config.draws
    made = jdt.pipeline.drawn(target, config.shots, draws)
    found = [(one, Variant(name, one.name, one.draw.shots, one.draw.number, is_shuffled)) for one in made if one.draw]
    return [*found, (target, Variant(name, target.name, is_shuffled=is_shuffled))]


def without_validation(target: jdt.pipeline.TargetData, share: float, seed: int) -> jdt.pipeline.TargetData:
    """A target of whose training images a share of each class is a view that settings are chosen on.

    Raises:
      UserError: If a class has too few images for both.
    """
    labels = np.asarray(target.train.labels)
    if len(classes := np.unique(labels)) < 2:
        raise jdt.UserError(
            f"{target.name} has training images of {len(classes)} class "
            f"({', '.join(target.train.class_names[label] for label in classes)}), but a head tells two or more apart: "
            "pass another --target-split, or other groups of classes."
        )
    rows = jdt.transfer.target_fraction(labels, 1 - share, seed=seed)
    rest = np.setdiff1d(np.arange(len(labels)), rows)
    lacking = np.setdiff1d(labels, labels[rest])
    if len(lacking):
        name = target.train.class_names[int(lacking[0])]
        raise jdt.UserError(
            f"{target.name} has {int(np.sum(labels == lacking[0]))} training images of class {name!r}, too few to hold "
            f"{share:.0%} out for validation: pass a larger --validation, or more training images (--target-split)."
        )
    if target.streamed is not None:
        raise jdt.UserError("recipes that cut images anew are not for pre-training data studies: leave them out.")
    return dataclasses.replace(
        target,
        train=target.train.part(rows, f"{target.train.name}, without validation"),
        views=((VALIDATION, target.train.part(rest, f"{target.train.name}, {VALIDATION}")),),
        spectra=False,
    )


def _own_classes(sources: pretraining_sources.Sources, test: jdt.data.Dataset, near: str) -> jdt.pipeline.TargetData:
    """The near source's own classes as a target of zero-shot heads, on test images of the source dataset."""
    row = np.flatnonzero(row_of(sources, near, 0))
    labels = np.asarray(sources.pool.labels)
    classes = np.unique(labels[row])

    def relabelled(data: jdt.data.Dataset, rows: np.ndarray, name: str) -> jdt.data.Dataset:
        part = data.part(rows, name)
        names = tuple(data.class_names[number] for number in classes)
        mark = jdt.config.fingerprint([part.fingerprint, list(names)])
        own = np.searchsorted(classes, np.asarray(part.labels)).astype(np.int32)
        return dataclasses.replace(part, labels=own, class_names=names, fingerprint=mark)

    # Zero-shot heads are not trained: as few training images as a target can have.
    few = row[np.unique(labels[row], return_index=True)[1]]
    tested = np.flatnonzero(np.isin(np.asarray(test.labels), classes))
    if not len(tested):
        raise jdt.UserError(
            f"zero-shot heads are tested on the classes of the near source, but {test.name} has no image of those of "
            f"{near!r}, such as {sources.pool.class_names[classes[0]]!r}: pass --near, a source of the classes of "
            "--source-test-split, or leave zero-shot out of --rules."
        )
    return jdt.pipeline.TargetData(
        OWN, relabelled(sources.pool, few, f"{near}, one of a class"),
        relabelled(test, tested, f"{test.name}, classes of {near}"), spectra=False,
    )  # fmt: skip


def _sources(config: Config, base: jdt.pipeline.Task) -> pretraining_sources.Sources:
    """The sources that flags ask for, as rows over one pool."""

    def load(name: str) -> jdt.data.Dataset:
        with jdt.cli.item_progress(f"decoding {name}[{config.source_split}]") as progress:
            return jdt.data.load(
                name, config.source_split, data_dir=config.data_dir, image_size=config.image_size,
                image_channels=config.image_channels, progress=progress,
            )  # fmt: skip

    specs = pretraining_sources.parse_sources(config.sources)
    return pretraining_sources.make_sources(
        specs, base.source, seeds=range(room_of(config, specs)),
        nonce=draw_seed(config), source_size=config.source_size, groups=config.source_sets, load=load,
    )  # fmt: skip


def _captioned(config: Config, sources: pretraining_sources.Sources) -> jdt.data.Dataset:
    """The pool with captions: of the source's text feature, and where there is none of the names of classes.

    Raises:
      UserError: If the feature is not there or no text, or a caption is empty.
    """
    pool = sources.pool
    texts = None
    if config.captions is not None:
        given = jdt.data.captions(config.source, config.source_split, config.captions, data_dir=config.data_dir)
        names = [config.clip.templates[0].replace("{}", name) for name in pool.class_names]
        texts = [
            given[place] if place >= 0 else names[label]
            for place, label in zip(sources.places.tolist(), np.asarray(pool.labels).tolist(), strict=True)
        ]
    return jdt.data.with_captions(
        pool, texts, templates=config.clip.templates, max_bytes=config.clip.max_bytes, seed=draw_seed(config)
    )


def _tested(test: jdt.data.Dataset | None, pool: jdt.data.Dataset) -> jdt.data.Dataset:
    """Test images of the source, of those classes that the pool has and under its labels."""
    if test is None:
        raise jdt.UserError("the source has no test split: pass --source-test-split.")
    place = {name: number for number, name in enumerate(pool.class_names)}
    new = np.array([place.get(name, -1) for name in test.class_names])[np.asarray(test.labels)]
    part = test.part(np.flatnonzero(new >= 0))
    labels = new[new >= 0].astype(np.int32)
    mark = jdt.config.fingerprint([part.fingerprint, list(pool.class_names)])
    return dataclasses.replace(part, labels=labels, class_names=pool.class_names, fingerprint=mark)


def _twin(config: Config, sources: pretraining_sources.Sources, compared: Sequence[str]) -> tuple[str, str] | None:
    """Name of the twin and of its source."""
    if config.twin == "none":
        return None
    of = config.twin or compared[-1]
    jdt.checks.require_known("source in --twin", of, [*sources.names, "none"])
    return f"{of}-again", of


def _require_known(config: Config, sources: pretraining_sources.Sources, compared: Sequence[str]) -> None:
    """Refuse names of sources that there are not."""
    if len(compared) < 2:
        raise jdt.UserError(
            f"--sources have {len(compared)} of equal size without useful:, but two or more are compared: name another."
        )
    for flag, names in (("near", [config.near] if config.near else []), ("far", config.far)):
        for name in names:
            require_source(flag, name, compared)
    if config.reference_method is not None:
        jdt.checks.require_known("reference-method", config.reference_method, config.methods)
    alike: dict[object, str] = {}
    for name in sources.names:
        other = alike.setdefault((essence(sources, name), count_of(sources, name)), name)
        if other != name:
            raise jdt.UserError(
                f"sources {other!r} and {name!r} are the same images with the same labels, as many: leave one out, or "
                f"learn {other!r} with other seeds by --twin."
            )
    if clash := set(sources.names) & {f"{name}-again" for name in sources.names}:
        raise jdt.UserError(f"a source is called {min(clash)!r}, as a twin is: name it otherwise.")


def near_of(config: Config, compared: Sequence[str]) -> str:
    """The source that is thought to be near the targets."""
    return config.near or compared[0]


def require_growth(config: Config, study: Study, block: Block) -> None:
    """Refuse fewer seeds than the run of a method has, and more than its noise was drawn for, naming the way out.

    Raises:
      UserError: If the run that is there has other seeds, so that it cannot go on.
    """
    saved = jdt.store.saved_run(block.out)
    if saved is None or saved.config.get("arms") != list(block.arms):
        return  # What else differs is for the store to say.
    seeds = saved.num_models // len(block.arms)
    if seeds > config.seeds:
        raise jdt.UserError(
            f"{block.out} holds {seeds} seeds of every source, and --seeds is {config.seeds}, but a run only grows: "
            f"pass --seeds {seeds} or more, or another --out."
        )
    room, asked = saved.config.get("room"), study.sources.rows.shape[1]
    if isinstance(room, int) and room != asked:
        raise jdt.UserError(
            f"{block.out} draws wrong labels for {room} seeds at once, and not for {asked}: pass --room {room} with "
            f"up to {room} --seeds, or another --out with as many --room as --seeds may become."
        )


def identity(config: Config, study: Study, block: Block) -> dict:
    """What decides the stored numbers of one method."""
    own = influence_setup.identity(_plain(config), study.base)
    task = block.task
    targets = [data for target in task.targets for data in (target.train, *target.tests.values())]
    return {
        **own,
        "experiment": "pretraining_data",
        **({"save_models": True} if config.save_models else {}),
        "method": block.method,
        "objective": jdt.config.to_plain(task.objective),
        "recipe": jdt.config.to_plain(task.recipe),
        "transfer": list(task.modes),
        "modes": {name: jdt.config.to_plain(mode) for name, mode in task.tuners.items()},
        "design": {"kind": "listed", "seed": config.seed},
        "arms": list(block.arms),
        "twin": list(study.twin or ()),
        # Nothing here says how many seeds there are: with more of them the same run has more models.
        "room": study.sources.rows.shape[1],
        "sources": list(config.sources),
        "variants": [jdt.config.to_plain(variant) for variant in study.variants],
        "pool_size": task.pool_size,
        "fingerprints": {
            task.source.name: task.source.fingerprint,
            **{data.name: data.fingerprint for data in targets},
            "units": jdt.config.fingerprint([list(task.units.names), task.units.of_example.tolist()]),
            "subsets": block.subsets,
        },
    }
