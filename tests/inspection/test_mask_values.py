"""Soft masks are told from others by how their values lie."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from segdistill.datasets.reading.checking import edges, slopes
from segdistill.datasets.reading.masks import MaskReader
from segdistill.inspection.check import check_data
from segdistill.inspection.mask_values import alone, examine
from tests.inspection.trees import areas, folder_data, save, sound_tree

ROAD = {"classes": ["background", "road"]}


def road(seed: int, value: int) -> Image.Image:
    """A slanting band, smooth at its edges only if somebody smooths it."""
    rows, columns = np.mgrid[:96, :128]
    return Image.fromarray(((abs(rows - 40 - seed % 9 - columns / 3) < 18) * value).astype(np.uint8))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("L")


SOFTENED = {
    "anti-aliased": lambda mask: mask.resize((64, 48), Image.Resampling.BICUBIC),
    "enlarged": lambda mask: mask.resize((256, 192), Image.Resampling.BILINEAR),
    "blurred": lambda mask: mask.filter(ImageFilter.GaussianBlur(2)),
    "JPEG at 60": lambda mask: jpeg(mask, 60),
    "JPEG at 90": lambda mask: jpeg(mask, 90),
}


@pytest.mark.parametrize("how", SOFTENED)
@pytest.mark.parametrize("value", [237, 255])
def test_soft_road_masks(how: str, value: int, tmp_path: Path) -> None:
    """Values 0 to 237 where 0 and 1 are meant, in a data set that nobody knows."""
    root = sound_tree(tmp_path, classes=2)
    for number, path in enumerate([*root.glob("masks/*/*")]):
        mask = SOFTENED[how](road(number, value))
        save(mask, path)
        image = root / "images" / path.parent.name / path.name
        save(Image.open(image).resize(mask.size), image)
    report = check_data(data=folder_data(root, **ROAD), quiet=True)
    assert [finding.kind for finding in report.findings] == ["soft-mask", "soft-mask"]
    train = next(finding for finding in report.findings if finding.split == "train")
    assert "anti-aliased, resized or JPEG-compressed" in train.what
    highest = max(int(np.asarray(Image.open(path)).max()) for path in root.glob("masks/train/*"))
    assert f"values from 0 to {highest}" in train.what
    assert f"(mask > {highest // 2}).astype('uint8')" in train.advice
    assert "1 = 'road'" in train.advice
    assert len(train.files) == 4


@pytest.mark.parametrize("step", [1, 10])
def test_masks_of_many_classes_are_not_soft(step: int, tmp_path: Path) -> None:
    """Values of another numbering lie in areas."""
    save(areas(20) * step + 2, tmp_path / "mask.png")
    found = examine(tmp_path / "mask.png", "refused", MaskReader(2))
    assert not found.soft
    assert found.unknown == frozenset(label * step + 2 for label in range(20))


def test_interpolated_labels_are_told_of_though_each_is_a_class(tmp_path: Path) -> None:
    names = [f"class {label}" for label in range(9)]
    root = sound_tree(tmp_path, classes=9)
    assert check_data(data=folder_data(root, classes=names), quiet=True).findings == ()
    for path in root.glob("masks/train/*"):
        save(
            Image.open(path).resize((32, 24), Image.Resampling.BILINEAR).resize((64, 48), Image.Resampling.BILINEAR),
            path,
        )
    (finding,) = check_data(data=folder_data(root, classes=names), quiet=True).findings
    assert (finding.kind, finding.severity, finding.split) == ("soft-labels", "warning", "train")


def plain_neighbours(values: np.ndarray, row: int, column: int) -> list[tuple[int, int]]:
    """Values on both sides, for each direction in which there are two."""
    found = []
    if 0 < row < values.shape[0] - 1:
        found.append((int(values[row - 1, column]), int(values[row + 1, column])))
    if 0 < column < values.shape[1] - 1:
        found.append((int(values[row, column - 1]), int(values[row, column + 1])))
    return found


@pytest.mark.parametrize("shape", [(7, 9), (1, 5), (2, 2), (1, 1), (3, 1)])
def test_neighbourhoods_are_as_written_out(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).integers(0, 4, shape)
    for row, column in np.ndindex(*shape):
        here = values[row, column]
        beside = [
            int(values[row + down, column + right])
            for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1))
            if 0 <= row + down < shape[0] and 0 <= column + right < shape[1]
        ]
        between = [min(pair) < here < max(pair) for pair in plain_neighbours(values, row, column)]
        assert slopes(values)[row, column] == any(between)
        assert edges(values)[row, column] == any(other != here for other in beside)
        assert alone(values)[row, column] == all(other != here for other in beside)


def test_colours_are_listed_by_frequency_for_writing_a_palette(tmp_path: Path) -> None:
    root = sound_tree(tmp_path)
    colors = np.array([(128, 64, 128), (0, 0, 142), (70, 130, 180)], dtype=np.uint8)
    for path in root.glob("masks/*/*"):
        labels = np.zeros((48, 64), dtype=np.uint8)
        labels[:12], labels[:3] = 1, 2
        save(colors[labels], path)
    train = check_data(data=folder_data(root), quiet=True).findings[0]
    assert train.kind == "no-palette"
    assert train.what.endswith("their colours: #804080 (75.0 %), #00008e (18.8 %), #4682b4 (6.2 %)")
    full = check_data(data=folder_data(root, palette=["#804080", "#00008e", "#4682b4"]), quiet=True)
    assert full.findings == ()
