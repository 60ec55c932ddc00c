"""Whoever forgets a file that a list in CONTRIBUTING.md names is told which."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields
from typing import get_type_hints

import pytest

import segdistill
from segdistill.cli.main import COMMANDS
from segdistill.datasets import DATASETS
from segdistill.evaluation import evaluate
from segdistill.exporting.options import ExportOptions
from segdistill.formats import FORMATS
from segdistill.lazy import load
from segdistill.metrics.scores import Scores
from segdistill.networks.loading import SOURCES, load_network
from segdistill.recipe.keywords import field_help
from segdistill.recipe.losses import TASK_LOSSES
from segdistill.recipe.recipes import DistillRecipe, PretrainRecipe, TrainRecipe
from segdistill.recipe.train_config import TrainConfig
from tests.documentation.pages import ROOT
from tests.formats.any_size import SUFFIXES

#: The classes of the data sets.
CLASSES = [place.partition(":")[2] for place in DATASETS.places.values()]
#: Commands that are no function in Python.
ALONE = {"data", "methods"}
#: Where each name must be found: in one of the files at least.
PLACES = [
    ("data set", DATASETS, "docs/reference/data.md", r"\n\| `NAME` \|"),
    ("data set", CLASSES, "tests/datasets/test_*.py", r"\bNAME\("),
    ("source of networks", SOURCES, "docs/reference/networks.md", r"`NAME:"),
    ("source of networks", SOURCES, "tests/networks/*.py", r"\bNAME:|\.NAME\b"),
    ("task loss", TASK_LOSSES, "docs/reference/losses.md", r"\n\| (`\w+`, )*`NAME`"),
    ("task loss", TASK_LOSSES.keys() - {"ce"}, "tests/losses/test_task*.py", r"(?i)\bNAME(_|\b)"),
    ("export format", FORMATS, "docs/how-to/export-*.md", r"(--format |\bmodel\.)NAME\b"),
    ("export format", FORMATS.keys() - SUFFIXES.keys(), "tests/formats/test_*.py", r'"NAME"'),
    ("command", COMMANDS, "tests/**/*.py", r'\["NAME"[,\]]|"NAME", capsys|\bsegdistill\.NAME\(|import .*\bNAME\b'),
]


def without(names: Iterable[str], files: str, pattern: str) -> list[str]:
    """The names that no file has in the place of NAME in a pattern."""
    texts = [path.read_text() for path in sorted(ROOT.glob(files)) if path.name != "test_contributing.py"]
    return [
        name for name in names if not any(re.search(pattern.replace("NAME", re.escape(name)), text) for text in texts)
    ]


@pytest.mark.parametrize(("kind", "names", "files", "pattern"), PLACES, ids=[f"{one[0]} in {one[2]}" for one in PLACES])
def test_every_name_is_in_the_files_of_its_list(kind: str, names: Iterable[str], files: str, pattern: str) -> None:
    assert without(names, files, pattern) == [], f"this {kind} is missing in {files}"


def test_every_name_is_in_the_help() -> None:
    source = "src/segdistill/recipe/train_config.py"
    helped = field_help(TrainConfig)["loss"]
    assert [name for name in TASK_LOSSES if not re.search(rf"\b{name}\b", helped)] == [], f"add it to loss in {source}"
    source = "src/segdistill/exporting/options.py"
    helped = field_help(ExportOptions)["format"]
    assert [name for name in FORMATS if not re.search(rf"(^|\W){name}\W", helped)] == [], (
        f"add it to format in {source}"
    )
    source = "src/segdistill/networks/loading.py"
    helped = str(load_network.__doc__)
    assert [name for name in SOURCES if f"{name}:" not in helped] == [], f"add it to load_network in {source}"


@pytest.mark.parametrize("package", ["", "datasets", "formats", "methods"])
def test_every_public_name_is_imported_for_type_checkers(package: str) -> None:
    """The names are found at run time without these imports."""
    file = ROOT / "src/segdistill" / package / "__init__.py"
    tree = ast.parse(file.read_text())
    imported = {one.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for one in node.names}
    assigned = {
        one.target.id for one in tree.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
    }
    public = set(load(f"segdistill{'.' * bool(package)}{package}:__all__"))
    assert public - imported - assigned == set(), f"import it in {file.relative_to(ROOT)}"


def test_every_command_is_in_the_table_and_in_python() -> None:
    files = {path.stem for path in (ROOT / "src/segdistill/cli").glob("*.py")} - {"__init__", "main", "parsing"}
    assert files - set(COMMANDS) == set(), "add it to COMMANDS in src/segdistill/cli/main.py"
    assert set(COMMANDS) - files == set(), "write src/segdistill/cli/NAME.py"
    assert set(COMMANDS) - ALONE - set(segdistill.__all__) == set(), "add it to src/segdistill/__init__.py"


def test_every_field_of_recipes_and_options_is_described() -> None:
    """Help, signatures and the reference take their texts from the docstrings."""
    public = set(segdistill.__all__) - ALONE
    kinds = {kind for name in COMMANDS if name in public for kind in getattr(segdistill, name).kinds}
    assert {TrainRecipe, DistillRecipe, PretrainRecipe} <= kinds
    bare = {
        f"{kind.__name__}.{one.name}" for kind in [*kinds, TrainConfig] for one in fields(kind)
        if not field_help(kind).get(one.name)
    }  # fmt: skip
    assert bare == set(), "add it to the docstring of its class"


def test_every_metric_is_shown_tested_and_explained() -> None:
    others = {"confusion", *(one.name for one in fields(Scores))}
    metrics = [one.name for one in fields(evaluate.Evaluation) if one.name not in others]
    assert metrics
    kinds = get_type_hints(evaluate.Evaluation)
    tests = [f"tests/metrics/test_{kinds[name].__module__.rpartition('.')[2]}.py" for name in metrics]
    assert [test for test in tests if not (ROOT / test).is_file()] == [], "write it"
    rows = inspect.getsource(evaluate._rows)
    assert [name for name in metrics if f"found.{name}" not in rows] == [], "show it in _rows of evaluation/evaluate.py"
    table = re.findall(r"^\| (.*?) \|", (ROOT / "docs/reference/scores.md").read_text().lower(), re.MULTILINE)
    assert [name for name in metrics if name not in " ".join(table)] == [], "explain it in docs/reference/scores.md"
