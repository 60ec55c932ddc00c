"""The networks of a recipe: made from a spec, loaded from a folder, or given as objects."""

from __future__ import annotations

from pathlib import Path

import torch

from segdistill.errors import UserError
from segdistill.networks.loading import load_network, load_trained
from segdistill.networks.network import Network
from segdistill.networks.wrapping import as_network
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
    network = as_network(source, "network" if isinstance(recipe, TrainRecipe) else "student")
    if network.num_classes != len(data.train.classes):
        raise UserError(f"the network has {network.num_classes} classes, but the data has {len(data.train.classes)}")
    return network.train()


def load_teacher(recipe: DistillRecipe, data: Data) -> Network:
    """Load the teacher of a recipe, without touching the random state that the student begins with.

    It may have another number of classes than the data: methods that compare class scores refuse that.

    Raises:
        UserError: it is not there, has no trained weights, or has the data's classes in another order.
    """
    if not isinstance(recipe.teacher, str | Path):
        return as_network(recipe.teacher, "teacher")
    name = str(recipe.teacher)
    with torch.random.fork_rng():
        teacher = load_trained(
            name,
            len(data.train.classes),
            data.train.in_channels,
            recipe.teacher_weights,
            role="teacher",
            key="teacher_weights",
        )
    if teacher.num_classes == len(data.train.classes):
        teacher.description.check_classes(data.train.classes, f"teacher {name}")
    return teacher
