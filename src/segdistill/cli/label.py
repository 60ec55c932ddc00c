"""``segdistill label``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.prediction.label_options import LabelOptions

EXAMPLES = """\
  segdistill label runs/teacher photos -o pseudo
  segdistill label runs/teacher photos -o pseudo --confidence 0.8 --flips horizontal
  segdistill label teacher.onnx drive.mp4 'photos/**/*.jpg' -o pseudo --frame-step 10
  segdistill label runs/aerial maps -o pseudo --copy
  segdistill train pseudo/recipe.yaml --network smp:FPN:resnet18 --output runs/student \\
      --data.val '{dataset: folder, root: my/data, classes: [road, roof, tree], split: val}'

The same command continues where it stopped."""


def run(argv: Sequence[str]) -> None:
    """Make pseudo-labels."""
    call(
        "segdistill.prediction.label:label",
        argv,
        kinds=(LabelOptions,),
        name="label",
        summary="Label images with a model, as a data set to train on or to correct by hand.",
        examples=EXAMPLES,
    )
