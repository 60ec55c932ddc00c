"""``segdistill advise``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call, imported_later
from segdistill.comparison.options import AdviseOptions
from segdistill.recipe.recipes import DistillRecipe

EXAMPLES = """\
  segdistill advise recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/advice --dry-run
  segdistill advise recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/advice --budget 90
  segdistill advise recipes/idd-lite/distill.yaml --teacher runs/teacher --methods kd,brd,kd+brd,none@time \\
      --train.epochs 45 --output runs/advice"""


def run(argv: Sequence[str]) -> None:
    """Recommends a method."""
    function = imported_later(
        "segdistill.comparison.advise:advise",
        "Try methods in short runs, the best of them in longer ones, and recommend one, or the student alone.",
        DistillRecipe,
        AdviseOptions,
    )
    call(function, argv, name="advise", first="recipe", examples=EXAMPLES)
