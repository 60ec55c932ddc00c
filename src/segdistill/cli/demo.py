"""``segdistill demo``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.demonstration import demo

EXAMPLES = """\
  segdistill demo
  segdistill demo --method ka --output demo-ka"""


def run(argv: Sequence[str]) -> None:
    """Runs the demo."""
    call(demo, argv, name="demo", first=None, examples=EXAMPLES)
