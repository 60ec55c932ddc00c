"""``segdistill advise``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.comparison.advise import advise

EXAMPLES = """\
  segdistill advise recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/advice --dry-run
  segdistill advise recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/advice --budget 90
  segdistill advise recipes/idd-lite/distill.yaml --teacher runs/teacher --methods kd,brd,kd+brd,none@time \\
      --train.epochs 45 --output runs/advice"""


def run(argv: Sequence[str]) -> None:
    """Recommends a method."""
    call(advise, argv, name="advise", first="recipe", examples=EXAMPLES)
