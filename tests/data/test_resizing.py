from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from segdistill.data.resizing import scores_at_size
from segdistill.datasets import Folder
from segdistill.datasets.reading.images import resized
from segdistill.errors import UserError
from segdistill.recipe.sizes import parse_size
from tests.datasets.trees import folder_tree


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    image = torch.randint(0, 256, (3, 10, 12), dtype=torch.uint8)
    assert resized(image, (10, 12)) is image


@pytest.mark.parametrize("size", [(5, 30), (7, 9), (40, 41)])
def test_pictures_are_resized_as_a_data_set_reads_them(tmp_path: Path, size: tuple[int, int]) -> None:
    root = folder_tree(tmp_path, {"train": 1})
    whole, small = (Folder(root, ("a", "b", "c"), resize=wanted)[0][0] for wanted in (None, size))
    assert resized(whole, size).equal(small)


def test_bands_keep_their_values() -> None:
    bands = torch.full((5, 10, 12), -3.5)
    torch.testing.assert_close(resized(bands, (4, 4)), torch.full((5, 4, 4), -3.5))


@pytest.mark.parametrize("size", [(60, 90), (13, 11), (20, 30), (20, 31), (1, 1)])
def test_scores_are_interpolated_bilinearly_whichever_rows_are_asked_for(size: tuple[int, int]) -> None:
    scores = torch.randn(4, 20, 30)
    whole = scores_at_size(scores, size, 0, size[0])
    expected = F.interpolate(scores[None].double(), size=size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(whole.double(), expected, atol=1e-5, rtol=0)
    for first in range(0, size[0], 7):
        count = min(7, size[0] - first)
        assert scores_at_size(scores, size, first, count).equal(whole[:, first : first + count])


def test_a_size_that_is_none() -> None:
    with pytest.raises(UserError, match="size is 'big', expected height and width in pixels, such as 512x512"):
        parse_size("big", "size")
