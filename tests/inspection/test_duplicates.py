from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from segdistill.datasets.base import Window
from segdistill.inspection.duplicates import Fingerprint, FingerprintMaker, same_images
from tests.inspection.trees import picture


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def mark(pixels: Tensor, side: int = 2048) -> Fingerprint:
    height, width = pixels.shape[-2:]
    maker = FingerprintMaker((height, width))
    step = maker.step(side)
    for top in range(0, height, step):
        for left in range(0, width, step):
            window = Window(top, left, min(step, height - top), min(step, width - left))
            maker.add(window, window.cut(pixels))
    return maker.finish()


def again(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def kinds(first: Fingerprint, second: Fingerprint) -> list[str]:
    return [finding.kind for finding in same_images({"train": [("a", first)], "val": [("b", second)]})]


def test_difference_hash_is_written_out_plainly() -> None:
    """Each pixel of the 9 x 8 thumbnail against its left neighbour, row by row, the first bit the highest."""
    pixels = torch.randint(0, 256, (3, 80, 90), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    small = pixels.double().mean(0).reshape(8, 10, 9, 10).mean((1, 3))
    bits = "".join(
        "1" if small[row, column + 1] > small[row, column] else "0" for row in range(8) for column in range(8)
    )
    assert mark(pixels).difference_hash == int(bits, 2)


def test_equal_pixels() -> None:
    assert kinds(mark(tensor(picture(0))), mark(tensor(picture(0)))) == ["same-image"]


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_compressed_again(quality: int) -> None:
    image = picture(3, 227, 320)
    assert kinds(mark(tensor(image)), mark(tensor(again(image, quality)))) == ["re-encoded-image"]


def test_resized() -> None:
    image = picture(3, 240, 320)
    assert kinds(mark(tensor(image)), mark(tensor(image.resize((200, 150))))) == ["re-encoded-image"]


def test_other_images() -> None:
    marks = [mark(tensor(picture(seed))) for seed in range(40)]
    halves = {"train": [("a", each) for each in marks[:20]], "val": [("b", each) for each in marks[20:]]}
    assert same_images(halves) == []


def test_flat_images_are_not_all_the_same() -> None:
    """Their difference hashes are: no pixel is brighter than its neighbour."""
    noise = np.random.default_rng(0).normal(100, 2, (2, 64, 64, 3)).round().astype(np.uint8)
    first, second = (mark(tensor(Image.fromarray(each))) for each in noise)
    assert kinds(first, second) == []
    blank = mark(torch.full((3, 20, 20), 7, dtype=torch.uint8))
    assert blank.blank
    assert kinds(blank, blank) == []


def test_windows_change_no_thumbnail() -> None:
    pixels = tensor(picture(5, 2100, 1300))
    whole, parts = mark(pixels, 4096), mark(pixels, 600)
    assert whole.difference_hash == parts.difference_hash
    assert np.array_equal(whole.thumbnail, parts.thumbnail)


def test_images_in_a_unit_of_their_own() -> None:
    values = tensor(picture(5)).float() * 40 - 3000
    assert kinds(mark(values), mark(values)) == ["same-image"]
    assert kinds(mark(values), mark(tensor(picture(6)).float() * 40 - 3000)) == []


@pytest.mark.parametrize("scale", [1 / 255, 1 / 40_000])
def test_reflectance(scale: float) -> None:
    """Floats from 0 to 1 are pictures too, and no images of one colour."""
    values = tensor(picture(5)).float() * scale
    assert not mark(values).blank
    assert kinds(mark(values), mark(values)) == ["same-image"]
    assert kinds(mark(values), mark(tensor(picture(6)).float() * scale)) == []


@pytest.mark.filterwarnings("error")
def test_one_value_or_none_is_blank() -> None:
    assert mark(torch.full((3, 48, 64), 300.0)).blank
    assert mark(torch.full((3, 48, 64), torch.nan)).blank


def test_every_copy_is_told_of_as_one() -> None:
    one = mark(tensor(picture(0)))
    found = same_images({"train": [("a", one)], "val": [("b", one), ("c", one)]})
    assert [(finding.kind, finding.files) for finding in found] == [
        ("same-image", ("a = b", "a = c")),
        ("repeated-image", ("b = c",)),
    ]


def test_twice_in_one_split() -> None:
    one, other = mark(tensor(picture(0))), mark(tensor(picture(1)))
    (finding,) = same_images({"train": [("a", one), ("b", other), ("c", one)], "val": []})
    assert (finding.kind, finding.severity, finding.files) == ("repeated-image", "warning", ("a = c",))
