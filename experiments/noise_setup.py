"""What a study of noisy pre-training is made of: flags, rates of label noise as masks, and tuners as transfer modes."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

import jdt
from experiments import influence_setup
from experiments.influence_setup import make_task, target_view

SCRATCH = "scratch"
"""Source models that saw no source image."""
SHUFFLED = "shuffled"
"""Variant of a target whose training labels were shuffled: the negative control of tuners."""
LINEAR, MLP, PAPER, CODE = "linear", "mlp", "nmtune", "nmtune-code"
TERMS = ("consistency", "covariance", "dominance")
"""The three terms of NMTune that an ablation leaves out one by one."""
FIRST_SELECTION_ID = 1_000_003
"""Randomness of the models that choose settings: no seed of the study is as large."""
IGNORED = (
    "shots", "weight_decays", "full", "head", "target_recipes", "plant", "plant_fits", "plant_changes",
    "plant_control", "until_reliability", "start_from", "output", "baseline_models",
)  # fmt: skip
"""Flags that such a study does not look at, and that would be thought to have done something."""


@dataclasses.dataclass(frozen=True)
class Config(influence_setup.Config):
    """Every knob of the experiment."""

    transfer: tuple[jdt.pipeline.Mode, ...] = ()
    """Transfer modes beside the tuners: fixed (a convex head on frozen features)."""
    rates: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.3)
    """Shares of the source labels that are noisy, each a variant of the source; the first is 0."""
    noise: str = "flip_to_other"
    """Kind of label noise: flip_to_other (exact rate), uniform (over all classes, as published), asymmetric:FILE (a
    JSON file of class -> class), instance (depends on the image)."""
    seeds: int = 5
    """Models at every rate; models of one seed share initial values, order, augmentation and the draw of the noise."""
    nonce: int | None = None
    """Draw the noise from this number, e.g. of a commit, in place of --seed."""
    shifts: tuple[str, ...] = tuple(jdt.data.SHIFTS)
    """Renderings of the test images that are out of distribution, such as blur:1.5; none with nothing behind it. Grey
    images have no colours to swap."""
    ood_target: tuple[str, ...] = ()
    """Datasets with the classes of the (only) target: their test images are out of distribution, too."""
    ood_map: pathlib.Path | None = None
    """JSON file of class of --ood-target -> class of the target, for names that differ."""
    ood_skip: bool = False
    """Leave out images of --ood-target whose class is none of the target's, instead of refusing."""
    tuning: jdt.transfer.Tuning = dataclasses.field(default_factory=jdt.transfer.Tuning)
    """How heads and networks are tuned; method, form and weights of the terms are set for each tuner."""
    ablation: bool = True
    """Also NMTune without each of its three terms."""
    control: bool = True
    """Also the first target with shuffled training labels, on which nothing can be learnt."""
    selection_seeds: int = 2
    """Models without noise, of other seeds, that choose learning rates and weights on a part of the targets' training
    images; 0 takes the published ones."""
    selection_rates: tuple[float, ...] = (0.3, 1.0, 3.0)
    """Learning rates to choose from, as multiples of the published ones."""
    selection_weights: tuple[float, ...] = (1.0, 10.0)
    """Weights of NMTune's terms to choose from, as multiples of the published ones."""
    suspect_rate: float = 0.2
    """Share of noisy labels in the search for them, which --num-models models on random subsets do."""
    suspect_units: str = "examples"
    """What these subsets are of: examples, classes, or groups:FILE."""
    noisy_units: int = 2
    """In the search for noisy units: how many of them have noise."""
    unit_rate: float = 0.6
    """And at which rate."""
    drop: int | None = None
    """Suspects that are dropped, or relabelled, to see what that is worth; as many as confident learning names."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to train on a target.

    Attributes:
      target: Name of the target.
      name: What the store calls it.
      fraction: Share of the training images of each class.
      is_shuffled: Whether training labels were shuffled.
    """

    target: str
    name: str
    fraction: float = 1.0
    is_shuffled: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether nothing was varied."""
        return self.fraction == 1.0 and not self.is_shuffled


@dataclasses.dataclass(frozen=True, eq=False)
class Study:
    """A study of noisy pre-training before anything is trained.

    Attributes:
      task: All rates times seeds, and all target variants, as one ensemble.
      base: The task of the source as it was, with whole targets.
      rates: Of the noise, ascending from 0.
      noise: The pool of true and wrong labels, and whose label is wrong at which (rate, seed).
      variants: Of the targets.
      views: Names of the out-of-distribution test sets, by target.
      notes: Classes that another dataset lacks, or whose images were left out of it. Heads choose among all classes of
        the target all the same: outputs are not masked to those that occur.
    """

    task: jdt.pipeline.Task
    base: jdt.pipeline.Task
    rates: tuple[float, ...]
    noise: jdt.plant.NoiseVersions
    variants: tuple[Variant, ...]
    views: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    @property
    def inside(self) -> np.ndarray:
        """Source examples that are in a unit, bool `[examples]`: the others have their labels, and train nobody."""
        return self.base.units.of_example != jdt.masks.OUTSIDE

    @property
    def arms(self) -> tuple[str, ...]:
        """Source variants of each seed, in the order of its models."""
        return (*map(rate_name, self.rates), SCRATCH)


def rate_name(rate: float) -> str:
    """What a source variant is called: its rate in per cent."""
    return f"{100 * rate:g}%"


def load_study(config: Config) -> Study:
    """Load the data and make rates of noise, target variants and renderings; the plan is still to be chosen.

    The tuners are as published: `experiments.noise_selection` says what becomes of them.

    Raises:
      UserError: If flags contradict each other, or anything does not fit the data.
    """
    _require_sound(config)
    tuners = published(config)
    base, notes = _with_views(config, make_task(_plain(config)))
    rates = tuple(sorted(config.rates))
    inside = base.units.of_example != jdt.masks.OUTSIDE
    noise = jdt.plant.noise_versions(
        base.source, label_noise(config, base.source.class_names), rates, range(config.seeds),
        nonce=noise_seed(config), within=inside,
    )  # fmt: skip
    targets, variants = [], []
    for target in base.targets:
        for made, variant in _varied(config, base, target):
            targets.append(made)
            variants.append(variant)
    nobody = np.zeros(len(noise.data), bool)
    # Seed by seed: the models of one seed are trained side by side.
    rows, names = [], []
    for draw in range(config.seeds):
        rows += [*(noise.rows[rate, draw] & inside[noise.example] for rate in rates), nobody]
        names += [f"{arm}, seed {draw}" for arm in (*map(rate_name, rates), SCRATCH)]
    units, masks = jdt.masks.atoms(np.stack(rows), names)
    listed = jdt.masks.Listed(
        masks, np.repeat(np.arange(config.seeds), len(rates) + 1), config.seed, allow_untrained=True
    )
    task = dataclasses.replace(
        base,
        source=noise.data,
        units=units,
        targets=tuple(targets),
        design=listed,
        num_models=len(masks),
        modes=(*config.transfer, *tuners),
        tuners=tuners,
        pool_size=jdt.pipeline.pool_size(noise.data, config.memory_budget, config.recipe),
    )
    views = {target.name: tuple(name for name, _ in target.views) for target in base.targets}
    return Study(task, base, rates, noise, tuple(variants), views, notes)


def noise_seed(config: Config) -> int:
    """What noise is drawn from: the nonce, where one was fixed."""
    return config.seed if config.nonce is None else config.nonce


def label_noise(config: Config, class_names: Sequence[str]) -> jdt.plant.LabelNoise:
    """The kind of label noise that flags ask for."""
    kind, colon, path = config.noise.partition(":")
    if colon and kind in jdt.plant.NOISE_KINDS and (kind != "asymmetric" or not path):
        raise jdt.UserError(
            f"--noise is {config.noise!r}, but only asymmetric noise has something behind a colon: a file of classes."
        )
    pairs = jdt.plant.read_class_map(path, class_names) if path else ()
    jdt.checks.require_known("noise", kind, jdt.plant.NOISE_KINDS)
    return jdt.plant.LabelNoise(kind, pairs)  # pyright: ignore[reportArgumentType]  # Known above.


def given_labels(study: Study, rate: float, seed: int) -> np.ndarray:
    """int32 `[examples]`: the labels that models of a rate and a seed are trained with."""
    return np.asarray(study.noise.data.labels)[study.noise.rows[rate, seed]]


def published(config: Config) -> dict[str, jdt.transfer.Tuning]:
    """Tuners by name of their mode, with the published rates and weights (section 3.3 of the specification)."""
    base = config.tuning
    return with_ablation(
        config,
        {
            LINEAR: dataclasses.replace(base, method="linear"),
            MLP: dataclasses.replace(base, method="mlp"),
            PAPER: dataclasses.replace(base, method="nmtune", form="paper"),
            CODE: dataclasses.replace(base, method="nmtune", form="code"),
        },
    )


def with_ablation(config: Config, tuners: Mapping[str, jdt.transfer.Tuning]) -> dict[str, jdt.transfer.Tuning]:
    """The tuners, and where it is asked for NMTune in its paper form without each of its terms."""
    terms = TERMS if config.ablation else ()
    return {**tuners, **{without(term): dataclasses.replace(tuners[PAPER], **{term: 0.0}) for term in terms}}


def without(term: str) -> str:
    """Mode of NMTune without one of its terms."""
    return f"{PAPER}-no-{term}"


def _require_sound(config: Config) -> None:
    """Refuse flags that make no study."""
    defaults = {field.name: field for field in dataclasses.fields(Config)}
    changed = [name for name in IGNORED if getattr(config, name) != _default(defaults[name])]
    if "fixed" in config.transfer:
        changed = [name for name in changed if name != "head"]
    if changed:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in changed)
        raise jdt.UserError(f"{flags} would do nothing in a study of noisy pre-training: leave out what you passed.")
    if not config.ood_target and (config.ood_map is not None or config.ood_skip):
        raise jdt.UserError("--ood-map and --ood-skip are of --ood-target, which is not given: leave them out.")
    if len(config.estimators) > 1 and config.estimators != _default(defaults["estimators"]):
        raise jdt.UserError(
            f"--estimators are {' '.join(config.estimators)}, but the search for noisy units takes one: pass one."
        )
    if "full" in config.transfer:
        raise jdt.UserError("--transfer full is not of frozen features, which this study is about: leave it out.")
    if (config.tuning.method, config.tuning.form) != ("nmtune", "paper"):
        raise jdt.UserError(
            "--tuning.method and --tuning.form would do nothing, since all tuners are compared: leave them out."
        )
    jdt.checks.require_at_least("seeds", config.seeds, 1)
    jdt.checks.require_at_least("selection-seeds", config.selection_seeds, 0)
    if config.nonce is not None and not 0 <= config.nonce < 2**31:
        raise jdt.UserError(f"--nonce is {config.nonce}, but must be 0 to 2147483647 (31 bits): shorten it.")
    for rate in config.rates:
        if not 0 <= rate <= 1:
            raise jdt.UserError(f"a rate of noise is {rate}, but must be 0 to 1: 0.3 is 30 per cent.")
    if len(set(config.rates)) < len(config.rates) or 0 not in config.rates or len(config.rates) < 2:
        raise jdt.UserError(
            f"--rates are {', '.join(map(str, config.rates))}, but must be two or more, each once, with 0 among them, "
            "which the others are compared with."
        )
    for name in ("selection_rates", "selection_weights"):
        if not all(value > 0 for value in getattr(config, name)) or not getattr(config, name):
            raise jdt.UserError(f"--{name.replace('_', '-')} must be one or more positive multiples: pass 1 for none.")


def _default(field: "dataclasses.Field[object]") -> object:
    return field.default if field.default is not dataclasses.MISSING else field.default_factory()  # pyright: ignore


def _plain(config: Config) -> Config:
    """The flags of the task of the source as it was: a task needs a mode and a number of models to be made at all."""
    return dataclasses.replace(
        config, target_fractions=(), transfer=("fixed",), num_models=2, baseline_models=0, save_models=False
    )


def _with_views(config: Config, base: jdt.pipeline.Task) -> tuple[jdt.pipeline.Task, tuple[str, ...]]:
    """The task with the out-of-distribution test sets of every target, and what to know about these."""
    if config.ood_target and len(base.targets) > 1:
        raise jdt.UserError("--ood-target is of one target, but there are more: pass one --target.")
    shifts = [jdt.data.parse_shift(text) for text in config.shifts]
    targets, notes = [], []
    for target in base.targets:
        is_grey = target.test.image_shape[-1] == 1
        fitting = [shift for shift in shifts if not (is_grey and shift.kind == "colour-swap")]
        if shifts and not fitting and not config.ood_target:
            raise jdt.UserError(
                f"--shifts {' '.join(config.shifts)} does nothing to the grey images of {target.name}: pass others, or "
                "--shifts with nothing behind it."
            )
        views = [(shift.name, jdt.data.shifted(target.test, shift)) for shift in fitting]
        for name in config.ood_target:
            found = _other_domain(config, name, target)
            views.append((jdt.store.safe_name(name), found.data))
            notes += [found.note] if found.note else []
        targets.append(dataclasses.replace(target, views=tuple(views)))
    return dataclasses.replace(base, targets=tuple(targets), baseline_models=0), tuple(notes)


def _other_domain(config: Config, name: str, target: jdt.pipeline.TargetData) -> jdt.data.Matched:
    """Test images of another dataset with the target's classes, cut and grouped as the target's, matched by name."""
    split = jdt.data.evaluation_split(name, data_dir=config.data_dir)
    with jdt.cli.item_progress(f"decoding {name}[{split}]") as progress:
        data = jdt.data.load(
            name, split, data_dir=config.data_dir, image_size=config.image_size,
            view=target_view(config, target.name), image_channels=config.image_channels, label=config.target_label,
            progress=progress,
        )  # fmt: skip
    if config.target_groups is not None:
        data = jdt.data.regrouped(data, jdt.masks.read_groups(config.target_groups))
    return jdt.data.matched(data, target.test.class_names, config.ood_map, leave_out=config.ood_skip)


def _varied(
    config: Config, base: jdt.pipeline.Task, target: jdt.pipeline.TargetData
) -> list[tuple[jdt.pipeline.TargetData, Variant]]:
    """A target, and its variants: with fewer training images, and the first one with shuffled labels."""
    found = [(target, Variant(target.name, target.name))]
    fractions = [one for one in config.target_fractions if one != 1]
    made = jdt.pipeline.variants(
        target, fractions=fractions, head=config.head, full=config.full, modes=config.transfer, seed=config.seed
    ) if fractions else ()  # fmt: skip
    made = [dataclasses.replace(one, spectra=False) for one in made]  # Read of whole, unshuffled targets alone.
    found += [(one, Variant(target.name, one.name, fraction)) for one, fraction in zip(made, fractions, strict=True)]
    if config.control and target is base.targets[0]:
        labels = jdt.plant.evenly_shuffled(target.train.labels, seed=config.seed)
        shuffled = relabelled(target.train, labels, f"{target.train.name}@{SHUFFLED}")
        name = f"{target.name}@{SHUFFLED}"
        found.append((
            dataclasses.replace(target, name=name, train=shuffled, whole=target, spectra=False),
            Variant(target.name, name, is_shuffled=True),
        ))  # fmt: skip
    return found


def relabelled(source: jdt.data.Dataset, labels: np.ndarray, name: str) -> jdt.data.Dataset:
    """The same images under other labels."""
    labels = np.asarray(labels, np.int32)
    mark = jdt.config.fingerprint([source.fingerprint, labels.tolist()])
    return dataclasses.replace(source, labels=labels, name=name, fingerprint=mark)


def identity(config: Config, study: Study) -> dict:
    """What decides the stored numbers."""
    own = influence_setup.identity(_plain(config), study.base)
    targets = [data for target in study.task.targets for data in (target.train, *target.tests.values())]
    return {
        **own,
        "experiment": "noisy_pretraining",
        **({"save_models": True} if config.save_models else {}),
        "transfer": list(study.task.modes),
        "design": {"kind": "listed", "seed": config.seed},
        "arms": list(study.arms),
        "seeds": config.seeds,
        # What is chosen among these follows from them.
        "tuners": {name: jdt.config.to_plain(tuner) for name, tuner in published(config).items()},
        "selection": [config.selection_seeds, list(config.selection_rates), list(config.selection_weights)],
        "subsets": jdt.config.fingerprint(
            [np.packbits(study.noise.rows[rate, seed]).tolist() for seed in range(config.seeds) for rate in study.rates]
        ),
        "variants": [jdt.config.to_plain(variant) for variant in study.variants],
        "pool_size": study.task.pool_size,
        "fingerprints": {
            study.task.source.name: study.task.source.fingerprint,
            **{data.name: data.fingerprint for data in targets},
            "units": jdt.config.fingerprint([list(study.task.units.names), study.task.units.of_example.tolist()]),
        },
    }


def by_arm(values: np.ndarray, num_arms: int) -> np.ndarray:
    """Values of all models, `[models, ...]`, as `[arms, seeds, ...]`."""
    return values.reshape(-1, num_arms, *values.shape[1:]).swapaxes(0, 1)
