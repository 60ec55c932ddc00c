"""``segdistill play``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile

from segdistill.cli.parsing import call
from segdistill.playground.play import play

EXAMPLES = """\
  segdistill play runs/teacher runs/alone runs/brd
  segdistill play runs/teacher runs/brd/exports/model.onnx --port 8000 --max-megabytes 50"""


def run(argv: Sequence[str]) -> None:
    """Shows the page."""
    call(play, _options(argv), name="play RUN...", first=None, examples=EXAMPLES)


def _options(argv: Sequence[str]) -> list[str]:
    """The runs that lead, as an option."""
    leading = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    return [*(["--runs", json.dumps(leading)] if leading else []), *argv[len(leading) :]]
