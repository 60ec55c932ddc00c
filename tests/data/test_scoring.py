"""A model on an image that is resized before it goes through: in which order its scores come, and for which pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segdistill.data import scoring
from segdistill.data.scoring import TiledModel
from segdistill.data.tiling import Piece
from segdistill.datasets.base import Window


class Photo:
    """An image of noise, of which a corner is missing."""

    size = (23, 10)

    def __init__(self) -> None:
        self.pixels = torch.rand(3, *self.size, generator=torch.Generator().manual_seed(0))
        self.missing = torch.zeros(self.size, dtype=torch.bool)
        self.missing[15:, 6:] = True

    def read(self, window: Window) -> tuple[Tensor, Tensor]:
        return window.cut(self.pixels), window.cut(self.missing)


def missing_in(piece: Piece) -> Tensor:
    assert piece.missing is not None
    return piece.missing


def test_scores_of_a_resized_image_can_begin_at_any_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "STRIP_PIXELS", 40)
    model, photo = TiledModel(lambda images: images, 3, resize=(8, 6)), Photo()
    every = list(model.pieces(photo))
    assert [piece.row for piece in every] == list(range(len(model.grid(photo.size).rows))) == [0, 1, 2, 3, 4, 5]
    assert torch.cat([piece.scores for piece in every], 1).shape == (3, *photo.size)
    assert torch.cat([missing_in(piece) for piece in every]).equal(photo.missing)
    for first in range(7):
        rest = list(model.pieces(photo, first))
        assert [piece.row for piece in rest] == list(range(first, 6))
        for piece, expected in zip(rest, every[first:], strict=True):
            assert piece.window == expected.window
            assert piece.scores.equal(expected.scores)
            assert missing_in(piece).equal(missing_in(expected))
