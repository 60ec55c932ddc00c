"""A report as one HTML file that opens from disk: no network, no other file; for a desk, a phone, paper and a reader.

A page is a list of sections, a section a list of blocks. What they look like is in ``templates/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined

_TEMPLATES = Environment(
    loader=PackageLoader("segdistill.reporting"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.policies["json.dumps_kwargs"] = {}  # keys keep their order


@dataclass(frozen=True)
class Block:
    """A part of a page; ``macro`` is what draws it, in ``templates/blocks.html``."""

    macro: ClassVar[str]


@dataclass(frozen=True)
class Paragraph(Block):
    """A paragraph; ``kind`` is "", "lead", "verdict", "note" or "warning"."""

    macro: ClassVar[str] = "paragraph"
    text: str
    kind: str = ""


@dataclass(frozen=True)
class Bullets(Block):
    """A list; ``kind`` is "" or "warnings". Nothing where there is no text."""

    macro: ClassVar[str] = "bullets"
    texts: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Facts(Block):
    """A few numbers in large type: by name, the number and the words below it."""

    macro: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table(Block):
    """A table that scrolls sideways where the page is narrow.

    Attributes:
        caption: what it shows.
        columns: the headings; the first column names the rows, the others hold numbers.
        rows: texts; a line break in one begins its small print.
        words: the columns that hold words instead of numbers.
    """

    macro: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """A chart, as SVG, and the words below it."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Figures(Block):
    """Charts beside each other where there is room."""

    macro: ClassVar[str] = "figures"
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Tile:
    """A picture in a row of pictures: its address, its name, and its small print."""

    address: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Strip(Block):
    """Pictures beside each other, in as many rows as the page asks for.

    Attributes:
        tiles: the pictures, of equal size.
        colours: name and colour of what the colours in them mean.
        caption: the words below them.
    """

    macro: ClassVar[str] = "strip"
    tiles: Sequence[Tile]
    colours: Sequence[tuple[str, str]]
    caption: str


@dataclass(frozen=True)
class Listing(Block):
    """Text as it stands, in a box that scrolls."""

    macro: ClassVar[str] = "listing"
    text: str
    label: str


@dataclass(frozen=True)
class Fold(Block):
    """Blocks that are shown on demand."""

    macro: ClassVar[str] = "fold"
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Gallery(Block):
    """Images to look at, two layers under a slider.

    Attributes:
        values: what the script draws from: ``classes``, ``mistakes``, ``scenes``.
        layers: names of what can be shown, by key.
        left: the key shown left of the slider at first.
        right: the key shown right of it.
        heading: of the small pictures to choose from.
    """

    macro: ClassVar[str] = "gallery"
    values: Mapping[str, Any]
    layers: Mapping[str, str]
    left: str
    right: str
    heading: str = "Image"


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading, listed at the top; left out where it has no blocks."""

    anchor: str
    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page.

    Attributes:
        title: its heading.
        summary: a line below it.
        sections: in order.
    """

    title: str
    summary: str
    sections: Sequence[Section] = field(default_factory=tuple)

    def render(self) -> str:
        """The page as HTML."""
        shown = [section for section in self.sections if section.blocks]
        return render("page.html", title=self.title, summary=self.summary, sections=shown)


def fragment(blocks: Sequence[Block]) -> str:
    """Return blocks alone as HTML, for a notebook, which has a style of its own."""
    return render("fragment.html", shown=blocks)


def render(template: str, **values: object) -> str:
    """One of the templates as HTML; every text in ``values`` is escaped."""
    return _TEMPLATES.get_template(template).render(**values)
