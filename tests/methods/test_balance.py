"""The weight of a pixel's class: against the formula, on counts made by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segdistill.methods.balance import PixelWeights
from tests.tiny import tiny_network


def weights_of(counts: list[int]) -> list[float]:
    raw = [1 / math.log(1.02 + count / sum(counts)) if count else 0.0 for count in counts]
    seen = sum(count > 0 for count in counts)
    return [value * seen / sum(raw) for value in raw]


def pixel_weights(balance: str | None) -> PixelWeights:
    return PixelWeights(balance, tiny_network(classes=3).info, tiny_network(classes=4).info)  # type: ignore[arg-type]


def scene() -> tuple[Tensor, Tensor]:
    """2 x 4 pixels: five of class 0, two of class 1, one without a label; one of class 0 does not count."""
    labels = torch.tensor([[[0, 0, 0, 0], [1, 1, 255, 0]]])
    valid = torch.tensor([[[1, 1, 1, 1], [1, 1, 1, 0]]]).bool()
    return labels, valid


def test_a_pixel_weighs_as_its_label() -> None:
    labels, valid = scene()
    one, two, _ = weights_of([4, 2, 0])
    for none in (255, 3, -1):  # there are three classes
        labels[0, 1, 2] = none
        found = pixel_weights("labels")(valid=valid, labels=labels, teacher={}).at((2, 4))
        torch.testing.assert_close(found, torch.tensor([[[one, one, one, one], [two, two, 1.0, 0.0]]]))


def test_a_position_weighs_the_mean_of_its_pixels_unless_it_is_ignored() -> None:
    labels, valid = scene()
    one, two, _ = weights_of([4, 2, 0])
    counted = pixel_weights("labels")(valid=valid, labels=labels, teacher={})
    torch.testing.assert_close(counted.at((1, 2)), torch.tensor([[[(one + two) / 2, (2 * one + 1.0) / 4]]]))
    valid[0, 0, 2:] = False
    counted = pixel_weights("labels")(valid=valid, labels=labels, teacher={})
    assert counted.at((1, 2))[0, 0, 1] == 0


def test_a_pixel_weighs_as_the_teachers_most_probable_class() -> None:
    _, valid = scene()
    classes = torch.tensor([[[3, 1, 1, 1]]])
    logits = torch.nn.functional.one_hot(classes, 4).permute(0, 3, 1, 2).float()
    found = pixel_weights("teacher")(valid=valid, labels=None, teacher={"logits": logits}).at((1, 4))
    _, often, _, once = weights_of([0, 3, 0, 1])
    torch.testing.assert_close(found, torch.tensor([[[once, often, often, often]]]))


def test_shares_are_those_of_all_training_batches() -> None:
    labels, valid = scene()
    weights = pixel_weights("labels").train()
    weights(valid=valid, labels=labels, teacher={})
    weights(valid=valid, labels=torch.full_like(labels, 2), teacher={})
    assert weights.counts.tolist() == [4, 2, 7]
    weights.eval()
    found = weights(valid=valid, labels=labels, teacher={}).at((2, 4))
    assert weights.counts.tolist() == [4, 2, 7], "evaluation adds nothing"
    assert found[0, 1, 0].item() == pytest.approx(weights_of([8, 4, 7])[1], rel=1e-6)
    again = pixel_weights("labels").eval()
    again.load_state_dict(weights.state_dict())
    torch.testing.assert_close(again(valid=valid, labels=labels, teacher={}).at((2, 4)), found)


def test_without_balance_it_is_the_mask() -> None:
    _, valid = scene()
    counted = pixel_weights(None)(valid=valid, labels=None, teacher={})
    assert counted.at((2, 4)).dtype == torch.bool
    assert torch.equal(counted.at((2, 4)), valid)
    assert not list(pixel_weights(None).state_dict())


def test_counts_are_whole_numbers_of_any_size() -> None:
    """A run of ten thousand steps sees more pixels than single precision can count."""
    labels, valid = scene()
    weights = pixel_weights("labels").train()
    weights.counts += 2**40
    weights(valid=valid, labels=labels, teacher={})
    assert (weights.counts - 2**40).tolist() == [4, 2, 0]
