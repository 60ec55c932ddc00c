"""`segdistill.pretrain`: a student's backbone learns a teacher's features, from images without labels."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import torch

from segdistill.datasets.base import UNLABELLED
from segdistill.errors import UserError
from segdistill.methods.building import build_methods
from segdistill.methods.method import Method
from segdistill.methods.unlabelled import check_features_alone
from segdistill.networks.loading import has_own_weights, is_headless, load_network
from segdistill.networks.network import Network
from segdistill.networks.side_by_side import SideBySide
from segdistill.networks.wrapping import as_student
from segdistill.recipe.data import Data, build_data
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.recipes import PretrainRecipe
from segdistill.recipe.teachers import GivenTeacher
from segdistill.run_folder import RunFolder
from segdistill.training.job import Job
from segdistill.training.loading import Images, load_given, seeing, with_names
from segdistill.training.options import RunOptions
from segdistill.training.pretrain_run import PretrainRun
from segdistill.training.pretrainer import Pretrainer
from segdistill.training.run import run
from segdistill.training.teacher_source import TeacherSource

_ANY = 2
"""Classes of a network that is never asked for them, where the data has none."""


@takes_fields
def pretrain(recipe: PretrainRecipe, options: RunOptions) -> RunFolder:
    """Pre-train a student's backbone on a teacher's features, from images without labels.

    ``distill`` and ``train`` start from the result by ``init_weights: RUN``.

    Returns:
        The finished run's folder; of a dry run, the folder that was not made.

    Raises:
        UserError: a recipe or data that cannot work, before anything is written.
    """
    methods = build_methods(recipe.method)
    check_features_alone(methods)
    _check_teacher(recipe, methods)
    data = build_data(recipe.data, recipe.overfit, converting=not options.dry_run)
    data = data.looked_closer_at(recipe.teacher_scale)

    def make(teacher: TeacherSource | None) -> Pretrainer:
        assert teacher is not None
        learner = Pretrainer(
            teacher,
            _student(recipe, data),
            methods,
            ignore_index=data.train.ignore_index,
            unlabelled_index=UNLABELLED,
            teacher_scale=recipe.teacher_scale,
        )
        if data.augmentation.crop is not None:
            learner.check_crop(data.augmentation.crop)
        learner.freeze_the_rest()
        return learner

    complete = replace(recipe, data=data.values, method=methods)
    job = Job(complete.as_distillation(), data, make, load_teacher=lambda: _teacher(recipe, data))
    return run(job, options, functools.partial(PretrainRun, recipe=complete))


def _check_teacher(recipe: PretrainRecipe, methods: list[Method]) -> None:
    """Refuse to learn from a decoder that nobody has trained."""
    needs = next((one.name for one in methods if one.needs_embedding or not one.needs_stages), None)
    if recipe.backbone_weights is not None and needs is not None:
        raise UserError(
            f"teacher_weights {recipe.teacher_weights} are those of a backbone, but method {needs} compares outputs of "
            "the teacher's decoder, which is not trained; expected a method that compares only stages, such as "
            "{feature: {embedding: false, stages: true}}"
        )


def _student(recipe: PretrainRecipe, data: Data) -> Network:
    """The network whose backbone is trained; its classes are of no account."""
    source = recipe.student
    if isinstance(source, str | Path):
        classes = None if has_own_weights(source) else len(data.train.classes) or _ANY
        built = load_network(source, classes, data.train.in_channels, recipe.init_weights)
        return as_student(built, "student")
    if recipe.init_weights is not None:
        raise UserError("init_weights go with a network that is given by its spec; load them into the network object")
    return as_student(source, "student").train()


def _teacher(recipe: PretrainRecipe, data: Data) -> Network:
    """The teacher, or all of them `SideBySide`; the random state of the student is not touched."""
    images = Images.of(data.train)
    given = recipe.teachers()
    with torch.random.fork_rng():
        networks = [seeing(_loaded(recipe, one, images), one, images) for one in given]
    return networks[0] if len(networks) == 1 else SideBySide(with_names(networks, given))


def _loaded(recipe: PretrainRecipe, given: GivenTeacher, images: Images) -> Network:
    source, backbone = given.source, recipe.backbone_weights
    if not isinstance(source, str | Path) or has_own_weights(source):
        return load_given(given, images, features=True)
    if backbone is not None:
        channels = images.in_channels if given.bands is None else len(given.bands)
        classes = None if is_headless(str(source)) else len(images.classes) or _ANY
        return load_network(source, classes, channels, backbone)
    if not images.classes and not is_headless(str(source)):
        raise UserError(
            f"teacher '{source}' needs a number of classes, and images without labels give none; expected a run "
            "folder, or the weights of only its backbone: teacher_weights {encoder: FILE}"
        )
    return load_given(given, images, features=True)
