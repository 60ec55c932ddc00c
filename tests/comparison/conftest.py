"""A teacher, a finished comparison, and pages that are soon written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.comparison.tiny import compare_tiny
from tests.training.runs import TEACHER, train_tiny


def write_briefly(patch: pytest.MonkeyPatch) -> None:
    """The page of a comparison has tests of its own, and takes longer than all the rest."""
    patch.setattr("segdistill.comparison.report.write_report", lambda found, path, **_: path.write_text(found.verdict))


@pytest.fixture
def short_report(monkeypatch: pytest.MonkeyPatch) -> None:
    write_briefly(monkeypatch)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder; not to be changed."""
    return train_tiny(tmp_path_factory.mktemp("teacher") / "run", TEACHER, epochs=1).path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """none and kd with two seeds; not to be changed."""
    output = tmp_path_factory.mktemp("compare") / "out"
    with pytest.MonkeyPatch.context() as patch:
        write_briefly(patch)
        compare_tiny(output, teacher, seeds=2)
    return output


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))
