"""What can be checked of the Dockerfile without Docker."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "Dockerfile").read_text().splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: What is copied into the image, each a path in the repository.
COPIED = [path for line in LINES if line.startswith("COPY ") for path in line.split()[1:-1]]


def argument(name: str) -> str:
    return next(line.partition("=")[2] for line in LINES if line.startswith(f"ARG {name}="))


def test_all_that_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
    assert sorted(sent) == sorted(COPIED)
    assert [path for path in COPIED if not (ROOT / path).exists()] == []


def test_the_package_can_be_built_from_what_is_copied() -> None:
    needed = {"pyproject.toml", "src", PROJECT["readme"], *PROJECT["license-files"]}
    assert needed <= set(COPIED)


def test_pip_installs_the_tested_versions_and_extras_that_exist() -> None:
    (install,) = [line for line in LINES if "pip install" in line]
    assert "--constraint constraints.txt " in install
    assert install.endswith('".[${EXTRAS}]"')
    assert set(argument("EXTRAS").split(",")) <= set(PROJECT["optional-dependencies"])
    minor = int(re.fullmatch(r"python:3\.(\d+)-slim", argument("BASE"))[1])  # type: ignore[index]
    assert minor >= int(PROJECT["requires-python"].removeprefix(">=3."))


def test_it_runs_segdistill_and_not_as_root() -> None:
    (user,) = [line.split()[1] for line in LINES if line.startswith("USER ")]
    assert f"useradd {user} " in "\n".join(LINES)
    (entry,) = [json.loads(line.removeprefix("ENTRYPOINT ")) for line in LINES if line.startswith("ENTRYPOINT ")]
    assert entry[0] in PROJECT["scripts"]
