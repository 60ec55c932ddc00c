"""The page of licences names every direct dependency with the tested version."""

from __future__ import annotations

import re
import runpy
import tomllib

import pytest

from tests.documentation.pages import MADE, ROOT


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    page = runpy.run_path(str(ROOT / "docs/build/licences.py"))["licences"]()
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in page.splitlines() if row.startswith("| ")][1:]


def test_every_requirement_is_there(rows: list[list[str]]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = [re.match(r"[A-Za-z0-9-]+", one)[0] for group in groups for one in group]  # type: ignore[index]
    assert [row[0] for row in rows] == [name for name in names if name != "segdistill"]
    assert ROOT / "docs/reference/licences.md" in MADE


def test_licences_and_versions(rows: list[list[str]]) -> None:
    by_name = {name: (group, pinned, licence) for name, group, pinned, licence in rows}
    assert by_name["connected-components-3d"][0] == "extra `components`"
    assert by_name["connected-components-3d"][2] == "LGPL-3.0-or-later"
    assert [name for name, row in by_name.items() if re.search("GPL", row[2])] == ["connected-components-3d"]
    assert by_name["numpy"][0] == "everything"
    assert by_name["matplotlib"][2] == "Python Software Foundation License"
    assert [name for name, row in by_name.items() if not row[2] or len(row[2]) > 120] == []
    assert by_name["jinja2"][1] == re.search(r"^Jinja2==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)[1]  # type: ignore[index]
