"""Phrases that only their author understands: the standard term takes their place (CONTRIBUTING, Plain English)."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

#: What stands for it: report, run the teacher, slowest, continue, sharded, available.
PRIVATE = (
    "told of",
    "tells of",
    "asks the teacher",
    "asking the teacher",
    "dearest",
    "shared out",
    "to be had",
    "go on with",
)

TEXTS = [
    path
    for folder, endings in (("src", ("py", "html")), ("docs", ("md", "ipynb")), ("recipes", ("yaml",)))
    for ending in endings
    for path in sorted((ROOT / folder).rglob(f"*.{ending}"))
] + sorted(ROOT.glob("*.md"))


@pytest.mark.parametrize("phrase", PRIVATE)
def test_no_private_phrase(phrase: str) -> None:
    assert len(TEXTS) > 200
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if phrase in line
    ]
    assert found == []
