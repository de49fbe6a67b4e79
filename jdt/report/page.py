"""The page of a run: all its sections as one HTML file that needs nothing else."""

import base64
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from jdt.report.blocks import Section
from jdt.report.content import Content
from jdt.report.figures import Picture, save_files, save_pictures, target_pictures
from jdt.report.heatmap import heatmap_view
from jdt.report.influences import PREFIX, check_content, influence_sections, influence_tables
from jdt.report.sections import FOLDER, load_sections, remove_section, save_section, section_names, tidy
from jdt.store.files import Place, explained, read_contents, refuse_links, run_path, write_bytes

PAGE = "report.html"
_ATTEMPTS = 3
_ABOUT = "transfer influences", "Which parts of the source data make each target prediction what it is?"
_ABOUT_ALONE = {
    200: ("bias transfer", "Does a bias of the source data come along to the target?"),
    220: ("noisy pre-training", "What does label noise in the source data do to transfer, and what repairs it?"),
    240: ("pre-training data", "Which pre-training data and method are best for a target, and how many images?"),
}
"""By orders of sections, where a page has no other ones."""
_EXPLAINS = 900
"""Order of sections that explain others."""


def write_report(path: str | os.PathLike[str], content: Content) -> Place:
    """Write the page of the influences, with whatever other sections are saved beside it.

    Figures go to `figures/` (PNG and SVG), tables to `tables/` (CSV), and the sections to `sections/`, all beside the
    page, from where `renew_report` and the commands that add sections make the page again.

    Args:
      path: Of the page; missing parent directories are made.
      content: What to show.

    Returns:
      The path of the page.

    Raises:
      UserError: If the content does not fit together, or where the disk is full or the path cannot be written.
    """
    path = run_path(path)
    check_content(content)
    pictures = [target_pictures(findings) for findings in content.targets]
    sections = influence_sections(content, pictures)
    folder = path.parent
    _refuse_links(folder)
    save_pictures(folder / "figures", content, pictures)
    save_files(folder / "tables", influence_tables(content))
    names = {section.name for section in sections}
    for section in sections:
        save_section(folder, section)
    for name in section_names(folder):
        if name.startswith(f"{PREFIX}-") and name not in names:
            remove_section(folder, name)
    return _write_page(path)


def add_section(
    run: str | os.PathLike[str],
    section: Section,
    *,
    pictures: Mapping[str, Picture] | None = None,
    tables: Mapping[str, bytes] | None = None,
) -> Place:
    """Save a section with its figures and tables, in the place of an earlier one of its name, and renew the page.

    Args:
      run: The run directory.
      section: What to add to its page.
      pictures: Figures by the stems of their files in `figures/`.
      tables: CSV files by their names in `tables/`.

    Returns:
      The path of the page, `report.html` in the run directory.

    Raises:
      UserError: Where the disk is full or the run cannot be written.
    """
    folder = run_path(run)
    _refuse_links(folder)
    for stem, drawn in (pictures or {}).items():
        save_files(folder / "figures", {f"{stem}.png": drawn.png, f"{stem}.svg": drawn.svg})
    save_files(folder / "tables", tables or {})
    save_section(folder, section)
    return renew_report(folder)


def renew_report(run: str | os.PathLike[str]) -> Place:
    """Make the page of a run again from its saved sections, e.g. after an update of jdt.

    Returns:
      The path of the page.

    Raises:
      UserError: Where the sections cannot be read or the page cannot be written.
    """
    return _write_page(run_path(run) / PAGE)


def _refuse_links(folder: Place) -> None:
    for name in ("figures", "tables", FOLDER):
        refuse_links(folder, name)


def _write_page(path: Place) -> Place:
    """Put the page together, and again if another process saved a section meanwhile: the last one shows all."""
    for _ in range(_ATTEMPTS):
        before = _versions(path.parent)
        page = render(*load_sections(path.parent))
        with explained(f"writing {path}"):
            write_bytes(path, page.encode())
        if _versions(path.parent) == before:
            break
    return path


def _versions(folder: Place) -> list[tuple[str, bytes]]:
    names = section_names(folder)
    with explained(f"reading {folder / FOLDER}"):
        found = read_contents([folder / FOLDER / f"{name}.json" for name in names])
    return [(name, one.version) for name, one in zip(names, found, strict=True)]


def render(sections: Sequence[Section], complaints: Sequence[str] = ()) -> str:
    """The page of these sections.

    Args:
      sections: In their order on the page.
      complaints: Further warnings, about sections that are left out.

    Returns:
      HTML with everything in it. Its content security policy lets it load nothing and run its own script alone.
    """
    style, script = _inner("style.html"), _inner("script.html")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_source(style)}; script-src {_source(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    orders = {section.order for section in sections if section.order < _EXPLAINS}
    about, kicker = _ABOUT_ALONE.get(orders.pop(), _ABOUT) if len(orders) == 1 else _ABOUT
    return _environment().get_template("page.html").render(
        about=about,
        kicker=kicker,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        title=next((section.page_title for section in sections if section.page_title), about.capitalize()),
        paragraphs=[paragraph for section in sections for paragraph in section.summary],
        warnings=[*(warning for section in sections for warning in section.warnings), *complaints],
        sections=sections,
    )  # fmt: skip


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template), autoescape=True, undefined=jinja2.StrictUndefined,
        finalize=_printable, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals.update(heatmap_view=heatmap_view, kind_of=lambda block: type(block).__name__.lower())
    return environment


def _printable(value: Any) -> Any:
    """Text of any origin without control characters, which no page may hold."""
    return (
        tidy(value) if type(value) is str and not value.isprintable() else value
    )  # Markup is what was escaped already.


@functools.cache
def _template(name: str) -> str:
    return resources.files("jdt.report").joinpath(name).read_text("utf-8")


def _inner(name: str) -> str:
    """What is between the tags of a template that is one element."""
    return _template(name).partition(">")[2].rpartition("</")[0]


def _source(text: str) -> str:
    """The one inline text that a content security policy admits."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
