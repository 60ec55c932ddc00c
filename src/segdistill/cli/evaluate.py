"""``segdistill evaluate``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.evaluation.options import EvaluateOptions

EXAMPLES = """\
  segdistill evaluate runs/brd
  segdistill evaluate runs/brd --split test --output brd-test.json
  segdistill evaluate runs/brd --data '{dataset: folder, root: other/data, classes: [road, roof, tree]}'"""


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
