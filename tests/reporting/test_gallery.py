from __future__ import annotations

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.datasets import SegmentationDataset
from segdistill.reporting.gallery import LONGEST_SIDE, read_scene, scene_values, within


class Large(SegmentationDataset):
    """One image of two classes, dark above and bright below."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(classes=("dark", "bright"), ids=("one",))
        self.size = (height, width)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = torch.zeros(self.size, dtype=torch.int64)
        labels[self.size[0] // 2 :] = 1
        return (labels * 200).to(torch.uint8).expand(3, -1, -1), labels


def decoded(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))))


def test_of_a_large_image_the_part_is_shown_where_networks_differ() -> None:
    dataset = Large(64, 2 * LONGEST_SIDE)
    scene = read_scene(dataset, 0)
    right, wrong = scene.labels.clone(), scene.labels.clone()
    right[40:50, 100:110] = wrong[40:50, 100:110] = 0  # both err here, and one of them at the other end
    wrong[40:50, -30:] = 0
    scene.predictions.update(right=right, wrong=wrong)
    values = scene_values(scene, dataset)
    labels, shown = decoded(values["labels"]), decoded(values["predictions"]["wrong"])
    assert labels.shape == shown.shape == (64, LONGEST_SIDE, 3)
    assert (shown[40:50, -30:, 1] > 0).all()
    assert (shown[..., 1] > 0).sum() == 300
    assert (labels[..., 0] == scene.labels[:, -LONGEST_SIDE:].numpy()).all()


def test_an_image_too_large_for_the_network_is_shown_in_part() -> None:
    dataset = Large(100, 60)
    dataset.evaluation_window = 40
    scene = read_scene(dataset, 0)
    assert scene.image.shape == (3, 40, 40)
    assert scene.labels[19].tolist() == [0] * 40
    assert scene.labels[20].tolist() == [1] * 40


def test_what_goes_beyond_the_size_is_left_out() -> None:
    scene = {"photo": "x" * 50, "labels": "x" * 20, "predictions": {"a": "x" * 20, "b": "x" * 10}}
    assert len(within([scene] * 5, largest=300)) == 3
    assert within([scene], largest=99) == []
