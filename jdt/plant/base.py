"""What was planted, and where."""

import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np

from jdt import config
from jdt.checks import UserError, nearest
from jdt.data import Dataset, StreamedImages, from_arrays, with_tokens
from jdt.keys import key_for
from jdt.types import Bool, Int, UInt8

Kind = Literal["leak", "misleading", "mislabelled", "harmful"]


@dataclasses.dataclass(frozen=True)
class Planted:
    """One kind of truth in a source dataset. Entry i of the tuples is one source example.

    Attributes:
      kind: `leak`: copies of target test images under a label that fits; `misleading`: under one that does not;
        `mislabelled`: labels that are wrong; `harmful`: a unit full of target training images, under the labels that
        the unit has.
      is_control: Whether the places keep the images, or labels, that they had.
      source: Positions in the source dataset.
      labels: Labels that stand there now, indices into the source's classes.
      target_name: Dataset that copies are of, or that they would be of in a control; empty where there are no copies.
      target: Positions in it; empty where there are no copies.
      changes: What was done to each copy; empty where there are no copies.
      unit: The unit that is mislabelled or harmful; empty for copies.
    """

    kind: Kind
    is_control: bool
    source: tuple[int, ...]
    labels: tuple[int, ...]
    target_name: str = ""
    target: tuple[int, ...] = ()
    changes: tuple[str, ...] = ()
    unit: str = ""

    def to_plain(self) -> dict[str, Any]:
        """What JSON keeps unchanged."""
        return config.to_plain(self)

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> "Planted":
        """Undo `to_plain`.

        Raises:
          ValueError: If a field is unknown or of another type.
        """
        return config.from_plain(Planted("leak", False, (), ()), plain)


def draws(seed: int, kind: str, *ids: int) -> np.random.Generator:
    """The random choices of one kind: they depend on (seed, kind, ids) alone, and nothing else depends on them."""
    key = key_for(seed, "plant", zlib.crc32(kind.encode()), *ids)
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def replaced(
    source: Dataset,
    positions: Int[np.ndarray, " places"],
    *,
    images: UInt8[np.ndarray, "places height width channels"] | None = None,
    labels: Int[np.ndarray, " places"] | None = None,
) -> Dataset:
    """The source with other images or labels at some positions, the captions as they were, and its own fingerprint."""
    new_images, new_labels = np.array(source.images), np.array(source.labels)
    if images is not None:
        new_images[positions] = images
    if labels is not None:
        new_labels[positions] = labels
    made = from_arrays(source.name, new_images, new_labels, source.class_names)
    return made if source.tokens is None else with_tokens(made, source.tokens)


def require_arrays(source: Dataset, target: Dataset | None = None) -> None:
    """Raise unless images are there as arrays, of one shape."""
    for data in (source, target):
        if data is not None and isinstance(data.images, StreamedImages):
            raise UserError(f"{data.name} is streamed, but nothing can be planted in or copied from streamed data.")
    if target is not None and target.image_shape != source.image_shape:
        raise UserError(
            f"{target.name} has images of shape {target.image_shape} and {source.name} of {source.image_shape}, but a "
            "copy takes the place of a source image: resize them (--image-size, --image-channels)."
        )


def require_names(what: str, names: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raise unless all names are known, naming the nearest that are."""
    for name in names:
        if name not in known:
            raise UserError(f"{where} has no {what} {name!r}; nearest: {nearest(name, known)}.")


def free_places(
    num_examples: int, allowed: Bool[np.ndarray, " examples"] | None, beside: Sequence[Planted]
) -> Bool[np.ndarray, " examples"]:
    """Source positions where something may be planted: those allowed (by default all), and not used before."""
    free = np.ones(num_examples, bool) if allowed is None else np.array(allowed, bool)
    for planted in beside:
        free[list(planted.source)] = False
    return free
