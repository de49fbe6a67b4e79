"""What sources of pre-training are called and made of, as the command line writes it: `NAME=BASE|CHANGE|CHANGE`."""

import dataclasses
import math
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal

import jdt

BaseKind = Literal["all", "groups", "classes", "dataset", "textures", "pixels", "source"]
ChangeKind = Literal["grey", "blur", "noise", "size", "times", "useful"]

SCRATCH, COPIES = "scratch", "copies"
"""What the arm without any source image is called, and images that are there again: no source can be called so."""
BASES = {
    "all": "all",
    "groups": "groups:GROUP,GROUP",
    "classes": "classes:CLASS,PATTERN*",
    "dataset": "dataset:NAME",
    "textures": "textures[:CLASSES]",
    "pixels": "pixels[:CLASSES]",
}
"""What a source can start from -> how that is written."""
CHANGES = {
    "grey": "grey",
    "blur": "blur[:SIGMA]",
    "noise": "noise:RATE",
    "size": "size:SHARE",
    "times": "times:M",
    "useful": "useful:SHARE[:SOURCE|:copies]",
}
"""What can be done to it -> how that is written."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclasses.dataclass(frozen=True)
class Base:
    """What a source starts from.

    Attributes:
      kind: `source` is another source of the study.
      name: Names of groups or classes as they were written, a dataset, or another source; else empty.
      num_classes: Of `textures` and `pixels`.
    """

    kind: BaseKind
    name: str = ""
    num_classes: int = 0


@dataclasses.dataclass(frozen=True)
class Change:
    """What is done to a source.

    Attributes:
      kind: `grey` and `blur` draw images otherwise; `noise` gives wrong labels; `size` and `times` say how much of the
        source, or how many times as much as of the others; `useful` replaces all but a share of the images.
      amount: A share or rate in [0, 1], a multiple, or a standard deviation in pixels; exactly as written.
      other: Of `useful`: the source that the other images come from; `copies` for images that are there already; empty
        for random pixels with random labels.
    """

    kind: ChangeKind
    amount: Fraction = Fraction(1)
    other: str = ""


@dataclasses.dataclass(frozen=True)
class SourceSpec:
    """A source as it was asked for.

    Attributes:
      name: What it is called.
      base: What it starts from.
      changes: What is done to that, in this order.
      text: As it was written, without the name.
    """

    name: str
    base: Base
    changes: tuple[Change, ...]
    text: str

    @property
    def needs(self) -> tuple[str, ...]:
        """Other sources that this one is made of."""
        base = (self.base.name,) if self.base.kind == "source" else ()
        return (*base, *(change.other for change in self.changes if change.other not in ("", COPIES)))


def parse_sources(texts: Sequence[str]) -> tuple[SourceSpec, ...]:
    """Read all sources of a study.

    A source may be made of another one, wherever that stands. A name that is also the word for a base, such as
    `textures`, means that source everywhere but in its own definition.

    Args:
      texts: Each `NAME=BASE` with any number of `|CHANGE`; see `BASES` and `CHANGES`.

    Raises:
      UserError: If one cannot be read, a name is there twice or not at all, or sources are made of each other.

    >>> near, noisy = parse_sources(["near=classes:cat,dog*", "noisy=near|noise:0.4|times:2"])
    >>> near.base.name, noisy.needs, [change.kind for change in noisy.changes]
    ('cat,dog*', ('near',), ['noise', 'times'])
    """
    if not texts:
        raise jdt.UserError("no source is named: pass one or more as NAME=BASE, such as near=classes:cat,dog.")
    parts = [_named(text) for text in texts]
    names = [name for name, _ in parts]
    for name in names:
        if names.count(name) > 1:
            raise jdt.UserError(f"two sources are called {name!r}: name each of them once.")
    specs = tuple(_spec(name, order, names) for name, order in parts)
    _require_order(specs)
    return specs


def ordered(specs: Sequence[SourceSpec]) -> tuple[SourceSpec, ...]:
    """Sources in an order in which each comes after those that it is made of."""
    by_name, done = {spec.name: spec for spec in specs}, {}

    def visit(spec: SourceSpec) -> None:
        for name in spec.needs:
            visit(by_name[name])
        done[spec.name] = spec

    for spec in specs:
        visit(spec)
    return tuple(done.values())


def chosen_names(text: str, known: Sequence[str], what: str, where: str) -> tuple[str, ...]:
    """Find the names that a list means, which may hold shell-style patterns.

    A name that has commas in it may be written as it is.

    Args:
      text: Names and patterns with commas between them.
      known: All names, in the order in which they are returned.
      what: Of which kind they are, for messages.
      where: Whose they are, for messages.

    Raises:
      UserError: If one is empty or means no name that there is, or two mean the same.

    >>> chosen_names("up *,mixed 1", ["up 0", "up 1", "mixed 0", "mixed 1"], "class", "digits")
    ('up 0', 'up 1', 'mixed 1')
    """
    found: list[str] = []
    for piece in _pieces(text, known):
        meant = [name for name in known if name == piece] or [name for name in known if fnmatchcase(name, piece)]
        if not meant:
            wrong = f"{what} {piece!r}" if piece else f"a {what} without a name"
            near = jdt.checks.nearest(piece, known)
            raise jdt.UserError(
                f"{where} has no {wrong}; nearest: {near}. Write names with commas between them; * stands for any text."
            )
        twice = [name for name in meant if name in found]
        if twice:
            raise jdt.UserError(f"{what} {twice[0]!r} is meant twice in {text!r}: leave one out.")
        found += meant
    return tuple(name for name in known if name in found)


def _pieces(text: str, known: Collection[str]) -> list[str]:
    """Parts between commas, of which the longest that make a known name together stay together."""
    parts, pieces = text.split(","), []
    while parts:
        joined = (",".join(parts[:end]).strip() for end in range(len(parts), 1, -1))
        pieces.append(next((name for name in joined if name in known), parts[0].strip()))
        parts = parts[pieces[-1].count(",") + 1 :]
    return pieces


def _named(text: str) -> tuple[str, str]:
    name, equals, order = text.partition("=")
    name, order = name.strip(), order.strip()
    if not equals or not order:
        raise jdt.UserError(f"cannot read the source {text!r}: write NAME=BASE, such as near=classes:cat,dog.")
    if not _NAME.fullmatch(name):
        raise jdt.UserError(
            f"a source is called {name!r}, but a name has letters, digits, '.', '_' and '-' alone: name it otherwise."
        )
    if name in (SCRATCH, COPIES):
        what = "the arm without images is" if name == SCRATCH else "images that are there again are"
        raise jdt.UserError(f"a source is called {name!r}, as {what}: name it otherwise.")
    return name, order


def _spec(name: str, order: str, names: Sequence[str]) -> SourceSpec:
    first, *rest = (part.strip() for part in order.split("|"))
    others = [other for other in names if other != name]
    base = _base(name, first, others)
    changes = tuple(_change(name, part, others) for part in rest)
    for kind in ("noise", "useful"):
        if [change.kind for change in changes].count(kind) > 1:
            raise jdt.UserError(f"source {name!r} has {kind} twice: write it once, or make a source of another one.")
    return SourceSpec(name, base, changes, "|".join((first, *rest)))


def _base(name: str, text: str, others: Sequence[str]) -> Base:
    if text in others:
        return Base("source", text)
    kind, colon, rest = text.partition(":")
    match kind:
        case "all" if not colon:
            return Base("all")
        case "groups" | "classes" | "dataset" if rest.strip():
            return Base(kind, rest.strip())
        case "textures" | "pixels":
            default = len(jdt.plant.TEXTURES) if kind == "textures" else 10
            most = len(jdt.plant.TEXTURES) if kind == "textures" else 1000
            if not colon:
                return Base(kind, num_classes=default)
            if rest.isdecimal() and 2 <= int(rest) <= most:
                return Base(kind, num_classes=int(rest))
            raise jdt.UserError(
                f"source {name!r} asks for {rest!r} classes of {kind}, but 2 to {most} can be had: write "
                f"{kind}:{default}."
            )
    if kind in BASES:
        raise jdt.UserError(f"cannot read {text!r} of source {name!r}: write {BASES[kind]}.")
    known = [*BASES, *others]
    raise jdt.UserError(
        f"source {name!r} starts from {text!r}, which is neither {', '.join(BASES.values())} nor another source"
        f"{' (' + ', '.join(others) + ')' if others else ''}; nearest: {jdt.checks.nearest(kind, known)}."
    )


def _change(name: str, text: str, others: Sequence[str]) -> Change:
    kind, colon, rest = text.partition(":")
    if kind not in CHANGES:
        raise jdt.UserError(
            f"source {name!r} has the change {text!r}, but changes are {', '.join(CHANGES.values())}; nearest: "
            f"{jdt.checks.nearest(kind, CHANGES)}."
        )
    refusal = f"cannot read {text!r} of source {name!r}: write {CHANGES[kind]}"
    if kind == "grey":
        if colon:
            raise jdt.UserError(f"{refusal}, with nothing behind it.")
        return Change("grey")
    if kind == "blur" and not colon:
        return Change("blur")
    amount_text, second, other = rest.partition(":")
    if second and (kind != "useful" or not other):
        raise jdt.UserError(f"{refusal}.")
    amount = _exact(amount_text)
    if amount is None:
        raise jdt.UserError(f"{refusal}; {amount_text!r} is no number.")
    if kind == "blur":
        jdt.data.Shift("blur", float(amount))  # Says what a blur can be.
    elif kind == "times" and not 0 < amount <= 1000:
        raise jdt.UserError(f"source {name!r} is taken {amount_text} times, but must be more than 0, up to 1000 times.")
    elif kind == "noise" and not 0 <= amount <= 1:
        raise jdt.UserError(f"the noise of source {name!r} is {amount_text}, but must be 0 to 1: 0.4 is 40 per cent.")
    elif kind in ("size", "useful") and not 0 < amount <= 1:
        wanted = "more: times:M takes more than the equal size" if kind == "size" else "0.25 is a quarter"
        raise jdt.UserError(f"the share of {text!r} of source {name!r} must be above 0, and at most 1; {wanted}.")
    if other not in ("", COPIES, *others):
        raise jdt.UserError(
            f"source {name!r} is filled up from {other!r}, which is no other source; nearest: "
            f"{jdt.checks.nearest(other, others) or 'none, it is the only one'}."
        )
    return Change(kind, amount, other)  # pyright: ignore[reportArgumentType]  # Known above.


def _exact(text: str) -> Fraction | None:
    """The number as it is written, to a millionth, so that 0.1 of 10 is 1; None where it is none."""
    try:
        return Fraction(text).limit_denominator(1_000_000) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def _require_order(specs: Sequence[SourceSpec]) -> None:
    """Refuse sources that are made of themselves."""
    by_name = {spec.name: spec for spec in specs}

    def visit(spec: SourceSpec, path: tuple[str, ...]) -> None:
        if spec.name in path:
            circle = " -> ".join((*path[path.index(spec.name) :], spec.name))
            raise jdt.UserError(f"sources are made of each other, {circle}: start one of them from the data.")
        for name in spec.needs:
            visit(by_name[name], (*path, spec.name))

    for spec in specs:
        visit(spec, ())
