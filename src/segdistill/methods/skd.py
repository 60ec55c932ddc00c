"""SKD: how similar every two regions are, and the class probabilities."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from segdistill.losses import affinity_mse, max_pool_valid
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.kd import class_kl
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive, preset_values
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"kd": 10.0, "pairwise": 10.0, "pool": 2.0},
    "authors": {"kd": 80.0, "pairwise": 1.0, "pool": 0.5},
}


class SKD(Method):
    """Liu et al., *Structured Knowledge Distillation for Semantic Segmentation*, CVPR 2019 (arXiv 1903.04197).

    ``pairwise``: the embedding is max-pooled to regions, and the cosine of every two regions of an image is compared:
    mean squared difference over all pairs, by the Gram identity. ``kd``: pixel-wise KL of the class probabilities.
    The holistic term (a WGAN critic on image and prediction) is left out.

    Reduction and presets. ``"paper"``: regions of 2 x 2 positions, both weights 10. ``"authors"``: windows of half the
    map's height and width, so about 2 x 2 regions an image, weight 1 (their sum over pairs, divided by the square
    of their number and by the batch, is our mean). Their pixel-wise term is a sum over the batch divided by W H alone,
    hence the batch size times ours: 10 at their batch of 8 is 80 here, whatever yours is. It is a cross-entropy,
    whose gradient is that of the KL.

    Args:
        preset: ``"paper"`` or ``"authors"``: what the values below are where they are not given.
        kd: weight of the pixel-wise term; 0 leaves it out.
        pairwise: weight of the pair-wise term; 0 leaves it out.
        pool: 1 or more: side of the pooling window in positions (1: no pooling); below 1: the window is this part of
            the map's height and width.
        balance: ``"labels"`` or ``"teacher"`` to weigh the pixels of ``kd`` by their class; see `PixelWeights`.
    """

    family = "relation"
    paper = "Liu, CVPR, arXiv 1903.04197"
    year = 2019
    cost = 1.006
    presets = _PRESETS

    def __init__(
        self,
        *,
        preset: Literal["paper", "authors"] = "paper",
        kd: float | None = None,
        pairwise: float | None = None,
        pool: float | None = None,
        balance: Balance = None,
    ) -> None:
        super().__init__()
        values = preset_values("skd", preset, _PRESETS, {"kd": kd, "pairwise": pairwise, "pool": pool})
        check_not_negative("skd", kd=values["kd"], pairwise=values["pairwise"])
        check_positive("skd", pool=values["pool"])
        check_balance("skd", balance)
        self.preset = preset
        self.kd: float = values["kd"]
        self.pairwise: float = values["pairwise"]
        self.pool: float = values["pool"]
        self.balance = balance
        self.needs_logits = bool(self.kd)
        self.needs_embedding = bool(self.pairwise)
        self.needs_labels = self.needs_logits and balance == "labels"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        # Only the mean of `kd` over pixels is weighted.
        self.pixels = PixelWeights(self.balance if self.kd else None, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher) if self.pairwise else {}
        return outputs | {"logits": teacher.logits} if self.kd else outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        counted = self.pixels(valid=valid, labels=labels, teacher=teacher)
        terms: dict[str, Tensor] = {}
        if self.pairwise:
            [(x, t)] = self._places.pairs(student, teacher)
            window = self._window(x.shape[2]), self._window(x.shape[3])
            x, inside = max_pool_valid(x, counted.mask(size_of(x)), window)
            t, _ = max_pool_valid(t, counted.mask(size_of(t)), window)
            terms["pairwise"] = self.pairwise * affinity_mse(student=x, teacher=t, valid=inside)
        if self.kd:
            terms["kd"] = self.kd * class_kl(student, teacher, counted)
        return terms

    def _window(self, positions: int) -> int:
        """Side of the pooling window along a side of so many positions."""
        return max(1, math.floor(self.pool * positions)) if self.pool < 1 else min(round(self.pool), positions)
