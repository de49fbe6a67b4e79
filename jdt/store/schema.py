"""Named columns of a run: which arrays there are, their shapes and types, and how models fall into blocks."""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from jdt.checks import UserError, require_at_least, require_known
from jdt.config import fingerprint
from jdt.store.strings import array_metadata, group_bytes, int32_files, metadata_bytes, string_files
from jdt.types import Int32

SCHEMA_VERSION = 2
"""Of the runs that are written. Version 1 differs in `run.json`: no digest, and the number of models in its config."""
READABLE_VERSIONS = (1, SCHEMA_VERSION)
MAX_MODELS = 10_000_000
"""More are a mistake, or a damaged file that would keep readers busy for hours."""
MAX_BLOCK_BYTES = 1 << 36
"""Of all columns together; more is a mistake, or a damaged file that would take all memory."""
MAX_COLUMNS = 10_000
MAX_EXAMPLES_PER_CHUNK = 4096
OUTPUTS = ("margin", "confidence", "prediction")
"""What jdt's own training stores for every target example; a run made elsewhere may hold fewer, or others."""
ACCURACY, TRAIN_ACCURACY = "accuracy", "train_accuracy"
SPECTRA: dict[Literal["column", "row"], str] = {"column": "singular_values", "row": "singular_values_row"}
"""Columns of singular values of the features that a tuned head reads on test images, by how these are centred."""
_UNTUNED = ("fixed", "full")  # Modes without spectra.
Fit = Literal["convex", "trained", "closed", "tuned"]
"""How a mode gets its heads: as the optimum of a convex problem, by training networks or heads step by step, in closed
form, or by tuning on frozen features."""
_SCALARS = {ACCURACY, TRAIN_ACCURACY, "gradient_norm", "loss"}  # One number a model, not one an example.
_RESERVED = {"zarr.json", "label", "class_name", "c"}
CODECS = (
    {"name": "zstd", "configuration": {"level": 3, "checksum": False}},
    {"name": "crc32c"},
)
_FILL = {"bool": False, "int32": -1, "float32": "NaN", "float64": "NaN"}


def safe_name(name: str) -> str:
    """Turn any name into one path component; a harmless name stays as it is.

    >>> safe_name("cifar10:test[:50%]"), safe_name("../etc/passwd"), safe_name("..")
    ('cifar10:test[:50%]', '_._etc_passwd', '_.')
    """
    safe = re.sub(r"[^A-Za-z0-9_.\-:\[\]%+ ]", "_", name).strip(" ")
    safe = "_" + safe[1:] if safe.startswith(".") or not safe else safe
    if safe.lower() in _RESERVED or safe.startswith("__"):  # Zarr reserves names that begin with two underscores.
        safe = "x" + safe
    if len(safe) > 120:
        safe = f"{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return safe


CONVERGENCE = {"fixed": "gradient_norm"}
"""The scalar that tells how far a transfer got, by mode: a convex head's gradient; elsewhere the training `loss`."""
_CONVERGENCE_OF: dict[Fit, tuple[str, ...]] = {"convex": ("gradient_norm",), "trained": ("loss",), "closed": ()}
"""The same by how a mode gets its heads, for modes of `Layout.fits`."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One array of `store.zarr`, with a row for each model: its path below the store, type, dimensions and chunks."""

    name: str
    path: str
    dtype: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]

    def metadata(self) -> dict[str, Any]:
        """The array's `zarr.json`: little-endian bytes, zstd level 3, then a CRC-32C over each chunk."""
        codecs = [
            {"name": "bytes", "configuration": {"endian": "little"}} if self.dtype != "bool" else {"name": "bytes"}
        ]
        return array_metadata(
            self.shape, self.chunks, self.dims, data_type=self.dtype, fill=_FILL[self.dtype], codecs=[*codecs, *CODECS]
        )

    def is_described_by(self, content: bytes) -> bool:
        """Whether a `zarr.json` describes this array, or the same one with more rows.

        More rows are what a process writes that lets the run grow, before `run.json` tells of them.
        """
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return False
        shape = found.get("shape") if isinstance(found, dict) else None
        if not (isinstance(shape, list) and shape and type(shape[0]) is int):
            return False
        if not self.shape[0] <= shape[0] <= MAX_MODELS:
            return False
        return {**found, "shape": [self.shape[0], *shape[1:]]} == self.metadata()

    def chunk_files(self, block: int) -> tuple[str, ...]:
        """Paths, relative to the store, of the chunk files that hold a block."""
        if len(self.shape) == 1:
            return (f"{self.path}/c/{block}",)
        return tuple(f"{self.path}/c/{block}/{i}" for i in range(math.ceil(self.shape[1] / self.chunks[1])))


