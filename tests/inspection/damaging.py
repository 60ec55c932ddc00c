"""Ways to damage a sound data set, and what is to be said of them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.inspection.trees import HEIGHT, WIDTH, areas, save

PALETTE = ["#ff0000", "#00ff00", "#0000ff"]
COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], dtype=np.uint8)

RUNS = ""
"""Stands for: the training goes through, after one warning where the check finds more than a note."""


@dataclass
class Damage:
    """Something done to a sound data set.

    Attributes:
        do: the damage, given the root.
        kind: the finding that tells of it.
        named: what one of its files' names holds.
        sentence: what the sentence holds with which a training ends; RUNS where it trains.
        severity: of the finding.
        data: keywords of the data set.
        follows: kinds of errors that follow from this one.
    """

    do: Callable[[Path], object]
    kind: str
    named: str = ""
    sentence: str = RUNS
    severity: str = "error"
    data: dict[str, Any] = field(default_factory=dict)
    follows: frozenset[str] = frozenset()


def image(root: Path, name: str = "train1.png") -> Path:
    return root / "images/train" / name


def mask(root: Path, name: str = "train1.png") -> Path:
    return root / "masks/train" / name


def every_mask(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in root.glob("masks/*/*"):
        save(change(np.asarray(Image.open(path))), path)


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG of so many grey pixels that holds only the first few of them."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
    ):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return chunks


def wrong_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(bytes(data))


def in_colors(root: Path) -> None:
    every_mask(root, lambda labels: COLORS[labels])


def with_anti_aliasing(root: Path) -> None:
    for path in root.glob("masks/*/*"):
        mask = Image.fromarray(areas(2, len(path.name), 4 * HEIGHT, 4 * WIDTH) * 237)
        save(mask.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), path)


def with_four_bands(path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path.unlink()
    size = {"height": HEIGHT, "width": WIDTH, "count": 4, "dtype": "uint16", "transform": rasterio.Affine.scale(2)}
    with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", **size) as file:
        file.write(np.random.default_rng(0).integers(0, 9000, (4, HEIGHT, WIDTH)).astype(np.uint16))


def with_numbers_of_its_own(root: Path) -> None:
    """As a program stores RGB masks that keeps its first colours for itself."""
    indexed = Image.fromarray(areas(3, 1) + 5).convert("P")
    indexed.putpalette([9] * 15 + COLORS.flatten().tolist())
    save(indexed, mask(root))


def with_permuted_palette(root: Path) -> None:
    """As another program may store RGB masks: the colours are right, the numbers are not those of the classes."""
    indexed = Image.fromarray((areas(3, 1) + 1) % 3).convert("P")
    indexed.putpalette([channel for label in (2, 0, 1) for channel in COLORS[label].tolist()])
    save(indexed, mask(root))
