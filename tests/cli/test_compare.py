"""``segdistill compare`` as a user meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.cli.main import main
from segdistill.comparison.reading import load_comparison
from segdistill.methods import KD
from tests.cli.failing import fails
from tests.training.runs import SCENES, STUDENT

TRAIN = {"epochs": 1, "batch_size": 2, "precision": "fp32", "workers": 0}


@pytest.fixture
def recipe(tmp_path: Path, finished: Path) -> Path:
    """The recipe of a single run, hyper-parameters and all; `compare` takes it as it is."""
    file = tmp_path / "recipe.yaml"
    values: dict[str, Any] = {"data": SCENES, "teacher": str(finished), "student": STUDENT, "train": TRAIN, "seed": 3}
    file.write_text(yaml.safe_dump(values | {"method": {"kd": {"temperature": 2.0}}}))
    return file


def test_from_a_recipe(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(recipe), "--methods", "none,kd", "--seeds", "2", "--device", "cpu"]
    arguments += ["--output", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run"]) == 0
    assert not (tmp_path / "out").exists()
    assert "runs to train" in capsys.readouterr().out
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "no difference seen" in printed.out
    assert (tmp_path / "out" / "report.html").stat().st_size > 0
    found = load_comparison(tmp_path / "out")
    assert [cell.seed for cell in found.baseline.cells] == [3, 4]
    assert found.recipe["method"] == [{"kd": KD(temperature=2.0).hyper_parameters()}]
    assert main([*arguments, "--resume"]) == 0
    assert "seed 3" not in capsys.readouterr().out


def test_lists_of_methods_and_seeds(recipe: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(recipe.read_text()) | {"methods": ["none", "kd"], "seeds": [7]}
    recipe.write_text(yaml.safe_dump(values))
    assert main(["compare", str(recipe), "--output", str(tmp_path / "out"), "--device", "cpu", "--quiet"]) == 0
    found = load_comparison(tmp_path / "out")
    assert [(row.method, [cell.seed for cell in row.cells]) for row in found.rows] == [("none", [7]), ("kd", [7])]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--methods", "kd"], "lacks 'none'"),
        (["--methods", "none,kdd"], "unknown method 'kdd': did you mean 'kd'?"),
        (["--seeds", "0"], "seeds is 0, expected at least 1"),
        (["--seeds", "many"], "seeds"),
        (["--executor", "dask"], "executor"),
        (["--method", "{kd: {tau: 1}}"], "unknown key in method kd: 'tau'"),
        (["--teachers", "x"], "unknown key 'teachers': did you mean 'teacher'?"),
        (["--teacher", "nowhere"], "teacher folder 'nowhere' does not exist"),
    ],
)
def test_bad_input(
    recipe: Path, tmp_path: Path, arguments: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fails(capfd, ["compare", recipe, "--output", tmp_path / "out", "--device", "cpu", *arguments], told)
    assert not (tmp_path / "out").exists()
