"""Validation images on which networks differ, with all predictions and mistakes, ready for a page to draw."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segdistill.colors import hex_color
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.reporting.error_map import Mistake, mistakes
from segdistill.reporting.page import Strip, Tile
from segdistill.reporting.picture import colourise, photograph, sample_in_sight

#: Longest side of what is shown of an image, in pixels; of larger ones, the part where the networks differ most.
LONGEST_SIDE = 1024

#: Longest side of an image in a row of pictures, in pixels.
LONGEST_IN_ROW = 480

#: Bytes of all pictures together; those that go beyond it are left out.
LARGEST = 12_000_000

#: Name and colour of each kind of mistake, as the page shows them.
MISTAKES: dict[Mistake, tuple[str, str]] = {
    Mistake.BOUNDARY: ("near a boundary", "#ffb000"),
    Mistake.BROKEN: ("breaks an object", "#dc267f"),
    Mistake.MERGED: ("joins objects", "#9f6bff"),
    Mistake.MISSED: ("object missed", "#fe4a1a"),
    Mistake.ISLAND: ("object invented", "#3f8cff"),
    Mistake.INNER: ("other mistakes", "#8f8f8f"),
}


def most_different(confusion: Mapping[str, Sequence[Tensor]], count: int) -> list[int]:
    """The images on which networks differ most in mIoU, the greatest difference first.

    Args:
        confusion: by network, int64 (N, K, K) for each of its runs; the mean over runs is what is compared.
        count: how many images.

    Returns:
        Their indices, fewer where there are fewer with a valid pixel.
    """
    scores = np.stack(list(image_scores(confusion).values()))
    spread = scores.max(0) - scores.min(0)
    order = np.argsort(-np.nan_to_num(spread, nan=-1.0), kind="stable")
    return [int(index) for index in order[:count] if not np.isnan(spread[index])]


def most_usual(confusion: Mapping[str, Sequence[Tensor]], network: str, other: str) -> int | None:
    """The image on which one network differs from another as usual: by the median over all images.

    Args:
        confusion: as in `most_different`.
        network: one of them.
        other: what it is compared with.

    Returns:
        Its index; None if no image has a valid pixel.
    """
    scores = image_scores(confusion)
    gains = scores[network] - scores[other]
    if np.isnan(gains).all():
        return None
    return int(np.nanargmin(np.abs(gains - np.nanmedian(gains))))


def image_scores(confusion: Mapping[str, Sequence[Tensor]]) -> dict[str, NDArray[np.float64]]:
    """mIoU of each single image in percent, by network, mean over its runs.

    Args:
        confusion: as in `most_different`.

    Returns:
        float64 (N,) for each; over the classes that occur in the image's labels or its prediction, NaN where there
        is no valid pixel.
    """
    return {name: np.mean([_each_miou(run) for run in runs], axis=0) for name, runs in confusion.items()}


def _each_miou(confusion: Tensor) -> NDArray[np.float64]:
    counts = confusion.cpu().numpy().astype(np.float64)
    hits = np.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(1) + counts.sum(2) - hits
    seen = (union > 0).sum(1)
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    return np.where(seen > 0, 100 * iou.sum(1) / np.maximum(seen, 1), np.nan)


@dataclass(frozen=True, eq=False)
class Scene:
    """What is shown of one image, all of equal height and width.

    Attributes:
        index: of the image in its data set.
        image: (C, H, W), as the data set gives it.
        labels: int64 (H, W).
        predictions: int64 (H, W), by network.
    """

    index: int
    image: Tensor
    labels: Tensor
    predictions: dict[str, Tensor]


def read_scene(dataset: SegmentationDataset, index: int) -> Scene:
    """The image without predictions, or the middle of one that is too large to go through a network at once."""
    image, labels = sample_in_sight(dataset, index)
    return Scene(index, image, labels, {})


def scene_values(scene: Scene, dataset: SegmentationDataset) -> dict[str, Any]:
    """A scene as plain values for the page's script.

    The photograph is a JPEG. Labels and predictions are PNGs whose red is the class (the ignore label stays what it is)
    and whose green is the `Mistake`; `mistakes` are looked for before anything is cut away.

    Args:
        scene: with its predictions.
        dataset: that it is of.

    Returns:
        ``name``, ``photo``, ``labels`` and ``predictions`` by network, pictures as data addresses.
    """
    kinds = {
        name: torch.from_numpy(mistakes(prediction, scene.labels, len(dataset.classes), dataset.ignore_index))
        for name, prediction in scene.predictions.items()
    }
    window = _busiest(list(kinds.values()), scene.labels.shape)
    nothing = torch.zeros_like(scene.labels)
    return {
        "name": dataset.ids[scene.index],
        "photo": _address(photograph(window.cut(scene.image)), "JPEG"),
        "labels": _address(_coded(window.cut(scene.labels), window.cut(nothing)), "PNG"),
        "predictions": {
            name: _address(_coded(window.cut(prediction), window.cut(kinds[name])), "PNG")
            for name, prediction in scene.predictions.items()
        },
    }


def strip(
    scene: Scene,
    dataset: SegmentationDataset,
    notes: Mapping[str, tuple[str, str]],
    caption: str,
    truth: str = "the labels",
) -> Strip:
    """An image beside its labels and predictions.

    Args:
        scene: with its predictions.
        dataset: that it is of.
        notes: name and small print of each prediction that is shown, by network, in order.
        caption: what stands below the pictures.
        truth: small print of the labels.
    """
    maps = [scene.labels, *(scene.predictions[name] for name in notes)]
    height, width = scene.labels.shape
    share = min(1.0, LONGEST_IN_ROW / max(height, width))
    size = (max(1, round(width * share)), max(1, round(height * share)))
    photo = photograph(scene.image).resize(size, Image.Resampling.BILINEAR)
    coloured = [colourise(one, dataset.palette).resize(size, Image.Resampling.NEAREST) for one in maps]
    names = [("image", ""), ("truth", truth), *notes.values()]
    addresses = [_address(photo, "JPEG"), *(_address(one, "PNG") for one in coloured)]
    tiles = [Tile(address, *name) for address, name in zip(addresses, names, strict=True)]
    seen = {int(number) for one in maps for number in np.unique(one.numpy())}
    colours = [(one["name"], one["colour"]) for number, one in enumerate(class_values(dataset)) if number in seen]
    if any(number >= len(dataset.classes) for number in seen):
        colours.append(("no label", "#000000"))
    return Strip(tiles, colours, caption)


def within(values: Iterable[dict[str, Any]], largest: int = LARGEST) -> list[dict[str, Any]]:
    """The first scenes that together take at most ``largest`` bytes."""
    kept: list[dict[str, Any]] = []
    for scene in values:
        largest -= len(scene["photo"]) + len(scene["labels"]) + sum(map(len, scene["predictions"].values()))
        if largest < 0:
            break
        kept.append(scene)
    return kept


def class_values(dataset: SegmentationDataset) -> list[dict[str, str]]:
    """Name and colour of each class, for the page's script."""
    return [
        {"name": name, "colour": hex_color(colour)}
        for name, colour in zip(dataset.classes, dataset.palette, strict=True)
    ]


