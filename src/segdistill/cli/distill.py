"""``segdistill distill``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.recipe.recipes import DistillRecipe
from segdistill.training.options import RunOptions

EXAMPLES = """\
  segdistill distill recipes/idd-lite/distill.yaml --teacher runs/teacher --output runs/student
  segdistill distill recipes/idd-lite/distill.yaml --teacher runs/teacher --method '[brd, cwd]' --output runs/both
  segdistill distill recipes/idd-lite/distill.yaml --teacher runs/teacher --train.lr 3e-4 \\
      --method '{brd: {boundary: 2.0}}' --output runs/strong"""


def run(argv: Sequence[str]) -> None:
    """Distil one student."""
    call(
        "segdistill.training.distill:distill",
        argv,
        kinds=(DistillRecipe, RunOptions),
        name="distill",
        summary="Distil a trained teacher into a small student.",
        examples=EXAMPLES,
    )
