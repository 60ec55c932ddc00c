"""Bands along label borders, labels at another resolution, and masks of receptive fields."""

from __future__ import annotations

import pytest
import torch

from segdistill import UserError
from segdistill.losses import label_edges, mask_overlap, receptive_masks, shrink_any, shrink_labels


@pytest.mark.parametrize("width", [1, 2, 5])
def test_edges_are_where_another_class_is_near(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (2, 3, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(3, 2)
    labels[0, 2:5, 3:6] = 255
    edges = label_edges(labels, width=width, num_classes=3)
    for b, i, j in torch.ones_like(labels).nonzero().tolist():
        window = labels[b, max(0, i - width) : i + width + 1, max(0, j - width) : j + width + 1]
        near = set(window.flatten().tolist()) - {255}
        assert bool(edges[b, i, j]) == (labels[b, i, j] != 255 and len(near) > 1)


def test_one_class_and_nothing_labelled_have_no_edges() -> None:
    assert not label_edges(torch.zeros(1, 4, 4, dtype=torch.long), width=2, num_classes=2).any()
    assert not label_edges(torch.full((1, 4, 4), 255), width=2, num_classes=2).any()
    with pytest.raises(UserError, match="width is 0, expected 1 or more"):
        label_edges(torch.zeros(1, 4, 4, dtype=torch.long), width=0, num_classes=2)


def test_a_coarse_position_is_set_where_any_pixel_of_it_is() -> None:
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 3, 2] = True
    assert shrink_any(mask, (2, 3)).nonzero().tolist() == [[0, 1, 1]]
    assert shrink_any(mask, (4, 6)) is mask


def test_coarse_labels_are_those_in_the_middle() -> None:
    labels = torch.arange(7)[None, None] + 10 * torch.arange(3)[None, :, None]
    assert shrink_labels(labels, (3, 7)) is labels
    assert shrink_labels(labels, (1, 3)).tolist() == [[[11, 13, 15]]]
    assert shrink_labels(labels, (3, 14))[0, 0].tolist() == [n // 2 for n in range(14)]
    with pytest.raises(UserError, match="size is"):
        shrink_labels(labels, (0, 3))


def test_overlap_is_the_mean_dice_of_every_two_masks() -> None:
    masks = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    dice = [
        2 * (one * other).sum() / (one.square().sum() + other.square().sum())
        for image in masks
        for k, one in enumerate(image)
        for m, other in enumerate(image)
        if k != m
    ]
    torch.testing.assert_close(mask_overlap(masks), torch.stack(dice).mean())
    assert mask_overlap(masks[:, :1]) == 0
    with pytest.raises(UserError, match=r"tokens has shape \(2, 4\), expected \(M, 3\)"):
        receptive_masks(masks, torch.zeros(2, 4))
