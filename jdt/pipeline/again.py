"""Targets added to a run whose source models were kept: transferred to later, with the outputs they would have had.

An added target is a run of its own inside the run, `transfers/NAME/`: the same models in the same blocks, written,
resumed and verified like any other. The run itself is read and never written to.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, get_args

import numpy as np

from jdt import checks, store
from jdt.config import fingerprint, from_plain, to_plain
from jdt.hosts import ALONE, Hosts, next_block
from jdt.masks import Design
from jdt.models import Network, Variables, check_width, load_variables, variables_digest
from jdt.pipeline.blocks import transferred
from jdt.pipeline.source_models import described_source_model, kept_models
from jdt.pipeline.task import Mode, ModeSettings, TargetData, stored_fits, stored_targets
from jdt.train import PLANS, Ensemble, Recipe
from jdt.transfer import FixedFeature, FullNetwork, ViewBanks

_WIDEST = 1 << 12


@dataclasses.dataclass(frozen=True, eq=False)
class AddedTarget:
    """A target, and how the source models of a run are transferred to it.

    Attributes:
      run: The run, whose records say that its source models are kept.
      target: The new target.
      ensemble: What the source models share, as it was when they were trained; how long is not looked at.
      design: The run's.
      modes: Kinds of transfer.
      head: How heads are fitted.
      full: How whole networks are fine-tuned.
      start: What the source models started from, if it was not random.
      baseline_models: How many untrained models are transferred too.
      allow_overlap: Whether the target's test split may hold images of its training split.
    """

    run: store.Run
    target: TargetData
    ensemble: Ensemble
    design: Design
    modes: tuple[str, ...] = ("fixed",)
    head: FixedFeature = dataclasses.field(default_factory=FixedFeature)
    full: FullNetwork = dataclasses.field(default_factory=FullNetwork)
    start: Variables | None = None
    baseline_models: int = 4
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        name = self.target.name
        if name in self.run.layout.num_examples:
            raise checks.UserError(
                f"the run {self.run.path} has had the target {name!r} from the start: add another, or read it with "
                f"jdt.open_run(...).outputs({name!r})."
            )
        for data in (self.target.train, self.target.test):
            if data.image_shape != self.ensemble.image_shape:
                raise checks.UserError(
                    f"{data.name} has images of shape {data.image_shape}, and the source models were trained on "
                    f"{self.ensemble.image_shape}: pass --image-size to resize them, and "
                    "--image-channels where grey and coloured images meet."
                )
        if not all(store.parts_of(record) for record in self.run.records()):
            raise checks.UserError(
                f"{self.run.path} keeps no source models: it was made without --save-models; make one with it, in "
                "another --out, or train with the new target as well."
            )
        begun = self.run.config.get("start_from")
        if begun != (None if self.start is None else variables_digest(self.start)):
            raise checks.UserError(
                f"the source models of {self.run.path} started "
                + ("at random: leave out --start-from." if begun is None else "from a file: pass it as --start-from.")
            )
        self.target.require_no_overlap(self.allow_overlap)
        if "full" in self.modes or self.head.solver == "sgd":
            count = len(self.target.train.class_names)
            check_width(self.ensemble.network.with_classes(count), self.ensemble.image_shape, count)

    @property
    def tuners(self) -> Mapping[str, ModeSettings]:
        """None: a target that is added later is transferred to as it is, or as a whole."""
        return {}

    @property
    def banks(self) -> ViewBanks:
        """Nobody asks for any."""
        return ViewBanks(self.design.seed)

    @property
    def targets(self) -> tuple[TargetData, ...]:
        """The one target."""
        return (self.target,)

    @property
    def path(self) -> store.Place:
        """The run of this target, inside the other."""
        return self.run.path / store.TRANSFERS / store.safe_name(self.target.name)

    def identity(self) -> dict[str, Any]:
        """What decides the stored numbers: what the run's own configuration says, and this target."""
        datasets = (self.target.train, self.target.test)
        return {
            **{name: value for name, value in self.run.config.items() if name != "save_models"},
            "experiment": "transfer_again",
            "run": fingerprint(self.run.config),
            "target": [self.target.name],
            "transfer": list(self.modes),
            "head": to_plain(self.head),
            "full": to_plain(self.full) if "full" in self.modes else None,
            "fingerprints": {data.name: data.fingerprint for data in datasets},
            **({} if self.target.draw is None else {"draw": to_plain(self.target.draw)}),
        }

    def schema(self) -> store.Schema:
        """Columns of its store: the run's models in the run's blocks."""
        layout = self.run.layout
        return store.Schema(
            num_models=layout.num_models,
            block_size=layout.block_size,
            unit_names=self.run.unit_names,
            modes=self.modes,
            targets=stored_targets((self.target,)),
            train_accuracy=True,
            sgd_head=self.head.solver == "sgd",
            fits=stored_fits(self),
        )

    def open(self, provenance: Mapping[str, Any]) -> store.RunWriter:
        """Make its run, resume it, or let it grow to the models of the other.

        Raises:
          UserError: If the target was added before with other settings or data, or cannot be written.
        """
        # Nothing may be written behind a link that leads out of the run.
        for folder in (store.TRANSFERS, f"{store.TRANSFERS}/{self.path.name}"):
            store.refuse_links(self.run.path, folder)
        return store.create_or_open(self.path, config=self.identity(), provenance=provenance, schema=self.schema())


