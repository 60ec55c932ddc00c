"""``segdistill advise`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.cli.main import main
from tests.cli.failing import fails
from tests.training.runs import SCENES, STUDENT

TRAIN = {"epochs": 3, "batch_size": 2, "precision": "fp32", "workers": 0}


@pytest.fixture
def recipe(tmp_path: Path, finished: Path) -> Path:
    """The recipe of a single run."""
    file = tmp_path / "recipe.yaml"
    values: dict[str, Any] = {"data": SCENES, "teacher": str(finished), "student": STUDENT, "train": TRAIN, "seed": 3}
    file.write_text(yaml.safe_dump(values | {"method": "kd"}))
    return file


def test_from_a_recipe(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text("page"))
    arguments = ["advise", str(recipe), "--methods", "kd,cwd", "--device", "cpu", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert "the best 1 of 2" in capsys.readouterr().out
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    values = json.loads((tmp_path / "out" / "advice.json").read_text())
    assert values["text"] in " ".join(printed.out.split())
    assert [rung["epochs"] for rung in values["rungs"]] == [1, 3]
    assert (tmp_path / "out" / "rung-2" / "cells" / "none" / "seed-3" / "metrics.json").exists()
    assert (tmp_path / "out" / "report.html").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--methods", "none,kdd"], "unknown method 'kdd': did you mean 'kd'?"),
        (["--eta", "1"], "eta is 1, expected at least 2"),
        (["--rungs", "few"], "rungs"),
        (["--budget", "0"], "budget is 0, expected minutes, above 0"),
        (["--budget", "1e-6"], "budget is 1e-06 min, but in the first rung"),
        (["--bugdet", "3"], "unknown key 'bugdet': did you mean 'budget'?"),
        (["--teacher", "nowhere"], "teacher folder 'nowhere' does not exist"),
    ],
)
def test_bad_input(
    recipe: Path, tmp_path: Path, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fails(capfd, ["advise", recipe, "--output", tmp_path / "out", "--device", "cpu", *arguments], told)
    assert not (tmp_path / "out").exists()
