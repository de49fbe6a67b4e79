"""Images that stay where they are: read and decoded when asked for, an array in all other respects."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np

from jdt.checks import UserError
from jdt.data.decode import Mode, decode_crop, decode_image, describe_mixed_sizes
from jdt.data.source import Record, Source
from jdt.data.views import WHOLE, Look, View, crop_draws
from jdt.types import Int, UInt8

_READ_AT_ONCE = 64  # Records: keeps the encoded images small beside the decoded ones.


@dataclasses.dataclass(frozen=True, eq=False)
class StreamedImages:
    """The images of a source, decoded on demand to the same bits that the decoded cache holds.

    Indexing the examples (an int, a slice, integers, booleans) reads and decodes them in the calling thread, and gives
    a uint8 array as NumPy would: `images[3]` is `[height, width, channels]`, `images[[3, 1]]` and `images[:2]` are
    `[2, height, width, channels]`. Nothing is kept. `numpy.asarray` decodes everything. Any number of threads may
    index at once; `jdt.data.read_chunks` does so. `looked_at` shows the same examples
    otherwise: in random crops, or smaller.

    Attributes:
      source: Where the records are.
      mode: `"L"` for one channel, `"RGB"` for three.
      image_size: Side in pixels, or `None` for the stored size.
      shape: (examples, height, width, channels).
      view: How images are cut: a still view.
      dtype: uint8.
      ndim: 4.
    """

    source: Source
    mode: Mode
    image_size: int | None
    shape: tuple[int, int, int, int]
    view: View = WHOLE
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
        images = self._shown(chosen.ravel(), self.shape[1:], lambda record, _: self._still(record, self.image_size))
        return images.reshape(*chosen.shape, *self.shape[1:])

    def looked_at(
        self, look: Look, positions: Int[np.ndarray, " n"], version_of: Int[np.ndarray, " examples"] | None = None
    ) -> UInt8[np.ndarray, "n size size channels"]:
        """Decode some examples as one chunk is to show them.

        Args:
          look: Their size, and which crops.
          positions: Integers `[n]`, not negative.
          version_of: First version of each example, where some are versions of one another: they are cropped alike.

        Raises:
          UserError: If a record cannot be read or decoded; the message names it.
        """
        view = look.view

        def show(record: Record, position: int) -> np.ndarray:
            if view is None:
                return self._still(record, look.size)
            draws = crop_draws(look.key, position if version_of is None else int(version_of[position]))
            return decode_crop(record.raw, record.where, mode=self.mode, size=look.size, view=view, draws=draws)

        return self._shown(positions, (look.size, look.size, self.shape[-1]), show)

    def chosen(self, rows: Int[np.ndarray, " chosen"]) -> "StreamedImages":
        """Some of these images, in another order: still streamed, at positions of their own."""
        source, rows = self.source, np.asarray(rows)

        def read(positions: Sequence[int]) -> list[Record]:
            return source.read([int(rows[i]) for i in positions])

        some = dataclasses.replace(source, num_examples=len(rows), read=read)
        return dataclasses.replace(self, source=some, shape=(len(rows), *self.shape[1:]))

    def _still(self, record: Record, size: int | None) -> np.ndarray:
        return decode_image(record.raw, record.where, mode=self.mode, size=size, view=self.view)

    def _shown(
        self, positions: np.ndarray, shape: tuple[int, ...], show: Callable[[Record, int], np.ndarray]
    ) -> np.ndarray:
        images = np.empty((len(positions), *shape), np.uint8)
        for start in range(0, len(positions), _READ_AT_ONCE):
            some = positions[start : start + _READ_AT_ONCE].tolist()
            for i, (position, record) in enumerate(zip(some, self.source.read(some), strict=True), start):
                image = show(record, position)
                if image.shape != shape:
                    first = self.source.read([0])[0].where
                    raise UserError(describe_mixed_sizes(self.source.name, first, shape, record.where, image.shape))
                images[i] = image
        return images

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("streamed images are decoded anew each time: copy=False cannot be.")
        return self[:].astype(dtype or np.uint8, copy=False)

    @functools.cached_property
    def _positions(self) -> np.ndarray:
        return np.arange(len(self))  # NumPy's own rules for negative, boolean and out-of-range indices, for free.


ImageArray: TypeAlias = UInt8[np.ndarray, "examples height width channels"] | StreamedImages
