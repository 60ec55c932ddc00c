"""``segdistill export``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.exporting.export import export

EXAMPLES = """\
  segdistill export runs/brd
  segdistill export runs/brd --format openvino --int8
  segdistill export runs/brd --format onnx --size 512x512 --batch 1 --layout nhwc --outputs probabilities
  segdistill export runs/brd --format torch-export --output brd.pt2 --images my/photos
  segdistill export runs/brd --int8 --finetune 3 --teacher runs/teacher
  segdistill export runs/brd --format hub --output brd-for-the-hub"""


def run(argv: Sequence[str]) -> None:
    """Exports one network."""
    call(export, argv, name="export", first="run", examples=EXAMPLES)
