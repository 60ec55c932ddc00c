"""The notebooks of the tutorials: every cell runs, what they promise is there, and their outputs are stored."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.documentation.pages import NOTEBOOKS, ROOT

#: What must be in the folder in the end, by notebook.
RESULTS = {
    "distil-on-your-own-folder": (
        "preview.png",
        "runs/teacher/model.safetensors",
        "runs/student/report.html",
        "runs/compare/report.html",
        "labels/3.png",
        "labels/3-overlay.png",
    ),
    "from-a-geotiff-to-a-map": (
        "runs/student/model.safetensors",
        "city-labels.tif",
        "city-labels-probabilities.tif",
        "city-labels.gpkg",
    ),
    "learn-from-a-backbone-and-unlabelled-images": (
        "runs/pretrained/pretrained.safetensors",
        "runs/student/report.html",
        "runs/compare/report.html",
        "pseudo/masks/11.png",
        "runs/second/metrics.json",
    ),
}
tools = runpy.run_path(str(ROOT / "docs/build/notebooks.py"))


def outputs(notebook: Any) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", [])]


def kinds(found: list[dict[str, Any]]) -> set[str]:
    return {kind for output in found for kind in output.get("data", {})}


def test_each_has_its_results() -> None:
    assert [notebook.stem for notebook in NOTEBOOKS] == sorted(RESULTS)


# Each trains several networks.
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_every_cell_runs(notebook: Path, tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if "geotiff" in notebook.stem:
        pytest.importorskip("rasterio")
        pytest.importorskip("pyogrio")
    done = tools["executed"](notebook, tmp_path)
    assert [name for name in RESULTS[notebook.stem] if not (tmp_path / name).exists()] == []
    stored = json.loads(notebook.read_text())
    shown = [[len(cell.get("outputs", [])) > 0 for cell in one["cells"]] for one in (stored, done)]
    assert shown[0] == shown[1], "make notebooks"
    assert kinds(outputs(done)) == kinds(outputs(stored))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_outputs_are_stored(notebook: Path) -> None:
    stored = json.loads(notebook.read_text())
    code = [cell for cell in stored["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    found = outputs(stored)
    assert {output["output_type"] for output in found} <= {"stream", "display_data", "execute_result"}
    assert "text/html" in kinds(found)
    assert {"image/png", "image/jpeg"} & kinds(found)
    assert [output["text"] for output in found if output.get("name") == "stderr"] == []
    assert not re.search(r"/(tmp|home|work|root)/", json.dumps(found)), "a path of the machine that ran it"
    assert notebook.stat().st_size < 600_000


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_its_page_shows_all_of_it(notebook: Path) -> None:
    page, stored = tools["page"](notebook), json.loads(notebook.read_text())
    cells, found = stored["cells"], outputs(stored)
    assert [cell["id"] for cell in cells if "".join(cell["source"]) not in page] == []
    assert page.count('<div class="output"') == len(found) > 4
    assert page.count("data:image/") == sum("image/" in "".join(one.get("data", {})) for one in found)
    assert not re.search(r"<script|src=\"http", page)
