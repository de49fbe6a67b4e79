"""The sections of a page as files of the run: `sections/NAME.json`, one a command that has something to show.

Sections hold values and no HTML (`jdt.report.blocks` says why). Reading one checks every value against its dataclass,
so that a file which was damaged, or made to do harm, is refused and never acted on.
"""

import base64
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from jdt.checks import UserError
from jdt.report import blocks
from jdt.report.blocks import Block, Section
from jdt.store.files import (
    Place,
    explained,
    jsonable,
    names_in,
    odd_file,
    parse_json,
    read_bytes,
    refuse_links,
    remove,
    write_bytes,
)

FOLDER = "sections"
FORMAT = 1
"""Of the files; a section of a later format is left out of the page with a warning."""
LARGEST = 40_000_000
"""Bytes of a section's file; the page itself is to stay below 10 MB."""
MOST = 200
"""Sections of one page."""
_KINDS = {kind.__name__.lower(): kind for kind in typing.get_args(Block)}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_LINK = re.compile(r"(figures|tables)/[A-Za-z0-9][A-Za-z0-9._-]*\.(png|svg|csv)")
_MAGIC = {"png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF"}
_NUMBERS = {float, int, type(None)}
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, " ")


def save_section(folder: Place, section: Section) -> Place:
    """Write a section to `sections/` of a folder, in the place of an earlier one of its name.

    Args:
      folder: The run directory.
      section: What to save.

    Returns:
      The file.

    Raises:
      UserError: If the name is none for a file, or where the disk is full or the folder cannot be written.
    """
    if not _NAME.fullmatch(section.name):
        raise UserError(f"section {section.name!r} has no name for a file: use letters, digits, - and _.")
    refuse_links(folder, FOLDER)
    path = folder / FOLDER / f"{section.name}.json"
    content = json.dumps({"format": FORMAT, **_plain(section)}, ensure_ascii=False, allow_nan=False, indent=None)
    with explained(f"writing {path}"):
        write_bytes(path, f"{content}\n".encode())
    return path


def remove_section(folder: Place, name: str) -> None:
    """Remove a section, if there is one of this name."""
    refuse_links(folder, FOLDER)
    with explained(f"removing section {name}"):
        remove(folder / FOLDER / f"{name}.json")


def section_names(folder: Place) -> list[str]:
    """Names of the sections that are saved in a folder."""
    with explained(f"reading {folder / FOLDER}"):
        files = names_in(folder / FOLDER)
    names = [name.removesuffix(".json") for name in files if name.endswith(".json")]
    return [name for name in names if _NAME.fullmatch(name)]


def load_section(folder: Place, name: str) -> Section:
    """Read a section and check every value of it.

    Raises:
      FileNotFoundError: Where there is none.
      UserError: Where the file is damaged, too large, of a later format, or says what no section says.
    """
    path = folder / FOLDER / f"{name}.json"
    if reason := odd_file(path, LARGEST):
        raise UserError(f"{path} {reason}, so it is not read: remove it, and run the command that made it again.")
    with explained(f"reading {path}"):
        try:
            content = read_bytes(path)
        except NotADirectoryError as error:
            raise FileNotFoundError(*error.args) from error
    value = parse_json(content, path)
    if value.get("format") != FORMAT:
        raise UserError(f"{path} is of format {value.get('format')!r}, but this version of jdt reads {FORMAT}.")
    try:
        section = _as(Section, value)
    except _UnfitError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if section.name != name:
        raise UserError(f"{path} is damaged: it holds the section {section.name!r:.80}.")
    return section


def load_sections(folder: Place) -> tuple[list[Section], list[str]]:
    """Read all sections, in the order of the page, with a sentence about each file that is left out."""
    sections, complaints = [], []
    names = section_names(folder)
    if len(names) > MOST:
        complaints.append(f"{len(names)} sections are saved, and {MOST} are shown.")
    for name in names[:MOST]:
        try:
            sections.append(load_section(folder, name))
        except FileNotFoundError:
            continue  # Replaced or removed by another process meanwhile.
        except UserError as error:
            complaints.append(f"The section {name} is left out. {error} The command that made it makes it again.")
    return sorted(sections, key=lambda section: (section.order, section.name)), complaints


def tidy(text: str) -> str:
    """Text of any origin without control characters and broken Unicode, which neither a page nor JSON may hold."""
    return text.encode("utf-8", "replace").decode("utf-8").translate(_CONTROLS)


