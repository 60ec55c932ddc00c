"""Scores averaged over mirror images of what a network sees."""

from __future__ import annotations

from torch import Tensor

from segdistill.data.tiling import Scorer
from segdistill.prediction.options import Flips

_AXES: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "horizontal": ((), (-1,)),
    "both": ((), (-1,), (-2,), (-2, -1)),
}


def flipped(scores: Scorer, flips: Flips) -> Scorer:
    """Average ``scores`` over mirror images."""

    def average(images: Tensor) -> Tensor:
        total = scores(images).float()
        for axes in _AXES[flips][1:]:
            total = total + scores(images.flip(axes)).flip(axes)
        return total / len(_AXES[flips])

    return scores if flips == "none" else average
