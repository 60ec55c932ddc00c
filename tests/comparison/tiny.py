"""Comparisons and advice that take a few seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.comparison.advice import Advice
from segdistill.comparison.advise import advise
from segdistill.comparison.compare import compare
from segdistill.comparison.results import Comparison, Row
from tests.training.runs import FAST, SCENES, STUDENT

#: Of advice: rungs of 1, 3 and 9 epochs.
TRAIN = replace(FAST, epochs=9)


def compare_tiny(output: Path, teacher: Path, **options: Any) -> Comparison:
    found = compare(
        **{  # type: ignore[arg-type]
            "data": SCENES,
            "teacher": teacher,
            "student": STUDENT,
            "output": output,
            "methods": "none,kd",
            "seeds": 1,
            "train": FAST,
            "device": "cpu",
            "quiet": True,
        }
        | options
    )
    assert found is not None
    return found


def row(found: Comparison, method: str) -> Row:
    return next(row for row in found.rows if row.method == method)


def cell(output: Path, method: str, seed: int = 0) -> Path:
    return output / "cells" / method / f"seed-{seed}"


def advise_tiny(output: Path, teacher: Path, **options: Any) -> Advice:
    given: dict[str, Any] = {"data": SCENES, "teacher": teacher, "student": STUDENT, "output": output}
    given |= {"methods": "kd,cwd,kd+cwd", "train": TRAIN, "device": "cpu", "quiet": True}
    found = advise(**given | options)
    assert found is not None
    return found
