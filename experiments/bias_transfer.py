"""Does a bias of the source survive on a clean target, which source data carry it, and what removes it?

Question  Source models are trained on clean data and on data in which a pattern marks some classes, and transferred to
          targets that do not have the pattern: how often does it move their predictions? What do the transfer mode,
          weight decay, more target data and de-biased target data do about it, and which source units carry it?
Source    arXiv 2207.02842 (bias transfer), sections 3.1-3.6 of its specification; section 3.3 defines the metrics.
Run       python -m experiments.bias_transfer --out runs/bias
Groups    python -m experiments.bias_transfer --preset groups --out runs/bias-groups
Your model python -m experiments.bias_transfer --out runs/mine --source-checkpoint model.msgpack --model resnet18 \
              --target cifar10 --image-size 32 --stencils patterns/
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable

import jdt
from experiments import bias_blame, bias_report
from experiments.bias_bars import judge, judge_blame
from experiments.bias_measures import Predictions, measure
from experiments.bias_setup import SCRATCH, TWIN, Config, Study, identity, load_study, with_given_models
from experiments.influence_run import train_run
from experiments.influence_setup import planned_on
from experiments.paper_recipes import BIAS_SOURCE_RECIPE, BIAS_TARGETS

DEMO = Config(
    out=pathlib.Path("runs/bias"),
    # Three of eight pixels, and images that are moved about: what a digit is must be as hard to learn as the pattern.
    trigger=("square:top-left:255,255,0:0.375",),
    trigger_classes=("upright 3", "upright 5", "upright 8"),
    transfer=("fixed", "full"),
    recipe=jdt.train.Recipe(epochs=10, batch_size=64, learning_rate=0.1, crop_pad=2),
    full=jdt.transfer.FullNetwork(jdt.train.Recipe(epochs=10, batch_size=50, learning_rate=0.02, warmup_epochs=2)),
    weight_decays=(0.001, 0.003, 0.01, 0.03, 0.1),
    debias=(0.25, 0.5),
    target_fractions=(0.5,),
    num_models=64,
    estimators=("ridge",),
)
PRESETS = {
    "demo": DEMO,
    "smoke": dataclasses.replace(
        DEMO,
        out=pathlib.Path("runs/bias-smoke"),
        seeds=2,
        transfer=("fixed",),
        weight_decays=(),
        debias=(0.5,),
        target_fractions=(),
        num_models=8,
        recipe=jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1),
    ),
    "groups": dataclasses.replace(
        DEMO,
        out=pathlib.Path("runs/bias-groups"),
        group="planted",
        trigger=("tint:255,255,255:0.3",),
        trigger_classes=(),
        source_groups=pathlib.Path(__file__).parent / "groups" / "digits_source.json",
        target_groups=pathlib.Path(__file__).parent / "groups" / "digits_target.json",
        compositions=(0.5, 0.8, 1.0),
        weight_decays=(),
        debias=(),
        target_fractions=(),
        num_models=0,
    ),
    # One run has all targets, each as it is. What section 3.6 of the specification varies on CIFAR-10 alone is a run of
    # its own: --out runs/bias-cifar10 --target cifar10 --weight-decays 1e-4 1e-3 1e-2 --target-fractions 0.1 0.25 0.5
    # --debias 0.1 0.5. There, from scratch was published with a weight decay of 1e-2: it is the variant cifar10@wd0.01.
    "paper": Config(
        out=pathlib.Path("runs/bias-paper"),
        source="imagenet2012",
        source_test_split="validation",
        target=tuple(target.dataset for target in BIAS_TARGETS),
        image_size=224,
        views="paper-bias",
        model="resnet18",
        trigger=("square", "gaussian"),
        trigger_classes=("151-268",),  # The 118 breeds of dogs.
        transfer=("fixed", "full"),
        head=jdt.transfer.FixedFeature(solver="sgd", bn="adapt"),
        recipe=BIAS_SOURCE_RECIPE,
        target_recipes="paper-bias",
        num_models=0,
    ),
}


def main(config: Config) -> None:
    """Train what is missing, measure, blame, and write table and report."""
    start, say = time.perf_counter(), jdt.cli.console.print
    hosts = jdt.hosts.join(config.shard, config.distributed)
    if config.overwrite and hosts.count > 1:
        raise jdt.UserError("--overwrite would remove what the other processes write: use it in a process alone.")
    config = with_given_models(config)
    study = load_study(config)
    for note in (note for stamp in study.stamps.values() for note in stamp.notes):
        say(f"note: {note}", markup=False)
    writer, done = train_arms(config, study, hosts, say)
    others = {arm: out for arm, path, out in given_arms(config) if train_given(config, arm, path, out, hosts, say)}
    if not done or len(others) < len(given_arms(config)):
        say("the rest is in the hands of other processes; the same command again does what is missing and reports.")
        return
    run = jdt.open_run(config.out)
    predictions = Predictions(study, run, {arm: jdt.open_run(out) for arm, out in others.items()}, config.seed)
    with jdt.cli.console.status("measuring"):
        measured = measure(study, predictions, config.attacked, config.seed)
    verdicts, blame = judge(study, measured), None
    if config.num_models and study.triggers:
        blame = bias_blame.blame(config, study, hosts, say)
        if blame is None:
            say("the rest is in the hands of other processes; the same command again does what is missing and reports.")
            return
        verdicts += judge_blame(study, blame)
    if hosts.count > 1 and not writer.claim_report():  # Whoever is last has all that there is to report.
        say("another process makes the report; if it was killed, run the same command without --shard.", markup=False)
        return
    if blame is not None:
        bias_blame.save(config, blame)
    page = bias_report.publish(config, study, predictions, measured, verdicts, blame, say)
    writer.reported()
    say(f"report: {page}", markup=False, soft_wrap=True)
    say(f'predictions: jdt.open_run("{config.out}").outputs(TARGET, MODE, "prediction")', markup=False, soft_wrap=True)
    say(f"{time.perf_counter() - start:.0f} s in all.")


def train_arms(
    config: Config, study: Study, hosts: jdt.hosts.Hosts, say: Callable[..., None]
) -> tuple[jdt.store.RunWriter, bool]:
    """Train all source variants that the run lacks; returns its writer, and whether nothing more is to be trained."""
    saved = None if config.overwrite else jdt.store.saved_run(config.out)
    per_seed = len(study.arms) // config.seeds
    if (
        saved is not None
        and saved.num_models > study.task.num_models
        and saved.config.get("arms") == list(study.arms[:per_seed])
    ):
        raise jdt.UserError(
            f"{config.out} holds {saved.num_models // per_seed} seeds, and --seeds asks for {config.seeds}: models are "
            f"not taken away; pass --seeds {saved.num_models // per_seed}."
        )
    task, choice = planned_on(config, study.task)
    patterns = f", patterns on test images: {', '.join(study.stamps)}" if study.stamps else ""
    say(
        f"{config.seeds} seeds of {per_seed} source variants ({', '.join(study.arms[:per_seed])}), "
        f"{len(study.variants)} variants of {len(study.base.targets)} targets{patterns}.",
        markup=False,
    )
    if study.triggers:
        marked = sorted({study.base.source.class_names[i] for i in study.base.source.labels[study.carriers]})
        words = ", ".join(marked[:8]) + (f" and {len(marked) - 8} more" if len(marked) > 8 else "")
        say(f"{int(study.carriers.sum()):,} source images carry the pattern: {words}.", markup=False)
    return train_run(dataclasses.replace(config, until_reliability=None), task, choice, hosts, say,
                     identity(config, study))  # fmt: skip


def given_arms(config: Config) -> list[tuple[str, pathlib.Path | None, jdt.cli.RunPath]]:
    """What a model that the user brings is compared with: its twin, and models from scratch; each a run of its own."""
    if config.source_checkpoint is None:
        return []
    run = jdt.store.run_path(config.out)
    twin = [(TWIN, config.twin_checkpoint, run / TWIN)] if config.twin_checkpoint is not None else []
    return [*twin, (SCRATCH, None, run / SCRATCH)]


def train_given(
    config: Config,
    arm: str,
    path: pathlib.Path | None,
    out: jdt.cli.RunPath,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
) -> bool:
    """Transfer the models of one more source variant, as the first was; whether nothing more is to be done."""
    if jdt.store.is_local(jdt.store.run_path(config.out)):
        jdt.store.refuse_links(jdt.store.run_path(config.out), arm)
    own = dataclasses.replace(config, out=out)
    study = load_study(own)
    if path is None:
        study = dataclasses.replace(study, task=dataclasses.replace(study.task, start=None))
    else:
        start = jdt.models.load_variables(path, study.base.network, study.base.source.image_shape, head=False)
        study = dataclasses.replace(study, task=dataclasses.replace(study.task, start=start))
    return train_arms(own, study, hosts, say)[1]


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
