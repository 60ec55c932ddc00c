"""``segdistill evaluate``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.evaluation.options import EvaluateOptions

EXAMPLES = """\
  segdistill evaluate runs/student
  segdistill evaluate runs/student --split test --output test-scores.json
  segdistill evaluate runs/student --data '{dataset: folder, root: other/data, classes: [road, roof, tree]}'"""


def run(argv: Sequence[str]) -> None:
    """Score one network."""
    call(
        "segdistill.evaluation.evaluate:evaluate",
        argv,
        kinds=(EvaluateOptions,),
        name="evaluate",
        summary="Score a network on a split: IoU and F1 of each class, pixel accuracy, boundaries, connectivity.",
        examples=EXAMPLES,
    )
