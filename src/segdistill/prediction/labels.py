"""From class scores to labels: the most probable class, and none where it is not probable enough."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from segdistill.data.tiling import Piece, piece_labels
from segdistill.datasets.base import IGNORE_INDEX


class Labels:
    """Labels of one image, piece by piece.

    Args:
        confidence: least probability of a label; less probable ones become 255. None keeps every label.
        classes: K.

    Attributes:
        counts: int64 (2, K): pixels of each class before and after those that are not probable enough are left out,
            pixels without data not counted; zeros without a confidence.
    """

    def __init__(self, confidence: float | None, classes: int) -> None:
        self.confidence = confidence
        self.counts = np.zeros((2, classes), dtype=np.int64)

    def __call__(self, piece: Piece) -> Tensor:
        """Class indices, uint8 (h, w) on the CPU, and 255 where there is no data or no certainty."""
        labels = piece_labels(piece)
        if self.confidence is None:
            return labels
        self._count(0, labels)
        # The largest probability without the others: exp(largest score) over the sum of all.
        largest = (piece.scores.max(0).values - piece.scores.logsumexp(0)).exp()
        labels[(largest < self.confidence).cpu()] = IGNORE_INDEX
        self._count(1, labels)
        return labels

    def _count(self, row: int, labels: Tensor) -> None:
        classes = self.counts.shape[1]
        self.counts[row] += np.bincount(labels.numpy().ravel(), minlength=IGNORE_INDEX + 1)[:classes]
