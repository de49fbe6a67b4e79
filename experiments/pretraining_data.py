"""Which data to pre-train on, how, and how many: sources, methods and sizes at every number of shots.

Question  Source models learn candidate sources of equal size, with labels, without (SimCLR) or from captions (CLIP),
          and are transferred to targets with few training images up to all of them. How far apart are the sources,
          does that fade with shots, how many images of one equal another's, what do wrong labels cost, and does the
          method matter?
Source    arXiv 2302.13602 (the role of pre-training data), sections 3 and 6 of its specification; its section 5 says
          what the published code gets wrong, which cannot happen here.
Run       python -m experiments.pretraining_data --out runs/pretraining
Your own  python -m experiments.pretraining_data --preset own --out runs/mine --source imagenet_resized/32x32 \
              --image-size 32 --source-sets groups.json --sources near=groups:animals far=groups:tools \
              half=near|size:0.5 noisy=near|noise:0.4 --far far --target cifar10 --shots 1 5 20 100
Which one python -m experiments.choose_source --sources A=... B=... --target T --shots 5
"""

import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable

import jdt
from experiments import pretraining_report
from experiments.influence_run import once_made, open_writer, remove_own, train_run
from experiments.influence_setup import planned_on
from experiments.pretraining_measures import Measured, measure
from experiments.pretraining_setup import METHODS, Block, Config, Study, identity, load_study, require_growth
from experiments.pretraining_worth import parse_equivalents

OWN = (*METHODS, pretraining_report.FILE, pretraining_report.CHOICE, "summary.json", "report.html")
"""All that a study writes into its run beside the models of its first method."""
DEMO = Config(
    out=pathlib.Path("runs/pretraining"),
    # Upright digits are what the target shows. A quarter of `mix` are images, the rest copies of these: four of it are
    # worth one.
    sources=(
        "near=classes:upright *", "upside=classes:upside-down *", "scrambled=classes:scrambled *",
        "noisy=near|noise:0.4", "textures=textures", "pixels=pixels",
        "half=near|size:0.5", "big=near|times:2", "noisy2=noisy|times:2", "noisy4=noisy|times:4",
        "mix=near|useful:0.25:copies", "mix2=mix|times:2", "mix4=mix|times:4",
    ),
    source_size=175,
    far=("scrambled", "pixels"),
    equivalents=("mix:half:4", "mix:big:4", "noisy:half", "noisy:near"),
    methods=("supervised", "simclr", "clip", "simclr-shuffled"),
    method_sources=("simclr:near", "clip:near"),
    # The digits' own training split has ten images of a class.
    target_split="test[:60%]",
    target_test_split="test[60%:]",
    model_args=("width=16",),
    rules=("LP", "prototype", "zero-shot"),
    # An epoch is that of the largest source, of four times the equal size.
    recipe=jdt.train.Recipe(epochs=8, batch_size=64, learning_rate=0.1, crop_pad=1),
    # Digits have a left and a right, and no colours.
    simclr=jdt.train.SimCLR(
        temperature=0.2,
        augmentation=jdt.data.Augmentation(
            crop_scale=(0.5, 1.0), flip=False, jitter=(0.4, 0.4, 0.0, 0.0), grey_probability=0.0, blur_probability=0.0
        ),
    ),
    simclr_recipe=jdt.train.Recipe(
        epochs=80, batch_size=64, learning_rate=0.003, algorithm="adamw", weight_decay=0.01, decay="cosine"
    ),
    clip=jdt.train.CLIP(templates=("the digit {}.",)),
    clip_recipe=jdt.train.Recipe(
        epochs=80, batch_size=64, learning_rate=0.003, algorithm="adamw", betas=(0.9, 0.98), weight_decay=0.1,
        decay="cosine", crop_pad=1,
    ),
)  # fmt: skip
# Sections 3.1 and 3.2 of the specification. Its sources were never published: these are two that TFDS has, under one
# architecture for all methods. Sources are decoded into memory, 150 kB an image of 224 pixels: --image-size 64 takes a
# twelfth of that.
_ADAMW = jdt.train.Recipe(
    algorithm="adamw", learning_rate=1e-3, weight_decay=0.1, decay="cosine", batch_size=1024, epochs=16, flip=True,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
)  # fmt: skip
PAPER = Config(
    out=pathlib.Path("runs/pretraining-paper"),
    source="imagenet2012",
    source_test_split="validation",
    image_size=224,
    sources=("imagenet=all", "places=dataset:places365_small", "grey=imagenet|grey", "noisy=imagenet|noise:0.4",
             "half=imagenet|size:0.5", "quarter=imagenet|size:0.25"),
    equivalents=("imagenet:places",),
    target=("cifar100", "dtd", "caltech101", "oxford_iiit_pet"),
    shots=(1, 5, 10, 20),
    draws=3,
    seeds=3,
    methods=("supervised", "simclr", "clip"),
    rules=("FT", "LP-FT", "LP", "zero-shot"),
    rates=(1e-4, 3e-4, 1e-3, 3e-3),
    model="resnet50",
    recipe=dataclasses.replace(
        _ADAMW, algorithm="sgd", learning_rate=0.05, batch_size=64, epochs=90, weight_decay=1e-4, nesterov=True
    ),
    simclr=jdt.train.SimCLR(temperature=0.1, hidden=4096, width=256),
    simclr_recipe=dataclasses.replace(_ADAMW, betas=(0.9, 0.98), warmup_epochs=2),
    clip=jdt.train.CLIP(embedding=1024, text_width=512, text_layers=12, text_heads=8),
    clip_recipe=dataclasses.replace(_ADAMW, betas=(0.9, 0.999), warmup_steps=5000),
    full=jdt.transfer.FullNetwork(
        dataclasses.replace(_ADAMW, epochs=128, batch_size=128, clip_norm=1.0, warmup_steps=500)
    ),
)  # fmt: skip
PRESETS = {
    "demo": DEMO,
    # Nothing that speaks of the digits' sources: for sources of one's own.
    "own": Config(
        out=pathlib.Path("runs/pretraining-own"),
        recipe=jdt.train.Recipe(epochs=20, batch_size=128, learning_rate=0.1, crop_pad=1, flip=True, decay="cosine"),
    ),
    "paper": PAPER,
    "smoke": dataclasses.replace(
        DEMO,
        out=pathlib.Path("runs/pretraining-smoke"),
        source_size=350,
        sources=("near=classes:upright *", "scrambled=classes:scrambled *", "pixels=pixels", "half=near|size:0.5"),
        far=("scrambled",),
        equivalents=(),
        method_sources=("simclr:near", "clip:near"),
        seeds=2,
        shots=(1, 5),
        draws=1,
        methods=("supervised", "simclr", "clip"),
        recipe=jdt.train.Recipe(epochs=0.5, batch_size=64, learning_rate=0.1, warmup_epochs=0.1),
        simclr_recipe=dataclasses.replace(DEMO.simclr_recipe, epochs=1),
        clip_recipe=dataclasses.replace(DEMO.clip_recipe, epochs=1),
    ),
}


