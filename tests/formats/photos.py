"""Photos to predict on, and the label maps that come of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def photo(path: Path, height: int, width: int) -> Path:
    coarse = np.random.default_rng(height).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


def labels_in(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)
