"""``segdistill distill``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.recipe.recipes import DistillRecipe
from segdistill.training.options import RunOptions

EXAMPLES = """\
  segdistill distill --teacher runs/teacher --student smp:FPN:tu-mobilenetv3_small_050 --output runs/student \\
      --data '{dataset: folder, root: my/data, classes: [road, roof, tree], crop: [256, 256]}'
  segdistill distill runs/student/config.yaml --data.unlabelled my/photos --output runs/more-images
  segdistill distill runs/student/config.yaml --method '[brd, cwd]' --output runs/both
  segdistill distill runs/student/config.yaml --train.lr 3e-4 --method '{brd: {boundary: 2.0}}' --output runs/strong"""


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
