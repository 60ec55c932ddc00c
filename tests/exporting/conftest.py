"""A network for the tests of exports."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.prediction.networks import saved


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network without a run around it; not to be changed."""
    return saved(tmp_path_factory.mktemp("net") / "net", "python:tests.prediction.networks:build_any")
