from __future__ import annotations

import pytest
import torch

from segdistill.errors import UserError
from segdistill.networks.closer import features_on_student_grid, info_on_student_grid, reduced
from segdistill.networks.features import Features, NetworkInfo, Tap


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_reduced_pixel_is_the_mean_of_those_it_stands_for(factor: int, dtype: torch.dtype) -> None:
    image = torch.randint(256, (2, 3, 5 * factor, 7 * factor), generator=torch.Generator().manual_seed(0)).to(dtype)
    found = reduced(image, factor)
    assert found.shape == (2, 3, 5, 7)
    assert found.dtype == dtype
    for row in range(5):
        for column in range(7):
            block = image[..., factor * row : factor * (row + 1), factor * column : factor * (column + 1)]
            mean = block.double().mean((-2, -1))
            expected = mean.round() if dtype == torch.uint8 else mean
            assert (found[..., row, column].double() - expected).abs().max() < 1e-4
    assert reduced(image[0], factor).equal(found[0])  # one image alone, as a data-loading process has it
    assert reduced(image, 1) is image


def test_sides_that_the_factor_does_not_divide_are_refused() -> None:
    with pytest.raises(UserError, match="images are 6 x 9, expected sides that teacher_scale 2 divides"):
        reduced(torch.zeros(1, 3, 6, 9), 2)


@pytest.mark.parametrize(
    ("factor", "strides"), [(1, (1, 2, 4, 12)), (2, (1, 1, 2, 6)), (3, (1, 2, 4, 4)), (4, (1, 1, 1, 3))]
)
def test_strides_are_whole_numbers_of_the_students_pixels(factor: int, strides: tuple[int, ...]) -> None:
    """Where a map would be finer than the student's pixels, or at a broken stride, it is averaged."""
    own = (1, 2, 4, 12)
    taps = [Tap(str(stride), 5, stride) for stride in own]
    info = NetworkInfo(tuple(taps[2:]), taps[0], taps[1], num_classes=5, in_channels=3)
    maps = [torch.rand(1, 5, factor * 24 // stride, factor * 48 // stride) for stride in own]
    seen = features_on_student_grid(Features(tuple(maps[2:]), maps[0], maps[1]), info, factor)
    known = info_on_student_grid(info, factor)
    found = dict(zip(own, (known.embedding, known.logits, *known.stages), strict=True))
    assert tuple(found[stride].stride for stride in own) == strides
    for value, tap in zip((seen.embedding, seen.logits, *seen.stages), found.values(), strict=True):
        assert value.shape[-2:] == (24 // tap.stride, 48 // tap.stride)
    assert torch.allclose(seen.embedding.mean(), maps[0].mean(), atol=1e-5)
    if factor == 2:
        assert torch.allclose(seen.embedding, reduced(maps[0], 2))
        assert seen.stages[0] is maps[2]
