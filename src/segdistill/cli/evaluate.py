"""``segdistill evaluate``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.evaluation.evaluate import evaluate

EXAMPLES = """\
  segdistill evaluate runs/brd
  segdistill evaluate runs/brd --split test --output brd-test.json
  segdistill evaluate runs/brd --data '{dataset: folder, root: other/data, classes: [road, roof, tree]}'"""


def run(argv: Sequence[str]) -> None:
    """Scores one network."""
    call(evaluate, argv, name="evaluate", first="model", examples=EXAMPLES)
