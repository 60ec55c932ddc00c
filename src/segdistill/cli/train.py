"""``segdistill train``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.recipe.recipes import TrainRecipe
from segdistill.training.options import RunOptions

EXAMPLES = """\
  segdistill train --network smp:Unet:resnet34 --init_weights imagenet --output runs/teacher \\
      --data '{dataset: folder, root: my/data, classes: [road, roof, tree], crop: [256, 256]}'
  segdistill train --resume runs/teacher
  segdistill train runs/teacher/config.yaml --train.epochs 100 --output runs/longer"""


def run(argv: Sequence[str]) -> None:
    """Train one network."""
    call(
        "segdistill.training.train:train",
        argv,
        kinds=(TrainRecipe, RunOptions),
        name="train",
        summary="Train a network from labels alone: a teacher, or the baseline of a student.",
        examples=EXAMPLES,
    )
