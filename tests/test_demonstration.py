from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from segdistill import RunFolder, UserError, load_run
from segdistill.comparison.reading import load_comparison
from segdistill.demonstration import demo as module
from segdistill.demonstration.demo import demo
from segdistill.evaluation.evaluate import measure
from segdistill.recipe.data import build_split
from tests.training.runs import SCENES, STUDENT, TEACHER, contents

DATA = SCENES | {"count": 8}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TEACHER", TEACHER), ("STUDENT", STUDENT), ("DATA", DATA), ("SIZE", 32)):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))


def test_it_ends_with_a_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = demo(output=tmp_path / "demo", method="kd", teacher_epochs=1, epochs=2, device="cpu")
    printed = capsys.readouterr().out
    assert [row["network"] for row in rows] == ["teacher", "student alone", "student + kd"]
    assert json.loads((tmp_path / "demo" / "demo.json").read_text()) == rows
    found = load_comparison(tmp_path / "demo" / "compare")
    assert found.finished
    assert found.recipe["train"]["epochs"] == 2
    # The table is about scenes that neither training nor the comparison has seen.
    scenes = build_split(DATA, "test")
    for row, cell in zip(rows, (found.teacher, *found.rows), strict=True):
        assert row["miou"] == pytest.approx(measure(load_run(cell.cells[0].run), scenes).miou)
        assert (row["parameters"], row["macs"]) == (cell.parameters, cell.macs)
        assert f"{row['miou']:.1f}" in printed
    assert (
        rows[0]["training_seconds"]
        == (RunFolder(tmp_path / "demo" / "teacher").read_metrics() or {})["training_seconds"]
    )
    assert found.verdict.split(":")[0] in " ".join(printed.split())
    # It ends in words, for someone who has never heard of distillation.
    told = printed[printed.index("What was done:") :]
    assert len(told.splitlines()) == 5
    alone, kd = (f"{row['miou']:.1f}" for row in rows[1:])
    assert f"on {len(scenes)} other scenes the student has an mIoU of {alone} alone, and {kd} as student + kd" in told
    assert f"{tmp_path / 'demo' / 'compare' / 'report.html'} in a browser" in told
    assert (tmp_path / "demo" / "compare" / "report.html").read_text() == "page"
    left = {"compare", "comparison.png", "demo.json", "teacher"}
    assert {path.name for path in (tmp_path / "demo").iterdir()} == left
    with Image.open(tmp_path / "demo" / "comparison.png") as picture:
        assert picture.width > 5 * 32


def test_an_earlier_demo_is_replaced_or_kept(tmp_path: Path) -> None:
    options = {"output": tmp_path, "method": "kd", "teacher_epochs": 1, "device": "cpu", "quiet": True}
    demo(**options, epochs=1)  # type: ignore[arg-type]
    before = contents(tmp_path / "compare" / "cells")
    with pytest.raises(UserError, match="teacher already holds a run"):
        demo(**options, epochs=1, overwrite=False)  # type: ignore[arg-type]
    assert contents(tmp_path / "compare" / "cells") == before
    # Other epochs and another seed: a comparison that went on with the old runs would be refused.
    demo(**options, epochs=2, seed=1)  # type: ignore[arg-type]
    found = load_comparison(tmp_path / "compare")
    assert [cell.seed for cell in found.baseline.cells] == [1]
    assert found.baseline.cells[0].epochs == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [({"method": "kdd"}, "unknown method 'kdd': did you mean 'kd'?"), ({"output": "file"}, "is a file, expected")],
)
def test_bad_input_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    with pytest.raises(UserError) as error:
        demo(**{"output": "demo", **options})  # type: ignore[arg-type]
    assert told in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_run_that_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise UserError("it broke")

    monkeypatch.setattr("segdistill.comparison.cells.run_distillation", failing)
    with pytest.raises(UserError, match="the student with kd failed: it broke"):
        demo(output=tmp_path, method="kd", teacher_epochs=1, epochs=1, device="cpu", quiet=True)
