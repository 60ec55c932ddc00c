"""``segdistill demo``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.demonstration.options import DemoOptions

EXAMPLES = """\
  segdistill demo
  segdistill demo --method ka --output demo-ka"""


def run(argv: Sequence[str]) -> None:
    """Run the demo."""
    call(
        "segdistill.demonstration.demo:demo",
        argv,
        kinds=(DemoOptions,),
        name="demo",
        summary="Train a teacher, then compare the student distilled from it with the same student trained alone.",
        examples=EXAMPLES,
    )
