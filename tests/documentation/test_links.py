"""Every link between pages leads somewhere, and so does every page that the code names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation.pages import MADE, PAGES, ROOT, name_of, text_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other in MADE or other.exists(), target
        assert not heading or heading in headings(other), target


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    titles = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_that_are_named_elsewhere_exist() -> None:
    files = [path for folder in ("src", "tests", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.*")]
    named = {
        (path.name, page)
        for path in [*files, ROOT / "CONTRIBUTING.md", ROOT / "README.md"]
        if path.suffix in (".py", ".yaml", ".md", ".html")
        for page in re.findall(r"\bdocs/[a-z\d/-]+\.md\b", path.read_text())
    }
    assert len(named) > 10
    assert [one for one in sorted(named) if not (ROOT / one[1]).exists() and (ROOT / one[1]) not in MADE] == []


def test_every_howto_is_at_most_a_screen() -> None:
    pages = sorted((ROOT / "docs/how-to").glob("*.md"))
    assert len(pages) > 20
    assert [name_of(page) for page in pages if len(page.read_text().splitlines()) > 75] == []


def test_every_page_begins_with_what_it_is_for() -> None:
    """Its first sentence stands in the list of its section, too; a command says nothing to who does not know it."""
    wordless = re.compile(r"(```|\||#|\*|-|<)")
    begins = {page: text_of(page).split("\n\n", 2)[1] for page in PAGES if page.parent.parent == ROOT / "docs"}
    assert len(begins) > 60
    assert [name_of(page) for page, text in begins.items() if wordless.match(text)] == []


def test_the_front_page_is_short_and_light() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
    assert sum(picture.stat().st_size for picture in (ROOT / "docs/images").iterdir()) < 200_000
