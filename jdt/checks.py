"""Argument checks in one voice: what was found, what was expected, what to do."""

import difflib
import math
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake the user can mend. The command line prints it as one line and exits with code 2."""


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