@dataclasses.dataclass(frozen=True)
class Layout:
    """The shape of a run, without its names: enough to find and to read every column.

    `outputs` is None where jdt trained the models: then there are `OUTPUTS`, accuracies and losses. Otherwise a mode of
    a target holds these outputs and nothing else, and there is nothing about the source but the masks.
    `train_accuracy` is false for runs from before that was recorded. With `sgd_head` the heads of fixed features were
    trained step by step, and what tells how far they got is their training loss. `spectrum` is how many singular
    values the features have that heads read in modes other than fixed and full; 0 where they are not kept.
    `spectrum_of` are the targets that they are kept of; None means all. `fits` says how modes get their heads of which
    that is not so: `fixed` has convex heads (but see `sgd_head`), `full` is trained, all others are tuned.
    """

    num_models: int
    block_size: int
    num_units: int
    num_examples: Mapping[str, int]
    modes: tuple[str, ...]
    outputs: tuple[str, ...] | None = None
    train_accuracy: bool = False
    sgd_head: bool = False
    spectrum: int = 0
    spectrum_of: tuple[str, ...] | None = None
    fits: Mapping[str, Fit] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        require_at_least("num_models", self.num_models, 1)
        for mode, fit in self.fits.items():
            if mode not in self.modes:
                raise UserError(f"it is said how mode {mode!r} gets its heads, but there is no such mode: name modes.")
            require_known(f"fit of mode {mode}", fit, tuple(_CONVERGENCE_OF))
        if self.num_models > MAX_MODELS:
            raise UserError(f"num_models is {self.num_models}, but a run holds at most {MAX_MODELS:,}: ask for fewer.")
        require_at_least("block_size", self.block_size, 1)
        if self.block_size > MAX_MODELS:
            raise UserError(f"block_size is {self.block_size}, but a run holds at most {MAX_MODELS:,}: ask for fewer.")
        for mode in self.modes:
            # In paths an @ becomes _, as in names of targets; two modes that lead to one path are refused below.
            if safe_name(mode) != mode.replace("@", "_"):
                raise UserError(f"mode {mode!r} cannot name a folder: call it for example {safe_name(mode)!r}.")
        for name in self.outputs or ():
            if safe_name(name) != name or name in _SCALARS - {ACCURACY}:
                raise UserError(f"output {name!r} cannot name an array of [models, examples]: choose another name.")
        if self.outputs is not None and not self.example_outputs:
            raise UserError("a run must hold at least one output of every example, such as margin: name one.")
        if self.outputs is not None and (self.train_accuracy or self.sgd_head or self.spectrum or self.fits):
            raise UserError("a run made elsewhere holds its outputs and nothing about training: ask for none of it.")
        if unknown := sorted(set(self.spectrum_of or ()) - set(self.num_examples)):
            raise UserError(f"singular values are to be kept of {unknown[0]!r}, which is no target: name targets.")
        names_of = {"target": self.num_examples, "mode": self.modes, "output": self.outputs or ()}
        for kind, names in names_of.items():
            if len({safe_name(name).lower() for name in names}) < len(names):  # Some file systems ignore case.
                raise UserError(f"two {kind} names lead to one file name, rename one: {', '.join(names)}.")
        if (count := len(self.num_examples) * len(self.modes) * (len(self.example_outputs) + 3)) > MAX_COLUMNS:
            raise UserError(f"there would be about {count:,} arrays, but a run holds at most {MAX_COLUMNS:,}.")
        sizes = [self.num_units, self.spectrum, *self.num_examples.values()]
        if max(sizes) > MAX_BLOCK_BYTES or self.bytes_per_block() > MAX_BLOCK_BYTES:
            raise UserError(
                f"blocks of {self.block_size} models with {self.num_units} units and up to {max(sizes)} examples are "
                f"more than {MAX_BLOCK_BYTES >> 30} GiB each: make blocks smaller, or ask for fewer examples."
            )

    @property
    def example_outputs(self) -> tuple[str, ...]:
        """Names of the outputs that have a value for every example of a target."""
        return OUTPUTS if self.outputs is None else tuple(name for name in self.outputs if name != ACCURACY)

    @property
    def spectrum_targets(self) -> tuple[str, ...]:
        """Names of the targets that singular values are kept of."""
        return tuple(name for name in self.num_examples if self.spectrum and self._has_spectrum(name))

    def _has_spectrum(self, target: str) -> bool:
        return self.spectrum_of is None or target in self.spectrum_of

    @property
    def num_blocks(self) -> int:
        """Number of blocks; the last may be partial."""
        return math.ceil(self.num_models / self.block_size)

    def models_of(self, block: int) -> range:
        """The model ids, hence the rows, of a block."""
        return range(block * self.block_size, min((block + 1) * self.block_size, self.num_models))

    def columns(self) -> dict[str, Column]:
        """Every column by name, `targets/NAME/MODE/OUTPUT` and so on."""
        return self._columns

    @functools.cached_property
    def _columns(self) -> dict[str, Column]:
        """Every column by name; the names hold a target's true name, the paths its safe one."""

        def column(name: str, dtype: str, width: tuple[str, int] | None = None, path: str = "") -> Column:
            dims, shape, chunks = ("model",), (self.num_models,), (self.block_size,)
            if width is not None:
                dims, shape = ("model", width[0]), (self.num_models, width[1])
                # Masks are read whole; outputs also by example. Even chunks, because the last one is stored padded.
                parts = math.ceil(width[1] / MAX_EXAMPLES_PER_CHUNK) if width[0] == "example" else 1
                chunks = (self.block_size, max(1, math.ceil(width[1] / max(1, parts))))
            return Column(name, path or name, dtype, dims, shape, chunks)

        columns = [column("mask", "bool", ("unit", self.num_units))]
        if self.outputs is None:
            columns += [column("source/accuracy", "float32"), column("source/loss", "float32")]
        with_spectra = set(self.spectrum_targets)
        for target, size in self.num_examples.items():
            for mode in self.modes:
                name, path = f"targets/{target}/{mode}/", f"targets/{safe_name(target)}/{safe_name(mode)}/"
                for output in self.example_outputs:
                    dtype = "int32" if output == "prediction" else "float32"
                    columns.append(column(name + output, dtype, ("example", size), path + output))
                for scalar in self._scalars(mode):
                    columns.append(column(name + scalar, "float32", None, path + scalar))
                for values in SPECTRA.values() if target in with_spectra and self._is_tuned(mode) else ():
                    columns.append(column(name + values, "float64", ("feature", self.spectrum), path + values))
        return {item.name: item for item in columns}

    def _scalars(self, mode: str) -> tuple[str, ...]:
        if self.outputs is None:
            usual = "loss" if self.sgd_head else CONVERGENCE.get(mode, "loss")
            convergence = _CONVERGENCE_OF[self.fits[mode]] if mode in self.fits else (usual,)
            return (ACCURACY, *((TRAIN_ACCURACY,) if self.train_accuracy else ()), *convergence)
        return tuple(name for name in self.outputs if name == ACCURACY)

    def _is_tuned(self, mode: str) -> bool:
        return mode not in _UNTUNED and mode not in self.fits

    def bytes_per_block(self) -> int:
        """Size of one full block before compression, for messages about disk space."""
        columns = self.columns().values()
        return sum(np.dtype(c.dtype).itemsize * self.block_size * math.prod(c.shape[1:]) for c in columns)


