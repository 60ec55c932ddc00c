"""``segdistill compare``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.comparison.options import CompareOptions, check_comparison
from segdistill.recipe.recipes import DistillRecipe

EXAMPLES = """\
  segdistill compare runs/student/config.yaml --methods none,kd,brd --output runs/compare
  segdistill compare runs/student/config.yaml --methods none,none@time,kd,kd+brd \\
      --seeds 5 --output runs/compare
  segdistill compare runs/student/config.yaml --output runs/compare --dry_run"""


def run(argv: Sequence[str]) -> None:
    """Compare methods."""
    call(
        "segdistill.comparison.compare:compare",
        argv,
        kinds=(DistillRecipe, CompareOptions),
        name="compare",
        summary="Compare distillation methods with the same student trained alone: same recipe, seeds and batches.",
        examples=EXAMPLES,
        check=check_comparison,
    )
