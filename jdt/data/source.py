"""What a data source looks like before its images are decoded: the seam between readers and the cache."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jdt.data.decode import Mode


class Record(NamedTuple):
    """One undecoded example.

    Attributes:
      where: How an error message calls it: a file name, or a split and a position.
      raw: The encoded image.
      label: Its class, not yet checked.
    """

    where: str
    raw: bytes
    label: int


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A split that can be read, in any order, by any number of threads at once.

    Attributes:
      name: `"cifar10_32[train]"`.
      class_names: One name a class, in label order.
      num_examples: Examples in the split.
      identity: Plain JSON that changes whenever the stored examples do; the key of the decoded cache.
      mode: Says whether images decode to one channel or three; it may have to look at every file, so it is asked late.
      read: `read(positions)` gives the records at those positions, 0 to `num_examples - 1`, in that order.
    """

    name: str
    class_names: tuple[str, ...]
    num_examples: int
    identity: Mapping[str, Any]
    mode: Callable[[], Mode]
    read: Callable[[Sequence[int]], list[Record]]
