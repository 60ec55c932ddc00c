"""``segdistill export``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.exporting.options import ExportOptions

EXAMPLES = """\
  segdistill export runs/brd
  segdistill export runs/brd --format openvino --int8
  segdistill export runs/brd --format onnx --size 512x512 --batch 1 --layout nhwc --outputs probabilities
  segdistill export runs/brd --format torch-export --output brd.pt2 --images my/photos
  segdistill export runs/brd --format tflite --size 512x512
  segdistill export runs/brd --int8 --finetune 3 --teacher runs/teacher
  segdistill export runs/brd --format hub --output brd-for-the-hub"""


def run(argv: Sequence[str]) -> None:
    """Export one network."""
    call(
        "segdistill.exporting.export:export",
        argv,
        kinds=(ExportOptions,),
        name="export",
        summary="Export a run's network to a file that runs without segdistill, and compare the file with PyTorch.",
        examples=EXAMPLES,
    )
