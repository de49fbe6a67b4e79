"""Features of a TFDS dataset that hold a class number or a text an example, such as the nested `attributes/Young`."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jdt.checks import UserError, nearest

_MOST_CLASSES = 10_000  # Of a feature of whole numbers: beyond it, it is surely no class.


class Column(NamedTuple):
    """A feature that can be a label.

    Attributes:
      path: Keys from the outermost feature to it.
      names: One name a value; `None` of whole numbers, which must be read to know how many there are.
    """

    path: tuple[str, ...]
    names: tuple[str, ...] | None

    def of(self, example: Any) -> int:
        """Its value in an example."""
        for key in self.path:
            example = example[key]
        return int(example)


@dataclasses.dataclass(frozen=True, eq=False)
class Parsed:
    """Records of which some features are parsed, and no other: TFDS's `PartialDecoding` needs TensorFlow.

    Attributes:
      records: A data source of raw bytes.
      features: The features to parse.
      decoders: As TFDS has them.
    """

    records: Any
    features: Any
    decoders: Any

    def __len__(self) -> int:
        return len(self.records)

    def __getitems__(self, positions: Sequence[int]) -> list[Any]:
        """Parse the records at some positions."""
        raw = self.records.__getitems__(positions)
        return [self.features.deserialize_example_np(record, decoders=self.decoders) for record in raw]


def find_column(name: str, features: Any, feature: str) -> Column:
    """Find a feature by its path.

    A class label has its names; a truth value `Young` is called "not Young" and "Young", in this order.

    Args:
      name: Of the dataset, for messages.
      features: Of the dataset.
      feature: `label`, or `attributes/Young` for one within another.

    Raises:
      UserError: If there is no such feature, or it is no class label, truth value or whole number.
    """
    import tensorflow_datasets as tfds

    leaves = _leaves(features, ())
    usable = {key: leaf for key, (_, leaf) in leaves.items() if _is_usable(leaf)}
    can_be = f"features that can be labels: {_listed(sorted(usable))}"
    if feature not in leaves:
        raise UserError(f"{name} has no feature {feature!r}; nearest: {nearest(feature, leaves)}; {can_be}.")
    path, found = leaves[feature]
    if feature not in usable:
        raise UserError(
            f"feature {feature!r} of {name} is {type(found).__name__} of shape {found.shape}, but a label is a class "
            f"label, a truth value or one whole number; {can_be}."
        )
    if isinstance(found, tfds.features.ClassLabel) and found.names is not None:
        return Column(path, tuple(found.names))
    if found.np_dtype == np.bool_:
        return Column(path, (f"not {path[-1]}", path[-1]))
    return Column(path, None)


def find_text(name: str, features: Any, feature: str) -> tuple[str, ...]:
    """Find a feature that is one text an example, by its path.

    Raises:
      UserError: If there is no such feature, or it is no text.
    """
    leaves = _leaves(features, ())
    texts = sorted(key for key, (_, leaf) in leaves.items() if _is_text(leaf))
    if feature not in texts:
        is_there = f"is {type(leaves[feature][1]).__name__}, not one text" if feature in leaves else "is not there"
        raise UserError(f"feature {feature!r} of {name} {is_there}; features that are texts: {_listed(texts)}.")
    return leaves[feature][0]


def text_of(example: Any, path: Sequence[str], where: str) -> str:
    """The text of an example.

    Raises:
      UserError: If it is empty, or no UTF-8.
    """
    for key in path:
        example = example[key]
    try:
        text = example.decode("utf-8") if isinstance(example, bytes) else str(example)
    except UnicodeDecodeError as error:
        raise UserError(f"{'/'.join(path)} of {where} is no UTF-8 ({error}): prepare the dataset again.") from error
    if not text.strip():
        raise UserError(f"{'/'.join(path)} of {where} is empty: choose another feature, or a split without it.")
    return text


def only(features: Any, paths: Sequence[tuple[str, ...]]) -> Any:
    """The features at some paths, as TFDS nests them."""
    import tensorflow_datasets as tfds

    heads = dict.fromkeys(path[0] for path in paths)
    inner = {head: [path[1:] for path in paths if path[0] == head] for head in heads}
    return tfds.features.FeaturesDict(
        {head: features[head] if () in rest else only(features[head], rest) for head, rest in inner.items()}
    )


def number_names(name: str, feature: str, largest: int) -> tuple[str, ...]:
    """Names of the classes of a feature of whole numbers: "0" to its largest value.

    Raises:
      UserError: If it is negative, or too large for a class.
    """
    if not 0 <= largest < _MOST_CLASSES:
        raise UserError(
            f"feature {feature!r} of {name} goes up to {largest}, but a label is 0 to {_MOST_CLASSES - 1}: choose "
            "another feature."
        )
    return tuple(map(str, range(largest + 1)))


def _leaves(features: Any, above: tuple[str, ...]) -> dict[str, tuple[tuple[str, ...], Any]]:
    import tensorflow_datasets as tfds

    found = {}
    for key, feature in features.items():
        if type(feature) is tfds.features.FeaturesDict:
            found |= _leaves(feature, (*above, key))
        else:
            found["/".join((*above, key))] = (*above, key), feature
    return found


def _is_usable(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if not isinstance(feature, tfds.features.Tensor) or feature.shape != ():
        return False
    dtype: Any = feature.np_dtype
    return dtype == np.bool_ or bool(np.issubdtype(dtype, np.integer))


def _is_text(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Text):
        return True
    is_string = isinstance(feature, tfds.features.Tensor) and feature.np_dtype in (np.object_, np.str_, np.bytes_)
    return is_string and feature.shape == ()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:50]) + (f" and {len(names) - 50} more" if len(names) > 50 else "") or "none"
