from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segdistill.datasets import SyntheticAerial
from segdistill.evaluation.forward_time import forward_ms
from segdistill.reporting.picture import GAP, HEADER, NO_LABEL, colourise, side_by_side
from tests.tiny import tiny_network

PALETTE = [(255, 0, 0), (0, 0, 255)]


def test_colours_of_classes() -> None:
    picture = np.asarray(colourise(torch.tensor([[0, 1, 255, 7]]), PALETTE))
    assert picture.tolist() == [[[255, 0, 0], [0, 0, 255], [0, 0, 0], [0, 0, 0]]]


def test_truth_and_predictions_stand_in_their_columns() -> None:
    scenes = SyntheticAerial("val", count=3, size=(40, 32))
    networks = {"one": tiny_network(classes=6, seed=1), "two": tiny_network(classes=6, seed=2)}
    sheet = np.asarray(side_by_side(scenes, networks, [2, 0]))
    tall, wide = 6 * 40, 6 * 32  # so small a picture is enlarged
    cells = [
        sheet[top : top + tall, left : left + wide]
        for top in (HEADER, HEADER + tall + GAP)
        for left in range(GAP, sheet.shape[1], wide + GAP)
    ]
    assert len(cells) == 8

    def shown(picture: Image.Image, way: Image.Resampling = Image.Resampling.NEAREST) -> bool:
        enlarged = np.asarray(picture.resize((wide, tall), way))
        return any(np.array_equal(cell, enlarged) for cell in cells)

    for index in (2, 0):
        image, labels = scenes[index]
        assert shown(Image.fromarray(image.permute(1, 2, 0).numpy()), Image.Resampling.BILINEAR)
        assert shown(colourise(labels, scenes.palette))
        for network in networks.values():
            with torch.inference_mode():
                prediction = network.eval()(image[None]).argmax(1)[0]
            assert shown(colourise(prediction, scenes.palette))
    assert not shown(colourise(scenes[1][1], scenes.palette))


def test_images_without_labels_have_no_column_for_them() -> None:
    scenes, networks = SyntheticAerial("val", count=1, size=(40, 32)), {"one": tiny_network(classes=6, seed=1)}
    labelled = side_by_side(scenes, networks, [0]).width
    scenes.unlabelled_index = 254
    assert side_by_side(scenes, networks, [0]).width == labelled - 6 * 32 - GAP


@pytest.mark.parametrize("unlabelled", [False, True])
def test_black_is_explained_where_it_is_seen(monkeypatch: pytest.MonkeyPatch, unlabelled: bool) -> None:
    written: list[str] = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, place, text, **more: written.append(text))
    scenes = (WithoutALabel if unlabelled else SyntheticAerial)("val", count=1, size=(40, 32))
    side_by_side(scenes, {"one": tiny_network(classes=6, seed=1)}, [0])
    # The legend is drawn first.
    assert written == [*SyntheticAerial.CLASSES, *[NO_LABEL] * unlabelled, "image", "truth", "one"]


@pytest.mark.parametrize(
    ("heading", "size"), [("student", 22), ("student + kd + brd?relation=0", 14), ("a heading far too long " * 9, 11)]
)
def test_headings_are_as_large_as_their_columns_allow(monkeypatch: pytest.MonkeyPatch, heading: str, size: int) -> None:
    drawn: dict[str, ImageFont.FreeTypeFont] = {}
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda _, place, text, font, **more: drawn.update({text: font}))
    side_by_side(SyntheticAerial("val", count=1, size=(40, 32)), {heading: tiny_network(classes=6, seed=1)}, [0])
    assert {drawn[text].size for text in ("image", "truth", heading)} == {size}
    assert size == 11 or drawn[heading].getlength(heading) <= 6 * 32


class WithoutALabel(SyntheticAerial):
    """Scenes with a pixel that is to be ignored."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = super().__getitem__(index)
        labels[0, 0] = 255
        return image, labels


def test_latency_counts_the_repeats_alone() -> None:
    network = tiny_network().train()
    sizes = []
    network.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    assert forward_ms(network, (32, 48), repeats=4, warmup=2) > 0
    assert sizes == [(1, 3, 32, 48)] * 6
    assert network.training
