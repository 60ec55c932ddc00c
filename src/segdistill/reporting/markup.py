"""Pieces of a self-contained HTML page; every text that is given is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any


def page(title: str, summary: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """A whole page with its style and script.

    Args:
        title: its heading.
        summary: a line below it.
        sections: anchor, heading and content (HTML) of each section; empty content leaves a section out.
    """
    shown = [section for section in sections if section[2]]
    return Template(_asset("page.html")).substitute(
        title=escape(title),
        summary=escape(summary),
        style=_asset("page.css"),
        script=_asset("page.js"),
        links="\n".join(f'<a href="#{anchor}">{escape(heading)}</a>' for anchor, heading, _ in shown),
        sections="\n".join(
            f'<section id="{anchor}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'
            for anchor, heading, content in shown
        ),
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of the style ``kind``."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(texts: Sequence[str], kind: str = "") -> str:
    """A list; nothing where there is no text."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="{kind}">{items}</ul>' if texts else ""


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[str] = ()) -> str:
    """A table that scrolls sideways where the page is narrow; the first column names the rows, the others are numbers.

    Args:
        caption: what it shows.
        columns: headings.
        rows: texts; a line break in one begins its small print.
        words: the columns that hold no numbers.
    """
    kinds = [' class="words"' if column in words else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(columns, kinds, strict=True))
    body = "\n".join(
        f'<tr><th scope="row">{_cell(row[0])}</th>'
        + "".join(f"<td{kind}>{_cell(text)}</td>" for text, kind in zip(row[1:], kinds[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    # What scrolls must be reachable by keyboard, hence the tab stop and the name.
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{escape(caption)}"><table><caption>{escape(caption)}'
        f"</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    first, _, small = text.partition("\n")
    return escape(first) + (f"<small>{escape(small)}</small>" if small else "")


def figure(svg: str, caption: str) -> str:
    """A chart with the words below it."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def side_by_side(figures: Sequence[str]) -> str:
    """Figures beside each other where there is room."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def fold(heading: str, content: str) -> str:
    """Content that is shown on demand."""
    return f"<details><summary>{escape(heading)}</summary>{content}</details>"


def listing(text: str, label: str) -> str:
    """Text as it stands, in a box that scrolls."""
    return f'<pre tabindex="0" role="region" aria-label="{escape(label)}">{escape(text)}</pre>'


def options(choices: Mapping[str, str], chosen: str) -> str:
    """The choices of a selection, by value, and which one is set."""
    return "".join(
        f'<option value="{escape(value)}"{" selected" if value == chosen else ""}>{escape(name)}</option>'
        for value, name in choices.items()
    )


def gallery(values: Mapping[str, Any], layers: Mapping[str, str], left: str, right: str) -> str:
    """The part of the page in which images are looked at, two layers under a slider.

    Args:
        values: what the script draws from: ``classes``, ``mistakes``, ``scenes``.
        layers: names of what can be shown, by key.
        left: the key shown left of the slider at first.
        right: the key shown right of it.
    """
    # No "<" in the data can end the script element that holds it.
    data = json.dumps(values).replace("<", "\\u003c")
    classes = {"": "all classes"} | {str(number): one["name"] for number, one in enumerate(values["classes"])}
    return Template(_asset("gallery.html")).substitute(
        left=options(layers, left), right=options(layers, right), classes=options(classes, ""), data=data
    )


def _asset(name: str) -> str:
    return (resources.files("segdistill.reporting") / "assets" / name).read_text(encoding="utf-8")
