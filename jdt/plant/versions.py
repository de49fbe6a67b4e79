"""Who carries a trigger: pools with every version of an example, and views of a dataset with a trigger on it."""

import dataclasses
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdt import config
from jdt.checks import UserError
from jdt.data import NO_STAMP, Dataset, Stamps, StreamedImages, with_stamps
from jdt.plant.base import draws
from jdt.plant.parsing import CLEAN
from jdt.plant.triggers import Stamp
from jdt.types import Bool, Int, Int32


@dataclasses.dataclass(frozen=True, eq=False)
class Versions:
    """A pool of examples and their other versions, and the arms that train on parts of it.

    Attributes:
      data: The pool: every example, followed by its versions; `version_of` says whose.
      original: bool `[pool]`: examples as they were.
      rows: An arm -> bool `[pool]`, who belongs to it: every example in one version. Of stamps, arms have names:
        "clean" has all originals; a stamp's arm has the stamped copies, and the originals of examples that do not
        carry it.
    """

    data: Dataset
    original: Bool[np.ndarray, " pool"]
    rows: Mapping[Any, Bool[np.ndarray, " pool"]]

    @property
    def example(self) -> Int[np.ndarray, " pool"]:
        """Place in the dataset as it was of what each member of the pool is a version of."""
        return np.cumsum(self.original) - 1


def carriers(
    labels: Int[np.ndarray, " examples"], classes: Sequence[int], probability: float, seed: int = 10
) -> Bool[np.ndarray, " examples"]:
    """Draw who carries a trigger, once and for all epochs, as published: of some classes, with a probability.

    `isin(labels, classes) & (default_rng(seed).uniform(size=examples) < probability)`, by the place in the dataset
    (arXiv 2207.02842, section 2.2 of its specification).

    Args:
      labels: Of the examples.
      classes: Numbers of the classes.
      probability: 1 takes all examples of the classes.
      seed: 10 was published.

    Raises:
      UserError: If the probability is none, a class has no example, or nobody was drawn.

    >>> carriers(np.array([0, 1, 2, 1]), [1], 1.0).tolist()
    [False, True, False, True]
    """
    if not 0 <= probability <= 1:
        raise UserError(f"the probability of carrying a trigger is {probability}, but must be 0 to 1.")
    present = np.unique(labels)
    unknown = sorted(set(classes) - set(present.tolist()))
    if unknown:
        raise UserError(
            f"there is no example of class {unknown[0]} to carry a trigger: classes are {present.min()} to "
            f"{present.max()}."
        )
    carried = np.isin(labels, list(classes)) & (np.random.default_rng(seed).uniform(size=len(labels)) < probability)
    if not carried.any():
        raise UserError(
            f"no example carries the trigger, with {len(classes)} classes and a probability of {probability}: name "
            "more classes, or a larger probability."
        )
    return carried


def with_versions(
    data: Dataset, carried: Mapping[str, tuple[Bool[np.ndarray, " examples"], Stamp]], *, seed: int
) -> Versions:
    """Put stamped copies beside the examples that carry stamps, so that a source with a trigger is a mask.

    Args:
      data: Decoded or streamed, as it was loaded.
      carried: Name of an arm -> which examples carry its stamp, and the stamp. Arms that are given the same `Stamp`
        share its copies.
      seed: Root seed of the study; of a stamp of several pictures each example's is drawn from it, the stamp's name
        and the example's place alone.

    Raises:
      UserError: If the data has stamps or versions already, an arm is called "clean", or a stamp does not fit.
    """
    require_plain(data)
    if CLEAN in carried:
        raise UserError(f"an arm with a trigger cannot be called {CLEAN!r}, as the one without is: rename it.")
    count = len(data)
    stamps = list({id(stamp): stamp for _, stamp in carried.values()}.values())  # Each has one column of copies.
    column_of = {name: 1 + next(i for i, s in enumerate(stamps) if s is stamp) for name, (_, stamp) in carried.items()}
    there = np.zeros((count, 1 + len(stamps)), bool)
    there[:, 0] = True
    for name, (who, stamp) in carried.items():
        if who.shape != (count,):
            raise UserError(f"who carries {name!r} is said for {len(who)} examples, but {data.name} has {count}.")
        require_fit(data, stamp)
        there[:, column_of[name]] |= who
    shown = np.full(there.shape, NO_STAMP, np.int32)  # The picture of each version of each example.
    first = 0
    for column, stamp in enumerate(stamps, 1):
        shown[:, column] = first + pictures_of(stamp, count, seed)
        first += len(stamp.gain)
    rows, version = np.nonzero(there)  # Row by row: an example, then its copies.
    pool = pooled(data, rows)
    if stamps:
        gain, shift = (np.concatenate(parts) for parts in ([s.gain for s in stamps], [s.shift for s in stamps]))
        pool = with_stamps(pool, Stamps(gain, shift, shown[rows, version]))
    arms = {CLEAN: version == 0}
    for name, (who, _) in carried.items():
        arms[name] = who[rows] & (version == column_of[name]) | ~who[rows] & (version == 0)
    return Versions(dataclasses.replace(pool, name="+".join([data.name, *carried])), version == 0, arms)


