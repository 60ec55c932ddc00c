"""What is said of every method: its page, the tables, and `segdistill methods`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import yaml

from segdistill import methods
from segdistill.methods import METHODS, Method
from tests.methods.settings import SETTINGS


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
    page = (Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    headings = ["Idea", "Formula", "Defaults", "When to use it, and when not", "Where the reading had to choose"]
    assert [line[3:] for line in page.splitlines() if line[:3] == "## " and line != "## Presets"][:5] == headings
    parameters = inspect.signature(METHODS[name]).parameters
    cells = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, flags=re.MULTILINE))
    assert set(cells) == set(parameters)
    for parameter, default in METHODS[name]().hyper_parameters().items():
        written = re.split(r"[ ;]", cells[parameter])[0]
        assert yaml.safe_load(written) == default or float(written) == default, parameter
    assert ("## Presets" in page) == ("preset" in parameters)
