"""Classes of another dataset under the names of the target's: a second domain, or a set of corruptions, as a test."""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jdt import config
from jdt.checks import UserError, nearest
from jdt.data.base import Dataset

NameMap = Mapping[str, str | None] | str | os.PathLike[str]
"""Names to names, or the JSON file that holds them."""

_MOST_LISTED = 20


@dataclasses.dataclass(frozen=True, eq=False)
class Matched:
    """What `matched` made.

    Attributes:
      data: The other dataset's images under the target's labels and class names.
      left_out: Classes of the other dataset whose images were left out.
      missing: Classes of the target that it has no image of.
    """

    data: Dataset
    left_out: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def note(self) -> str:
        """What a reader of its figures should know; empty if all classes are there on both sides."""
        parts = [
            f"{what}: {_listed(names)}"
            for what, names in (("classes left out", self.left_out), ("classes that it does not have", self.missing))
            if names
        ]
        return f"{self.data.name}: {'; '.join(parts)}." if parts else ""


def matched(
    data: Dataset, class_names: Sequence[str], label_map: NameMap | None = None, *, leave_out: bool = False
) -> Matched:
    """Rename the labels of a dataset to another's classes of the same names.

    Names are equal if they are so without regard to case, spaces, `_` and `-`. Several classes may go to one.

    Args:
      data: The other dataset, decoded or streamed.
      class_names: The target's, in label order.
      label_map: For classes whose names differ: the other dataset's name -> the target's, or None (null in the JSON
        file) for images to leave out. Classes that it does not name are matched by name.
      leave_out: Leave out the images of all classes that match none, instead of refusing them.

    Returns:
      The dataset in the order that it had, with a fingerprint of its own, and what does not match.

    Raises:
      UserError: If classes match none (listed) and are not to be left out, two of the target's names are one, the map
        names what is not there, or images of fewer than two classes are left.

    >>> from jdt.data import from_arrays
    >>> other = from_arrays("sketches", np.zeros((3, 4, 4, 1), np.uint8), [0, 1, 2], ["Ice-Cream", "cat", "zebra"])
    >>> made = matched(other, ["cat", "dog", "ice cream"], leave_out=True)
    >>> made.data.labels.tolist(), made.note
    ([2, 0], 'sketches: classes left out: zebra; classes that it does not have: dog.')
    """
    number_of = _numbered(class_names)
    explicit = read_name_map(label_map, "label map") if label_map is not None else {}
    _require_there(explicit, data, class_names)
    goes_to = [_goes_to(name, explicit, class_names, number_of) for name in data.class_names]
    labels = np.asarray(data.labels)
    occurring = np.bincount(labels, minlength=len(goes_to)) > 0
    unmatched = [
        name for name, goes, occurs in zip(data.class_names, goes_to, occurring, strict=True) if goes is None and occurs
    ]
    refused = [name for name in unmatched if name not in explicit]
    if refused and not leave_out:
        raise UserError(
            f"{len(refused)} of {len(goes_to)} classes of {data.name} have no class of that name among "
            f"{_listed(class_names)}: {_listed(refused)}; give a label map, or leave their images out."
        )
    new_number = np.array([-1 if number is None else number for number in goes_to], np.int32)
    new_labels = new_number[labels]
    rows = np.flatnonzero(new_labels >= 0)
    present = np.unique(new_labels[rows])
    if len(present) < 2:
        raise UserError(
            f"of {data.name}, whose classes are {_listed(data.class_names)}, images of {len(present)} classes match "
            f"{_listed(class_names)}, but at least two are needed: give a label map."
        )
    kept = data if len(rows) == len(data) else data.part(rows)
    made = dataclasses.replace(
        kept,
        labels=new_labels[rows],
        class_names=tuple(class_names),
        fingerprint=config.fingerprint([data.fingerprint, "matched", list(class_names), new_number.tolist()]),
    )
    missing = tuple(name for number, name in enumerate(class_names) if number not in present)
    return Matched(made, tuple(unmatched), missing)


def read_name_map(given: NameMap, what: str) -> dict[str, str | None]:
    """Read names that stand for other names, from a mapping or from a JSON file of one object.

    Args:
      given: The mapping, or the file's path.
      what: How messages call it.

    Raises:
      UserError: If the file is not there or no JSON object of names, or names an entry twice.
    """
    if isinstance(given, Mapping):
        pairs, where = list(given.items()), f"the {what}"
    else:
        path = pathlib.Path(given).expanduser()
        where = f"the {what} {path}"
        try:
            pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{where} cannot be read ({error}): write one JSON object of names.") from error
        if not isinstance(pairs, _Pairs):
            raise UserError(f'{where} is no JSON object: write names to names, like {{"cat": "dog"}}.')
    wrong = [name for name, value in pairs if not _is_name(name) or not (value is None or _is_name(value))]
    if wrong:
        raise UserError(f"{where} has no name at {_listed(list(map(repr, wrong)))}: give names to names.")
    twice = [name for name, count in collections.Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise UserError(f"{where} has {_listed(twice)} twice: name each once.")
    return dict(pairs)


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with the entries that a dictionary would drop."""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _numbered(class_names: Sequence[str]) -> dict[str, int]:
    number_of: dict[str, int] = {}
    for number, name in enumerate(class_names):
        first = number_of.setdefault(_plain(name), number)
        if first != number:
            raise UserError(f"the target's classes {class_names[first]!r} and {name!r} are one name: rename one.")
    return number_of


def _require_there(explicit: Mapping[str, str | None], data: Dataset, class_names: Sequence[str]) -> None:
    targets = [value for value in explicit.values() if value is not None]
    for names, known, owner in ((list(explicit), data.class_names, data.name), (targets, class_names, "the target")):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise UserError(
                f"the label map names {_listed(unknown)}, which {owner} does not have; nearest to the first: "
                f"{nearest(unknown[0], known)}."
            )


def _goes_to(
    name: str, explicit: Mapping[str, str | None], class_names: Sequence[str], number_of: Mapping[str, int]
) -> int | None:
    if name not in explicit:
        return number_of.get(_plain(name))
    target = explicit[name]
    return None if target is None else list(class_names).index(target)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_LISTED]) + (f" and {len(names) - _MOST_LISTED} more" if names[_MOST_LISTED:] else "")
