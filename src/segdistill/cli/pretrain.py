"""``segdistill pretrain``."""

from __future__ import annotations

from collections.abc import Sequence

from segdistill.cli.parsing import call
from segdistill.recipe.recipes import PretrainRecipe
from segdistill.training.options import RunOptions

EXAMPLES = """\
  segdistill pretrain --data '{dataset: images, root: photos, crop: [256, 256]}' --teacher runs/teacher \\
      --student smp:FPN:tu-mobilenetv3_small_050 --output runs/pretrained
  segdistill pretrain --data '{dataset: images, root: [photos, drives], crop: [256, 256]}' \\
      --teacher smp:FPN:tu-tf_efficientnet_lite0 --teacher_weights imagenet \\
      --student smp:FPN:tu-mobilenetv3_small_050 --method at --output runs/pretrained
  segdistill train recipe.yaml --network smp:FPN:tu-mobilenetv3_small_050 --init_weights runs/pretrained \\
      --output runs/student"""


def run(argv: Sequence[str]) -> None:
    """Pre-train one student."""
    call(
        "segdistill.training.pretrain:pretrain",
        argv,
        kinds=(PretrainRecipe, RunOptions),
        name="pretrain",
        summary="Pre-train a student's backbone on a teacher's features, from images without labels.",
        examples=EXAMPLES,
    )
