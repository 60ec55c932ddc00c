from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import UserError
from segdistill.datasets import Folder
from segdistill.datasets.base import LoadedSample
from segdistill.datasets.reading import checking
from segdistill.inspection import preview
from segdistill.inspection.preview import CAPTION, CELL, OPACITY, contact_sheet, preview_data
from segdistill.reporting.picture import GAP
from tests.inspection.trees import CLASSES, folder_data, sound_tree

PALETTE = ["#ff0000", "#00ff00", "#0000ff"]


def test_colours_lie_over_the_image(tmp_path: Path) -> None:
    """An image of one grey, half of it class 1 and half ignored."""
    dataset = Folder(sound_tree(tmp_path), CLASSES, palette=PALETTE)
    image = torch.full((3, CELL, CELL), 100, dtype=torch.uint8)
    labels = torch.ones(CELL, CELL, dtype=torch.int64)
    labels[:, CELL // 2 :] = 255
    sheet = np.asarray(contact_sheet(dataset, [(image, labels)], ["one"])).astype(float)
    row, left = GAP + CAPTION + 10, GAP
    assert sheet[row, left + 10].tolist() == [100, 100, 100]
    over = [(1 - OPACITY) * 100, (1 - OPACITY) * 100 + OPACITY * 255, (1 - OPACITY) * 100]
    assert sheet[row, left + CELL + 10] == pytest.approx(over, abs=1)
    assert sheet[row, left + 2 * CELL - 10] == pytest.approx([(1 - OPACITY) * 100] * 3, abs=1)
    legend = sheet[row + CELL :].reshape(-1, 3)
    for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)):
        assert (legend == color).all(1).any()


def test_file_and_number_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = folder_data(sound_tree(tmp_path / "data"))
    assert preview_data(data=data, output=tmp_path / "a.png", count=3) == tmp_path / "a.png"
    assert capsys.readouterr().out == f"{tmp_path / 'a.png'}  3 of 4 train images\n"
    three = Image.open(tmp_path / "a.png").size
    preview_data(data=data, output=tmp_path / "b.png", quiet=True)
    assert Image.open(tmp_path / "b.png").height > three[1]  # all four, in two rows
    preview_data(data=data, output=tmp_path / "c.png", split="val", quiet=True)
    assert Image.open(tmp_path / "c.png").width < three[0]  # two in one row


def test_augmented_shows_the_first_epoch(tmp_path: Path) -> None:
    data = folder_data(sound_tree(tmp_path / "data"), crop=[32, 32])
    for name, options in (("plain", {}), ("a", {"augmented": True}), ("b", {"augmented": True})):
        preview_data(data=data, output=tmp_path / f"{name}.png", quiet=True, **options)
    preview_data(data=data, output=tmp_path / "c.png", quiet=True, augmented=True, seed=1)
    plain, a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in ("plain", "a", "b", "c"))
    assert a == b
    assert len({plain, a, c}) == 3


@pytest.mark.parametrize("size", [(70, 53), (19, 20), (1, 100), (64, 16)])
def test_large_images_are_thinned_out_piece_by_piece(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name, value in (
        (checking, "PIECE_ROWS", 8),
        (checking, "PIECE_COLUMNS", 16),
        (checking, "PIECE_PIXELS", 1),
        (preview, "LARGEST", 20),
    ):
        monkeypatch.setattr(module, name, value)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    labels = torch.randint(5, size)
    step = max(1, max(size) // 20)
    small, kept = preview._small(LoadedSample(image, labels))
    assert torch.equal(small, image[:, ::step, ::step])
    assert torch.equal(kept, labels[::step, ::step])


def test_bands_in_a_unit_of_their_own_are_stretched(tmp_path: Path) -> None:
    dataset = Folder(sound_tree(tmp_path), CLASSES)
    ramp = torch.linspace(-3000.0, 9000.0, CELL).expand(2, CELL, CELL)
    sheet = np.asarray(contact_sheet(dataset, [(ramp, torch.zeros(CELL, CELL, dtype=torch.int64))], ["one"]))
    row = sheet[GAP + CAPTION + 10, GAP : GAP + CELL, 0].astype(int)
    assert (row[0], row[-1]) == (0, 255)
    assert row[CELL // 2] == pytest.approx(128, abs=3)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"count": 0}, "count is 0, expected at least 1"),
        ({"output": "a.jpg"}, "ends in .png"),
        ({"split": "tset"}, "has no split 'tset'"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        preview_data(data=folder_data(sound_tree(tmp_path)), **options)


def test_augmented_shows_mixed_pictures(tmp_path: Path) -> None:
    """Blended images have pixels without a label, which the legend names."""
    tree = sound_tree(tmp_path / "data")
    sheets = []
    for mix in ({}, {"mixup": 1.0}):
        data = folder_data(tree, crop=[32, 32], mix=mix)
        samples = preview.TrainingSamples(Folder(tree, CLASSES), preview.build_data(data).augmentation, 0)
        preview_data(data=data, output=tmp_path / "sheet.png", quiet=True, augmented=True)
        sheets.append((tmp_path / "sheet.png").read_bytes())
        assert any((samples[0, index][1] == 254).any() for index in range(4)) is bool(mix)
    assert sheets[0] != sheets[1]


def test_the_legend_names_pixels_without_a_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Folder(sound_tree(tmp_path), CLASSES)
    written: list[str] = []
    draw = preview.ImageDraw.ImageDraw.text

    def noting(self: preview.ImageDraw.ImageDraw, at: tuple[int, int], text: str, **more: Any) -> None:
        written.append(text)
        draw(self, at, text, **more)

    monkeypatch.setattr(preview.ImageDraw.ImageDraw, "text", noting)
    labels = torch.zeros(8, 8, dtype=torch.int64)
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    contact_sheet(dataset, [(image, labels)], ["one"])
    assert not [text for text in written if text.startswith("unlabelled")]
    labels[:2] = 254
    contact_sheet(dataset, [(image, labels)], ["one"])
    assert "unlabelled  25.0 %" in written
