"""Every command in a page is one that the command line understands: its options, their values, and names in them."""

from __future__ import annotations

import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segdistill.cli import main as entry
from segdistill.cli import parsing
from segdistill.errors import UserError
from tests.documentation.pages import PAGES, ROOT, blocks, name_of

DATA = "data: {dataset: synthetic-aerial, size: [32, 32]}\n"
DISTILL = f"{DATA}teacher: runs/teacher\nstudent: smp:FPN:resnet18\n"
TRAIN = f"{DATA}network: smp:FPN:resnet18\n"
#: How a message says that a file is not there.
ABSENT = re.compile("not a run folder|does not exist|no such|not found|there is no|neither", re.IGNORECASE)
RECIPES = {"train": TRAIN, "data": DATA}


def commands(page: Path) -> list[str]:
    """The lines of a page's shell blocks that call segdistill, continued ones joined."""
    found = []
    for block in blocks(page, "sh|bash"):
        for line in logical_lines(block):
            start = re.search(r"(^|(?<=srun )|(?<=--no-python ))\s*segdistill\b", line)
            if start and not line.startswith("#"):
                found.append(line[start.start() :])
    return found


def logical_lines(block: str) -> list[str]:
    """Lines of a shell, joined where a backslash or an open quote continues them."""
    joined, lines = "", []
    for line in block.replace("\\\n", " ").splitlines():
        joined += ("\n" if joined else "") + line
        if joined.split(" #")[0].count("'") % 2 == 0:
            lines.append(joined)
            joined = ""
    assert not joined, f"a quote is open: {joined}"
    return lines


CASES = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), CASES, ids=[f"{name_of(page)}:{line[:60]}" for page, line in CASES])
def test_the_command_line_understands(page: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line, comments=True)[1:]
    for name in re.findall(r"\$(\w+)", line):  # which a shell would have set in the lines before
        monkeypatch.setenv(name, "smp:FPN:resnet18")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    own = [block for block in blocks(page, "python") if block.startswith("# mine.py")]
    (tmp_path / "mine.py").write_text("".join(own))
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for file in {word for word in words if word.endswith(".yaml") and not word.startswith("recipes/")}:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        recipe = RECIPES.get(words[0], DISTILL)
        if "--data.val" in words:  # the file has the training split alone, as `segdistill label` writes it
            recipe = f"data: {{train: {DATA.removeprefix('data: ').strip()}}}\n"
        Path(file).write_text(recipe)
    for before, word in pairwise(words):
        if before == "--resume" and not word.startswith("-"):
            Path(word).mkdir(parents=True)
            (Path(word) / "config.yaml").write_text(RECIPES.get(words[0], DISTILL))
    made: list[Any] = []
    real = parsing.from_values

    def checked(kind: type[Any], values: dict[str, Any]) -> Any:
        try:
            made.append(real(kind, values))
        except UserError as error:  # the files that a page speaks of are not there
            if not re.search(
                r"not a run folder|does not exist|no such|not found|there is no|neither", str(error), re.I
            ):
                raise
            made.append(SimpleNamespace(check=lambda: None))
        return made[-1]

    def not_called(*given: Any) -> Any:
        made.append(given)
        return SimpleNamespace(ok=True)

    monkeypatch.setattr(parsing, "from_values", checked)
    monkeypatch.setattr(parsing, "load", lambda place: not_called)
    assert entry.main(words) == 0
    assert made or set(words) & {"--help", "--version"}


def test_there_are_many() -> None:
    assert len(CASES) > 60
    shown = {line.split()[1] for _, line in CASES}
    assert set(entry.COMMANDS) - {"methods", "demo"} - shown == set(), "give an example of it in a page of docs/"


def test_examples_of_the_help_need_no_file_of_the_repository() -> None:
    """``pip install`` leaves the recipes out; one's own folder, and the recipe of a run, are always there."""
    files = sorted((ROOT / "src/segdistill/cli").glob("*.py"))
    assert any("EXAMPLES = " in file.read_text() for file in files)
    assert [
        name_of(file) for file in files if re.search(r"^  segdistill .*recipes/", file.read_text(), re.MULTILINE)
    ] == []
