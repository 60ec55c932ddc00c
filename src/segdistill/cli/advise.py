"""``segdistill advise``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.comparison.options import AdviseOptions, check_comparison
from segdistill.recipe.recipes import DistillRecipe

EXAMPLES = """\
  segdistill advise runs/student/config.yaml --output runs/advice --dry-run
  segdistill advise runs/student/config.yaml --output runs/advice --budget 90
  segdistill advise runs/student/config.yaml --methods kd,brd,kd+brd,none@time \\
      --train.epochs 45 --output runs/advice"""


def run(argv: Sequence[str]) -> None:
    """Recommend a method."""
    call(
        "segdistill.comparison.advise:advise",
        argv,
        kinds=(DistillRecipe, AdviseOptions),
        name="advise",
        summary="Try methods in short runs, the best of them in longer runs; recommend a method or the student alone.",
        examples=EXAMPLES,
        check=check_comparison,
    )
