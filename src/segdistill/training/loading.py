"""The networks of a recipe: made from a spec, loaded from a folder, or given as objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from segdistill.datasets.base import SegmentationDataset
from segdistill.errors import UserError
from segdistill.files import digest
from segdistill.networks.bands import SelectedBands
from segdistill.networks.class_map import count_of_classes
from segdistill.networks.classes import MappedClasses
from segdistill.networks.crop import check_crop
from segdistill.networks.ensemble import Ensemble
from segdistill.networks.identity import network_digest, network_label
from segdistill.networks.loading import files_of, has_own_weights, load_network, load_trained
from segdistill.networks.network import Network
from segdistill.networks.wrapping import as_network, as_student
from segdistill.recipe.data import Data
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.recipe.teachers import GivenTeacher
from segdistill.run_folder import RunFolder, unfinished_note


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
    """Load the teacher of a recipe, or the `Ensemble` of several; the random state of the student is not touched.

    It may have another number of classes than the data: methods that compare class scores refuse that.

    Raises:
        UserError: one is not there, has no trained weights, or does not fit the data: its classes are in another order,
            or it takes other channels or another kind of pixels.
    """
    return teacher_for(recipe.teachers(), Images.of(data.train))


@dataclass(frozen=True)
class Images:
    """What a teacher must know of the data.

    Attributes:
        classes: names of its classes.
        in_channels: channels of its images.
        pixels: the type of their pixels, numpy's name; None: not known.
        bands: which bands of the files these are, from 1; None: not known, or red, green and blue.
        seen: at which size a teacher sees them, in words; None: not known.
    """

    classes: tuple[str, ...]
    in_channels: int
    pixels: str | None = None
    bands: Sequence[int] | None = None
    seen: str | None = None

    @classmethod
    def of(cls, dataset: SegmentationDataset) -> Images:
        """Those of a data set."""
        size = dataset.resize
        seen = "at their own size" if size is None else f"resized to {size[0]} x {size[1]}"
        return cls(tuple(dataset.classes), dataset.in_channels, dataset.pixel_type(), dataset.bands, seen)


def teacher_for(given: Sequence[GivenTeacher], images: Images) -> Network:
    """Load the teachers of a recipe for images; see `load_teacher`."""
    with torch.random.fork_rng():
        networks = [_one_teacher(one, images) for one in given]
    return networks[0] if len(networks) == 1 else Ensemble(with_names(networks, given), [one.share for one in given])


def with_names(networks: Sequence[Network], given: Sequence[GivenTeacher]) -> Sequence[Network]:
    """Several teachers, each of whose notes says whose it is."""
    for one, network in zip(given, networks, strict=True):
        network.notes = [f"{network_label(one.source)}: {note}" for note in network.notes]
    return networks


def _one_teacher(given: GivenTeacher, images: Images) -> Network:
    """A teacher that takes the images of the data and, if its recipe maps them, has the data's classes."""
    name = label(given)
    network = seeing(load_given(given, images), given, images)
    if given.classes is not None:
        return MappedClasses(network, given.classes, images.classes, name)
    if network.num_classes == len(images.classes):
        remedy = "map them with teacher_classes: {class of the teacher: class of the data, or ignore}"
        network.description.check_classes(images.classes, name, remedy=remedy)
    return network


def label(given: GivenTeacher) -> str:
    """What a teacher is called in messages."""
    return f"teacher {network_label(given.source)}"


def seeing(network: Network, given: GivenTeacher, images: Images) -> Network:
    """A teacher that takes the images of the data: all their channels, or those that its recipe names.

    Raises:
        UserError: it takes other channels or another kind of pixels.
    """
    name = label(given)
    if images.pixels is not None:
        network.description.check_pixels(images.pixels, "the data", name)
    size = network.description.resize
    if size is not None and images.seen not in (None, told := f"resized to {size[0]} x {size[1]}"):
        network.notes.append(f"it was validated on images {told}, but here it sees them {images.seen}")
    if given.bands is not None:
        network = SelectedBands(network, given.bands, images.in_channels, name)
        network.notes += _other_bands(network.networks[0], given.bands, images)
    elif network.info.in_channels != images.in_channels:
        raise UserError(
            f"{name} takes {network.info.in_channels} channels, but the images of the data have {images.in_channels}; "
            "choose the channels that the teacher gets with teacher_bands, such as "
            f"{[min(band, images.in_channels) for band in range(1, network.info.in_channels + 1)]}"
        )
    return network


def load_given(given: GivenTeacher, images: Images, *, features: bool = False) -> Network:
    """Load one teacher as its recipe gives it, with what it sees and its own classes.

    Args:
        given: the teacher.
        images: of the data.
        features: whether trained features are enough.

    Raises:
        UserError: it is not there, or has no trained weights.
    """
    if not isinstance(given.source, str | Path):
        return as_network(given.source, "teacher")
    classes = len(images.classes)
    if given.classes is not None and not has_own_weights(given.source):
        classes = count_of_classes(given.classes, label(given))
    # What has its own weights knows its channels, which are compared with those of the data later.
    channels = images.in_channels if given.bands is None else len(given.bands)
    channels = 3 if has_own_weights(given.source) else channels
    network = load_trained(
        given.source, classes, channels, given.weights, role="teacher", key="teacher_weights", features=features
    )
    network.notes += [
        f"{line}, and a teacher cache made of it cannot be used once it changes"
        for line in unfinished_note(given.source)
    ]
    return network


def hint_of_random_start(given: Sequence[GivenTeacher]) -> str:
    """A line where a teacher's run says that it began with random weights; else nothing."""
    for one in given:
        run = RunFolder(one.source) if isinstance(one.source, str | Path) else None
        config = run.read_config() if run is not None and run.config_file.exists() else {}
        network = str(config.get("network"))
        # Of a network from elsewhere nobody knows what weights its code loads.
        known = network.partition(":")[0] in ("smp", "torchvision", "transformers")
        if known and config.get("init_weights") is None and not has_own_weights(network):
            return (
                f"hint: {label(one)} began with random weights; on real images such a teacher gave no better student "
                "where we measured it: begin it with pre-trained weights (segdistill train --init_weights)"
            )
    return ""


def _other_bands(network: Network, chosen: Sequence[int], images: Images) -> list[str]:
    """A line where a teacher sees other bands of the files than it was trained on."""
    trained = network.description.bands
    if trained is None or images.bands is None:
        return []
    shown = tuple(images.bands[channel - 1] for channel in chosen)
    if shown == tuple(trained):
        return []
    told = "trained on bands {} of its own files, but here it sees bands {}"
    return [told.format(*(", ".join(map(str, bands)) for bands in (trained, shown)))]


def teacher_hash(recipe: DistillRecipe) -> str | None:
    """Hash of the teacher's files, or of its weights if it is an object; None for a name on the hub, without files.

    Of several teachers, all of these.
    """
    hashes = [_hash_of(one) for one in recipe.teachers()]
    return hashes[0] if len(hashes) == 1 else "+".join(str(one) for one in hashes)


def _hash_of(teacher: GivenTeacher) -> str | None:
    if not isinstance(teacher.source, str | Path):
        return network_digest(teacher.source)
    files = files_of(teacher.source, teacher.weights)
    return digest(*files) if files and all(file.is_file() for file in files) else None
