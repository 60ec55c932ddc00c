"""Help and mistakes are answered before torch and other libraries that take seconds are imported."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import segdistill
from segdistill.cli.main import COMMANDS, main
from segdistill.datasets import DATASETS
from segdistill.errors import UserError
from segdistill.formats import FORMATS
from segdistill.lazy import argument_names, load
from segdistill.methods import METHODS, Method
from segdistill.recipe.losses import TASK_LOSSES

HEAVY = ("torch", "numpy", "lightning_fabric", "transformers", "torchvision")
RECIPE = ["--data", "{dataset: camvid, root: x}", "--output", "x"]
DISTILL = [*RECIPE, "--teacher", "x", "--student", "y"]
HELP = [[command, "--help"] for command in COMMANDS]
HELP += [["--help"], ["data", "check", "--help"], ["data", "preview", "--help"], ["data", "stats", "--help"]]
MISTAKES = [
    ["trian"],
    ["data", "chek"],
    *([command, "--wrong", "1"] for command in COMMANDS if command != "data"),
    *(["data", command, "--dataset", "camvd"] for command in ("check", "preview", "stats")),
    *(["data", command, "--dataset", "camvid", "--rot", "x"] for command in ("check", "preview", "stats")),
    ["train"],
    ["train", "nowhere.yaml"],
    ["train", *RECIPE, "--network", "x", "--train.lr", "fast"],
    ["train", *RECIPE, "--network", "x", "--train.epochs", "0"],
    ["train", *RECIPE, "--network", "x", "--device", "tpu"],
    ["train", *RECIPE, "--network", "x", "--data.dataset", "camvd"],
    ["distill", *DISTILL, "--method", "brb"],
    ["distill", *DISTILL, "--method", "{kd: {}, brb: {}}"],
    ["distill", *DISTILL, "--method", "{kd: {tua: 2}}"],
    ["distill", *DISTILL, "--method", "[cwd, {kd: {tua: 2}}]"],
    ["distill", *DISTILL, "--train.loss", "{focal: {gama: 2}}"],
    ["distill", *DISTILL, "--train.loss", "focl"],
    ["distill", *DISTILL, "--data.crp", "[32, 32]"],
    ["distill", *DISTILL, "--data.unlabelled", "{rot: x}"],
    ["distill", *DISTILL, "--data", "{train: {dataset: camvid, rot: x}, val: {dataset: camvid, root: x}}"],
    ["distill", *DISTILL, "--data", "{root: x}"],
    ["distill", *DISTILL, "--teacher-cache", "x"],
    ["pretrain", *DISTILL, "--method", "brb"],
    ["pretrain", *DISTILL, "--method", "{feature: {stage: true}}"],
    ["pretrain", *DISTILL, "--teacher-cache", "x"],
    ["pretrain", *DISTILL, "--train.backbone_lr", "0"],
    ["compare", *DISTILL, "--methods", "none,kdd"],
    ["compare", *DISTILL, "--methods", "none,kd", "--method", "{kd: {tua: 2}}"],
    ["advise", *DISTILL, "--method", "{kd: {tua: 2}}"],
    ["advise", *DISTILL, "--methods", "kd,brd+kdd"],
    ["evaluate", "nowhere"],
    ["evaluate", ".", "--output", "scores.txt"],
    ["evaluate", ".", "--data", "{dataset: camvid, rot: x}"],
    ["predict", "nowhere", "photos", "-o", "out"],
    ["predict", ".", "photos", "-o", "out", "--flips", "up"],
    ["predict", ".", "photos", "-o", "out", "--device", "tpu"],
    ["predict", ".", "photos", "-o", "out", "--resize", "big"],
    ["label", "nowhere", "photos", "-o", "out"],
    ["label", ".", "photos", "-o", "out", "--confidence", "1.5"],
    ["label", ".", "photos", "-o", "out", "--frame-step", "0"],
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


@pytest.mark.parametrize("table", [METHODS, DATASETS, TASK_LOSSES])
def test_arguments_are_known_without_an_import(table: Any) -> None:
    for name, place in table.places.items():
        assert argument_names(place) == list(inspect.signature(table[name]).parameters)


@pytest.mark.parametrize("table", [METHODS, DATASETS])
def test_names_are_those_of_the_classes(table: Any) -> None:
    for name, place in table.places.items():
        assert table[name] is load(place)
        package = segdistill.methods if table is METHODS else segdistill.datasets
        assert table[name].__name__ in package.__all__, f"add it to __all__ in {package.__file__}"


def test_methods_are_called_as_their_classes() -> None:
    assert {name: kind.name for name, kind in METHODS.items() if isinstance(vars(kind).get("name"), str)} == {}
    assert all(issubclass(kind, Method) and kind.__name__.lower() == name for name, kind in METHODS.items())


def test_formats_are_called_as_their_classes_say() -> None:
    assert {name: kind.name for name, kind in FORMATS.items()} == {name: name for name in FORMATS}


def test_texts_of_commands_are_those_of_the_functions() -> None:
    """The help is printed without the functions; its words, choices and defaults are held equal to theirs here."""
    from segdistill.data.tiling import OVERLAP
    from segdistill.evaluation.timing import RUNTIMES
    from segdistill.exporting.options import Runtime
    from segdistill.prediction.options import PredictOptions

    assert Runtime.__args__ == RUNTIMES
    assert PredictOptions.overlap == OVERLAP


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("data", "methods")])
def test_summary_is_that_of_the_function(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    summary = (getattr(segdistill, command).__doc__ or "").partition("\n")[0]
    assert " ".join(summary.split()) in " ".join(capsys.readouterr().out.split())


def test_every_extra_is_explained_and_every_one_that_is_named_exists() -> None:
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in extras:
        assert f"\n| `{extra}` |" in (root / "docs/reference/installation.md").read_text(), extra
    brought = re.search(r"\[(.*)\]", *extras["all"])
    assert brought is not None
    assert set(brought[1].split(",")) == set(extras) - {"all", "dev", "docs", "tflite"}  # beside constraints.txt
    texts = [path.read_text() for path in (root / "src").rglob("*.py")]
    named = {name for text in texts for name in re.findall(r'missing_package\([^\n]*"(\w+)"\)', text)}
    named |= {kind.extra for kind in FORMATS.values()}
    assert named == set(extras) - {"all", "dev", "docs", "components"}  # scipy stands in for that of components


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"segdistill {segdistill.__version__}\n"


def test_first_arguments_need_no_names(tmp_path: Path) -> None:
    """Refused for what they hold, and not for where they stand."""
    for function in (segdistill.evaluate, segdistill.export, segdistill.benchmark, segdistill.play):
        with pytest.raises(UserError, match="'nowhere' does not exist"):
            function("nowhere")
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        segdistill.predict("nowhere", "photos", output=tmp_path)
    with pytest.raises(UserError, match="'nowhere' does not exist"):
        segdistill.label("nowhere", "photos", output=tmp_path)
    with pytest.raises(UserError, match="model is given twice, as 'a' and as 'b'"):
        segdistill.evaluate("a", model="b")
    with pytest.raises(UserError, match="2 values without names, expected at most 1: model"):
        segdistill.evaluate("a", "b")
    for look in (segdistill.check_data, segdistill.preview_data, segdistill.data_statistics):
        with pytest.raises(UserError, match="unknown data set 'camvd'"):
            look({"dataset": "camvd"})
