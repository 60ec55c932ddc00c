"""What is said of every method: its page, the tables, and `segdistill methods`."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import re
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from segdistill import methods
from segdistill.methods import METHODS, Method
from segdistill.methods.catalogue import needs, page_of_method, table_of_methods
from tests.methods.settings import SETTINGS

ROOT = Path(__file__).parents[2]


def test_every_class_in_the_folder_is_exported_and_tried() -> None:
    found = {
        member.__name__
        for file in pkgutil.iter_modules(methods.__path__)
        for _, member in inspect.getmembers(importlib.import_module(f"segdistill.methods.{file.name}"), inspect.isclass)
        if issubclass(member, Method) and member is not Method
    }
    assert found == {kind.__name__ for kind in METHODS.values()}
    assert sorted([*found, "METHODS", "Method"]) == sorted(methods.__all__)
    assert {setting.name for setting in SETTINGS} == set(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_page(name: str) -> None:
    assert METHODS[name]().name == name
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    headings = ["Idea", "Formula", "Defaults", "When to use it, and when not", "Decisions where the paper is open"]
    assert [line[3:] for line in page.splitlines() if line[:3] == "## " and line != "## Presets"][:5] == headings
    parameters = inspect.signature(METHODS[name]).parameters
    cells = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, flags=re.MULTILINE))
    assert set(cells) == set(parameters)
    for parameter, default in METHODS[name]().hyper_parameters().items():
        written = re.split(r"[ ;]", cells[parameter])[0]
        assert yaml.safe_load(written) == default or float(written) == default, parameter
    assert ("## Presets" in page) == ("preset" in parameters)


def rows(page: str) -> dict[str, list[str]]:
    """Cells of the tables of a Markdown page whose rows begin with the name of a method."""
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / page).read_text(), flags=re.MULTILINE)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_papers_years_and_costs_are_the_same_everywhere() -> None:
    index = rows("docs/methods/index.md")
    assert list(index) == [name for name in METHODS if name in index]
    table = [list(column.cells) for column in table_of_methods().columns]
    for (name, kind), (shown, _, paper, year, needed, cost) in zip(
        METHODS.items(), zip(*table, strict=True), strict=True
    ):
        assert shown == name
        assert [paper, year] == [kind.paper, str(kind.year)]
        assert needed == ", ".join(needs(kind()))
        assert cost == f"{kind.cost:.3f}"
        assert name not in index or index[name][0] == cost
        assert f" {kind.year}" in inspect.getdoc(kind)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_shown_with_its_values(name: str) -> None:
    printed = io.StringIO()
    Console(width=300, file=printed).print(page_of_method(name))
    shown = printed.getvalue()
    kind = METHODS[name]
    for parameter, value in kind().hyper_parameters().items():
        written = "null" if value is None else re.escape(f"{value:.4g}" if isinstance(value, float) else str(value))
        assert re.search(rf"│ {parameter} +│ {written} +│ \S", shown), parameter
    for preset, values in kind.presets.items():
        assert re.search(rf"│ {preset} +│", shown)
        made = kind(preset=preset)
        assert all(getattr(made, key) == value for key, value in values.items())
