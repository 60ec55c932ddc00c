"""A comparison as a table: its words are those of the report, and are whole in a narrow terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from segdistill.comparison.advice import advice, read_rung
from segdistill.comparison.advise import advice_table
from segdistill.comparison.reading import load_comparison
from segdistill.comparison.table import FULL_WIDTH, comparison_table
from tests.comparison.planted import plant
from tests.comparison.tiny import row

RIGHTS = {
    "none": (0.700, 0.704, 0.697),
    "none@time": (0.710, 0.711, 0.709),
    "none@plateau": (0.711, 0.712, 0.709),
    "kd": (0.750, 0.756, 0.748),
    "kd+reviewkd": (0.699, 0.702, 0.701),
}


def lines(table: object, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, FULL_WIDTH, 140])
def test_words_are_whole(tmp_path: Path, width: int) -> None:
    """No column runs out of the terminal, and no name, heading or number is cut off."""
    comparison = load_comparison(plant(tmp_path, RIGHTS))
    rung = read_rung(comparison, 9, "epochs", 1)
    recommended = advice(tmp_path, [rung], full=9, ended=None, command="segdistill advise")
    for table in (comparison_table(comparison, width), advice_table(recommended)):
        printed = lines(table, width)
        words = " ".join(printed).split()
        assert max(map(len, printed)) <= width
        assert "…" not in " ".join(printed)
        for word in ("kd+reviewkd", "student", "plateau", "training", "58.65", "none@plateau"):
            assert word in words
        if table.columns[-1].header == "verdict" and width >= FULL_WIDTH:
            assert {"connectivity", "boundary"} <= set(words)
    narrow = "boundaries and objects: see report.html" in " ".join(lines(comparison_table(comparison, width), 200))
    assert narrow == (width < FULL_WIDTH)


def test_ways_of_training_are_called_as_in_the_report(tmp_path: Path) -> None:
    """Readers of the table need not know what ``none`` is; the line below it says how commands call it."""
    comparison = load_comparison(plant(tmp_path, RIGHTS))
    printed = "\n".join(lines(comparison_table(comparison), 200))
    words = " ".join(printed.split())
    assert "gain over student alone" in printed
    assert "\n student alone, as long " in printed
    assert "\n none" not in printed
    assert "in commands: none = student alone, none@time = student alone, as long, none@plateau = " in words
    page = comparison._repr_html_()
    assert '<th scope="row">student alone</th>' in page
    assert '<th scope="col">gain over student alone</th>' in page
    assert ">none<" not in page
    assert "95 % intervals" in page


def test_a_teacher_of_other_classes_is_not_measured(tmp_path: Path) -> None:
    """It read: cannot be told yet, as if it would ever be."""
    comparison = load_comparison(plant(tmp_path, RIGHTS, teacher=None))
    assert comparison.teacher.verdict == "not measured"
    assert row(comparison, "kd").verdict == "better than the student alone"
