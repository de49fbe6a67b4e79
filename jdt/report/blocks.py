"""What a page is made of, as plain values: sections of blocks.

A run directory may come from someone else, and so may the sections that are kept in it. They therefore hold values and
no HTML: every text is escaped when the page is put together, an image is nothing but the bytes of a PNG or WebP file,
and a link is the plain name of a file in `figures/` or `tables/`. Whatever a section says, it cannot add a script, a
style or an address to the page. As a further benefit, sections that an older version saved look like those of today.
"""

import dataclasses

CLASSES_WITH_NUMBERS = 14
"""A heatmap with more columns prints signs in its cells instead of numbers."""


@dataclasses.dataclass(frozen=True)
class Image:
    """A picture inside the page.

    Attributes:
      alt: What it shows, for readers who cannot see it.
      kind: `png` or `webp`.
      data: The file in base64.
      width, height: In pixels.
    """

    alt: str
    kind: str
    data: str
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph; `small` print is what explains a number."""

    text: str
    title: str = ""
    small: bool = False


@dataclasses.dataclass(frozen=True)
class Tile:
    """One number at the head of a section."""

    label: str
    value: str
    small: str = ""


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Numbers at the head of a section."""

    tiles: tuple[Tile, ...]


@dataclasses.dataclass(frozen=True)
class Plate:
    """A figure with its caption and the files that hold it, too, e.g. `figures/counterfactual_1.svg`."""

    name: str
    image: Image
    caption: str
    title: str = ""
    links: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Column:
    """Head of a column; `key` is whether it can be sorted by."""

    title: str
    number: bool = False
    key: bool = True


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
      text: What it says.
      small: Small print below it.
      value: What it is sorted by, where that is not its text.
      tone: `helps` or `harms`: the colour of the text, which says so itself by its sign.
      strong: Whether the text stands out.
      whisker: An interval as a tiny drawing: low, value, high, from -50 to 50 around zero.
      images: Pictures in the cell.
    """

    text: str = ""
    small: str = ""
    value: float | None = None
    tone: str = ""
    strong: bool = False
    whisker: tuple[float, float, float] | None = None
    images: tuple[Image, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a table under a common head, or under none. The first cell of a row is its head."""

    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table that can be sorted by its columns.

    Attributes:
      label: What it holds, for readers who cannot see it.
      columns: Heads of columns.
      groups: Rows; sorting keeps groups in their places.
      title: Heading above it.
      note: How to read it.
      links: Files that hold it, e.g. `tables/counterfactual_1.csv`.
      folded: Where not empty, the table is shown after a click on these words.
    """

    label: str
    columns: tuple[Column, ...]
    groups: tuple[Rows, ...]
    title: str = ""
    note: str = ""
    links: tuple[str, ...] = ()
    folded: str = ""


@dataclasses.dataclass(frozen=True)
class Heatmap:
    """Influence of units (rows) on target classes (columns), as a grid to sort and to click on.

    Attributes:
      label: What it holds, for readers who cannot see it.
      units: Names of the rows, in the order of `task`.
      classes: Names of the columns.
      task: Influence of the units on the whole task, in the unit shown; None where the models cannot tell.
      values: Influence of the units on the classes, likewise.
      low, high: 95 % intervals of `values`; empty where there are none.
      z: Influence over its sampling deviation; empty where there is none.
      limit: Where the colours end.
      unit: After numbers, e.g. "pp".
      decimals: Digits after the point.
      output: What is influenced, e.g. "mean confidence in the true class".
      unit_images, class_images: A picture of some units and classes, by name.
      caption: How to read it.
      title: Heading above it.
      figure: The same as a drawing, for print.
      links: Files that hold it.
    """

    label: str
    units: tuple[str, ...]
    classes: tuple[str, ...]
    task: tuple[float | None, ...]
    values: tuple[tuple[float | None, ...], ...]
    low: tuple[tuple[float | None, ...], ...]
    high: tuple[tuple[float | None, ...], ...]
    z: tuple[tuple[float | None, ...], ...]
    limit: float
    unit: str
    decimals: int
    output: str
    unit_images: dict[str, Image]
    class_images: dict[str, Image]
    caption: str
    title: str = ""
    figure: Plate | None = None
    links: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Strip:
    """Pictures of one thing with its name and what it does; `role` is `target`, `helps` or `harms`."""

    name: str
    role: str
    words: str = ""
    image: Image | None = None


@dataclasses.dataclass(frozen=True)
class StripGroup:
    """A subject and what moves it, side by side."""

    strips: tuple[Strip, ...]
    title: str = ""
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Strips:
    """Image grids."""

    groups: tuple[StripGroup, ...]
    title: str = ""
    note: str = ""
    links: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Facts:
    """Names and values as they are, shown after a click: the provenance of a run."""

    rows: tuple[tuple[str, str], ...]
    folded: str


@dataclasses.dataclass(frozen=True)
class Reading:
    """How to read influences; `relative` as in `Content`."""

    relative: bool


Block = Text | Tiles | Plate | Table | Heatmap | Strips | Facts | Reading


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page that one command made, as it is kept in the run directory.

    Attributes:
      name: Of its file, `sections/NAME.json`: letters, digits, `-` and `_`.
      order: Sections stand in this order: influences from 100, bias 200, noise 220, pre-training data 240,
        counterfactuals 300, cases 400, suspects 500, from 900 on what explains them.
      title: Of the section and of its entry in the contents.
      blocks: What is in it.
      subtitle: Small print after the title.
      page_title: Of the whole page; the first section that has one gives it.
      summary: Paragraphs for the head of the page: what was found, in words with numbers.
      warnings: What the reader must know before believing a number.
    """

    name: str
    order: int
    title: str
    blocks: tuple[Block, ...]
    subtitle: str = ""
    page_title: str = ""
    summary: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