def added_target(
    run: store.Run,
    target: TargetData,
    *,
    modes: tuple[Mode, ...] = (),
    full: FullNetwork | None = None,
    network: Network | None = None,
    trust: bool = False,
    start_from: str | os.PathLike[str] | None = None,
    num_devices: int = 1,
    allow_overlap: bool = False,
) -> AddedTarget:
    """Say how a target is added to a run that `experiments.class_influence` made, with the settings the run has.

    Args:
      run: The run.
      target: The new target.
      modes: Kinds of transfer; the run's own when there are none.
      full: How whole networks are fine-tuned where the run does not say, because it did not.
      network: The source models' network, where it is not of jdt's zoo; see `jdt.runs.Run.source_model`.
      trust: Import the class that the run names instead.
      start_from: What the source models started from, if it was not random.
      num_devices: Devices of this process that share each block.
      allow_overlap: Whether the target's test split may hold images of its training split.

    Raises:
      UserError: If the run keeps no source models, has the target, does not say how it was made, or has other settings
        of `full` than are asked for.
    """
    about = described_source_model(run)
    try:
        design = from_plain(Design(), run.config["design"])
        recipe, head = from_plain(Recipe(), run.config["recipe"]), from_plain(FixedFeature(), run.config["head"])
        saved_full = run.config.get("full")
        tuned = full or FullNetwork() if saved_full is None else from_plain(FullNetwork(), saved_full)
        plan, precision = run.provenance["plan"], run.config["precision"]
        width = plan["width"]
        checks.require_known("plan", plan["name"], PLANS)
        checks.require_known("precision", precision, ("float32", "bfloat16"))
        if type(width) is not int or not 0 < width <= _WIDEST:
            raise ValueError(f"width of the plan is {width!r}")
    except (KeyError, TypeError, ValueError) as error:
        _refuse(run, error)
    chosen = modes or tuple(mode for mode in run.modes if mode in get_args(Mode))
    if not chosen:
        raise checks.UserError(
            f"{run.path} tunes heads ({', '.join(run.modes)}), which a target that is added later does not: pass "
            "--transfer fixed."
        )
    if full is not None and tuned != full and "full" in chosen:
        raise checks.UserError(
            f"{run.path} fine-tunes with {to_plain(tuned)}, and other settings are asked for: leave out --full..., so "
            "that all targets are treated alike."
        )
    ensemble = Ensemble(
        network=about.network(trust=trust) if network is None else network,
        recipe=recipe,
        plan=dataclasses.replace(PLANS[plan["name"]], width=width),
        image_shape=about.image_shape,
        mean_subset_size=1.0,  # Of training, which is over; fine-tuning has a size of its own.
        smallest_subset=1,
        precision=precision,
        num_devices=num_devices,
    )
    start = None if start_from is None else load_variables(start_from, ensemble.network, about.image_shape, head=False)
    return AddedTarget(
        run, target, ensemble, design, chosen, head, tuned, start, _baseline_models(run), allow_overlap
    )  # fmt: skip


def _baseline_models(run: store.Run) -> int:
    """How many untrained models the run transferred to its own targets."""
    found = next((record["random_accuracy"] for record in run.records() if "random_accuracy" in record), None)
    counts = [len(values) for values in found.values() if isinstance(values, list)] if isinstance(found, dict) else []
    return min(counts[0], _WIDEST) if counts else 0


def _refuse(run: store.Run, error: Exception) -> NoReturn:
    raise checks.UserError(
        f"{run.path} does not say in full how it was made ({str(error) or type(error).__name__}): a target can be "
        "added to runs of experiments.class_influence; a study of pre-training data gives its models to another one "
        "(experiments.pretraining_data --models-from)."
    ) from error


def transfer_missing_blocks(
    added: AddedTarget,
    writer: store.RunWriter,
    *,
    hosts: Hosts = ALONE,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Transfer the source models of every complete block to the target and store their outputs, block by block.

    Blocks that the run itself lacks yet stay missing; what is missing is asked again before each block.

    Args:
      added: The target.
      writer: Of its run.
      hosts: Which process this is, of how many that share the blocks.
      progress: Called with the number of models that are done, those of other processes included.

    Raises:
      UserError: If source models are damaged.
    """
    records, layout = {record["block"]: record for record in added.run.records()}, added.run.layout
    whole = {block for block, r in records.items() if r["models"][1] == layout.models_of(block).stop}
    while missing := [block for block in writer.unrecorded_blocks() if block in whole]:
        block = next_block(missing, hosts)
        if block is None:
            return
        start, earlier = time.perf_counter(), writer.first_rows(block)
        models = layout.models_of(block)[len(earlier.models) :]
        arrays, record = _transfer_block(added, records[block], models)
        record = {**record, "seconds": time.perf_counter() - start}
        writer.write_block(block, *earlier.followed_by(arrays, record))
        if progress is not None:
            progress(writer.num_complete)


def _transfer_block(
    added: AddedTarget, record: Mapping[str, Any], models: range
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Columns and record of models of one block."""
    block, ids = record["block"], np.asarray(models)
    kept = kept_models(added.run, models, added.ensemble.network, added.ensemble.image_shape)
    arrays, more = transferred(added, block, ids, kept.variables, kept.finite, kept.columns)
    return arrays, {
        "plan": added.ensemble.plan.name,
        "precision": added.ensemble.precision,
        "randomness_ids": added.design.randomness_id(ids).tolist(),
        "diverged": ids[~kept.finite].tolist(),
        **more,
    }
