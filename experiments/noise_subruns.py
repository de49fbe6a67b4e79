"""Runs inside a study that look for noisy labels: noise is planted, models are trained, and asked about every label."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import jdt
from experiments.influence_run import train_run
from experiments.influence_setup import identity, planned_on
from experiments.noise_setup import Config, noise_seed, relabelled

SMALLEST = 1e-6
"""Probability below which logarithms fall no more: a class that a model never saw would outweigh all others."""
FIRST_DRAW = 1 << 20
"""Draws of noise from here on are no seed's of a study."""


@dataclasses.dataclass(frozen=True, eq=False)
class Said:
    """What the models on random subsets say, and where they learned.

    Attributes:
      models: Ids, in order.
      masks: bool `[models, units]`.
      paired: Whether models 2i and 2i+1 are an antithetic pair.
      left_out: Ids of models that cannot be used.
      out: Of models that did not train on an example.
      inside: Of models that did.
      similarity: float64 `[examples, images]`: cosine of features, mean over the models of `out`.
      clean: float32 `[models, images, classes]`: log-probabilities of the clean images that score, no less than that of
        `SMALLEST`.
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


def clean_images(base: jdt.pipeline.Task) -> jdt.data.Dataset:
    """The source's test split: true labels that no model trains on.

    Raises:
      UserError: If there is none.
    """
    if base.source_test is None:
        raise jdt.UserError("the search for noisy labels needs clean source images: pass --source-test-split.")
    return base.source_test


def noisy_source(
    source: jdt.data.Dataset,
    noise: jdt.plant.LabelNoise,
    rate: float,
    within: np.ndarray,
    inside: np.ndarray | None = None,
    *,
    seed: int,
    draw: int,
) -> tuple[jdt.data.Dataset, np.ndarray]:
    """A source in which a share of the labels is noisy.

    Args:
      source: With its true labels.
      noise: Its kind.
      rate: Share of the examples within.
      within: bool `[examples]`: who may be mislabelled.
      inside: bool `[examples]`: who is in a unit, so that wrong labels are of their classes; by default who is within.
      seed: Of the noise.
      draw: Number of the draw, which no seed of a study has.

    Returns:
      The source with noisy labels, and which are wrong, bool `[examples]`.

    Raises:
      UserError: If no label is wrong, so that there is nothing to find.
    """
    made = jdt.plant.draw_within(noise, source, within, inside, seed=seed, ids=(draw,)).at(rate)
    if not made.flipped.any():
        raise jdt.UserError(
            f"at a rate of {rate} none of {int(within.sum())} labels is wrong, so that there is nothing to find: raise "
            "--suspect-rate or --unit-rate."
        )
    return relabelled(source, made.labels, f"{source.name}, {rate:.0%} noise"), made.flipped


def train(
    config: Config,
    name: str,
    task: jdt.pipeline.Task,
    hosts: jdt.hosts.Hosts,
    say: Callable[..., None],
    more: Mapping[str, Any],
    *,
    save_models: bool = True,
) -> tuple[jdt.pipeline.Task, bool]:
    """Train what a run inside the run lacks; returns the task with its plan, and whether nothing more is to be done."""
    out = folder(config, name)
    own = dataclasses.replace(config, out=out, save_models=save_models, until_reliability=None)
    task, choice = planned_on(own, task)
    # Listed subsets are known by what they were made of, which `more` says.
    drawn = dataclasses.replace(task, design=jdt.masks.Design(seed=config.seed), num_models=2)
    described = {
        **identity(own, drawn if isinstance(task.design, jdt.masks.Listed) else task),
        "experiment": f"noisy_pretraining/{out.name}",
        "target": [target.name for target in task.targets],
        "transfer": list(task.modes) if task.targets else [],
        "noise_seed": noise_seed(config),
        **more,
    }
    say(f"{out.name}: {task.num_models} models.", markup=False)
    return task, train_run(own, task, choice, hosts, say, described)[1]


def folder(config: Config, name: str) -> jdt.cli.RunPath:
    """A run inside the run."""
    run = jdt.store.run_path(config.out)
    jdt.store.refuse_links(run, name)
    return run / name


def listen(config: Config, name: str, task: jdt.pipeline.Task, clean: jdt.data.Dataset) -> Said:
    """Ask every model about the noisy source and the clean images that score: forward passes, block by block.

    Where units are in parts, an example is out of sample if its part is out and the other is in: models that have
    neither may not know its class.
    """
    run = jdt.open_run(folder(config, name))
    labels, of_example = np.asarray(task.source.labels), task.units.of_example
    there, in_parts = of_example != jdt.masks.OUTSIDE, len(task.units) < int((of_example != jdt.masks.OUTSIDE).sum())
    images = {"clean": jdt.data.as_shown(clean).images, "source": task.source.images}
    out: dict[int, jdt.analyses.Predicted] = {}
    inside: dict[int, jdt.analyses.Predicted] = {}
    ids: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    of_clean: list[list[np.ndarray]] = []  # Of each block, in pieces.
    alike, asked = np.zeros((len(labels), len(clean))), np.zeros(len(labels), int)
    shown = centre = np.empty((0, 0, 0))
    raw: list[np.ndarray] = []
    for kind, said in jdt.pipeline.own_outputs(run, task.ensemble, images):
        if kind == "clean":
            if said.first == 0:
                ids.append(said.models)
                masks.append(said.masks)
                of_clean.append([])
                raw = []
            of_clean[-1].append(np.log(np.maximum(said.probabilities, SMALLEST)))
            raw.append(said.features)
            continue
        if said.first == 0:
            features = np.concatenate(raw, axis=1)
            centre = features.mean(axis=1, keepdims=True)
            shown = _directions(features, centre)
        rows = slice(said.first, said.first + said.probabilities.shape[1])
        members = task.units.members(said.masks)[:, rows]
        absent = ~members & there[rows]
        if in_parts:
            absent &= said.masks[:, np.where(there[rows], of_example[rows] ^ 1, 0)]
        one = labels[rows]
        out[said.first] = jdt.analyses.out_of_sample(said.probabilities, ~absent, one, out.get(said.first))
        inside[said.first] = jdt.analyses.in_sample(said.probabilities, members, one, inside.get(said.first))
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
    return Said(
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
