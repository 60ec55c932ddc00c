from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from segdistill.errors import UserError
from segdistill.losses import shrink_valid, shrink_weights


def overlap(cell: int, cells: int, pixel: int, pixels: int) -> Fraction:
    low = max(Fraction(cell, cells), Fraction(pixel, pixels))
    high = min(Fraction(cell + 1, cells), Fraction(pixel + 1, pixels))
    return max(high - low, Fraction(0))


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 1), (3, 5), (8, 12), (7, 5), (4, 3)])
def test_valid_where_half_the_area_is(size: tuple[int, int]) -> None:
    valid = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    expected = [
        [
            [
                2
                * sum(
                    overlap(row, size[0], y, 4) * overlap(column, size[1], x, 6)
                    for y, x in torch.nonzero(image).tolist()
                )
                >= Fraction(1, size[0] * size[1])
                for column in range(size[1])
            ]
            for row in range(size[0])
        ]
        for image in valid
    ]
    assert shrink_valid(valid, size).tolist() == expected


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (1, 1), (3, 5), (8, 12), (7, 5)])
def test_weights_are_averaged_over_the_area(size: tuple[int, int]) -> None:
    weights = torch.rand(1, 4, 6, generator=torch.Generator().manual_seed(1))
    for row in range(size[0]):
        for column in range(size[1]):
            area = sum(
                float(overlap(row, size[0], y, 4) * overlap(column, size[1], x, 6)) * weights[0, y, x].item()
                for y in range(4)
                for x in range(6)
            )
            mean = area * size[0] * size[1]
            assert shrink_weights(weights, size)[0, row, column].item() == pytest.approx(mean, rel=1e-5)


def test_half_is_enough_at_real_sizes_also_under_autocast() -> None:
    valid = torch.zeros(1, 1023, 2047, dtype=torch.bool)
    valid[:, :, :1024] = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        small = shrink_valid(valid, (33, 2))
    assert small[:, :, 0].all()
    assert not small[:, :, 1].any()
    assert shrink_valid(torch.tensor([[[True, False]]]), (1, 1)).all()


def test_all_and_nothing_stay() -> None:
    for size in ((3, 3), (7, 9), (20, 20)):
        assert shrink_valid(torch.ones(2, 7, 9, dtype=torch.bool), size).all()
        assert not shrink_valid(torch.zeros(2, 7, 9, dtype=torch.bool), size).any()


def test_bad_arguments_are_told() -> None:
    with pytest.raises(UserError, match=r"valid has dtype torch.float32, expected torch.bool"):
        shrink_valid(torch.ones(1, 2, 2), (1, 1))
    with pytest.raises(UserError, match=r"valid has shape \(2, 2\), expected \(B, H, W\)"):
        shrink_valid(torch.ones(2, 2, dtype=torch.bool), (1, 1))
    with pytest.raises(UserError, match=r"size is \(0, 1\), expected two numbers above 0"):
        shrink_valid(torch.ones(1, 2, 2, dtype=torch.bool), (0, 1))
