"""The data of a recipe: splits and augmentation from its plain values, each checked on the way."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from segdistill.data.augmentation import Augmentation
from segdistill.data.statistics import BandStatistics
from segdistill.datasets import DATASETS, SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.datasets.reading.first import FirstSamples
from segdistill.errors import UserError, unknown_name
from segdistill.recipe.values import construct, plain

#: As ``decoded_cache`` in a recipe's data: decoded images stay in memory. Anything else is a folder.
KEEP_IN_MEMORY = "ram"

#: Arguments of data sets that say where files lie and what is read of an image at once, not what is in it.
_NOT_OF_CONTENT = ("root", "sbd", "tiled_copy", "crops_per_image", "evaluation_window", "split")

#: Longest side of a training crop where the recipe names none.
LARGEST_DEFAULT_CROP = 512


@dataclass(frozen=True)
class Data:
    """What a recipe's ``data`` names.

    Attributes:
        train: training split.
        val: validation split.
        augmentation: how training images are changed.
        values: the recipe's ``data`` made complete, with what was chosen where it was silent.
        decoded_cache: where decoded images are to be kept, see `keep_decoded`: "ram", a folder, or None for nowhere.
        statistics: by which images are normalised; None: by what their kind asks for.
    """

    train: SegmentationDataset
    val: SegmentationDataset
    augmentation: Augmentation
    values: dict[str, Any]
    decoded_cache: str | None = None
    statistics: BandStatistics | None = None


def build_data(values: Mapping[str, Any], overfit: int | None = None, *, converting: bool = True) -> Data:
    """The training and validation split and the augmentation that a recipe's ``data`` names.

    Args:
        values: ``dataset`` (a name in `DATASETS`), the arguments of that data set's class but ``split``, those of
            `Augmentation`, ``decoded_cache``, and ``statistics``, a file that `data stats` wrote, side by side. Without
            ``crop`` the size of the first training image is taken, at most `LARGEST_DEFAULT_CROP` on a side.
        overfit: only the first so many training images, not augmented, for training and validation alike.
        converting: whether data sets may convert their files into the folder ``tiled_copy``; if not, they do without.

    Raises:
        UserError: for an unknown data set, an unknown or wrong-typed key, or data that cannot be read.
    """
    kind = _dataset_class(values)
    augmenting = [name for name in inspect.signature(Augmentation).parameters if name != "ignore_index"]
    reading = [name for name in inspect.signature(kind).parameters if name != "split"]
    for key in values:
        if key not in ("dataset", "decoded_cache", "statistics") and key not in augmenting and key not in reading:
            raise unknown_name("key in data:", key, ["dataset", *augmenting, *reading, "decoded_cache", "statistics"])
    decoded_cache = values.get("decoded_cache")
    if decoded_cache is not None and not (isinstance(decoded_cache, str | Path) and str(decoded_cache)):
        raise UserError(f"data: decoded_cache is {decoded_cache!r}, expected ram, or a folder for decoded images")
    decoded_cache = None if decoded_cache is None else str(decoded_cache)
    read = values if converting else {key: value for key, value in values.items() if key != "tiled_copy"}
    train = build_split(read, "train")
    statistics = None if values.get("statistics") is None else _statistics(values["statistics"], train)
    chosen = dict(values)
    if chosen.get("crop") is None:
        chosen["crop"] = [min(LARGEST_DEFAULT_CROP, side) for side in train.open(0).size]
    settings = {key: value for key, value in chosen.items() if key in augmenting}
    if overfit is not None:
        if overfit < 1:
            raise UserError(f"overfit is {overfit}, expected at least 1")
        settings |= {"scale": [1.0, 1.0], "flip": False, "vertical_flip": False, "quarter_turns": False, "jitter": 0.0}
    augmentation = construct(Augmentation, settings | {"ignore_index": train.ignore_index}, "data")
    if overfit is not None:
        few = FirstSamples(train, overfit)
        # A few are soon read, and a file of them would be in the way of that of all.
        return Data(few, few, augmentation, chosen, decoded_cache and KEEP_IN_MEMORY, statistics)
    return Data(train, build_split(read, "val"), augmentation, chosen, decoded_cache, statistics)


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
        file = None if data.decoded_cache == KEEP_IN_MEMORY else Path(str(data.decoded_cache)) / split
        made_for = _reading(data.values) | {"split": split}
        return DecodedCache(dataset, file, made_for, console=console, progress=progress, rank=rank, world=world)

    train = kept(data.train, "train")
    return replace(
        data, train=train, val=train if data.val is data.train else kept(data.val, "val"), decoded_cache=None
    )


def build_split(values: Mapping[str, Any], split: str) -> SegmentationDataset:
    """One split of the data set that a recipe's ``data`` names; see `build_data`."""
    kind = _dataset_class(values)
    reading = inspect.signature(kind).parameters
    return construct(kind, {key: value for key, value in values.items() if key in reading} | {"split": split}, "data")


def _dataset_class(values: Mapping[str, Any]) -> type[SegmentationDataset]:
    if not isinstance(values, Mapping):
        raise UserError(f"data is {values!r}, expected a mapping such as {{dataset: camvid, root: data/camvid}}")
    name = values.get("dataset")
    if name is None:
        raise UserError(f"data: the key 'dataset' is missing; expected one of {', '.join(sorted(DATASETS))}")
    if not isinstance(name, str) or name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    return DATASETS[name]


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
    told: dict[str, Any] = {"dataset": values["dataset"]}
    for name, parameter in inspect.signature(_dataset_class(values)).parameters.items():
        if name not in _NOT_OF_CONTENT:
            told[name] = plain(values.get(name, parameter.default), f"data.{name}")
    return told
