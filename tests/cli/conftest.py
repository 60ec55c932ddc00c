from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.runs import TEACHER, train_tiny


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a tiny teacher with the six classes of the synthetic scenes; not to be changed."""
    return train_tiny(tmp_path_factory.mktemp("cli") / "run", TEACHER, epochs=1).path
