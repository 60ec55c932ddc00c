"""Every link between pages leads somewhere, and so does every page that the code names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from segdistill.datasets import DATASETS
from segdistill.exporting.options import ExportOptions
from segdistill.formats import FORMATS
from segdistill.networks.loading import SOURCES, load_network
from segdistill.recipe.keywords import field_help
from segdistill.recipe.losses import TASK_LOSSES
from segdistill.recipe.train_config import TrainConfig
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


def test_every_data_set_is_in_the_table() -> None:
    table = (ROOT / "docs/reference/data.md").read_text()
    assert [name for name in DATASETS if f"\n| `{name}` |" not in table] == []


def test_every_task_loss_is_in_the_table_and_in_the_help() -> None:
    cells = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/reference/losses.md").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(cells))) >= set(TASK_LOSSES)
    shown = field_help(TrainConfig)["loss"]
    assert [name for name in TASK_LOSSES if not re.search(rf"\b{name}\b", shown)] == []


def test_every_source_of_networks_is_in_the_table_and_in_the_docstring() -> None:
    table = (ROOT / "docs/reference/networks.md").read_text()
    assert [name for name in SOURCES if f"`{name}:" not in table] == []
    assert [name for name in SOURCES if f"{name}:" not in str(load_network.__doc__)] == []


def test_every_format_is_in_the_help() -> None:
    shown = field_help(ExportOptions)["format"]
    assert [name for name in FORMATS if not re.search(rf"(^|\W){name}\W", shown)] == []


def test_the_front_page_is_short_and_light() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90
    assert sum(picture.stat().st_size for picture in (ROOT / "docs/images").iterdir()) < 200_000
