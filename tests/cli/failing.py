"""Commands that must fail: in one sentence, with exit code 2 and no traceback."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from segdistill.cli.main import main

TINY = "python:tests.tiny:build_tiny"
TRAIN = {"epochs": 1, "batch_size": 2, "precision": "fp32", "workers": 0}
CLASSES = ["road", "roof", "tree"]


def shell(values: Any) -> str:
    """A value as it is typed on a command line."""
    if isinstance(values, str | Path):
        return str(values)
    return yaml.safe_dump(values, default_flow_style=True, width=10**6).strip()


def argv(command: str, **options: Any) -> list[str]:
    return [command, *(text for key, value in options.items() for text in (f"--{key}", shell(value)))]


def fails(capfd: pytest.CaptureFixture[str], arguments: Sequence[object], *told: str) -> str:
    """Runs the command, checks that it fails as it should, and that its one sentence holds every text of ``told``."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    printed = capfd.readouterr()
    assert code == 2, printed
    assert printed.err.startswith("segdistill: ")
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.endswith("\n")
    assert "Traceback" not in printed.err + printed.out
    for text in told:
        assert text in printed.err
    return printed.err


# ------------------------------------------------------------------------------------------------ data on disk


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
