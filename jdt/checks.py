"""Argument checks in one voice: what was found, what was expected, what to do."""

import difflib
import math
from collections.abc import Iterable

_LONGEST, _HEAD, _TAIL = 2_000, 1_400, 500  # Characters of a message, and what is kept of a longer one.


class UserError(ValueError):
    r"""A mistake the user can mend. The command line prints it as one line and exits with code 2.

    Messages quote names and values that may come from a damaged or hostile file: what could move a terminal's cursor,
    break the line or not be encoded is shown as an escape, and what is too long is cut in the middle.

    >>> print(UserError("unknown name 'a\x1b[2Jb'\n."))
    unknown name 'a\x1b[2Jb'\n.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            message = f"{message[:_HEAD]} [...] {message[-_TAIL:]}"
        super().__init__("".join(map(_shown, message)))


def _shown(character: str) -> str:
    if character.isprintable() or character == "\N{NO-BREAK SPACE}":
        return character
    return character.encode("unicode_escape").decode()


def nearest(name: str, known: Iterable[str], *, count: int = 3) -> str:
    """Name the `count` entries of `known` that look most like `name`, for an error message.

    >>> nearest("cifar1", ["mnist", "cifar10", "cifar100"])
    'cifar10, cifar100'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=count, cutoff=0.4)
    return ", ".join(close or known[:count])


def require_fraction(name: str, value: float) -> None:
    """Raise unless `value` lies strictly between 0 and 1."""
    if not (math.isfinite(value) and 0.0 < value < 1.0):
        raise UserError(f"{name} is {value}, but it must lie strictly between 0 and 1: pass for example {name}=0.5.")


def require_at_least(name: str, value: float, least: float) -> None:
    """Raise unless `value >= least`."""
    if not value >= least:
        raise UserError(f"{name} is {value}, but it must be at least {least}.")


def require_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise unless `value` is one of `known`."""
    known = list(known)
    if value not in known:
        raise UserError(f"unknown {name} {value!r}; known: {', '.join(known)}.")
