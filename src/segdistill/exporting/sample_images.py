"""A few images to compare with, or to calibrate on: real ones where there are any."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from segdistill.datasets import SegmentationDataset, SyntheticAerial
from segdistill.datasets.reading.images import SUFFIXES, read_rgb, resized
from segdistill.errors import UserError
from segdistill.formats.agreement import Form
from segdistill.networks.network import Network
from segdistill.recipe.data import build_split
from segdistill.reporting.picture import sample_in_sight
from segdistill.run_folder import RunFolder

COMPARED_IMAGES = 8
"""Images on which a file is compared with its network; of a file of any size, some of them also cut to odd sizes."""

SYNTHETIC_SIDE = 256
"""Height and width of images that are made up, where no size is asked for."""


def spread_images(dataset: SegmentationDataset, count: int) -> Iterator[Tensor]:
    """``count`` images (C, H, W), evenly spaced over a data set; of those too large to be seen at once, the middle.

    Args:
        dataset: any split.
        count: at least 1; all images where there are fewer.
    """
    count = min(count, len(dataset))
    for number in range(count):
        yield sample_in_sight(dataset, number * len(dataset) // count)[0]


def images_in(path: Path, count: int) -> list[Tensor]:
    """The first ``count`` images in a folder, or the one that ``path`` is, uint8 (3, H, W).

    Raises:
        UserError: nothing there, no image in it, or a broken one.
    """
    files = (
        [path]
        if path.is_file()
        else sorted(
            file for file in path.glob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
    )
    if not files:
        raise UserError(f"images {path} is no image and no folder that holds any; expected {' '.join(SUFFIXES)}")
    return [read_rgb(file) for file in files[:count]]


def made_up_images(network: Network, count: int, size: tuple[int, int] | None) -> list[Tensor]:
    """Synthetic aerial scenes for a network of three channels, noise of its mean and deviation for any other."""
    height, width = size or (SYNTHETIC_SIDE, SYNTHETIC_SIDE)
    if network.info.in_channels == 3:
        scenes = SyntheticAerial("val", count=count, size=(max(height, 32), max(width, 32)))
        return [scenes[index][0][:, :height, :width] for index in range(count)]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, network.info.in_channels, height, width, generator=generator)
    if network.mean is not None and network.std is not None:
        noise = network.mean + network.std * noise
    return list(noise)


def splits_of(run: Path, names: Sequence[str], classes: int) -> tuple[dict[str, SegmentationDataset], str | None]:
    """The splits of a run's data; none of them, and why, where one cannot be read.

    Args:
        run: its folder.
        names: of the splits.
        classes: how many the network has.
    """
    folder = RunFolder.of(run)
    data = folder.read_config().get("data") if folder.config_file.exists() else None
    if not isinstance(data, dict):
        return {}, "its folder names no data"
    try:
        sets = {name: build_split(data, name) for name in names}
        for dataset in sets.values():
            next(spread_images(dataset, 1))
    except UserError as error:
        return {}, str(error)
    if any(len(dataset.classes) != classes for dataset in sets.values()):
        return {}, f"the data has another number of classes than the network's {classes}"
    return sets, None


def comparison_images(
    network: Network, val: SegmentationDataset | None, trouble: str | None, images: str | Path | None, form: Form
) -> tuple[list[Tensor], str]:
    """The images to compare a file with its network on, at the form's size, and what they are.

    Args:
        network: of the run.
        val: the run's validation split, if it can be read.
        trouble: why it cannot.
        images: an image or a folder that the user names instead.
        form: of the file.

    Raises:
        UserError: ``images`` cannot be read, or not as the network's.
    """
    channels = network.info.in_channels
    if images is not None:
        if channels != 3:
            raise UserError(f"images are read as RGB, but the network takes {channels} channels; leave images out")
        found, what = images_in(Path(images), COMPARED_IMAGES), f"images of {images}"
    elif val is not None:
        found, what = list(spread_images(val, COMPARED_IMAGES)), "validation images"
    else:
        found = made_up_images(network, COMPARED_IMAGES, form.size)
        what = f"SYNTHETIC images, for there are no real ones ({trouble}; --images DIR names some)"
    samples = [resized(image, form.size) for image in found]
    described = f"{len(samples)} {what}"
    if form.size is None:
        # Sizes that nothing divides, and another one than any seen so far.
        cut = [image[:, : _odd(image.shape[1]), : _odd(image.shape[2])] for image in samples[:2]]
        samples, described = [*samples, *cut], f"{described}, {len(cut)} of them also cut to an odd size"
    return samples, described


def _odd(side: int) -> int:
    """An odd length, shorter than ``side`` by about a tenth."""
    return max(side - side // 10 - 1, 1) | 1