def stamped_view(data: Dataset, stamp: Stamp, *, seed: int, share: float = 1.0, ids: Sequence[int] = ()) -> Dataset:
    """A dataset whose examples carry a stamp: all of them, or a share drawn whatever their labels are.

    Who carries it at a small share does so at a larger one, too. Images are not copied.

    Args:
      data: Without stamps.
      stamp: For images of its shape.
      seed: Root seed of the study.
      share: From 0, which gives the data as it is, to 1; the number of carriers is rounded.
      ids: Stable numbers, for other draws of who carries it.

    Returns:
      `NAME+STAMP`, or `NAME+25% STAMP`; with a fingerprint of its own.

    Raises:
      UserError: If the share is none, the data has stamps already, or the stamp does not fit.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the share of images with a trigger is {share}, but must be 0 to 1.")
    if share == 0:
        return data
    if data.stamps is not None:
        raise UserError(f"{data.name} carries stamps already: stamp the data as it was loaded.")
    require_fit(data, stamp)
    count = len(data)
    which = np.full(count, NO_STAMP, np.int32)
    chosen = draws(seed, "stamped share", *ids).permutation(count)[: round(share * count)]
    which[chosen] = pictures_of(stamp, count, seed)[chosen]
    part = "" if share == 1 else f"{100 * share:g}% "
    named = dataclasses.replace(data, name=f"{data.name}+{part}{stamp.name}")
    return with_stamps(named, Stamps(stamp.gain, stamp.shift, which))


def require_plain(data: Dataset) -> None:
    """Raise if the data has stamps or versions."""
    if data.stamps is not None or data.version_of is not None:
        raise UserError(f"{data.name} has stamps or versions of examples already: start from the data as loaded.")


def require_fit(data: Dataset, stamp: Stamp) -> None:
    """Raise unless the stamp is of the images' shape."""
    if stamp.gain.shape[1:] != data.image_shape:
        raise UserError(
            f"stamp {stamp.name!r} is {stamp.gain.shape[1:]}, but the images of {data.name} are {data.image_shape}: "
            "make it for that shape."
        )


def pictures_of(stamp: Stamp, count: int, seed: int) -> Int32[np.ndarray, " examples"]:
    """The picture of a stamp that each example shows if it carries it, by its place alone."""
    if len(stamp.gain) == 1:
        return np.zeros(count, np.int32)
    return (
        draws(seed, "picture", zlib.crc32(stamp.name.encode())).integers(len(stamp.gain), size=count).astype(np.int32)
    )


def pooled(data: Dataset, rows: Int[np.ndarray, " pool"], labels: Int32[np.ndarray, " pool"] | None = None) -> Dataset:
    """A pool: examples in rising order, each perhaps several times, then versions of the first; labels may be new.

    Images are gathered once; streamed ones stay where they are. Captions stay those of the
    examples, whatever the labels.
    """
    images = data.images.chosen(rows) if isinstance(data.images, StreamedImages) else np.asarray(data.images[rows])
    version_of = np.searchsorted(rows, rows).astype(np.int32)  # Rows ascend: where each value stands first.
    parts = [rows.astype("<i8"), *([] if labels is None else [labels.astype("<i4")])]
    digests = [hashlib.sha256(part.tobytes()).hexdigest() for part in parts]
    return dataclasses.replace(
        data,
        images=images,
        labels=np.asarray(data.labels)[rows] if labels is None else labels,
        version_of=version_of,
        tokens=None if data.tokens is None else np.asarray(data.tokens)[rows],
        fingerprint=config.fingerprint([data.fingerprint, "versions", *digests]),
    )
