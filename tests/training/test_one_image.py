"""A network that takes images only several at once is refused before its training, not after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segdistill import Network, Supervised, UserError
from segdistill.datasets import SyntheticAerial
from segdistill.recipe.data import Data
from segdistill.training.preparation import check_smallest_image
from tests.tiny import TinyModel
from tests.training.runs import SCENES, distill_tiny, train_tiny

GROUPED = "python:tests.training.test_one_image:build_grouped"
REFUSED = "^the {} cannot take an image of 32 x 32 pixels by itself: one of its normalisations sees a single number"


def build_grouped(num_classes: int, in_channels: int) -> Network:
    """One channel in each group, and one pixel of them at 32 x 32."""
    model = TinyModel(4, 32, num_classes, in_channels)
    model.head[1] = nn.GroupNorm(8, 8)
    stages = [f"layers.{index}" for index in range(4)]
    return Network(model, stages=stages, embedding="head", logits="classifier", in_channels=in_channels)


def test_torch_takes_several_and_not_one() -> None:
    network = build_grouped(5, 3).eval()
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 5, 32, 32)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(torch.rand(1, 3, 32, 32))


def test_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=REFUSED.format("network")):
        train_tiny(tmp_path / "run", GROUPED)
    assert not (tmp_path / "run").exists()


def test_larger_images_are_trained_on(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "run", GROUPED, data=SCENES | {"size": [32, 48]}, epochs=1)
    assert run.report_file.exists()


@pytest.mark.parametrize(
    ("sizes", "window", "refused"),
    [
        ([(64, 64), (20, 30), (64, 20)], None, True),
        ([(64, 64), (64, 20)], None, False),
        ([(64, 64)], 32, True),
        ([(20, 64)], 48, False),
    ],
)
def test_the_smallest_part_that_is_scored_at_once_decides(
    sizes: list[tuple[int, int]], window: int | None, refused: bool
) -> None:
    scenes = [SyntheticAerial(split=split, count=1, size=[64, 64]) for split in ("train", "val")]
    scenes[1].evaluation_window = window
    learner = Supervised(build_grouped(len(scenes[0].classes), 3))
    states: list[Any] = [learner.training, torch.random.get_rng_state()]
    if refused:
        with pytest.raises(UserError, match="by itself"):
            check_smallest_image(learner, Data(*scenes), sizes)
    else:
        check_smallest_image(learner, Data(*scenes), sizes)
    assert learner.training is states[0]
    assert torch.equal(torch.random.get_rng_state(), states[1])


def test_a_teacher_is_refused_where_it_is_scored(tmp_path: Path) -> None:
    classes = len(SyntheticAerial(count=1).classes)
    with pytest.raises(UserError, match=REFUSED.format("teacher")):
        distill_tiny(tmp_path / "run", build_grouped(classes, 3), epochs=1)  # type: ignore[arg-type]
    run = distill_tiny(tmp_path / "run", build_grouped(classes + 1, 3), method="feature", epochs=1)  # type: ignore[arg-type]
    assert run.report_file.exists()
