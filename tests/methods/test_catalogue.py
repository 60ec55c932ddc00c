"""What is said of every method: its page, the tables, and `segdistill methods`."""

from __future__ import annotations

import importlib
import inspect
import io
import pkgutil
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from rich.console import Console

from segdistill import methods
from segdistill.methods import METHODS, Method, catalogue
from segdistill.methods.catalogue import needs, page_of_method, summary, table_of_methods
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
    first = " ".join(page.partition("\n## ")[0].split())
    assert f" It transfers {summary(METHODS[name])}." in first  # what it is for is said before anything else
    assert "segdistill distill recipe.yaml " in first
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


class Foreign(Method):
    """Pull: a method of another package.

    It draws features together.

    Args:
        strength: how much: from 0
         to any number; None for all.
        hard_or_soft_and_sure: anything.
    """

    presets = {"low": {"strength": 0.125}, "high": {"strength": 8.0}}  # noqa: RUF012

    def __init__(self, strength: float | None, hard_or_soft_and_sure: bool = True) -> None:
        super().__init__()

    def forward(self, **_: Any) -> dict[str, Any]:
        return {}


class Bare(Foreign):
    """Nothing but this."""

    family = "feature"
    paper = "Nobody"
    year = 2001
    needs_labels = True
    cost = 1.25
    presets = {}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(1.0)


FOREIGN, BARE = f"python:{__name__}:Foreign", f"python:{__name__}:Bare"


def lines(shown: Any, width: int) -> list[str]:
    printed = io.StringIO()
    Console(width=width, file=printed).print(shown)
    return [line.rstrip() for line in printed.getvalue().splitlines()]


def test_the_page_of_a_method_of_another_package() -> None:
    shown = lines(page_of_method(FOREIGN), 90)
    assert shown[0].strip() == f"{FOREIGN}: Pull: a method of another package"
    assert "It draws features together." in shown
    assert shown[shown.index("Needs nothing in particular.") + 1 :] == [
        "hyper-parameters",
        "┏━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┓",
        "┃ name                  ┃ default  ┃ meaning                                       ┃",
        "┡━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┩",
        "│ strength              │ required │ how much: from 0 to any number; null for all. │",
        "│ hard_or_soft_and_sure │ True     │ anything.                                     │",
        "└───────────────────────┴──────────┴───────────────────────────────────────────────┘",
        "presets",
        "┏━━━━━━━━┳━━━━━━━━━━┓",
        "┃ preset ┃ strength ┃",
        "┡━━━━━━━━╇━━━━━━━━━━┩",
        "│ low    │    0.125 │",
        "│ high   │        8 │",
        "└────────┴──────────┘",
    ]
    assert "│ hard_or_soft_and_sure │ T… │ an… │" in lines(page_of_method(FOREIGN), 36), "names stay whole"


def test_a_page_says_what_a_method_needs_costs_and_how_it_is_written() -> None:
    shown = lines(page_of_method("at"), 120)
    cost = "A training step takes 1.017 times as long as without the method, teacher included."
    assert f"Needs stages. Family: feature. {cost}" in shown
    written = "{at: {preset: paper}}"
    assert shown[-2:] == [f"in a recipe: method: {written}", f"on the command line: --method '{written}'"]
    bare = lines(page_of_method(BARE), 120)
    assert "Nothing but this." in bare
    assert f"Needs labels. Family: feature. {cost.replace('1.017', '1.250')}" in bare
    assert not any("presets" in line or "recipe" in line for line in bare)


def test_methods_of_other_packages_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "known_names", lambda _: [FOREIGN, "kd", BARE])
    shown = lines(table_of_methods(), 300)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown if line.startswith("│")]
    assert [name for name, *_ in rows] == [*METHODS, FOREIGN, BARE]
    assert rows[-2:] == [
        [FOREIGN, "Pull: a method of another package", "", "", "", ""],
        [BARE, "Nothing but this", "Nobody", "2001", "labels", "1.250"],
    ]
    assert rows[1][1] == "the teacher's class probabilities, pixel by pixel"
    rules = [line for line in shown if line.startswith("├")]
    assert len(rules) == len(rows) - 1, "a line between every two"
    assert re.search(r" needs +┃  cost ┃$", shown[1])
    caption = shown[shown.index(next(line for line in shown if line.startswith("└"))) + 1 :]
    assert " ".join(caption).startswith("needs: labels of the images; of both networks: stages")
    assert not any(line.startswith(" ") for line in caption)


def test_in_a_narrow_table_names_years_and_costs_stay_whole() -> None:
    shown = lines(table_of_methods(), 50)
    for name, kind in METHODS.items():
        assert any(re.match(rf"│ {name} +│.*│ {kind.year} │.*│ {kind.cost:.3f} │$", line) for line in shown), name


def test_the_first_line_of_a_file_says_what_its_method_transfers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segdistill.methods.pull", ModuleType("segdistill.methods.pull", PULL))
    kind = type("Pull", (Bare,), {"__module__": "segdistill.methods.pull", "__doc__": "Another text."})
    assert summary(kind) == "features, and more: all of them"


PULL = """Pull: features, and more: all of them.

With a text that says more: of everything.
"""
