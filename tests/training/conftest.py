from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import TEACHER, train_tiny


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny teacher."""
    return train_tiny(tmp_path_factory.mktemp("teacher") / "run", TEACHER, epochs=1).path
