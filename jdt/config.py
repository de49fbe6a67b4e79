"""Configurations: frozen dataclasses to plain JSON, and the difference between two of them."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

LATER = {"later": True}
"""Metadata of a field that runs from before do not know: it is left out where it has its default, so they resume."""


def to_plain(value: Any) -> Any:
    """Turn (nested) dataclasses, tuples and paths into dicts, lists and strings that JSON keeps unchanged.

    Fields with the metadata `LATER` are left out where they have their default.

    >>> to_plain({"a": (1, 2)})
    {'a': [1, 2]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if not _is_left_out(field, getattr(value, field.name))]
        return {field.name: to_plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a configuration holds {value!r} of type {type(value).__name__}, which JSON cannot keep.")


def _is_left_out(field: dataclasses.Field, value: Any) -> bool:
    if "later" not in field.metadata:
        return False
    return value == (field.default if field.default_factory is dataclasses.MISSING else field.default_factory())


def from_plain(like: Any, plain: Mapping[str, Any]) -> Any:
    """Undo `to_plain` for a dataclass of plain values, tuples of them, and dataclasses of the same kind.

    Args:
      like: An instance; fields that `plain` does not have keep its values.
      plain: What `to_plain` made of another one.

    Raises:
      ValueError: If `plain` is no mapping, or has a field that the class has not, or of another type.
    """
    if not isinstance(plain, Mapping):
        raise ValueError(f"{plain!r} is no mapping")
    names, changed = {field.name for field in dataclasses.fields(like)}, {}
    for name, value in plain.items():
        if name not in names:
            raise ValueError(f"{type(like).__name__} has no {name}")
        before = getattr(like, name)
        if dataclasses.is_dataclass(before):
            changed[name] = from_plain(before, value)
        elif isinstance(before, tuple) and isinstance(value, list):
            changed[name] = _tuples(value)
        # A default may be an integer where another value has a fraction.
        elif None in (before, value) or isinstance(
            value, (int, float) if type(before) in (int, float) else type(before)
        ):
            changed[name] = value
        else:
            raise ValueError(f"{name} is {value!r}")
    return dataclasses.replace(like, **changed)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value


def fingerprint(value: Any) -> str:
    """Hash a configuration: 16 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Flatten a plain configuration to dotted names.

    >>> flatten({"recipe": {"epochs": 4}, "seed": 0})
    {'recipe.epochs': 4, 'seed': 0}
    """
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def difference(saved: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Say, one entry a line, how a saved configuration differs from the one asked for.

    >>> difference({"seed": 0, "fraction": 0.5}, {"seed": 1, "fraction": 0.5})
    ['seed: saved 0, asked 1']
    """
    before, after = flatten(to_plain(saved)), flatten(to_plain(asked))
    absent = "(absent)"
    return [
        f"{key}: saved {before.get(key, absent)}, asked {after.get(key, absent)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, absent) != after.get(key, absent)
    ]
