"""The data of a recipe: splits and augmentation from its plain values, each checked on the way."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from segdistill.arguments import construct
from segdistill.data.augmentation import Augmentation
from segdistill.data.statistics import BandStatistics
from segdistill.data.strong import check_pixels
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.datasets.reading.first import FirstSamples
from segdistill.datasets.reading.joined import Joined
from segdistill.errors import NoSplitError, UserError
from segdistill.naming import OBJECT, is_plain, recipe_name, resolve
from segdistill.plugins import PREFIX, name_of
from segdistill.recipe.data_keys import AUGMENTING, FOR_A_TEACHER, SPLITS, check_keys, check_mapping, dataset_name
from segdistill.recipe.fingerprint import fingerprint
from segdistill.recipe.unlabelled import build_unlabelled, check_unlabelled, share_of, unlabelled_in_batch
from segdistill.recipe.values import plain

#: As ``decoded_cache`` in a recipe's data: decoded images stay in memory. Anything else is a folder.
KEEP_IN_MEMORY = "ram"

#: Arguments of data sets that say where files lie and what is read of an image at once, not what is in it.
_NOT_OF_CONTENT = ("root", "sbd", "tiled_copy", "crops_per_image", "evaluation_window", "split")

#: Augmentation that leaves images as they are, but for the crop.
UNCHANGED: dict[str, Any] = {
    "scale": [1.0, 1.0],
    "flip": False,
    "vertical_flip": False,
    "quarter_turns": False,
    "jitter": 0.0,
    "mix": None,
    "strong": 0.0,
}

#: Longest side of a training crop where the recipe names none.
LARGEST_DEFAULT_CROP = 512


@dataclass(frozen=True)
class Data:
    """Images to train and validate on, and how training images are augmented.

    Args:
        train: training split.
        val: validation split.
        augmentation: how training images are changed; by default a random scale, crop and flip, see `default_crop`.
        decoded_cache: where decoded images are kept, see `keep_decoded`: "ram", a folder, or None for nowhere.
        statistics: mean and deviation that normalise the images; None for those that their kind asks for.
        unlabelled: images that only a teacher speaks about, drawn into every batch; None for none.
        unlabelled_share: how much of each batch they are, between 0 and 1.
        values: how a recipe writes all this; made from the objects where it is not given.
        teacher_scale: training images are read and shown at so many times the student's size; see `looked_closer_at`.

    Example:
        >>> from segdistill.datasets import SyntheticAerial
        >>> scenes = {split: SyntheticAerial(split=split, count=2, size=[32, 48]) for split in ("train", "val")}
        >>> Data(**scenes).values["dataset"], Data(**scenes).augmentation.crop
        ('synthetic-aerial', (32, 48))
    """

    train: SegmentationDataset
    val: SegmentationDataset
    augmentation: Augmentation = field(default=cast(Augmentation, None))
    decoded_cache: str | None = None
    statistics: BandStatistics | None = None
    unlabelled: SegmentationDataset | None = None
    unlabelled_share: float = 0.5
    values: dict[str, Any] = field(default_factory=dict)
    teacher_scale: int = 1

    def __post_init__(self) -> None:
        if getattr(self, "augmentation", None) is None:
            chosen = Augmentation(default_crop(self.train), ignore_index=self.train.ignore_index)
            object.__setattr__(self, "augmentation", chosen)
        if self.augmentation.strong:
            check_pixels(self.augmentation.strong, self.train.pixel_type())
        if self.unlabelled is not None:
            check_unlabelled(self.train, self.unlabelled, self.unlabelled_share)
        if not self.values:
            object.__setattr__(self, "values", written_data(self))

    def looked_closer_at(self, factor: int) -> Data:
        """This data with its training images at ``factor`` times the student's size, for the teacher.

        A data set that resizes reads so much larger images; of one that does not, the crop is cut as it was and brought
        to ``factor`` times its size. The augmentation, ``crop`` included, stays the student's.
        """
        size = self.train.resize
        if size is None:
            return replace(self, teacher_scale=factor)
        closer = (factor * size[0], factor * size[1])
        unlabelled = None if self.unlabelled is None else self.unlabelled.at_size(closer)
        return replace(self, train=self.train.at_size(closer), unlabelled=unlabelled, teacher_scale=factor)

    def val_for_teacher(self) -> SegmentationDataset:
        """The validation split as the teacher is scored on it: at its own size, where the data set resizes."""
        size = self.val.resize
        if size is None:
            return self.val
        return self.val.at_size((self.teacher_scale * size[0], self.teacher_scale * size[1]))

    def as_student_sees(self) -> SegmentationDataset:
        """The training split at the student's size."""
        size = self.train.resize
        if size is None:
            return self.train
        return self.train.at_size((size[0] // self.teacher_scale, size[1] // self.teacher_scale))

    def check_classes(self) -> None:
        """Refuse splits of different classes.

        Raises:
            UserError: they disagree.
        """
        if self.train.classes != self.val.classes:
            raise UserError(f"the splits disagree on classes: train {self.train.classes}, val {self.val.classes}")

    def fingerprint(self) -> str:
        """A hash of all samples and of what their files hold, see `segdistill.recipe.fingerprint.fingerprint`."""
        return fingerprint((self.train, self.val, self.unlabelled))

    def unlabelled_in_batch(self, batch_size: int) -> int:
        """How many of so many images of a batch are unlabelled ones.

        Raises:
            UserError: a batch has no room for both kinds.
        """
        return 0 if self.unlabelled is None else unlabelled_in_batch(batch_size, self.unlabelled_share)

    def training_set(self, batch_size: int) -> SegmentationDataset:
        """What batches of so many images are drawn from: the train split, and the unlabelled images where there are."""
        if self.unlabelled is None:
            return self.train
        unlabelled = self.unlabelled_in_batch(batch_size)
        return Joined(self.train, self.unlabelled, batch_size - unlabelled, unlabelled)

    def images_per_epoch(self, batch_size: int) -> int:
        """How many training images an epoch shows: one pass over the labelled ones, and the unlabelled ones beside."""
        labelled = len(self.train) * self.train.crops_per_image
        if self.unlabelled is None:
            return labelled
        return batch_size * max(1, labelled // (batch_size - self.unlabelled_in_batch(batch_size)))

    def in_recipe(self) -> dict[str, Any]:
        """How a recipe writes this data."""
        return self.values


def default_crop(train: SegmentationDataset) -> list[int]:
    """Height and width of the first training image, at most `LARGEST_DEFAULT_CROP` each."""
    return [min(LARGEST_DEFAULT_CROP, side) for side in train.open(0).size]


def build_data(values: Mapping[str, Any] | Data, overfit: int | None = None, *, converting: bool = True) -> Data:
    """The training and validation split and the augmentation that a recipe's ``data`` names.

    Args:
        values: ``dataset`` (a name, see `resolve`), the arguments of that data set's class but ``split``, those of
            `Augmentation`, ``decoded_cache``, ``statistics``, a file that `data stats` wrote, and ``unlabelled``, a
            folder or several of further images, or the arguments of `Images`, with ``unlabelled_share``, side by side.
            Without ``crop`` the `default_crop` is taken. Where the splits differ in more than their name, ``train`` and
            ``val`` hold data set and arguments of each. A `Data` is taken as it is.
        overfit: only the first so many training images, not augmented, for training and validation alike, and no
            unlabelled ones.
        converting: whether data sets may convert their files into the folder ``tiled_copy``; if not, they do without.

    Raises:
        UserError: for an unknown data set, an unknown or wrong-typed key, or data that cannot be read.
    """
    if isinstance(values, Data):
        return values if overfit is None else _first_of(values, overfit)
    check_keys(values)
    decoded_cache = values.get("decoded_cache")
    if decoded_cache is not None and not (isinstance(decoded_cache, str | Path) and str(decoded_cache)):
        raise UserError(f"data: decoded_cache is {decoded_cache!r}, expected ram, or a folder for decoded images")
    decoded_cache = None if decoded_cache is None else str(decoded_cache)
    read = values if converting else {key: value for key, value in values.items() if key != "tiled_copy"}
    train = build_split(read, "train")
    statistics = None if values.get("statistics") is None else _statistics(values["statistics"], train)
    chosen = dict(values)
    if chosen.get("crop") is None:
        chosen["crop"] = default_crop(train)
    settings = {key: value for key, value in chosen.items() if key in AUGMENTING}
    if overfit is not None:
        few = _first(train, overfit)
        augmentation = construct(Augmentation, settings | UNCHANGED | {"ignore_index": train.ignore_index}, "data")
        # A few are soon read, and a file of them would be in the way of that of all.
        keeping = decoded_cache and KEEP_IN_MEMORY
        return Data(few, few, augmentation, keeping, statistics, values=chosen)
    augmentation = construct(Augmentation, settings | {"ignore_index": train.ignore_index}, "data")
    unlabelled = build_unlabelled(values, train)
    share = share_of(values)
    val = build_split(read, "val")
    return Data(train, val, augmentation, decoded_cache, statistics, unlabelled, share, chosen)


def _first_of(data: Data, overfit: int) -> Data:
    few = _first(data.train, overfit)
    augmentation = Augmentation(data.augmentation.crop, **UNCHANGED, ignore_index=few.ignore_index)
    return replace(data, train=few, val=few, augmentation=augmentation, unlabelled=None)


def _first(train: SegmentationDataset, overfit: int) -> SegmentationDataset:
    if overfit < 1:
        raise UserError(f"overfit is {overfit}, expected at least 1")
    return FirstSamples(train, overfit)


def has_unlabelled(values: Mapping[str, Any] | Data) -> bool:
    """Whether a recipe's ``data`` has unlabelled images beside its train split."""
    return (values.get("unlabelled") if isinstance(values, Mapping) else values.unlabelled) is not None


def labels_alone(values: Mapping[str, Any] | Data, batch_size: int) -> tuple[Mapping[str, Any] | Data, int]:
    """A recipe's ``data`` without its unlabelled images, and how many labelled images each of its batches holds.

    Args:
        values: a recipe's ``data``.
        batch_size: images of a batch, of both kinds.
    """
    if isinstance(values, Mapping):
        own = {key: value for key, value in values.items() if key not in FOR_A_TEACHER}
        if values.get("unlabelled") is None:
            return own, batch_size
        return own, batch_size - unlabelled_in_batch(batch_size, share_of(values))
    own = {key: value for key, value in values.values.items() if key not in FOR_A_TEACHER}
    return replace(values, unlabelled=None, values=own), batch_size - values.unlabelled_in_batch(batch_size)


def written_data(data: Data) -> dict[str, Any]:
    """How a recipe writes data that is given as objects."""
    splits = {name: _written_split(dataset) for name, dataset in (("train", data.train), ("val", data.val))}
    shared = [{key: value for key, value in split.items() if key != "split"} for split in splits.values()]
    by_name = all(split.get("split") == name for name, split in splits.items())
    values: dict[str, Any] = dict(shared[0]) if by_name and shared[0] == shared[1] else dict(splits)
    if type(data.augmentation) is not Augmentation:
        values["augmentation"] = name_of(type(data.augmentation)).replace(PREFIX, OBJECT)
    else:
        values |= {name: plain(getattr(data.augmentation, name), f"data.{name}") for name in AUGMENTING}
    if data.decoded_cache is not None:
        values["decoded_cache"] = data.decoded_cache
    if data.statistics is not None:
        values["statistics"] = f"{OBJECT}BandStatistics"
    if data.unlabelled is not None:
        values["unlabelled"] = _written_split(data.unlabelled)
        values["unlabelled_share"] = data.unlabelled_share
    return values


def _written_split(dataset: SegmentationDataset) -> dict[str, Any]:
    name = recipe_name("dataset", type(dataset))
    if dataset.arguments is None or not is_plain(dataset.arguments):
        return {"dataset": f"{OBJECT}{type(dataset).__module__}.{type(dataset).__qualname__}"}
    arguments: dict[str, Any] = plain(dataset.arguments, "data")
    return {"dataset": name, **arguments}


def keep_decoded(data: Data, console: Console, *, progress: bool = False, rank: int = 0, world: int = 1) -> Data:
    """``data`` with all images decoded once and kept where it says, see `DecodedCache`; the same samples, sooner.

    Args:
        data: what `build_data` gave.
        console: is told the size before anything is read.
        progress: show a bar.
        rank, world: number of this process among several that do the same.

    Raises:
        UserError: an image that cannot be read, too little memory or disk, a folder that keeps other data.
    """
    if data.decoded_cache is None:
        return data

    def kept(dataset: SegmentationDataset, split: str) -> DecodedCache:
        made_for = _reading(data.values) | {"split": split}
        scored = split == "val" and dataset.resize is not None
        name = f"{split}-scored" if scored else split
        taught = dataset is data.train or dataset is data.unlabelled
        if data.teacher_scale > 1 and taught and dataset.resize is not None:
            # Another file: the student alone reads images of its own size, perhaps from the same folder.
            name, made_for["teacher_scale"] = f"{split}-x{data.teacher_scale}", data.teacher_scale
        file = None if data.decoded_cache == KEEP_IN_MEMORY else Path(str(data.decoded_cache)) / name
        return DecodedCache(
            dataset, file, made_for, console=console, progress=progress, rank=rank, world=world, for_scores=scored
        )

    train = kept(data.train, "train")
    val = train if data.val is data.train and data.val.resize is None else kept(data.val, "val")
    unlabelled = None if data.unlabelled is None else kept(data.unlabelled, "unlabelled")
    return replace(data, train=train, val=val, unlabelled=unlabelled, decoded_cache=None)


def build_split(values: Mapping[str, Any], split: str) -> SegmentationDataset:
    """One split of the data set that a recipe's ``data`` names; see `build_data`."""
    check_mapping(values)
    if "dataset" not in values and any(name in values for name in SPLITS):
        if not isinstance(values.get(split), Mapping):
            raise NoSplitError(f"data has no split '{split}'; it names {', '.join(n for n in SPLITS if n in values)}")
        own = values[split]
        kind = _dataset_class(own)
        parameter = inspect.signature(kind).parameters.get("split")
        # A data set that is whole by default, such as `Images`, is named whole where the splits are named one by one.
        whole = parameter is None or parameter.default == "all"
        named = {} if whole or "split" in own else {"split": split}
        return construct(kind, {key: value for key, value in own.items() if key != "dataset"} | named, f"data.{split}")
    kind = _dataset_class(values)
    reading = _arguments(kind)
    if "split" not in reading:
        raise UserError(
            f"data set '{values['dataset']}' has no argument split; give it one ('train', 'val' or 'test'), or name the"
            " data sets of the splits: {train: {dataset: ...}, val: {dataset: ...}}"
        )
    return construct(kind, {key: value for key, value in values.items() if key in reading} | {"split": split}, "data")


def _arguments(kind: type[SegmentationDataset]) -> list[str]:
    return list(inspect.signature(kind).parameters)


def _dataset_class(values: Mapping[str, Any]) -> type[SegmentationDataset]:
    kind: type[SegmentationDataset] = resolve("dataset", dataset_name(values))
    return kind


def _statistics(file: Any, train: SegmentationDataset) -> BandStatistics:
    """What a file says of images such as those of ``train``."""
    if not isinstance(file, str | Path):
        raise UserError(f"data: statistics is {file!r}, expected a file that `segdistill data stats` wrote")
    statistics = BandStatistics.load(file)
    if len(statistics.mean) != train.in_channels:
        raise UserError(
            f"data: statistics {file} is of {len(statistics.mean)} bands, but the images have {train.in_channels}"
        )
    image, _ = train.open(0).window(Window(0, 0, 1, 1))
    if not image.is_floating_point() and max(statistics.mean) > 1:
        raise UserError(
            f"data: statistics {file} holds the mean {max(statistics.mean):g}; expected 0 to 1 for images of 8 bits"
        )
    return statistics


def _reading(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the samples depend on besides their files: the data set and its arguments, defaults too."""
    if "dataset" not in values:
        return {split: _reading(values[split]) for split in SPLITS if split in values}
    told: dict[str, Any] = {"dataset": values["dataset"]}
    for name, parameter in inspect.signature(_dataset_class(values)).parameters.items():
        if name not in _NOT_OF_CONTENT:
            told[name] = plain(values.get(name, parameter.default), f"data.{name}")
    return told
