"""How many of a run's first steps learn features alone."""

from __future__ import annotations

import math

from rich.console import Console

from segdistill.distiller import Distiller, Supervised
from segdistill.progress import counted
from segdistill.recipe.train_config import TrainConfig
from segdistill.training.pretrainer import Pretrainer

#: Fewer steps teach a student too little of its teacher's features to pay for the labels that it does not see in them:
#: 150 of 300 steps cost 2.9 points of mIoU on aerial scenes, 500 of 1000 gained 1.4
#: (docs/benchmarks/results-aerial.md).
FEWEST_STEPS = 500
#: Twice as many are needed where the second part has more to teach, the teacher's class scores on pixels without
#: labels: 720 of 1440 steps cost 3.9 points on CamVid, 960 of 1920 cost and gained nothing on IDD-Lite, and 1440 of
#: 2880 gained 0.9.
WITHOUT_LABELS = 2


def steps_of_features_alone(
    learner: Distiller | Supervised, train: TrainConfig, steps: int, batches: int, console: Console
) -> int:
    """The steps at the beginning of a run that learn features alone: whole epochs, or none.

    Args:
        learner: whose methods say which share of the run it is; see `Method.features_first`. A student with trained
            weights has no such steps; where these are of a teacher's features, that part is over.
        train: with a backbone that is frozen, there are no such steps.
        steps: of the whole run.
        batches: steps of an epoch.
        console: for a line that says which epochs these are.
    """
    if not isinstance(learner, Distiller) or isinstance(learner, Pretrainer) or train.backbone_lr == 0:
        return 0
    if learner.student.start == "features" and learner.features_first:
        learner.features_alone = False  # a run of its own was the first part
    if learner.student.start != "random":
        return 0
    epochs = int(learner.features_first * (steps // batches))
    all_labelled = learner.unlabelled_index is None and learner.ignored == "skip"
    fewest = FEWEST_STEPS * (1 if all_labelled else WITHOUT_LABELS)
    if epochs * batches < fewest:
        if learner.features_first:
            enough = math.ceil(math.ceil(fewest / batches) / learner.features_first)
            length = f"--train.epochs {enough}" if train.steps is None else f"--train.steps {enough * batches}"
            console.out(
                f"hint: a run of {counted(steps, 'step')} is too short to learn the teacher's features first, which "
                f"gave better students in long runs: {length} or more",
                highlight=False,
            )
        return 0
    rest = -(-steps // batches) - epochs
    told = f"features first: {counted(epochs, 'epoch')} without labels and validation, then {rest} with them"
    console.out(told, highlight=False)
    return epochs * batches