Publish = Callable[[Config, Study, Measured, Callable[..., None]], jdt.store.Place]
"""Says what was found, writes it beside the models, and returns the place of the page."""


def main(config: Config, publish: Publish = pretraining_report.publish) -> None:
    """Train what is missing of every method, measure, judge, and write table and report."""
    start, say = time.perf_counter(), jdt.cli.console.print
    hosts = jdt.hosts.join(config.shard, config.distributed)
    if config.overwrite and hosts.count > 1:
        raise jdt.UserError("--overwrite would remove what the other processes write: use it in a process alone.")
    study = load_study(config)
    parse_equivalents(config, study)  # Refused before anything is trained.
    trained = train(config, study, hosts, say)
    if trained is None:
        say("the rest is in the hands of other processes; the same command again does what is missing and reports.")
        return
    config = once_made(config)
    if hosts.count > 1 and not trained.claim_report():  # Whoever is last has all that there is to report.
        say("another process makes the report; if it was killed, run the same command without --shard.", markup=False)
        return
    page = publish(config, study, measure(study), say)
    trained.reported()
    say(f"report: {page}", markup=False, soft_wrap=True)
    say(f'predictions: jdt.open_run("{config.out}").outputs(TARGET, MODE, "prediction")', markup=False, soft_wrap=True)
    say(f"{time.perf_counter() - start:.0f} s in all.")


def train(config: Config, study: Study, hosts: jdt.hosts.Hosts, say: Callable[..., None]) -> jdt.store.RunWriter | None:
    """Train all methods, sources and seeds that the runs lack; None while others have some to train."""
    if config.overwrite and jdt.store.saved_run(config.out) is not None:
        remove_own(config, OWN.__contains__)  # First: old verdicts never stand beside a new configuration.
    for note in study.sources.notes:
        say(f"note: {note}", markup=False)
    first: jdt.store.RunWriter | None = None
    is_done = True
    for block in study.blocks:
        say(
            f"{block.method}: {config.seeds} seeds of {len(block.arms)} sources ({', '.join(block.arms)}); "
            f"{len(study.variants)} variants of {len(study.targets)} targets, {', '.join(block.task.modes)}.",
            markup=False,
        )
        if block.task.kept is not None:
            say(f"source models are those of {block.task.kept.path}: none is trained.", markup=False, soft_wrap=True)
        writer, done = train_block(config, study, block, hosts, say)
        first = first or writer
        is_done &= done
    return first if is_done else None


def train_block(
    config: Config, study: Study, block: Block, hosts: jdt.hosts.Hosts, say: Callable[..., None]
) -> tuple[jdt.store.RunWriter, bool]:
    """Train what the run of one method lacks."""
    is_first = block is study.blocks[0]
    own = dataclasses.replace(config, out=block.out)
    if not is_first:
        own = once_made(own)
        run = jdt.store.run_path(config.out)
        if jdt.store.is_local(run):
            jdt.store.refuse_links(run, block.method)
    if not config.overwrite:
        require_growth(config, study, block)
    task, choice = planned_on(own, block.task)
    described = identity(config, study, block)
    if is_first:
        open_writer(own, task, choice, described)
        if config.overwrite:
            remove_own(config, OWN.__contains__)
        own = once_made(own)
    return train_run(own, task, choice, hosts, say, described)


if __name__ == "__main__":
    sys.exit(jdt.cli.main(main, PRESETS, default="demo", description=(__doc__ or "").split("\n")[0]))
