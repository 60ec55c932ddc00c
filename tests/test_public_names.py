"""The names that others call."""

from __future__ import annotations

import subprocess
import sys

import pytest

import segdistill


@pytest.mark.parametrize("name", segdistill.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(segdistill, name) is not None
    assert name in dir(segdistill)


def test_every_home_is_public() -> None:
    assert sorted([*segdistill._HOMES, "__version__"]) == sorted(segdistill.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        segdistill.distil  # noqa: B018


def test_help_does_not_import_torch() -> None:
    program = "import sys; from segdistill.cli.main import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, capture_output=True).returncode == 0
