"""Accuracies of somebody else's runs: a results file, one row for each setting and one column for each number of shots.

The published log of arXiv 2302.13602 is such a file. It has no predictions of single images and one seed, so that
nothing made of it has an interval; and with test accuracies alone, the best of a grid is chosen on the test set.
"""

import csv
import dataclasses
import math
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import scipy.stats

from jdt import checks
from jdt.types import Float, Int

Shots = int | None
"""Target images of each class; None for all of them."""
_MISSING = ("", "-1", "-1.0", "nan", "na", "n/a", "none")
_MOST_IMAGES = 20_000  # That a test set is looked for with.
_ON_GRID, _BY_CHANCE = 0.95, 0.01
_MANY = 7  # Accuracies that are all even shares of twice the images by a chance of less than 0.01.


@dataclasses.dataclass(frozen=True)
class LogColumns:
    """What the columns of a results file are called; the published log's names when left out.

    Attributes:
      source: Name of the pre-training data.
      target: Name of the target.
      method: How the source was pre-trained; `"CLIP_LP-FT"` is method CLIP with transfer LP-FT, no suffix means FT.
      architecture: Of the network; "" where there is none.
      setting: What else tells rows apart: the grid. Columns that are not there are left out.
      shots: Column names of accuracies with their numbers of shots, None for all images.
    """

    source: str = "us"
    target: str = "ds"
    method: str = "loss"
    architecture: str = "arch"
    setting: tuple[str, ...] = ("us_epochs", "us_lr", "us_bs", "us_wd", "ds_epochs", "ds_lr", "ds_bs", "ds_wd")
    shots: tuple[tuple[str, Shots], ...] = (
        ("1", 1),
        ("5", 5),
        ("10", 10),
        ("20", 20),
        ("100", 100),
        ("200", 200),
        ("full", None),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class AccuracyLog:
    """Every accuracy of a results file, in its order; all fields have one entry for each.

    Attributes:
      method: E.g. "CLIP".
      transfer: E.g. "FT".
      architecture: E.g. "RN50"; "" where it is not known.
      source: Name of the pre-training data.
      target: Name of the target.
      shots: Images of each class, None for all.
      setting: The other columns in words.
      accuracy: float64 in [0, 1].
      row: int: row of the file, the header being 1.
    """

    method: tuple[str, ...]
    transfer: tuple[str, ...]
    architecture: tuple[str, ...]
    source: tuple[str, ...]
    target: tuple[str, ...]
    shots: tuple[Shots, ...]
    setting: tuple[str, ...]
    accuracy: Float[np.ndarray, " entries"]
    row: Int[np.ndarray, " entries"]


@dataclasses.dataclass(frozen=True)
class BestOfGrid:
    """The best accuracy of a grid, chosen on the images that it was measured on: an optimistic figure.

    Attributes:
      method, transfer, source, target, shots: Of the cell.
      accuracy: The best.
      setting: That has it, the first of equals.
      architecture: Its network.
      attempts: How many accuracies it is the best of: more attempts, more optimism.
    """

    method: str
    transfer: str
    source: str
    target: str
    shots: Shots
    accuracy: float
    setting: str
    architecture: str
    attempts: int


def read_accuracy_log(
    path: str | os.PathLike[str], columns: LogColumns | None = None, *, percent: bool = True
) -> AccuracyLog:
    """Read a results file, separated by commas, semicolons or tabs.

    Args:
      path: The file.
      columns: What its columns are called.
      percent: Whether accuracies run to 100 rather than to 1. Blank and -1 are missing.

    Raises:
      UserError: If the file cannot be read, a column is not there, or a row is not what its header says: named by row
        and column.
    """
    columns = columns or LogColumns()
    rows = _rows(pathlib.Path(path))
    header = rows[0][1]
    needed = (columns.source, columns.target, columns.method)
    for name in needed:
        if name not in header:
            raise checks.UserError(
                f"{path} has no column {name!r}; its columns: {', '.join(filter(None, header))}. Say which is which."
            )
    shots = [(header.index(name), name, number) for name, number in columns.shots if name in header]
    if not shots:
        names = ", ".join(name for name, _ in columns.shots)
        raise checks.UserError(f"{path} has no column of accuracies: one of {names} is needed.")
    places = [(name, header.index(name)) for name in columns.setting if name in header]
    entries: list[tuple[str, str, str, str, str, Shots, str, float, int]] = []
    for number, row in rows[1:]:
        if len(row) != len(header):
            raise checks.UserError(f"{path}: row {number} has {len(row)} cells, but the header has {len(header)}.")
        named = {name: row[header.index(name)].strip() for name in needed}
        for name, value in named.items():
            if not value:
                raise checks.UserError(f"{path}: row {number}, column {name!r} is empty, but a name is needed there.")
        method, _, transfer = named[columns.method].partition("_")
        architecture = row[header.index(columns.architecture)].strip() if columns.architecture in header else ""
        setting = ", ".join(f"{name} {row[place].strip()}" for name, place in places)
        for place, name, k in shots:
            value = _accuracy(row[place].strip(), f"{path}: row {number}, column {name!r}", 100.0 if percent else 1.0)
            if value is not None:
                source, target = named[columns.source], named[columns.target]
                entries.append((method, transfer or "FT", architecture, source, target, k, setting, value, number))
    if not entries:
        raise checks.UserError(f"{path} has no accuracy in any of its {len(rows) - 1} rows.")
    *words, accuracy, row = (tuple(column) for column in zip(*entries, strict=True))
    if percent and max(accuracy) <= 0.01:
        raise checks.UserError(f"no accuracy of {path} is above 1 %: are they shares? Then say so (percent=False).")
    return AccuracyLog(*words, np.array(accuracy, np.float64), np.array(row))  # pyright: ignore[reportCallIssue]


def best_of_grid(log: AccuracyLog) -> tuple[BestOfGrid, ...]:
    """The best accuracy of each (method, transfer, source, target, shots), as the published study selects: on test.

    Networks of different architectures are one grid, as in the published tables; the best one's is named.
    """
    cells: dict[tuple[str, str, str, str, Shots], list[int]] = {}
    for index, cell in enumerate(zip(log.method, log.transfer, log.source, log.target, log.shots, strict=True)):
        cells.setdefault(cell, []).append(index)
    found = []
    for cell, members in cells.items():
        top = max(members, key=lambda index: log.accuracy[index])  # The first of equals.
        found.append(BestOfGrid(*cell, float(log.accuracy[top]), log.setting[top], log.architecture[top], len(members)))
    return tuple(found)


def cell_table(
    cells: Sequence[BestOfGrid],
    method: str,
    transfer: str,
    *,
    targets: Sequence[str],
    shots: Sequence[Shots],
    sources: Sequence[str],
) -> Float[np.ndarray, "targets shots sources"]:
    """Accuracies of one method and transfer as an array, NaN where there is none: what `spread` and the others take."""
    known = {
        (cell.target, cell.shots, cell.source): cell.accuracy
        for cell in cells
        if (cell.method, cell.transfer) == (method, transfer)
    }
    flat = [known.get((t, k, source), math.nan) for t in targets for k in shots for source in sources]
    return np.array(flat, np.float64).reshape(len(targets), len(shots), len(sources))


@dataclasses.dataclass(frozen=True)
class ImagesTested:
    """How many test images accuracies can have been measured on, at least.

    Attributes:
      target: Name of the target.
      shots: Images of each class, None for all.
      images: The fewest that the accuracies are shares of.
      fitting: How many different accuracies are shares of so many images.
      accuracies: Of how many different ones.
    """

    target: str
    shots: Shots
    images: int
    fitting: int
    accuracies: int


def images_tested(log: AccuracyLog) -> tuple[ImagesTested, ...]:
    """How many images accuracies were measured on: an accuracy on n images is a multiple of 1 / n.

    For each (target, shots) the fewest images that 95 % of the different accuracies are multiples of, as they are
    rounded; those that are written with at least as many decimals as most are looked at. Nothing is said where chance
    explains as much in more than 1 of 100 (target, shots), all numbers of images up to 20,000 tried. Means over several
    runs count as so many times the images, and a few accuracies may all be shares of fewer.

    In the published log of arXiv 2302.13602 it finds test sets that shrink with the shots (its specification,
    section 5.3).

    >>> shares = np.array([1, 2, 3, 5, 6, 8, 9, 11, 12, 13]) / 15
    >>> few = AccuracyLog(*[("",) * 10] * 4, ("cameras",) * 10, (1,) * 10, ("",) * 10, shares.round(5), np.arange(10))
    >>> found = images_tested(few)
    >>> [(one.target, one.shots, one.images) for one in found]
    [('cameras', 1, 15)]
    """
    groups: dict[tuple[str, Shots], set[float]] = {}
    for target, k, value in zip(log.target, log.shots, log.accuracy.tolist(), strict=True):
        groups.setdefault((target, k), set()).add(value)
    found = []
    for (target, k), values in groups.items():
        fits = _fewest_images(np.array(sorted(values - {0.0, 1.0})))
        if fits is not None:
            found.append(ImagesTested(target, k, *fits))
    order = list(dict.fromkeys(log.target))
    return tuple(sorted(found, key=lambda one: (order.index(one.target), one.shots or math.inf)))


def drawn_tests(found: Sequence[ImagesTested]) -> dict[str, int]:
    """Targets whose test images were drawn like training images, with their number for each shot, of `images_tested`.

    That is where two or more numbers of shots were tested on as many images for each shot, which with all training
    images nothing was. Accuracies at different shots are of other images then, and at few shots of very few. Fewer than
    seven accuracies are not asked: of twice the images all of them may be even shares.

    >>> drawn_tests([ImagesTested("cameras", k, 15 * k, 9, 9) for k in (1, 5)] + [ImagesTested("pets", 1, 3668, 9, 9)])
    {'cameras': 15}
    """
    drawn = {}
    for target in dict.fromkeys(one.target for one in found):
        images = {one.shots: one.images for one in found if one.target == target}
        many = {one.shots for one in found if one.target == target and one.fitting >= _MANY}
        rates = [images[k] // k for k in images if k and k in many and images[k] % k == 0]
        often = [rate for rate in rates if rates.count(rate) > 1 and rate != images.get(None)]
        if often:
            drawn[target] = often[0]
    return drawn


def _fewest_images(values: Float[np.ndarray, " accuracies"]) -> tuple[int, int, int] | None:
    """The fewest images, how many values are shares of them, and of how many; None where chance explains as much."""
    if not len(values):
        return None
    decimals = np.array([next((d for d in range(2, 9) if abs(v - round(v, d)) < 1e-10), 9) for v in values.tolist()])
    digits = int(np.bincount(decimals).argmax())
    if np.abs(values - values.round(1)).max() < 1e-10:  # Tenths, which nothing is told from.
        digits = 1
    # Finer ones are of the same images: without them, of n images the even shares alone may look like those of n / 2.
    values, own = values[decimals >= digits], 10.0 ** decimals[decimals >= digits]
    steps = 10**digits
    images = np.arange(1, min(_MOST_IMAGES, steps) + 1)
    for some in np.array_split(images, max(1, len(images) * len(values) // 10**6)):
        shares = np.round(values * some[:, None]) / some[:, None]
        fitting = (np.abs(shares - values) * own <= 0.5 + 1e-5).sum(axis=1)
        # A written value j / steps fits n images where j n is within n / 2 of a multiple of steps: of all j so many do.
        common = np.gcd(some, steps)
        by_chance = np.minimum(1.0, (2 * (some // (2 * common)) + 1) * common / steps)
        surprise = scipy.stats.binom.sf(fitting - 1, len(values), by_chance) * len(images)
        enough = (fitting >= _ON_GRID * len(values)) & (surprise < _BY_CHANCE)
        if enough.any():
            first = int(enough.argmax())
            return int(some[first]), int(fitting[first]), len(values)
    return None


def _rows(path: pathlib.Path) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with its number; the first is the header, names stripped."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise checks.UserError(f"{path} cannot be read as text: {error}.") from error
    first = text.partition("\n")[0]
    delimiter = max("\t,;", key=first.count)
    try:
        rows = [row for row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1) if any(row[1])]
    except csv.Error as error:
        raise checks.UserError(f"{path} is no table: {error}.") from error
    if len(rows) < 2:
        raise checks.UserError(f"{path} has {len(rows)} rows, but a header and at least one row of results are needed.")
    number, header = rows[0]
    return [(number, [name.strip() for name in header]), *rows[1:]]


def _accuracy(text: str, where: str, most: float) -> float | None:
    if text.lower() in _MISSING:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise checks.UserError(
            f"{where} is {text!r}, but an accuracy from 0 to {most:g} is needed, or blank or -1 where there is none."
        )
    return value / most
