"""Images that stay where they are: read and decoded when asked for, an array in all other respects."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from jdt.checks import UserError
from jdt.data.decode import Mode, decode_image, describe_mixed_sizes
from jdt.data.source import Source
from jdt.types import UInt8

_READ_AT_ONCE = 64  # Records: keeps the encoded images small beside the decoded ones.


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
    """The images of a source, decoded on demand to the same bits that the decoded cache holds.

    Indexing the examples (an int, a slice, integers, booleans) reads and decodes them in the calling thread, and gives
    a uint8 array as NumPy would: `images[3]` is `[height, width, channels]`, `images[[3, 1]]` and `images[:2]` are
    `[2, height, width, channels]`. Nothing is kept. `numpy.asarray` decodes everything. Any number of threads may
    index at once; `jdt.data.read_chunks` does so.

    Attributes:
      source: Where the records are.
      mode: `"L"` for one channel, `"RGB"` for three.
      image_size: Side in pixels, or `None` for the stored size.
      shape: (examples, height, width, channels).
      dtype: uint8.
      ndim: 4.
    """

    source: Source
    mode: Mode
    image_size: int | None
    shape: tuple[int, int, int, int]
    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
    ndim: ClassVar[int] = 4

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: int | slice | Sequence[int] | np.integer | np.ndarray) -> UInt8[np.ndarray, "..."]:
        """Decode some examples.

        Raises:
          UserError: If a record cannot be read or decoded, or has another size than the first; the message names it.
          IndexError: As NumPy does.
        """
        chosen = self._positions[key]
        images = np.empty((chosen.size, *self.shape[1:]), np.uint8)
        for start in range(0, chosen.size, _READ_AT_ONCE):
            for i, record in enumerate(self.source.read(chosen.ravel()[start : start + _READ_AT_ONCE].tolist()), start):
                image = decode_image(record.raw, record.where, mode=self.mode, size=self.image_size)
                if image.shape != self.shape[1:]:
                    first = self.source.read([0])[0].where
                    raise UserError(
                        describe_mixed_sizes(self.source.name, first, self.shape[1:], record.where, image.shape)
                    )
                images[i] = image
        return images.reshape(*chosen.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("streamed images are decoded anew each time: copy=False cannot be.")
        return self[:].astype(dtype or np.uint8, copy=False)

    @functools.cached_property
    def _positions(self) -> np.ndarray:
        return np.arange(len(self))  # NumPy's own rules for negative, boolean and out-of-range indices, for free.


ImageArray: TypeAlias = UInt8[np.ndarray, "examples height width channels"] | StreamedImages
