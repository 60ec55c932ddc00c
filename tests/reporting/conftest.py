from __future__ import annotations

from pathlib import Path

import pytest

from segdistill.comparison.compare import compare
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, train_tiny


@pytest.fixture(scope="session")
def comparison_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The student alone and two methods, two seeds each; not to be changed."""
    folder = tmp_path_factory.mktemp("comparison")
    teacher = train_tiny(folder / "teacher", TEACHER).path
    compare(
        data=SCENES,
        teacher=teacher,
        student=STUDENT,
        methods="none,kd,cwd",
        seeds=2,
        train=FAST,
        output=folder / "compare",
        device="cpu",
        quiet=True,
    )
    return folder / "compare"
