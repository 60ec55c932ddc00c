"""Every kind of block of a page: what is given is escaped, and nothing comes from elsewhere."""

from __future__ import annotations

import importlib.resources

from segdistill.reporting.page import (
    Bullets,
    Facts,
    Figure,
    Figures,
    Fold,
    Gallery,
    Listing,
    Page,
    Paragraph,
    Section,
    Strip,
    Table,
    Tile,
)
from tests.reporting.test_report import Page as Parsed

EVIL = "</script><b>&'\""
VALUES = {"classes": [{"name": EVIL, "colour": "#ff0000"}], "mistakes": [], "scenes": []}
BLOCKS = [
    Paragraph(EVIL, "lead"),
    Bullets([EVIL, "two"], "warnings"),
    Bullets([]),
    Facts([(EVIL, EVIL, EVIL)]),
    Table(EVIL, [EVIL, "number", "words"], [[f"{EVIL}\n{EVIL}", "1", EVIL]], words=["words"]),
    Figures([Figure("<svg></svg>", EVIL)]),
    Figures([]),
    Strip([Tile("data:,", EVIL, EVIL), Tile("data:,", "b")], [(EVIL, "#ff0000")], EVIL),
    Listing(EVIL, EVIL),
    Fold(EVIL, [Paragraph("inside"), Fold("inner", [Listing("deep", "x")])]),
    Gallery(VALUES, {"image": "image", "a": EVIL}, "image", "a"),
]


def test_every_text_is_escaped() -> None:
    text = Page(EVIL, EVIL, [Section("one", EVIL, BLOCKS), Section("none", "left out", [])]).render()
    page = Parsed(text)
    assert text.startswith("<!doctype html>")
    assert not {"b", "i"} & set(page.tags)
    assert page.headings == [EVIL]
    assert page.rows[1] == [EVIL + EVIL, "1", EVIL]
    assert page.gallery() == VALUES
    assert page.tags.count("svg") == 1
    assert page.tags.count("li") == 3  # two texts and a colour; the list without a text is no list
    assert "deep" in page.text
    assert "left out" not in text
    assert "http:" not in text
    assert "https:" not in text
    assert all(address.startswith(("#", "data:")) for address in page.addresses)


def test_templates_hold_no_address_and_are_part_of_the_package() -> None:
    folder = importlib.resources.files("segdistill.reporting") / "templates"
    names = {file.name for file in folder.iterdir()}
    assert {"page.html", "blocks.html", "page.css", "page.js"} <= names
    assert not [name for name in names if "http:" in (folder / name).read_text(encoding="utf-8")]
