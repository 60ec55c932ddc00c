"""``segdistill train``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.training.train import train

EXAMPLES = """\
  segdistill train recipes/idd-lite/teacher.yaml --data.root data/idd_lite --output runs/teacher
  segdistill train recipes/idd-lite/teacher.yaml --output runs/teacher --resume
  segdistill train --network smp:Unet:resnet34 --output runs/mine \\
      --data '{dataset: folder, root: my/data, classes: [road, roof, tree], crop: [256, 256]}'"""


def run(argv: Sequence[str]) -> None:
    """Trains one network."""
    call(train, argv, name="train", first="recipe", examples=EXAMPLES)
