"""What sources of a pre-training data study have to do with one another: sizes of one, noisy and clean, candidates."""

import numpy as np

import jdt
from experiments.pretraining_sources import Sources


def row_of(sources: Sources, name: str, seed: int) -> np.ndarray:
    """Images of a source for the models of a seed, bool `[pool]`."""
    rows = sources.rows[sources.names.index(name)]
    return rows[min(seed, len(rows) - 1)]  # One row where seeds do not differ.


def count_of(sources: Sources, name: str) -> int:
    """Number of images of a source."""
    return sources.images[sources.names.index(name)]


def text_of(sources: Sources, name: str) -> str:
    """How a source was written."""
    return sources.specs[sources.names.index(name)].text


def essence(sources: Sources, name: str) -> tuple[object, ...]:
    """What a source is made of, whatever its size: its base and its changes but for `size` and `times`."""
    spec = sources.specs[sources.names.index(name)]
    before = essence(sources, spec.base.name) if spec.base.kind == "source" else (spec.base,)
    return (*before, *(change for change in spec.changes if change.kind not in ("size", "times")))


def family(sources: Sources, name: str) -> tuple[str, ...]:
    """Sources that differ from one in size alone, it among them, ascending."""
    kin = [one for one in sources.names if essence(sources, one) == essence(sources, name)]
    return tuple(sorted(dict.fromkeys(kin), key=lambda one: count_of(sources, one)))


def known_family(sources: Sources, name: str) -> None:
    """Refuse a family of one size.

    Raises:
      UserError: If there is no other size.
    """
    if len(family(sources, name)) < 2:
        raise jdt.UserError(
            f"--equivalents names the family of {name}, which has one size: add sources such as half={name}|size:0.5."
        )


def clean_of(sources: Sources, name: str) -> str | None:
    """The source of equal size that a noisy one is without its noise; None where it has none, or there is none."""
    own = essence(sources, name)
    clean = tuple(part for part in own if getattr(part, "kind", "") != "noise")
    size = count_of(sources, name)
    return next(
        (
            one
            for one, images in zip(sources.names, sources.images, strict=True)
            if clean != own and essence(sources, one) == clean and images == size
        ),
        None,
    )


def candidates(sources: Sources) -> tuple[str, ...]:
    """Candidates: sources of the equal size whose images all are what they say."""
    return tuple(
        name
        for name, images in zip(sources.names, sources.images, strict=True)
        if images == sources.equal_size
        and not any(getattr(part, "kind", "") == "useful" for part in essence(sources, name))
    )