def _plain(value: Any) -> Any:
    """Dataclasses as dictionaries, blocks with their kind; numbers that are not finite as null."""
    if value is None or type(value) in (bool, int):
        return value
    if isinstance(value, str):
        return value if value.isprintable() else tidy(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__.lower()
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": kind, **fields} if kind in _KINDS else fields
    if isinstance(value, dict):
        return {tidy(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if {*map(type, value)} <= _NUMBERS:  # Grids of numbers are large.
            return [entry if entry is not None and math.isfinite(entry) else None for entry in value]
        return [_plain(item) for item in value]
    return jsonable(value)


class _UnfitError(Exception):
    """A value of a file is not what its field holds."""


def _as(kind: Any, value: Any, where: str = "it") -> Any:
    """A JSON value as a value of a type: dataclasses, tuples, dictionaries, strings and numbers."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind == Block:
        if not isinstance(value, dict) or value.get("kind") not in _KINDS:
            raise _UnfitError(f"{where} is no block that this version of jdt knows")
        return _as(_KINDS[value["kind"]], value, f"{where} ({value['kind']})")
    if origin is types.UnionType:  # The only unions besides blocks are with None.
        return None if value is None else _as(next(arm for arm in inner if arm is not type(None)), value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise _UnfitError(f"{where} is no list")
        if inner[0] == float | None and {*map(type, value)} <= _NUMBERS:
            return tuple([None if entry is None else float(entry) for entry in value])
        items = [inner[0]] * len(value) if inner[-1] is Ellipsis else inner
        if len(items) != len(value):
            raise _UnfitError(f"{where} has {len(value)} entries in place of {len(items)}")
        return tuple(_as(item, entry, where) for item, entry in zip(items, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise _UnfitError(f"{where} is no object")
        return {key: _as(inner[1], item, where) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _as_dataclass(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 1e300 else 0.0
    if type(value) is not kind:
        raise _UnfitError(f"{where} is {str(value)!r:.40} where {kind.__name__} is expected")
    return tidy(value) if isinstance(value, str) and not value.isprintable() else value


def _as_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _UnfitError(f"{where} is no object")
    hints, found = _hints(kind), {}
    for field in dataclasses.fields(kind):
        if field.name in value:  # What a later version added besides is of no use here.
            found[field.name] = _as(hints[field.name], value[field.name], f"{field.name} of {kind.__name__.lower()}")
        elif field.default is dataclasses.MISSING:
            raise _UnfitError(f"{where} has no {field.name}")
    made = kind(**found)
    if complaint := _complaint(made):
        raise _UnfitError(complaint)
    return made


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _complaint(value: Any) -> str:
    """What is wrong with a value beyond its types, or an empty string."""
    match value:
        case blocks.Image(kind=kind, data=data):
            try:
                start = base64.b64decode(data, validate=True)[:8]
            except ValueError:
                return "an image is not in base64"
            # An image is checked by its first bytes and decoded by the reader's browser alone.
            return "" if kind in _MAGIC and start.startswith(_MAGIC[kind]) else "an image is neither PNG nor WebP"
        case blocks.Cell(tone=tone) if tone not in ("", "helps", "harms"):
            return f"the tone of a cell is {tone!r:.40}"
        case blocks.Strip(role=role) if role not in ("target", "helps", "harms"):
            return f"the role of a strip is {role!r:.40}"
        case blocks.Plate(name=name) if not re.fullmatch(r"[a-z_-]{1,40}", name):
            return f"the name of a figure is {name!r:.40}"
        case blocks.Table(columns=columns, groups=groups):
            if any(len(row) != len(columns) for group in groups for row in group.rows):
                return "a row of a table has not as many cells as there are columns"
        case blocks.Heatmap():
            return _complaint_about_shape(value)
        case _:
            pass
    links: Sequence[str] = getattr(value, "links", ())
    return next((f"{link!r:.80} is no file of figures/ or tables/" for link in links if not _LINK.fullmatch(link)), "")


def _complaint_about_shape(heatmap: blocks.Heatmap) -> str:
    rows, columns = len(heatmap.units), len(heatmap.classes)
    grids = [heatmap.values, *(grid for grid in (heatmap.low, heatmap.high, heatmap.z) if grid)]
    sizes = {(len(grid), *{len(row) for row in grid}) for grid in grids}
    if len(heatmap.task) != rows or sizes - {(rows, columns)} or not (heatmap.limit > 0 and 0 <= heatmap.decimals < 10):
        return "the numbers of a heatmap do not fit its names"
    return ""
