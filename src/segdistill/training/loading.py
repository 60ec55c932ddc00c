"""The networks of a recipe: made from a spec, loaded from a folder, or given as objects."""

from __future__ import annotations

from pathlib import Path

import torch

from segdistill.errors import UserError
from segdistill.networks.crop import check_crop
from segdistill.networks.loading import load_network, load_trained
from segdistill.networks.network import Network
from segdistill.networks.wrapping import as_network, as_student
from segdistill.recipe.data import Data
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe


def load_student(recipe: TrainRecipe | DistillRecipe, data: Data) -> Network:
    """Make the network that a recipe trains.

    Raises:
        UserError: it cannot be made, or has other classes or channels than the data.
    """
    source, role = (recipe.network, "network") if isinstance(recipe, TrainRecipe) else (recipe.student, "student")
    if isinstance(source, str | Path):
        built = load_network(source, len(data.train.classes), data.train.in_channels, recipe.init_weights)
        return _fitting(as_student(built, role), role, data)
    if recipe.init_weights is not None:
        raise UserError("init_weights go with a network that is given by its spec; load them into the network object")
    network = as_student(source, role)
    if network.num_classes != len(data.train.classes):
        raise UserError(f"the network has {network.num_classes} classes, but the data has {len(data.train.classes)}")
    return _fitting(network, role, data).train()


def _fitting(network: Network, role: str, data: Data) -> Network:
    """The network, if no crop of the data is larger than the images that it takes."""
    size, crop = network.info.size, data.augmentation.crop
    if size is not None and crop is not None and (crop[0] > size[0] or crop[1] > size[1]):
        check_crop(crop, {role: size}, network.multiple)
    return network


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
