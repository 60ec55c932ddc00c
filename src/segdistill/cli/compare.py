"""``segdistill compare``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.comparison.compare import compare

EXAMPLES = """\
  segdistill compare recipes/idd-lite/distill.yaml --teacher runs/teacher --methods none,kd,brd --output runs/compare
  segdistill compare recipes/idd-lite/distill.yaml --teacher runs/teacher --methods none,none@time,kd,kd+brd \\
      --seeds 5 --output runs/compare
  segdistill compare recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/compare --dry_run"""


def run(argv: Sequence[str]) -> None:
    """Compares methods."""
    call(compare, argv, name="compare", first="recipe", examples=EXAMPLES)
