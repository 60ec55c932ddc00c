"""`segdistill.train`: one network from labels alone."""

from __future__ import annotations

from dataclasses import replace

from segdistill.datasets.base import UNLABELLED
from segdistill.distiller import Supervised
from segdistill.errors import UserError
from segdistill.recipe.data import build_data
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.recipes import TrainRecipe
from segdistill.run_folder import RunFolder
from segdistill.training.job import Job
from segdistill.training.loading import load_student
from segdistill.training.options import RunOptions
from segdistill.training.run import run
from segdistill.training.teacher_source import TeacherSource


@takes_fields
def train(recipe: TrainRecipe, options: RunOptions) -> RunFolder:
    """Train a network from labels alone: a teacher, or the baseline of a student.

    Returns:
        The finished run's folder; of a dry run, the folder that was not made.

    Raises:
        UserError: a recipe or data that cannot work, before anything is written.
    """
    data = build_data(recipe.data, recipe.overfit, converting=not options.dry_run)
    if data.unlabelled is not None or data.train.unlabelled_index is not None:
        where = "data: unlabelled" if data.unlabelled is not None else "data"
        raise UserError(
            f"{where} names images without labels, but train learns only from labels; give a data set with labels, or "
            "use distill, which learns from a teacher too"
        )

    def make(_: TeacherSource | None) -> Supervised:
        student = load_student(recipe, data)
        return Supervised(
            student,
            ignore_index=data.train.ignore_index,
            unlabelled_index=UNLABELLED,
            auxiliary=recipe.train.aux,
        )

    return run(Job(replace(recipe, data=data.values), data, make), options)
