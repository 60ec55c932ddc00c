"""How maps of two networks are brought together, on numbers that can be checked by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from segdistill import Tap
from segdistill.methods.alignment import Places, bounded, bounded_stride, match_stages, peak_of_one, resize
from segdistill.networks.features import Features
from tests.tiny import tiny_network


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def test_resize_is_bilinear_between_the_centres_of_positions() -> None:
    assert resize(row(0, 1), (1, 4)).flatten().tolist() == [0.0, 0.25, 0.75, 1.0]
    assert resize(row(0, 1, 2, 3), (1, 2)).flatten().tolist() == [0.5, 2.5]


def test_a_map_of_the_right_size_stays_what_it_is() -> None:
    maps = torch.rand(1, 2, 3, 4)
    assert resize(maps, (3, 4)) is maps
    assert bounded(maps, 8) is maps


@pytest.mark.parametrize(("stride", "becomes"), [(2, 8), (3, 6), (4, 8), (8, 8), (16, 16)])
def test_fine_maps_are_averaged_to_stride_8(stride: int, becomes: int) -> None:
    assert bounded_stride(stride) == becomes
    side = 96 // stride
    assert bounded(torch.rand(1, 1, side, side), stride).shape[-1] == 96 // becomes


def test_a_window_over_the_border_averages_what_is_there() -> None:
    maps = torch.arange(9.0).view(1, 1, 3, 3)
    expected = [(0 + 1 + 3 + 4) / 4, (2 + 5) / 2, (6 + 7) / 2, 8]
    assert bounded(maps, 4).flatten().tolist() == expected


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        ((4, 8, 16, 32), (4, 8, 8, 8), [(0, 0), (1, 1), (2, 2), (3, 3)]),  # equally many: in order
        ((4, 16), (4, 8, 16, 32), [(0, 0), (1, 2)]),
        ((8,), (4, 8, 8, 8), [(0, 3)]),  # the last of equal strides
        ((12,), (8, 16), [(0, 1)]),  # the later of two as near
        ((2, 64), (4, 8, 16), [(0, 0), (1, 2)]),
    ],
)
def test_stages_are_paired(student: tuple[int, ...], teacher: tuple[int, ...], pairs: list[tuple[int, int]]) -> None:
    taps = [tuple(Tap("stage", 8, stride) for stride in strides) for strides in (student, teacher)]
    assert match_stages(*taps) == pairs


def test_stages_of_a_dilated_backbone_are_compared_where_undilated_ones_are() -> None:
    """Strides 4, 8, 8, 8 become 8, 8, 16, 32; the embedding stays at 8."""
    info = tiny_network(8).info
    taps = tuple(Tap(f"stage{index}", 3, stride) for index, stride in enumerate((4, 8, 8, 8)))
    dilated = dataclasses.replace(info, stages=taps, embedding=Tap("embedding", 3, 8))
    sizes = {4: 32, 8: 16}
    shown = Features(
        stages=tuple(torch.rand(1, 3, sizes[tap.stride], sizes[tap.stride]) for tap in taps),
        embedding=torch.rand(1, 3, 16, 16),
        logits=torch.rand(1, 5, 16, 16),
    )
    places = Places(dilated, dilated, stages=True, undilated=True)
    pairs = places.pairs(shown, places.teacher_outputs(shown))
    assert [tuple(x.shape[-2:]) for x, _ in pairs] == [(16, 16), (16, 16), (16, 16), (8, 8), (4, 4)]
    torch.testing.assert_close(pairs[4][0], torch.nn.functional.avg_pool2d(shown.stages[3], 4))
    assert all(torch.equal(x, t) for x, t in pairs)
    # Another method may want the same stages at stride 8: both are in one cache.
    plain = Places(dilated, dilated, stages=True)
    assert places.teacher_outputs(shown).keys() & plain.teacher_outputs(shown).keys() == {"embedding.pooled"}


def test_each_image_has_a_peak_of_one() -> None:
    maps = torch.tensor([[1e-9, 4e-9], [2.0, 1.0]]).view(2, 1, 1, 2)
    torch.testing.assert_close(peak_of_one(maps).flatten(), torch.tensor([0.25, 1.0, 1.0, 0.5]))
    assert (peak_of_one(torch.zeros(1, 1, 2, 2)) == 0).all()
