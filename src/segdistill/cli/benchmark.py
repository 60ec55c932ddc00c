"""``segdistill benchmark``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.exporting.options import BenchmarkOptions

EXAMPLES = """\
  segdistill benchmark runs/teacher runs/alone runs/student --input 512x512 --threads 1,2
  segdistill benchmark runs/student --runtimes onnxruntime,openvino -o speed.json
  segdistill benchmark runs/student runs/student/exports/model-fp16.onnx --runtimes onnxruntime"""


def run(argv: Sequence[str]) -> None:
    """Measure networks."""
    call(
        "segdistill.exporting.benchmark:benchmark",
        argv,
        kinds=(BenchmarkOptions,),
        name="benchmark",
        summary="Measure latency, memory, size and mIoU of networks on the CPU, in every runtime and precision.",
        examples=EXAMPLES,
    )
