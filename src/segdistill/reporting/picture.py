"""Label maps as pictures, several networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segdistill.data.scoring import TiledModel
from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.networks.network import Network

GAP = 6
HEADER = 32
LARGEST_TEXT, SMALLEST_TEXT, LEGEND_TEXT = 22, 11, 18  # pixels; a phone shows the sheet at two fifths of its size
WIDTH, LARGEST_WIDTH = 200, 320  # wished for, and not exceeded
NO_LABEL = "no label"
INK = (20, 20, 20)
PAPER = (250, 250, 250)


def colourise(labels: Tensor, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """An integer (H, W) label map in its classes' colours; anything that is no class is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return Image.fromarray(table[labels.cpu().numpy().clip(0, 255).astype(np.uint8)])


def photograph(image: Tensor) -> Image.Image:
    """A (C, H, W) image in colour: its first three bands, or the first one in grey where there are fewer.

    What is not uint8 is stretched, band by band, from its smallest to its largest value.
    """
    bands = image[:3] if image.shape[0] >= 3 else image[:1].expand(3, -1, -1)
    if bands.dtype != torch.uint8:
        bands = bands.float().nan_to_num()
        least, most = bands.amin((1, 2), keepdim=True), bands.amax((1, 2), keepdim=True)
        bands = ((bands - least) / (most - least).clamp_min(1e-12) * 255).to(torch.uint8)
    return Image.fromarray(bands.permute(1, 2, 0).cpu().numpy())


def overlaid(image: Tensor, labels: Tensor, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """An image under the colours of its label map, half and half; see `photograph` and `colourise`."""
    return Image.blend(photograph(image), colourise(labels, palette), 0.5)


def side_by_side(dataset: SegmentationDataset, networks: Mapping[str, Network], indices: Sequence[int]) -> Image.Image:
    """A row per image: the image, its labels, and each network's prediction, with headings and a colour legend.

    Args:
        dataset: images and labels; without labels there is no column for them.
        networks: networks by the heading above their column.
        indices: the images to show.
    """
    samples = [sample_in_sight(dataset, index) for index in indices]
    rows = [_row(dataset, networks, image, labels) for image, labels in samples]
    width = max(cell.width for cells in rows for cell in cells)
    has_labels = dataset.unlabelled_index is None
    headings = ["image", *(["truth"] if has_labels else []), *networks]
    colours = dict(zip(dataset.classes, dataset.palette, strict=True))
    if has_labels and any((labels >= len(colours)).any() for _, labels in samples):
        colours[NO_LABEL] = (0, 0, 0)
    legend = _legend(colours, len(headings) * (width + GAP))
    height = HEADER + sum(cells[0].height + GAP for cells in rows) + GAP + legend.height
    sheet = Image.new("RGB", (len(headings) * (width + GAP) + GAP, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = HEADER
    font = _fitting(headings, width)
    for column, heading in enumerate(headings):
        draw.text((GAP + column * (width + GAP), HEADER - 6), heading, fill=INK, font=font, anchor="ls")
    for cells in rows:
        for column, cell in enumerate(cells):
            sheet.paste(cell, (GAP + column * (width + GAP), top))
        top += cells[0].height + GAP
    sheet.paste(legend, (GAP, top))
    return sheet


def sample_in_sight(dataset: SegmentationDataset, index: int) -> tuple[Tensor, Tensor]:
    """Image (C, H, W) and labels (H, W), or the middle of those too large to go through a network at once."""
    sample = dataset.open(index)
    sides = [min(side, dataset.evaluation_window or side) for side in sample.size]
    top, left = ((whole - side) // 2 for whole, side in zip(sample.size, sides, strict=True))
    return sample.window(Window(top, left, sides[0], sides[1]))


def predict(network: Network, image: Tensor) -> Tensor:
    """The class of each pixel, int64 (H, W) on the CPU, of an image (C, H, W)."""
    was_training = network.training
    network.eval()
    prediction = TiledModel.of(network).scores(image).argmax(0).cpu()
    network.train(was_training)
    return prediction


def _row(
    dataset: SegmentationDataset, networks: Mapping[str, Network], image: Tensor, labels: Tensor
) -> list[Image.Image]:
    maps = [labels] if dataset.unlabelled_index is None else []
    maps += [predict(network, image) for network in networks.values()]
    cells = [photograph(image), *(colourise(one, dataset.palette) for one in maps)]
    width, height = cells[0].size
    if width > LARGEST_WIDTH:
        size = (LARGEST_WIDTH, max(1, round(height * LARGEST_WIDTH / width)))
    else:  # by a whole number, so that equal pixels stay equal
        times = max(1, round(WIDTH / width))
        size = (times * width, times * height)
    # Label colours must not mix, so only the photograph is smoothed.
    smooth, sharp = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
    return [cell.resize(size, smooth if column == 0 else sharp) for column, cell in enumerate(cells)]


def _fitting(headings: Sequence[str], width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The largest font in which each heading fits above its column; below the smallest nobody could read them."""
    for size in range(LARGEST_TEXT, SMALLEST_TEXT, -1):
        font = ImageFont.load_default(size)
        if max(font.getlength(heading) for heading in headings) <= width:
            return font
    return ImageFont.load_default(SMALLEST_TEXT)


def _legend(colours: Mapping[str, tuple[int, int, int]], width: int) -> Image.Image:
    """Colour and name of every class, in as many lines as ``width`` asks for."""
    font, swatch, line_height = ImageFont.load_default(LEGEND_TEXT), LEGEND_TEXT - 2, LEGEND_TEXT + 8
    lines: list[list[tuple[str, tuple[int, int, int], float]]] = [[]]
    left = 0.0
    for name, colour in colours.items():
        room = swatch + 6 + font.getlength(name) + 16
        if left + room > width and lines[-1]:
            lines.append([])
            left = 0.0
        lines[-1].append((name, colour, left))
        left += room
    legend = Image.new("RGB", (width, line_height * len(lines)), PAPER)
    draw = ImageDraw.Draw(legend)
    for number, line in enumerate(lines):
        base = line_height * (number + 1) - 7
        for name, colour, x in line:
            draw.rectangle((x, base - swatch + 2, x + swatch, base + 2), fill=colour, outline=(90, 90, 90))
            draw.text((x + swatch + 6, base), name, fill=INK, font=font, anchor="ls")
    return legend
