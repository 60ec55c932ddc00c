"""Miniature data sets on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_image(path: Path, height: int = 12, width: int = 16, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def index_mask(classes: int, height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (height, width), dtype=np.uint8)


def folder_tree(root: Path, splits: dict[str, int], classes: int = 3) -> Path:
    """images/SPLIT and masks/SPLIT with so many samples each."""
    for split, count in splits.items():
        for number in range(count):
            write_image(root / "images" / split / f"{split}{number}.png", seed=number)
            write_mask(root / "masks" / split / f"{split}{number}.png", index_mask(classes, seed=number))
    return root


def camvid_tree(root: Path, splits: dict[str, int], suffix: str = ".jpg") -> Path:
    """SPLIT and SPLITannot with so many samples each."""
    for split, count in splits.items():
        for number in range(count):
            write_image(root / split / f"{split}{number}{suffix}", seed=number)
            write_mask(root / f"{split}annot" / f"{split}{number}.png", index_mask(12, seed=number))
    return root