def mistake_values() -> list[dict[str, Any]]:
    """Number, name and colour of each kind of mistake, for the page's script."""
    return [{"code": int(kind), "name": name, "colour": colour} for kind, (name, colour) in MISTAKES.items()]


def _busiest(kinds: Sequence[Tensor], size: Sequence[int]) -> Window:
    """The window of at most `LONGEST_SIDE` pixels a side in which some networks err and others do not, most often."""
    height, width = (min(side, LONGEST_SIDE) for side in size)
    if (height, width) == tuple(size) or not kinds:
        return Window((size[0] - height) // 2, (size[1] - width) // 2, height, width)
    wrong = torch.stack([kind > 0 for kind in kinds])
    differing = (wrong.any(0) & ~wrong.all(0)).double()
    step = 32  # pixels between the windows that are looked at
    sums = torch.nn.functional.avg_pool2d(differing[None, None], (height, width), step)[0, 0]
    row, column = divmod(int(sums.argmax()), sums.shape[1])
    return Window(row * step, column * step, height, width)


def _coded(classes: Tensor, kinds: Tensor) -> Image.Image:
    red, green = (values.to(torch.uint8).numpy() for values in (classes, kinds))
    return Image.fromarray(np.stack([red, green, np.zeros_like(red)], axis=-1))


def _address(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
