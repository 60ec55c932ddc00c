"""A folder of images, and its decoded images kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from segdistill.datasets.reading.pictures import decoded
from segdistill.recipe.data import Data, build_data, keep_decoded
from tests.datasets.trees import folder_tree, index_mask, write_image, write_mask

CLASSES = ["a", "b", "c"]


def tree(root: Path) -> Path:
    """Images of several sizes."""
    folder_tree(root, {"train": 5, "val": 2})
    for number, (height, width) in enumerate(((7, 9), (30, 21))):
        write_image(root / "images" / "train" / f"x{number}.png", height, width, seed=number)
        write_mask(root / "masks" / "train" / f"x{number}.png", index_mask(3, height, width, seed=number))
    return root


def values(root: Path, **more: Any) -> dict[str, Any]:
    return {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [16, 16], **more}


def silent() -> Console:
    return Console(quiet=True)


def keep(root: Path, where: str | Path, console: Console | None = None, **more: Any) -> Data:
    return keep_decoded(build_data(values(root, decoded_cache=str(where), **more)), console or silent())


def counting(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images that are decoded from now on."""
    found: list[Path] = []

    def decode(path: Path) -> Image.Image:
        found.append(path)
        return decoded(path)

    monkeypatch.setattr("segdistill.datasets.reading.images.decoded", decode)
    return found
