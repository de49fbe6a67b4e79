"""Source models of one study of pre-training data in another: which run has them, and are they those asked for."""

from collections.abc import Mapping
from typing import Any

import jdt

OF_SOURCES = (
    "source", "source_split", "source_test_split", "image_size", "image_channels", "views", "label", "model",
    "model_args", "features", "method", "objective", "recipe", "precision", "design", "arms", "twin", "room", "sources",
    "start_from", "pool_size",
)  # fmt: skip
"""What decides the source models of a run, of all that its configuration holds."""


def kept_run(models_from: jdt.cli.RunPath, out: jdt.cli.RunPath, method: str) -> jdt.store.Run:
    """The run of a method in the study whose source models are taken.

    Args:
      models_from: The study.
      out: Where the new one is written.
      method: Whose models are asked for.

    Raises:
      UserError: If there is none, it keeps no models, or the new study is written into it or around it.
    """
    given, place = _resolved(models_from), _resolved(out)
    # Else --overwrite might remove what it reads.
    if given == place or given in place.parents or place in given.parents:
        raise jdt.UserError(
            f"--models-from {models_from} and --out {out} are the same folder, or one is inside the other: pass "
            "another --out."
        )
    run = jdt.open_run(models_from)
    if run.config.get("method") != method:  # The first method of a study is in its own folder, others are in it.
        if jdt.store.saved_run(run.path / method) is None:
            raise jdt.UserError(
                f"--models-from {models_from} has no models of method {method}: leave it out of --methods, or "
                "train anew."
            )
        run = jdt.open_run(run.path / method)
    if not (run.records() and all(jdt.store.parts_of(record) for record in run.records())):
        raise jdt.UserError(
            f"{run.path} keeps no source models: make it with --save-models, in another --out, or leave --models-from "
            "out."
        )
    return run


def _resolved(path: jdt.cli.RunPath) -> jdt.store.Place:
    """The place of a run, however it is spelt."""
    place = jdt.store.run_path(path)
    return place.resolve() if jdt.store.is_local(place) else place


def require_same_sources(run: jdt.store.Run, described: Mapping[str, Any], task: jdt.pipeline.Task) -> None:
    """Refuse the source models of a run that are not those that flags ask for, naming what differs.

    Raises:
      UserError: If another source, method, recipe or anything else decides them, or there are fewer.
    """
    for name in OF_SOURCES:
        theirs, ours = run.config.get(name), described.get(name)
        if theirs != ours:
            same = "the same (of --memory-budget)" if name == "pool_size" else "the same"
            raise jdt.UserError(
                f"the source models of {run.path} were made with {name} {theirs}, and {ours} is asked for: pass "
                f"{same}, or leave --models-from out."
            )
    marks, own = run.config["fingerprints"], described["fingerprints"]
    for name in (task.source.name, "units", "subsets"):
        if marks.get(name) != own[name]:
            raise jdt.UserError(
                f"the source models of {run.path} saw other images ({name} differs): the data, --source-size, --nonce "
                "or --seed are not the same."
            )
    if missing := sorted(set(range(task.num_models)) - set(run.complete.tolist())):
        raise jdt.UserError(
            f"{task.num_models} models are asked for, but {run.path} lacks model {missing[0]}: pass fewer --seeds, or "
            "train more of them there."
        )
