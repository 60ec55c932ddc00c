"""`segdistill.distill`: a student from labels and a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from segdistill.distiller import Distiller
from segdistill.errors import UserError
from segdistill.networks.loading import load_network
from segdistill.networks.network import Network
from segdistill.recipe.data import Data, build_data
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.methods import build_methods
from segdistill.recipe.recipes import DistillRecipe
from segdistill.run_folder import RunFolder
from segdistill.training.options import RunOptions
from segdistill.training.run import Job, run
from segdistill.training.teacher_source import TeacherSource


@takes_fields
def distill(recipe: DistillRecipe, options: RunOptions) -> RunFolder:
    """Distil a trained teacher into a small student.

    Returns:
        The finished run's folder; of a dry run, the folder that was not made.

    Raises:
        UserError: a recipe or data that cannot work, before anything is written.
    """
    methods = build_methods(recipe.method)
    data = build_data(recipe.data, recipe.overfit, converting=not options.dry_run)
    recipe = replace(recipe, data=data.values, method=methods)

    def make(teacher: TeacherSource | None) -> Distiller:
        assert teacher is not None
        return Distiller(
            teacher,
            load_network(recipe.student, len(data.train.classes), data.train.in_channels, recipe.init_weights),
            methods,
            ignore_index=data.train.ignore_index,
            ignored=recipe.ignored,
        )

    return run(Job(recipe, data, make, lambda: load_teacher(recipe, data)), options)


def load_teacher(recipe: DistillRecipe, data: Data) -> Network:
    """Load the teacher of a recipe, without touching the random state that the student begins with.

    Raises:
        UserError: it is not there, has no trained weights, or has other classes than the data.
    """
    name, is_folder = str(recipe.teacher), Path(recipe.teacher).is_dir()
    if not is_folder and ":" not in name:
        raise UserError(f"teacher folder '{name}' does not exist; expected a run folder or a network spec")
    if not is_folder and recipe.teacher_weights is None:
        raise UserError(
            f"teacher '{name}' is no run folder, and a network spec alone has no trained weights; "
            "give a run folder, or a file as teacher_weights"
        )
    classes = len(data.train.classes)
    with torch.random.fork_rng():
        teacher = load_network(name, None if is_folder else classes, data.train.in_channels, recipe.teacher_weights)
    teacher.description.check_classes(data.train.classes, f"teacher {name}")
    return teacher
