from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.datasets.reading.images import image_size, read_rgb
from segdistill.errors import UserError
from tests.datasets.trees import write_image, write_mask


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "LA"])
def test_every_8_bit_kind_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    Image.fromarray(np.full((4, 6, 3), 102, dtype=np.uint8)).convert(mode).save(path)
    image = read_rgb(path)
    assert image.shape == (3, 4, 6)
    assert image.dtype == torch.uint8
    assert (image == 102).all()


def test_16_bit_images_are_refused_rather_than_clipped_to_white(tmp_path: Path) -> None:
    write_mask(tmp_path / "deep.png", np.full((4, 4), 3000, dtype=np.uint16))
    with pytest.raises(UserError, match="has pixels of the kind I;16; expected 8 bits per channel"):
        read_rgb(tmp_path / "deep.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp", ".webp"])
def test_a_file_cut_anywhere_is_told_in_one_sentence(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    write_image(path, 40, 40)
    whole = path.read_bytes()
    for share in (0.0, 0.002, 0.01, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match=rf"image\{suffix} cannot be read, it is truncated or no image"):
            read_rgb(path)


def test_a_file_that_vanished_is_told(tmp_path: Path) -> None:
    for read in (read_rgb, image_size):
        with pytest.raises(UserError, match=r"gone.png does not exist \(any more\)"):
            read(tmp_path / "gone.png")


def test_a_file_that_is_no_image_is_told(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    for read in (read_rgb, image_size):
        with pytest.raises(UserError, match=r"page.jpg cannot be read, it is truncated or no image"):
            read(tmp_path / "page.jpg")
