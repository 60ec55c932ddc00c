"""`segdistill.preview_data`: a data set's images under their labels, on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from torch import Tensor

from segdistill.data.loading import TrainingSamples
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import UNLABELLED, Sample, Window
from segdistill.datasets.reading.checking import pieces
from segdistill.errors import printable
from segdistill.files import write_atomically
from segdistill.inspection.findings import percent
from segdistill.inspection.options import PreviewOptions
from segdistill.recipe.data import build_data, build_split
from segdistill.recipe.keywords import takes_fields
from segdistill.reporting.picture import GAP, INK, PAPER, colourise, photograph

CELL = 240
"""Pixels of the longer side of an image on the sheet; images are made larger or smaller to it."""

LARGEST = 1024
"""Longest side of what is kept of an image in memory, in pixels, or less than twice as much."""

COLUMNS = 3
CAPTION = 18
OPACITY = 0.6
TEXT_SIZE = 13

IGNORED = (0, 0, 0)
"""The colour of ignored and unlabelled pixels: none of a label map's own, see `colourise`."""


@takes_fields
def preview_data(options: PreviewOptions) -> Path:
    """Draw images of a data set, each beside a copy with its labels on top, as one PNG file.

    Returns:
        The file.

    Raises:
        UserError: for data that cannot be read, which `segdistill data check` tells more about.
    """
    dataset = build_split(options.data, options.split)
    count = min(options.count, len(dataset))
    indices = [number * len(dataset) // count for number in range(count)]
    if options.augmented:
        views = TrainingSamples(dataset, build_data(options.data).augmentation, options.seed)
        samples = [views[0, index] for index in indices]
    else:
        samples = [_small(dataset.open(index)) for index in indices]
    file = Path(options.output)
    sheet = contact_sheet(dataset, samples, [dataset.ids[index] for index in indices])
    write_atomically(file, lambda handle: sheet.save(handle, "PNG"))
    Console(quiet=options.quiet).out(f"{file}  {count} of {len(dataset)} {options.split} images", highlight=False)
    return file


def contact_sheet(
    dataset: SegmentationDataset, samples: Sequence[tuple[Tensor, Tensor]], names: Sequence[str]
) -> Image.Image:
    """Every image beside itself under its labels, its name above it, and a legend below all.

    Args:
        dataset: names and colours of the classes.
        samples: images uint8 (C, H, W) with labels int64 (H, W), at least one.
        names: one for each sample.
    """
    cells = [_cell(dataset, image, labels, name) for (image, labels), name in zip(samples, names, strict=True)]
    columns = min(COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = columns * (cells[0].width + GAP) + GAP
    legend = _legend(dataset, [labels for _, labels in samples], width - 2 * GAP)
    height = GAP + sum(max(cell.height for cell in row) + GAP for row in rows) + legend.height + GAP
    sheet = Image.new("RGB", (width, height), PAPER)
    top = GAP
    for row in rows:
        for column, cell in enumerate(row):
            sheet.paste(cell, (GAP + column * (cell.width + GAP), top))
        top += max(cell.height for cell in row) + GAP
    sheet.paste(legend, (GAP, top))
    return sheet


def _small(sample: Sample) -> tuple[Tensor, Tensor]:
    """All of a sample, but of a large one pixels at even distances only: it need not fit into memory."""
    step = max(1, max(sample.size) // LARGEST)
    height, width = (-(-side // step) for side in sample.size)
    small, kept = None, torch.empty(height, width, dtype=torch.int64)
    for piece in pieces(sample.size):
        image, labels = sample.window(piece)
        small = image.new_empty(image.shape[0], height, width) if small is None else small
        rows, columns = slice(-piece.top % step, None, step), slice(-piece.left % step, None, step)
        place = Window(-(-piece.top // step), -(-piece.left // step), *labels[rows, columns].shape)
        place.cut(small).copy_(image[:, rows, columns])
        place.cut(kept).copy_(labels[rows, columns])
    assert small is not None  # an image has pixels
    return small, kept


def _cell(dataset: SegmentationDataset, image: Tensor, labels: Tensor, name: str) -> Image.Image:
    height, width = labels.shape
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = photograph(_visible(image)).resize(size, Image.Resampling.BILINEAR)
    # Label colours must not mix.
    colors = colourise(labels, dataset.palette).resize(size, Image.Resampling.NEAREST)
    cell = Image.new("RGB", (2 * CELL, CAPTION + size[1]), PAPER)
    font = ImageFont.load_default(TEXT_SIZE)
    text = printable(name)
    while text and font.getlength(text) > 2 * CELL:
        text = text[:-1]
    ImageDraw.Draw(cell).text((0, 1), text, fill=INK, font=font)
    cell.paste(picture, (0, CAPTION))
    cell.paste(Image.blend(picture, colors, OPACITY), (size[0], CAPTION))
    return cell


def _visible(image: Tensor) -> Tensor:
    """A float32 image in 0..255, each band from its 2nd to its 98th percentile; uint8 images as they are."""
    if not image.is_floating_point():
        return image
    bands = image.flatten(1).numpy()
    low, high = np.percentile(bands, (2, 98), axis=1)
    levels = (bands - low[:, None]) / np.maximum(high - low, 1e-6)[:, None]
    return torch.from_numpy((levels.clip(0, 1) * 255).astype(np.uint8)).reshape(image.shape)


def _legend(dataset: SegmentationDataset, labels: Sequence[Tensor], width: int) -> Image.Image:
    """Colour, name and share of every class in the images shown, in as many lines as ``width`` asks for."""
    counts = torch.stack([torch.bincount(each.flatten(), minlength=256) for each in labels]).sum(0)
    shares = (counts.double() / counts.sum()).tolist()
    entries = [
        (f"{label} {printable(name)}  {percent(shares[label])}", color)
        for label, (name, color) in enumerate(zip(dataset.classes, dataset.palette, strict=True))
    ]
    if shares[UNLABELLED]:  # of mixup
        entries.append((f"unlabelled  {percent(shares[UNLABELLED])}", IGNORED))
    entries.append((f"ignored  {percent(shares[dataset.ignore_index])}", IGNORED))
    font = ImageFont.load_default(TEXT_SIZE)
    places, left, line = [], 0.0, 0
    for text, _ in entries:
        room = 17 + font.getlength(text) + 14
        if left and left + room > width:
            left, line = 0.0, line + 1
        places.append((left, 20 * line))
        left += room
    legend = Image.new("RGB", (width, 20 * (line + 1)), PAPER)
    draw = ImageDraw.Draw(legend)
    for (text, color), (x, y) in zip(entries, places, strict=True):
        draw.rectangle((x, y + 3, x + 12, y + 15), fill=color, outline=(90, 90, 90))
        draw.text((x + 17, y + 1), text, fill=INK, font=font)
    return legend