@dataclasses.dataclass(frozen=True, eq=False)
class Target:
    """A target data set as the store keeps it.

    Attributes:
      labels: True class of each example, int32 `[examples]`; -1 where nobody knows it.
      class_names: Names of the classes that labels index; none where no label is known.
    """

    labels: Int32[np.ndarray, " examples"]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or labels.dtype != np.int32:
            raise UserError(f"target labels are {labels.dtype}{list(labels.shape)}, but must be int32 [examples].")
        if labels.size and labels.min() < -1:
            raise UserError(f"a target label is {labels.min()}, but must be a class or -1 for an unknown one.")
        if labels.size and labels.max() >= len(self.class_names):
            raise UserError(
                f"a target label is {labels.max()}, but there are only {len(self.class_names)} class names."
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "class_names", tuple(map(str, self.class_names)))


@dataclasses.dataclass(frozen=True, eq=False)
class Schema:
    """All that fixes a store before the first model is trained: sizes, names and labels.

    Attributes:
      num_models: Rows of every column.
      block_size: Models trained, written and lost together.
      unit_names: What each mask column switches.
      targets: Target name -> labels and class names.
      modes: Kinds of transfer, each a group below its target.
      outputs: What every mode of every target holds, `accuracy` being one number a model and all else one an example;
        None for all that jdt's own training makes.
      train_accuracy: Whether every mode of every target also has the accuracy on its training images; a run from before
        that was recorded goes on without.
      sgd_head: Whether fixed features get heads that are trained step by step, which have a training loss.
      spectrum: How many singular values are kept of the features that heads read, in modes other than fixed and full.
      spectrum_of: The targets that they are kept of; None for all, which a run from before this could be asked goes on
        with.
      fits: How modes get their heads, of those where their name does not say so: see `Layout`.
    """

    num_models: int
    block_size: int
    unit_names: tuple[str, ...]
    targets: Mapping[str, Target]
    modes: tuple[str, ...] = ("fixed",)
    outputs: tuple[str, ...] | None = None
    train_accuracy: bool = False
    sgd_head: bool = False
    spectrum: int = 0
    spectrum_of: tuple[str, ...] | None = None
    fits: Mapping[str, Fit] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.spectrum_of is not None and set(self.spectrum_of) >= set(self.targets):
            object.__setattr__(self, "spectrum_of", None)  # All of them: one description says so.
        object.__setattr__(self, "unit_names", tuple(map(str, self.unit_names)))
        object.__setattr__(self, "modes", tuple(self.modes))
        _ = self.layout  # Checks sizes and names.

    @functools.cached_property
    def layout(self) -> Layout:
        """The sizes alone."""
        examples = {name: len(target.labels) for name, target in self.targets.items()}
        return Layout(
            self.num_models, self.block_size, len(self.unit_names), examples, self.modes, self.outputs,
            self.train_accuracy, self.sgd_head, self.spectrum, self.spectrum_of, self.fits,
        )  # fmt: skip

    def columns(self) -> dict[str, Column]:
        """Every column with a row for each model, by name."""
        return self.layout.columns()

    def blocks(self) -> tuple[range, ...]:
        """The model ids of every block."""
        return tuple(self.layout.models_of(block) for block in range(self.layout.num_blocks))

    def describe(self) -> dict[str, Any]:
        """A plain description with digests in place of names and labels; equal for equal schemas."""
        targets = {
            name: {
                "num_examples": len(target.labels),
                "labels": labels_digest(target.labels),
                "class_names": fingerprint(target.class_names),
            }
            for name, target in self.targets.items()
        }
        return {
            "num_models": self.num_models,
            "block_size": self.block_size,
            "num_units": len(self.unit_names),
            "unit_names": fingerprint(self.unit_names),
            "modes": list(self.modes),
            "targets": targets,
            **({} if self.outputs is None else {"outputs": list(self.outputs)}),
            # Only where they are true: the description of a run of before stays as it was.
            **{name: True for name in ("train_accuracy", "sgd_head") if getattr(self, name)},
            **({"spectrum": self.spectrum} if self.spectrum else {}),
            **({} if self.spectrum_of is None else {"spectrum_of": list(self.spectrum_of)}),
            **({"fits": dict(self.fits)} if self.fits else {}),
        }

    def static_files(self) -> dict[str, bytes]:
        """Every file of `store.zarr` that is known before training: relative path -> bytes."""
        # The group attribute `coordinates` makes xarray show these arrays as labels of their dimension.
        files = {
            "zarr.json": group_bytes({"schema_version": SCHEMA_VERSION, "coordinates": "unit_name"}),
            "targets/zarr.json": group_bytes({}),
        } | _below("unit_name", string_files(self.unit_names, "unit"))
        if self.outputs is None:
            files["source/zarr.json"] = group_bytes({})
        for name, target in self.targets.items():
            group, label = f"targets/{safe_name(name)}", int32_files(target.labels, "example")
            files[f"{group}/zarr.json"] = group_bytes({"name": name, "coordinates": "label class_name"})
            files |= _below(f"{group}/class_name", string_files(target.class_names, "class"))
            files |= _below(f"{group}/label", label)
            for mode in map(safe_name, self.modes):
                files[f"{group}/{mode}/zarr.json"] = group_bytes({"coordinates": "label"})
                files |= _below(f"{group}/{mode}/label", label)  # A copy: xarray opens one group at a time.
        return files | {f"{c.path}/zarr.json": metadata_bytes(c.metadata()) for c in self.columns().values()}


def labels_digest(labels: Int32[np.ndarray, " examples"]) -> str:
    """16 hex digits of the SHA-256 of labels as little-endian int32."""
    return hashlib.sha256(np.ascontiguousarray(labels, dtype="<i4").tobytes()).hexdigest()[:16]


def _below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": content for name, content in files.items()}


def ranges(blocks: Sequence[int]) -> str:
    """Name block numbers briefly.

    >>> ranges([0, 1, 2, 5]), ranges([])
    ('blocks 0..2, 5', 'no blocks')
    """
    spans: list[list[int]] = []
    for block in sorted(blocks):
        if spans and block == spans[-1][1] + 1:
            spans[-1][1] = block
        else:
            spans.append([block, block])
    names = ", ".join(f"{a}..{b}" if a < b else str(a) for a, b in spans)
    return f"{'block' if len(blocks) == 1 else 'blocks'} {names}" if spans else "no blocks"
