"""A pool: source data that outgrow the device, a random chunk of them at a time, shared by all models of a wave.

One pass over the source is cut into chunks, in an order of its own each time; every model trains on its members of
the chunk that is on the device, for the chunk's share of the steps. With one chunk that holds everything this is
training on resident data, draw for draw.
"""

import dataclasses
import math
from collections.abc import Iterator
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
    """

    number: int
    rows: np.ndarray
    first_step: int
    num_steps: int


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
        return math.ceil(len(self.dataset) / self.capacity)

    @property
    def chunk_size(self) -> int:
        """Examples of the largest chunk."""
        return math.ceil(len(self.dataset) / self.chunks_a_pass)

    def check(self, smallest_subset: int, batch_size: int) -> None:
        """Refuse a pool in which a subset would not fill a batch.

        Raises:
          UserError: Saying how large the pool must be.
        """
        expected = smallest_subset * self.chunk_size / len(self.dataset)
        if self.chunks_a_pass > 1 and expected < 2 * batch_size:
            bytes_each = math.prod(self.dataset.image_shape)
            wanted = 2 * batch_size * len(self.dataset) / smallest_subset * bytes_each / 2**30
            raise checks.UserError(
                f"the pool holds {self.chunk_size:,} of {len(self.dataset):,} source images, in which the smallest "
                f"subset has some {expected:.0f}, but two batches of {batch_size} are needed: raise --memory-budget to "
                f"{wanted:.3g} GiB or more."
            )

    def stretches(self, num_steps: int, steps_per_pass: float, seed: int) -> Iterator[Stretch]:
        """Which chunk is on the device when, until `num_steps` are done.

        Args:
          num_steps: Steps in all.
          steps_per_pass: Steps in which a model sees as many images as its part of the source has; not rounded.
          seed: Root seed; the order of pass p derives from (seed, p).
        """
        chunks, number, done = self.chunks_a_pass, 0, 0
        while done < num_steps:
            order = self._order(number // chunks, seed)
            for rows in np.array_split(order, chunks):
                end = min(num_steps, round((number + 1) * steps_per_pass / chunks)) if chunks > 1 else num_steps
                if end > done:
                    yield Stretch(number, rows, done, end - done)
                number, done = number + 1, max(done, end)
                if done == num_steps:
                    return

    def _order(self, pass_number: int, seed: int) -> np.ndarray:
        if self.chunks_a_pass == 1:
            return np.arange(len(self.dataset))
        return np.asarray(jax.random.permutation(key_for(seed, "pool", pass_number), len(self.dataset)))
