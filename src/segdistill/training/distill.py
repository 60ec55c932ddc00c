"""`segdistill.distill`: a student from labels and a teacher."""

from __future__ import annotations

from dataclasses import replace

from segdistill.datasets.base import UNLABELLED
from segdistill.distiller import Distiller
from segdistill.methods.building import build_methods
from segdistill.recipe.data import build_data
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.recipes import DistillRecipe
from segdistill.run_folder import RunFolder
from segdistill.training.job import Job
from segdistill.training.loading import hint_of_random_start, load_student, load_teacher
from segdistill.training.options import RunOptions
from segdistill.training.run import run
from segdistill.training.teacher_labels import check_without_labels, with_classes
from segdistill.training.teacher_source import TeacherSource


@takes_fields
def distill(recipe: DistillRecipe, options: RunOptions) -> RunFolder:
    """Distil a trained teacher into a small student.

    Returns:
        The finished run's folder; of a dry run, the folder that was not made.

    Raises:
        UserError: a recipe or data that cannot work, before anything is written.
    """
    return run_distillation(recipe, options, hint=hint_of_random_start(recipe.teachers()))


def run_distillation(recipe: DistillRecipe, options: RunOptions, *, hint: str = "") -> RunFolder:
    """`distill`, for one run of many: a comparison's cells do not repeat the ``hint``."""
    methods = build_methods(recipe.method)
    data = with_classes(build_data(recipe.data, recipe.overfit, converting=not options.dry_run), recipe)
    if data.train.unlabelled_index is not None:
        check_without_labels(recipe, methods)
    data = data.looked_closer_at(recipe.teacher_scale)
    # mixup leaves pixels without a label, too.
    all_labelled = data.unlabelled is None and data.train.unlabelled_index is None and not data.augmentation.mix

    def make(teacher: TeacherSource | None) -> Distiller:
        assert teacher is not None
        learner = Distiller(
            teacher,
            load_student(recipe, data),
            methods,
            ignore_index=data.train.ignore_index,
            ignored=recipe.ignored,
            unlabelled_index=None if all_labelled else UNLABELLED,
            teacher_scale=recipe.teacher_scale,
            auxiliary=recipe.train.aux,
        )
        if data.augmentation.crop is not None:
            learner.check_crop(data.augmentation.crop)
        return learner

    complete = replace(recipe, data=data.values, method=methods)
    return run(Job(complete, data, make, load_teacher=lambda: load_teacher(recipe, data), hint=hint), options)
