"""Help and mistakes are answered before torch and other libraries that take seconds are imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import segdistill
from segdistill.cli.main import COMMANDS
from segdistill.datasets import DATASETS
from segdistill.lazy import load
from segdistill.methods import METHODS, Method

HEAVY = ("torch", "numpy", "lightning", "transformers", "torchvision")
RECIPE = ["--data", "{dataset: camvid, root: x}", "--output", "x"]
DISTILL = [*RECIPE, "--teacher", "x", "--student", "y"]
HELP = [[command, "--help"] for command in COMMANDS]
HELP += [["--help"], ["data", "check", "--help"], ["data", "preview", "--help"], ["data", "stats", "--help"]]
MISTAKES = [
    ["trian"],
    ["data", "chek"],
    *([command, "--wrong", "1"] for command in COMMANDS if command != "data"),
    *(["data", command, "--dataset", "camvd"] for command in ("check", "preview", "stats")),
    ["train"],
    ["train", "nowhere.yaml"],
    ["train", *RECIPE, "--network", "x", "--train.lr", "fast"],
    ["train", *RECIPE, "--network", "x", "--train.epochs", "0"],
    ["train", *RECIPE, "--network", "x", "--device", "tpu"],
    ["train", *RECIPE, "--network", "x", "--data.dataset", "camvd"],
    ["distill", *DISTILL, "--method", "brb"],
    ["distill", *DISTILL, "--method", "{kd: {}, brb: {}}"],
    ["distill", *DISTILL, "--teacher-cache", "x"],
    ["compare", *DISTILL, "--methods", "none,kdd"],
    ["advise", *DISTILL, "--methods", "kd,brd+kdd"],
    ["evaluate", "nowhere"],
    ["evaluate", ".", "--output", "scores.txt"],
    ["predict", "nowhere", "photos", "-o", "out"],
    ["predict", ".", "photos", "-o", "out", "--flips", "up"],
    ["predict", ".", "photos", "-o", "out", "--device", "tpu"],
    ["predict", ".", "photos", "-o", "out", "--resize", "big"],
    ["export", "nowhere"],
    ["export", ".", "--format", "onx"],
    ["export", ".", "--finetune", "3"],
    ["benchmark", "nowhere"],
    ["benchmark", ".", "--runtimes", "tensorrt"],
    ["play", "nowhere"],
    ["demo", "--method", "brb"],
    ["methods", "kdd"],
    ["methods", "kd", "cwd"],
]
PROGRAM = """
import contextlib, io, json, sys
from segdistill.cli.main import main
heavy, lines = json.load(sys.stdin)
found = []
for line in lines:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = main(line)
        except SystemExit as end:
            code = end.code
    found.append([code, [name for name in heavy if name in sys.modules]])
print(json.dumps(found))
"""


@pytest.mark.parametrize(("lines", "code"), [(HELP, 0), (MISTAKES, 2)], ids=["help", "mistakes"])
def test_nothing_heavy_is_imported(lines: list[list[str]], code: int, tmp_path: Path) -> None:
    """All lines in one process: what one of them had imported would be there for the next ones."""
    given = json.dumps([HEAVY, lines])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    found = zip(map(" ".join, lines), json.loads(done.stdout), strict=True)
    assert [(line, *answer) for line, answer in found if answer != [code, []]] == []


@pytest.mark.parametrize("table", [METHODS, DATASETS])
def test_names_are_those_of_the_classes(table: Any) -> None:
    for name, place in table.places.items():
        assert table[name] is load(place)
        assert getattr(segdistill, "methods" if table is METHODS else "datasets").__all__.count(table[name].__name__)


def test_methods_are_called_as_their_classes() -> None:
    assert {name: kind.name for name, kind in METHODS.items() if isinstance(vars(kind).get("name"), str)} == {}
    assert all(issubclass(kind, Method) and kind.__name__.lower() == name for name, kind in METHODS.items())


def test_texts_of_commands_are_those_of_the_functions() -> None:
    """The help is printed without the functions; its words, choices and defaults are held equal to theirs here."""
    from segdistill.data.tiling import OVERLAP
    from segdistill.evaluation.timing import RUNTIMES
    from segdistill.exporting.export import HUB
    from segdistill.exporting.options import FormatName, Runtime
    from segdistill.formats.formats import FORMATS
    from segdistill.prediction.options import PredictOptions

    assert FormatName.__args__ == (*FORMATS, HUB)
    assert Runtime.__args__ == RUNTIMES
    assert PredictOptions.overlap == OVERLAP


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("data", "methods")])
def test_summary_is_that_of_the_function(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from segdistill.cli.main import main

    with pytest.raises(SystemExit):
        main([command, "--help"])
    summary = (getattr(segdistill, command).__doc__ or "").partition("\n")[0]
    assert " ".join(summary.split()) in " ".join(capsys.readouterr().out.split())
