"""Label maps as pictures, several networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segdistill.datasets import SegmentationDataset
from segdistill.networks.network import Network

GAP = 6
HEADER = 22


def colourise(labels: Tensor, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """An integer (H, W) label map in its classes' colours; anything that is no class is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    return Image.fromarray(table[labels.cpu().numpy().clip(0, 255).astype(np.uint8)])


def side_by_side(dataset: SegmentationDataset, networks: Mapping[str, Network], indices: Sequence[int]) -> Image.Image:
    """A row per image: the image, its labels, and each network's prediction, with headings and a colour legend.

    Args:
        dataset: RGB images and labels, all of one size.
        networks: networks by the heading above their column.
        indices: the images to show.
    """
    rows = []
    for index in indices:
        image, labels = dataset[index]
        cells = [Image.fromarray(image.permute(1, 2, 0).numpy()), colourise(labels, dataset.palette)]
        for network in networks.values():
            device = next(network.parameters()).device
            network.eval()
            with torch.inference_mode():
                prediction = network(image[None].to(device)).argmax(1)[0]
            cells.append(colourise(prediction, dataset.palette))
        rows.append(cells)
    width, height = rows[0][0].size
    headings = ["image", "truth", *networks]
    sheet = Image.new(
        "RGB",
        (len(headings) * (width + GAP) + GAP, HEADER + len(rows) * (height + GAP) + GAP + HEADER),
        (250, 250, 250),
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for column, heading in enumerate(headings):
        draw.text((GAP + column * (width + GAP), 4), heading, fill=(20, 20, 20), font=font)
        for row, cells in enumerate(rows):
            sheet.paste(cells[column], (GAP + column * (width + GAP), HEADER + GAP + row * (height + GAP)))
    _legend(draw, dataset, GAP, sheet.height - HEADER + 2, font)
    return sheet


def _legend(
    draw: ImageDraw.ImageDraw,
    dataset: SegmentationDataset,
    left: float,
    top: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    for name, colour in zip(dataset.classes, dataset.palette, strict=True):
        draw.rectangle((left, top + 2, left + 12, top + 14), fill=colour, outline=(90, 90, 90))
        draw.text((left + 17, top), name, fill=(20, 20, 20), font=font)
        left += 17 + draw.textlength(name, font=font) + 14
