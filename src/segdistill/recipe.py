"""From a recipe's plain values (YAML, command line, keywords) to objects, each value checked on the way."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser
from rich.console import Console

from segdistill.data.augmentation import Augmentation
from segdistill.data.statistics import BandStatistics
from segdistill.datasets import DATASETS, SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.datasets.reading.first import FirstSamples
from segdistill.errors import UserError, unknown_name
from segdistill.methods import METHODS, Method

#: A method as a recipe writes it: a name, a list, or a mapping from names to hyper-parameters.
MethodSpec = str | list[Any] | dict[str, Any]

#: As ``decoded_cache`` in a recipe's data: decoded images stay in memory. Anything else is a folder.
KEEP_IN_MEMORY = "ram"

#: Arguments of data sets that say where files lie and what is read of an image at once, not what is in it.
_NOT_OF_CONTENT = ("root", "sbd", "tiled_copy", "crops_per_image", "evaluation_window", "split")

#: Longest side of a training crop where the recipe names none.
LARGEST_DEFAULT_CROP = 512

T = TypeVar("T")


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


def build_methods(spec: MethodSpec | Method) -> list[Method]:
    """The methods that a recipe's ``method`` names.

    Args:
        spec: ``"brd"``, ``["brd", "cwd"]``, ``[{"brd": {"boundary": 2.0}}, "cwd"]``, ``{"brd": {...}, "cwd": {}}``,
            or methods already made.

    Raises:
        UserError: for an unknown method, an unknown or wrong-typed hyper-parameter, or no method at all.

    Example:
        >>> [type(method).__name__ for method in build_methods({"brd": {"boundary": 2.0}, "cwd": {}})]
        ['BRD', 'CWD']
    """
    if isinstance(spec, Method):
        return [spec]
    if isinstance(spec, str):
        return [_method(spec, {})]
    if isinstance(spec, Mapping) and spec:
        return [_method(name, values) for name, values in spec.items()]
    if isinstance(spec, list | tuple) and spec:
        return [method for entry in spec for method in build_methods(entry)]
    raise UserError(
        f"method is {spec!r}, expected a method's name, a list of names, or {{name: {{hyper-parameter: value}}}}"
    )


def construct(kind: Callable[..., T], values: Mapping[str, Any], where: str) -> T:
    """Calls ``kind`` with ``values``, after checking every key and type against its signature.

    Args:
        kind: a class with an annotated ``__init__``.
        values: its arguments as plain values; lists become tuples and so on, as annotated.
        where: what the values are in the recipe, for messages, e.g. ``"data"``.

    Raises:
        UserError: for an unknown, missing or wrong-typed key.
    """
    known = inspect.signature(kind).parameters
    for key in values:
        if key not in known:
            raise unknown_name(f"key in {where}:", key, known)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and values.get(key) is None:
            raise UserError(f"{where}: the key '{key}' is missing")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        arguments = parser.parse_object(dict(values)).as_dict()
    except ArgumentError as error:
        raise UserError(f"{where}: {explain(error)}") from error
    return kind(**arguments)


def plain(values: Any, where: str) -> Any:
    """``values`` as YAML gives them back: mappings, lists, texts, numbers; paths become texts and tuples lists.

    Args:
        values: what a recipe holds at ``where``.
        where: the keys that lead there, joined by dots, for messages.

    Raises:
        UserError: for anything that a recipe cannot write down.

    Example:
        >>> plain({"root": Path("data/camvid"), "crop": (352, 480)}, "data")
        {'root': 'data/camvid', 'crop': [352, 480]}
    """
    if isinstance(values, Mapping):
        return {str(key): plain(value, f"{where}.{key}" if where else str(key)) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value, where) for value in values]
    if isinstance(values, Path):
        return str(values)
    if isinstance(values, Method):
        return {values.name: plain(values.hyper_parameters(), where)}
    if values is None or isinstance(values, str | bool | int | float):
        return values
    raise UserError(
        f"{where} holds a {type(values).__name__}, expected what a recipe can write down: names, numbers, lists and "
        "mappings of them"
    )


def explain(error: Exception) -> str:
    """A parser's message as one sentence.

    Example:
        >>> explain(ValueError('Parser key "train.lr":\\n  Expected a <class \\'float\\'>. Got value: hello'))
        'train.lr: expected float, found hello'
    """
    text = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(str(error).split())).replace("NoneType", "null")
    text = text.replace("collections.abc.Sequence", "list").replace("pathlib.", "")
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = re.sub(r'^Parser key "([^"]*)":', r"\1:", text)
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*? Given value: ",
        lambda match: f"expected {match[1].replace(', null', ' or null')}, found ",
        text,
    )
    return re.sub(r"Expected an? (.*?)\. Got value: ", r"expected \1, found ", text)


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


def _method(name: str, values: Any) -> Method:
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    if not isinstance(values, Mapping | None):
        raise UserError(f"method {name} is followed by {values!r}, expected a mapping {{hyper-parameter: value}}")
    return construct(METHODS[name], values or {}, f"method {name}")
