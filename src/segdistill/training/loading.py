"""The networks of a recipe: made from a spec, loaded from a folder, or given as objects."""

from __future__ import annotations

from pathlib import Path

import torch

from segdistill.errors import UserError
from segdistill.networks.loading import is_spec, load_network
from segdistill.networks.network import Network
from segdistill.recipe.data import Data
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe


def load_student(recipe: TrainRecipe | DistillRecipe, data: Data) -> Network:
    """Make the network that a recipe trains.

    Raises:
        UserError: it cannot be made, or has other classes or channels than the data.
    """
    source = recipe.network if isinstance(recipe, TrainRecipe) else recipe.student
    if isinstance(source, str | Path):
        return load_network(source, len(data.train.classes), data.train.in_channels, recipe.init_weights)
    if recipe.init_weights is not None:
        raise UserError("init_weights go with a network that is given by its spec; load them into the network object")
    _check_network(source, "network" if isinstance(recipe, TrainRecipe) else "student")
    if source.num_classes != len(data.train.classes):
        raise UserError(f"the network has {source.num_classes} classes, but the data has {len(data.train.classes)}")
    return source.train()


def load_teacher(recipe: DistillRecipe, data: Data) -> Network:
    """Load the teacher of a recipe, without touching the random state that the student begins with.

    Raises:
        UserError: it is not there, has no trained weights, or has other classes than the data.
    """
    if not isinstance(recipe.teacher, str | Path):
        _check_network(recipe.teacher, "teacher")
        return recipe.teacher
    name, is_folder = str(recipe.teacher), Path(recipe.teacher).is_dir()
    if not is_folder and recipe.teacher_weights is None and not is_spec(name):
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


def _check_network(found: object, role: str) -> None:
    if not isinstance(found, Network):
        raise UserError(
            f"the {role} is a {type(found).__name__}, expected a network spec, a folder, or a segdistill Network"
        )
