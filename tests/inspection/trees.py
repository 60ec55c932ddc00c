"""Data sets on disk whose masks have areas and whose images have something to recognise them by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["road", "roof", "tree"]
HEIGHT, WIDTH = 48, 64


def picture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """Soft areas of colour, others for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def areas(classes: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Index mask, uint8 (height, width), of rectangles; every class occurs."""
    rng = np.random.default_rng(seed)
    coarse = rng.permutation(np.arange(48) % classes).reshape(6, 8).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def save(image: Image.Image | np.ndarray, path: Path, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def sound_tree(root: Path, train: int = 4, val: int = 2, classes: int = 3) -> Path:
    """A `folder` data set with which nothing is wrong: train0.png and so on."""
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for number in range(count):
            save(picture(first + number), root / "images" / split / f"{split}{number}.png")
            save(areas(classes, first + number), root / "masks" / split / f"{split}{number}.png")
    return root


def sound_camvid(root: Path, train: int = 3, val: int = 2) -> Path:
    for split, count, first in (("train", train, 0), ("val", val, 1000)):
        for number in range(count):
            save(picture(first + number), root / split / f"{split}{number}.png")
            save(areas(12, first + number), root / f"{split}annot" / f"{split}{number}.png")
    return root


def folder_data(root: Path, **more: object) -> dict[str, object]:
    return {"dataset": "folder", "root": str(root), "classes": CLASSES, **more}
