"""What a model predicts for one image, whatever the image is and wherever the model comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from segdistill.data.scoring import ReadableImage, TiledModel
from segdistill.data.tiling import Grid, Piece, piece_labels


class Prediction:
    """The class scores and labels of one image: a picture, a raster, or a frame of a video.

    Nothing is computed before it is asked for, and each call computes anew.

    Args:
        model: the model, from a run folder or an exported file.
        image: parts of it are read.
    """

    def __init__(self, model: TiledModel, image: ReadableImage) -> None:
        self.model = model
        self.image = image

    @property
    def grid(self) -> Grid:
        """The parts in which scores are computed."""
        return self.model.grid(self.image.size)

    def pieces(self, first_row: int = 0) -> Iterator[Piece]:
        """The scores, piece by piece from top left to bottom right, each pixel once, in bounded memory.

        Args:
            first_row: the row of `grid` to begin with.
        """
        return self.model.pieces(self.image, first_row)

    def label_map(self, labels_of: Callable[[Piece], Tensor] | None = None) -> Tensor:
        """Class indices, uint8 (H, W) on the CPU, and 255 where the image has no data.

        Args:
            labels_of: from scores to labels (h, w); by default the class of the largest score.
        """
        labels = torch.empty(self.image.size, dtype=torch.uint8)
        for piece in self.pieces():
            piece.window.cut(labels).copy_((labels_of or piece_labels)(piece))
        return labels
