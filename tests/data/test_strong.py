"""`strong`: colours far from those of the picture, and nothing else of a view."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from segdistill import UserError
from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import TrainingSamples
from segdistill.data.strong import GREY, StrongChange, blurred
from segdistill.datasets import SyntheticAerial
from segdistill.recipe.data import Data, build_data
from tests.training.runs import SCENES


def picture(channels: int = 3, size: tuple[int, int] = (23, 31)) -> Tensor:
    return torch.randint(256, (channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_only_colours_change_and_they_are_a_function_of_the_key() -> None:
    dataset = SyntheticAerial(count=4, size=(60, 60))
    plain, strong = (
        TrainingSamples(dataset, Augmentation((40, 40), jitter=0.2, strong=strength), seed=3) for strength in (0, 1)
    )
    keys = [(epoch, index) for epoch in range(2) for index in range(4)]
    views = [strong[key] for key in keys]
    changed = 0
    for key, (image, labels) in zip(reversed(keys), reversed(views), strict=True):
        assert plain[key][1].equal(labels)
        assert strong[key][0].equal(image)
        changed += not plain[key][0].equal(image)
    assert changed > 4


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_brightness_contrast_and_colour_are_what_they_say(channels: int) -> None:
    change = StrongChange(brightness=1.3, contrast=0.6, saturation=0.4)
    image = picture(channels)
    weights = np.array(GREY if channels == 3 else [1 / channels] * channels)
    pixels = image.numpy().astype(np.float64) * 1.3
    mean = (weights[:, None, None] * pixels).sum(0).mean()
    pixels = np.clip(mean + 0.6 * (pixels - mean), 0, 255)
    grey = (weights[:, None, None] * pixels).sum(0)
    expected = np.clip(grey + 0.4 * (pixels - grey), 0, 255)
    assert np.abs(change(image).numpy() - expected).max() <= 0.51
    assert change(image).dtype == torch.uint8


def test_a_turn_of_the_hue_keeps_the_grey_level_and_moves_red_to_green_to_blue() -> None:
    softer = (picture().float() * 0.2 + 100).to(torch.uint8)  # no colour leaves the range
    turned = StrongChange(hue=0.17)(softer)
    grey = torch.tensor(GREY)[:, None, None]
    assert ((grey * turned).sum(0) - (grey * softer).sum(0)).abs().max() < 1
    assert (turned.float() - softer.float()).abs().mean() > 3
    red = torch.tensor([120, 60, 60], dtype=torch.uint8)[:, None, None]
    assert [int(StrongChange(hue=third / 3)(red).flatten().argmax()) for third in range(3)] == [0, 1, 2]
    assert StrongChange(hue=0.3)(picture(5)).equal(picture(5))


def test_solarizing_inverts_what_is_bright() -> None:
    image = torch.tensor([[[0, 127, 128, 255]]], dtype=torch.uint8)
    assert StrongChange(solarize=True)(image).flatten().tolist() == [0, 127, 127, 0]


@pytest.mark.parametrize("sigma", [0.1, 0.8, 2.0, 9.0])
def test_the_blur_is_a_gaussian(sigma: float) -> None:
    pixels = picture().float()
    radius = math.ceil(3 * sigma)
    expected = [ndimage.gaussian_filter(one, sigma, mode="nearest", radius=radius) for one in pixels.double().numpy()]
    assert np.abs(blurred(pixels, sigma).numpy() - np.stack(expected)).max() < 1e-2


def test_a_teacher_that_looks_closer_sees_the_same_blur() -> None:
    image = picture()
    closer = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    change = StrongChange(sigma=1.5)
    seen = change(closer, factor=2).float().unflatten(1, (23, 2)).unflatten(3, (31, 2)).mean((2, 4))
    assert (seen - change(image).float()).abs().mean() < 3


def test_each_change_comes_as_often_as_it_says() -> None:
    drawn = [StrongChange.draw(0.5, (0, 0, index)) for index in range(2000)]
    found = Counter[str]()
    for one in drawn:
        found["jitter"] += one.brightness != 1
        found["grey"] += one.saturation == 0
        found["solarize"] += one.solarize
        found["blur"] += one.sigma > 0
    expected = {"jitter": 0.8, "grey": 0.1, "solarize": 0.1, "blur": 0.25}
    assert {name: count / 2000 for name, count in found.items()} == pytest.approx(expected, abs=0.03)
    assert max(abs(one.brightness - 1) for one in drawn) == pytest.approx(0.4, abs=0.01)
    assert max(abs(one.hue) for one in drawn) == pytest.approx(0.1, abs=0.01)
    assert max(one.sigma for one in drawn) == pytest.approx(2.0, abs=0.05)


def test_the_number_of_threads_changes_nothing() -> None:
    image, threads, views = picture(size=(301, 407)), torch.get_num_threads(), []
    change = StrongChange(1.2, 0.7, 1.4, 0.11, False, 1.3)
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            views.append(change(image))
    finally:
        torch.set_num_threads(threads)
    assert views[0].equal(views[1])


@pytest.mark.parametrize("strength", [-0.1, 1.5, True, math.nan])
def test_other_strengths_are_refused(strength: Any) -> None:
    with pytest.raises(UserError, match=r"strong is .*, expected a strength from 0 \(colours stay\) to 1"):
        Augmentation((8, 8), strong=strength)


def test_images_of_an_unknown_range_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = SyntheticAerial(count=2, size=(32, 32))
    monkeypatch.setattr(dataset, "pixel_type", lambda: "uint16")
    with pytest.raises(UserError, match=r"strong is 0\.5, but the images hold uint16; expected images of 8 bits"):
        Data(dataset, dataset, Augmentation((16, 16), strong=0.5))
    assert Data(dataset, dataset, Augmentation((16, 16))).augmentation.strong == 0


def test_an_overfitted_run_sees_its_images_as_they_are() -> None:
    assert build_data(SCENES | {"strong": 0.5}, overfit=2).augmentation.strong == 0
