"""``segdistill export``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.exporting.options import ExportOptions

EXAMPLES = """\
  segdistill export runs/student
  segdistill export runs/student --format openvino --int8
  segdistill export runs/student --format onnx --size 512x512 --batch 1 --layout nhwc --outputs probabilities
  segdistill export runs/student --format torch-export --output student.pt2 --images my/photos
  segdistill export runs/student --format tflite --size 512x512
  segdistill export runs/student --int8 --finetune 3 --teacher runs/teacher
  segdistill export runs/student --format hub --output student-for-the-hub"""


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
