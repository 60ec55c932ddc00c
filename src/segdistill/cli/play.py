"""``segdistill play``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.playground.options import PlayOptions

EXAMPLES = """\
  segdistill play runs/teacher runs/alone runs/student
  segdistill play runs/teacher runs/student/exports/model.onnx --port 8000 --max-megabytes 50"""


def run(argv: Sequence[str]) -> None:
    """Show the page."""
    call(
        "segdistill.playground.play:play",
        argv,
        kinds=(PlayOptions,),
        name="play",
        summary="Show a page on which you drop an image and compare the networks' predictions; Ctrl-C ends it.",
        examples=EXAMPLES,
    )
