"""``segdistill compare``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call, imported_later
from segdistill.comparison.options import CompareOptions
from segdistill.recipe.recipes import DistillRecipe

EXAMPLES = """\
  segdistill compare recipes/idd-lite/distill.yaml --teacher runs/teacher --methods none,kd,brd --output runs/compare
  segdistill compare recipes/idd-lite/distill.yaml --teacher runs/teacher --methods none,none@time,kd,kd+brd \\
      --seeds 5 --output runs/compare
  segdistill compare recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/compare --dry_run"""


def run(argv: Sequence[str]) -> None:
    """Compares methods."""
    function = imported_later(
        "segdistill.comparison.compare:compare",
        "Compare distillation methods with the same student trained alone: same recipe, same seeds, same batches.",
        DistillRecipe,
        CompareOptions,
    )
    call(function, argv, name="compare", first="recipe", examples=EXAMPLES)
