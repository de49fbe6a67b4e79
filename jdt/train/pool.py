"""A pool: source data that outgrow the device, a random chunk of them at a time, shared by all models of a wave.

One pass over the source is cut into chunks, in an order of its own each time; every model trains on its members of
the chunk that is on the device, for the chunk's share of the steps. With one chunk that holds everything this is
training on resident data, draw for draw. Random crops are drawn anew in each pass, and a change of the images' size
falls between two stretches. Versions of one example are on the device together.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jdt import checks
from jdt.data.base import Dataset
from jdt.keys import key_for


class Stretch(NamedTuple):
    """Consecutive steps on one chunk.

    Attributes:
      number: Of the chunk, from 0.
      rows: int `[chunk]`: source examples that are on the device.
      first_step: First step on it.
      num_steps: How many steps.
      pass_number: The pass over the source that the chunk belongs to.
      size: Side of the images in pixels, or None for the dataset's own.
      part: 0, or which of the stretches on this chunk, where the size changes meanwhile.
    """

    number: int
    rows: np.ndarray
    first_step: int
    num_steps: int
    pass_number: int = 0
    size: int | None = None
    part: int = 0


def size_at(sizes: Sequence[tuple[int, int]], step: int) -> int | None:
    """Side of the images at a step, or None for the dataset's own.

    >>> [size_at(((0, 160), (12, 192)), step) for step in (0, 11, 12)]
    [160, 160, 192]
    """
    return next((size for first, size in reversed(sizes) if first <= step), None)


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Source data of which at most `capacity` examples are on the device at a time.

    Attributes:
      dataset: In memory, in a memory map, or streamed.
      capacity: Examples on the device, on each one the same.
    """

    dataset: Dataset
    capacity: int

    @property
    def chunks_a_pass(self) -> int:
        """Chunks that one pass over the source is cut into, as equal as can be."""
        if len(self.dataset) <= self.capacity:
            return 1
        return math.ceil(len(self.dataset) / max(1, self.capacity - self._spare))

    @property
    def chunk_size(self) -> int:
        """Examples of the largest chunk that there may be."""
        whole = len(self.dataset)
        return whole if self.chunks_a_pass == 1 else min(whole, math.ceil(whole / self.chunks_a_pass) + self._spare)

    @functools.cached_property
    def _spare(self) -> int:
        """Room in a chunk for the rest of the versions of its last example."""
        version_of = self.dataset.version_of
        return 0 if version_of is None else int(np.bincount(version_of).max(initial=1)) - 1

    def check(self, smallest_subset: int, batch_size: int, image_shape: tuple[int, int, int] | None = None) -> None:
        """Refuse a pool in which a subset would not fill a batch.

        Args:
          smallest_subset: Fewest source images of a model.
          batch_size: Images a step.
          image_shape: Of the largest images in training; the dataset's when None.

        Raises:
          UserError: Saying how large the pool must be.
        """
        expected = smallest_subset * self.chunk_size / len(self.dataset)
        if self.chunks_a_pass > 1 and expected < 2 * batch_size:
            bytes_each = math.prod(image_shape or self.dataset.image_shape)
            wanted = 2 * batch_size * len(self.dataset) / smallest_subset * bytes_each / 2**30
            raise checks.UserError(
                f"the pool holds {self.chunk_size:,} of {len(self.dataset):,} source images, in which the smallest "
                f"subset has some {expected:.0f}, but two batches of {batch_size} are needed: raise --memory-budget to "
                f"{wanted:.3g} GiB or more."
            )

    def stretches(
        self,
        num_steps: int,
        steps_per_pass: float,
        seed: int,
        *,
        sizes: Sequence[tuple[int, int]] = (),
        renewed: bool = False,
    ) -> Iterator[Stretch]:
        """Which chunk is on the device when, until `num_steps` are done.

        Args:
          num_steps: Steps in all.
          steps_per_pass: Steps in which a model sees as many images as its part of the source has; not rounded.
          seed: Root seed; the order of pass p derives from (seed, p).
          sizes: (first step, side in pixels) of images in training, from step 0 on; empty for the dataset's own size.
          renewed: Whether every pass shows the images anew, so that it reads them again even if the pool holds all.
        """
        chunks, number, done = self.chunks_a_pass, 0, 0
        by_pass = chunks > 1 or renewed
        while done < num_steps:
            order = self._order(number // chunks, seed)
            for rows in np.split(order, self._bounds(order)):
                end = min(num_steps, round((number + 1) * steps_per_pass / chunks)) if by_pass else num_steps
                bounds = [done, *(step for step, _ in sizes if done < step < end), end]
                for part, (first, last) in enumerate(itertools.pairwise(bounds)):
                    if last > first:
                        yield Stretch(number, rows, first, last - first, number // chunks, size_at(sizes, first), part)
                number, done = number + 1, max(done, end)
                if done == num_steps:
                    return

    def _order(self, pass_number: int, seed: int) -> np.ndarray:
        if self.chunks_a_pass == 1:
            return np.arange(len(self.dataset))
        order = np.asarray(jax.random.permutation(key_for(seed, "pool", pass_number), len(self.dataset)))
        version_of = self.dataset.version_of
        return order if version_of is None else np.argsort(np.argsort(order)[version_of], kind="stable")

    def _bounds(self, order: np.ndarray) -> list[int]:
        """Where a pass is cut: in equal parts, but before the first version of an example."""
        sizes = [len(part) for part in np.array_split(order, self.chunks_a_pass)]
        bounds = np.cumsum(sizes)[:-1].tolist()
        if self.dataset.version_of is None:
            return bounds
        firsts = self.dataset.version_of[order]
        return [next(b for b in range(bound, -1, -1) if b == 0 or firsts[b] != firsts[b - 1]) for bound in bounds]
