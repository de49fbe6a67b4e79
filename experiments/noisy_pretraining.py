"""What does label noise in the source do downstream, does the spectrum of the features show it, and can it be repaired?

Question  Source models are trained on labels of which a share is wrong, from equal initial values and in equal order at
          every rate, and their frozen features serve clean targets, on test images as they are and out of distribution.
          What does noise cost, what does it do to singular values, what does NMTune repair, and which labels are wrong?
Source    arXiv 2309.17002 (noisy pre-training), sections 3.1-3.6 of its specification.
Run       python -m experiments.noisy_pretraining --out runs/noise
Two sets  python -m experiments.noisy_pretraining --out runs/domains --source imagenet_resized/32x32 \
              --image-size 32 --model resnet18 --model-args --target domainnet/real \
              --ood-target domainnet/sketch domainnet/clipart --shifts --num-models 0
Your own  python -m experiments.tune_features --features FILE.npz (features that are there already)
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

import jdt
from experiments import noise_repair, noise_report, noise_selection, noise_suspects
from experiments.influence_run import once_made, open_writer, remove_own, train_run
from experiments.influence_setup import planned_on
from experiments.noise_bars import judge
from experiments.noise_measures import measure
from experiments.noise_setup import Config, Study, given_labels, identity, label_noise, load_study, rate_name

LABELS = "labels.zarr"
"""In the run: every draw of the noise."""
OWN = (
    LABELS, noise_selection.FOLDER, noise_suspects.EXAMPLES, noise_suspects.UNITS, noise_report.FILE,
    noise_suspects.FILE, "summary.json", "report.html",
)  # fmt: skip
"""All that a study writes into its run beside the models, and folders whose names begin with `REPAIRED`."""
DEMO = Config(
    out=pathlib.Path("runs/noise"),
    recipe=jdt.train.Recipe(epochs=10, batch_size=64, learning_rate=0.1, crop_pad=1),
    model_args=("width=16",),
    tuning=jdt.transfer.Tuning(flip=False),  # Digits have a left and a right.
    target_fractions=(0.5,),
    num_models=128,
    estimators=("ridge",),
)
PRESETS = {
    "demo": DEMO,
    "smoke": dataclasses.replace(
        DEMO,
        out=pathlib.Path("runs/noise-smoke"),
        rates=(0.0, 0.3),
        seeds=2,
        shifts=("inversion", "blur"),
        tuning=jdt.transfer.Tuning(flip=False, epochs=1, num_views=2),
        target_fractions=(0.5,),
        selection_seeds=1,
        selection_rates=(1.0,),
        num_models=8,
        recipe=jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1),
    ),
    # Ten of the published targets, those with a test split in TFDS (eurosat and resisc45 have none). Renderings, the
    # ablation and smaller targets are other runs, as each multiplies what is tuned: --shifts edges blur, --ablation, or
    # --target cifar10 --target-fractions 0.1 0.25 0.5 0.75. DomainNet, the published test out of distribution, is one,
    # too: --target domainnet/real --ood-target domainnet/sketch domainnet/clipart domainnet/painting.
    # The published recipe of the source is timm's for ResNet-50 and is not in its repository: this one is the common
    # recipe of 90 epochs.
    "paper": Config(
        out=pathlib.Path("runs/noise-paper"),
        source="imagenet2012",
        source_test_split="validation",
        target=(
            "cifar10", "cifar100", "oxford_flowers102", "food101", "oxford_iiit_pet", "cars196", "dtd", "caltech101",
            "svhn_cropped", "patch_camelyon",
        ),
        image_size=224,
        model="resnet50",
        seeds=3,
        recipe=jdt.train.Recipe(
            epochs=90, batch_size=256, learning_rate=0.1, warmup_epochs=5, decay="cosine", momentum=0.9, nesterov=True,
            weight_decay=1e-4, flip=True, random_resized=True, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
        ),
        shifts=(),
        ablation=False,
        num_models=0,
    ),
}  # fmt: skip


def main(config: Config) -> None:
    """Choose settings, train what is missing, measure, look for wrong labels, and write table and report."""
    start, say = time.perf_counter(), jdt.cli.console.print
    hosts = jdt.hosts.join(config.shard, config.distributed)
    if config.overwrite and hosts.count > 1:
        raise jdt.UserError("--overwrite would remove what the other processes write: use it in a process alone.")
    study = load_study(config)
    noise = label_noise(config, study.base.source.class_names)
    searched = noise_suspects.require_searchable(config, study.base, noise) if config.num_models else None
    trained = train(config, study, hosts, say)
    if trained is None:
        say("the rest is in the hands of other processes; the same command again does what is missing and reports.")
        return
    study, tried, writer = trained
    config = once_made(config)
    measured = measure(study, jdt.open_run(config.out))
    verdicts = judge(config, study, measured)
    suspects = None
    if config.num_models:
        suspects = noise_suspects.find(config, study.base, hosts, say, noise, searched)
        if suspects is None:
            say("the rest is in the hands of other processes; the same command again does what is missing and reports.")
            return
    if hosts.count > 1 and not writer.claim_report():  # Whoever is last has all that there is to report.
        say("another process makes the report; if it was killed, run the same command without --shard.", markup=False)
        return
    page = noise_report.publish(config, study, measured, verdicts, tried, suspects, say)
    writer.reported()
    say(f"report: {page}", markup=False, soft_wrap=True)
    say(f'predictions: jdt.open_run("{config.out}").outputs(TARGET, TUNER, "prediction")', markup=False, soft_wrap=True)
    say(f"{time.perf_counter() - start:.0f} s in all.")


def train(
    config: Config, study: Study, hosts: jdt.hosts.Hosts, say: Callable[..., None]
) -> tuple[Study, tuple[noise_selection.Choice, ...], jdt.store.RunWriter] | None:
    """Choose the tuners' settings, train all rates and seeds that the run lacks; None while others have some to train.

    Returns:
      The study with its tuners as they were chosen, what was tried for them, and the run's writer.
    """
    if config.overwrite and jdt.store.saved_run(config.out) is not None:
        remove_own(config, is_own)  # First: old verdicts never stand beside a new configuration.
    task, choice = planned_on(config, study.task)
    described = identity(config, study)
    # The run is made before settings are chosen: how follows from what is asked for, and the choice lies in its folder.
    open_writer(config, task, choice, described)
    if config.overwrite:
        remove_own(config, is_own)
    config = once_made(config)
    chosen = noise_selection.chosen_tuners(config, study, hosts, say)
    if chosen is None:
        return None
    tuners, tried = chosen
    study = dataclasses.replace(study, task=dataclasses.replace(study.task, tuners=tuners))
    say(
        f"{config.seeds} seeds of {len(study.rates)} rates of {config.noise} noise "
        f"({', '.join(map(rate_name, study.rates))}) and of no source, {len(study.variants)} variants of "
        f"{len(study.base.targets)} targets, tuners {', '.join(tuners)}; out of distribution: "
        f"{', '.join(dict.fromkeys(view for views in study.views.values() for view in views)) or 'nothing'}.",
        markup=False,
    )
    for note in study.notes:
        say(f"note: {note}", markup=False)
    if hosts.index == 0:
        save_labels(config, study)
    writer, done = train_run(config, dataclasses.replace(task, tuners=tuners), choice, hosts, say, described)
    return (study, tried, writer) if done else None


def is_own(name: str) -> bool:
    """Whether the study wrote it beside the models of its run."""
    return name in OWN or name.startswith(f"{noise_repair.REPAIRED}-")


def save_labels(config: Config, study: Study) -> None:
    """Keep the labels as they were, and which of them are wrong how, for every rate and seed; once."""
    keys, place = list(study.noise.rows), jdt.store.run_path(config.out) / LABELS
    arrays: dict[str, tuple[np.ndarray, tuple[str, ...]]] = {
        "true": (np.asarray(study.base.source.labels), ("example",)),
        "given": (np.stack([given_labels(study, *key) for key in keys]), ("draw", "example")),
        "is_wrong": (np.stack([study.noise.flipped[key] for key in keys]), ("draw", "example")),
        "is_drawn": (np.stack([study.noise.drawn[key] for key in keys]), ("draw", "example")),
        "rate": (np.array([rate for rate, _ in keys]), ("draw",)),
        "seed": (np.array([seed for _, seed in keys], np.int32), ("draw",)),
    }
    if not study.inside.all():
        arrays["is_inside"] = (study.inside, ("example",))
    if LABELS in jdt.store.names_in(jdt.store.run_path(config.out)) and _holds(place, arrays):
        return
    jdt.store.write_group(
        place,
        arrays,
        strings={"class_name": (study.base.source.class_names, "class")},
        attributes={"kind": config.noise},
    )


def _holds(place: jdt.cli.RunPath, arrays: Mapping[str, tuple[np.ndarray, tuple[str, ...]]]) -> bool:
    """Whether a group is whole and has these arrays; what a kill left half-written has not."""
    try:
        there = jdt.store.read_group(place).arrays
    except jdt.UserError:
        return False
    return there.keys() == arrays.keys() and all(np.array_equal(there[name], arrays[name][0]) for name in arrays)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
