"""Triggers as the command line writes them."""

import re
from collections.abc import Callable
from typing import TypeAlias

from jdt.checks import UserError, require_known
from jdt.plant.pictures import Overlay, Stencil
from jdt.plant.triggers import Colour, GaussianPattern, Square, Tint

Trigger: TypeAlias = Square | GaussianPattern | Tint | Overlay | Stencil

_FORMS = {
    "square": "square[:CORNER[:R,G,B[:SIDE]]]",
    "gaussian": "gaussian[:SCALE[:rounded]]",
    "tint": "tint:R,G,B[:STRENGTH]",
    "overlay": "overlay:FOLDER",
    "stencil": "stencil:FILE",
}
_NAME = re.compile(r"([A-Za-z0-9_.-]+)=(.*)", re.DOTALL)
CLEAN = "clean"
"""The name of the arm without any trigger, which no trigger can have."""


def parse_trigger(text: str) -> tuple[str, Trigger]:
    """Read a trigger, and the name that it goes by.

    `square`, `square:bottom-right:0,255,255`, `square:top-left:255,255,0:0.25`, `gaussian`, `gaussian:0.05`,
    `gaussian:0.05:rounded`, `tint:255,0,0:0.3`, `overlay:FOLDER`, `stencil:FILE`; `NAME=` before it names it.

    Raises:
      UserError: If it cannot be read; the message shows the form.

    >>> parse_trigger("mark=square:bottom-right:0,255,255")
    ('mark', Square(side=0.25, colour=(0, 255, 255), corner='bottom-right'))
    """
    named = _NAME.fullmatch(text)
    name, order = named.groups() if named else (None, text)
    kind, *rest = order.split(":")
    require_known("trigger", kind, _FORMS)
    try:
        trigger = _READERS[kind](rest)
    except _FormError as error:
        raise UserError(f"cannot read the trigger {text!r}{error}: write {_FORMS[kind]}.") from error
    name = name or trigger.default_name
    if name == CLEAN:
        raise UserError(f"the trigger {text!r} is called {CLEAN!r}, as what has none is: name it otherwise.")
    return name, trigger


class _FormError(ValueError):
    """What is wrong with a part."""


def _square(parts: list[str]) -> Square:
    if len(parts) > 3:
        raise _FormError
    corner, colour, side = [*parts, *("top-left", "255,255,0", "0.25")[len(parts) :]]
    require_known("corner of a square", corner, ("top-left", "top-right", "bottom-left", "bottom-right"))
    return Square(_number(side), _colour(colour), corner)  # pyright: ignore[reportArgumentType]  # Known above.


def _gaussian(parts: list[str]) -> GaussianPattern:
    if len(parts) > 2 or parts[1:] not in ([], ["rounded"]):
        raise _FormError
    return GaussianPattern(_number(parts[0]) if parts else 0.01, truncate=len(parts) < 2)


def _tint(parts: list[str]) -> Tint:
    if not 1 <= len(parts) <= 2:
        raise _FormError
    return Tint(_colour(parts[0]), *map(_number, parts[1:]))


def _path(parts: list[str]) -> str:
    path = ":".join(parts)  # A path may hold colons.
    if not path:
        raise _FormError
    return path


_READERS: dict[str, Callable[[list[str]], Trigger]] = {
    "square": _square,
    "gaussian": _gaussian,
    "tint": _tint,
    "overlay": lambda parts: Overlay(_path(parts)),
    "stencil": lambda parts: Stencil(_path(parts)),
}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _FormError(f", {text!r} is no number") from None


def _colour(text: str) -> Colour:
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().isdecimal() for part in parts):
        raise _FormError(f", {text!r} is no colour such as 255,255,0")
    red, green, blue = map(int, parts)
    return red, green, blue
