"""Feature: the teacher's features themselves, through a 1x1 convolution."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.losses import feature_cosine, feature_mse
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative, preset_values
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "normalised": {"weight": 1.0, "distance": "normalised"},
    "fitnet": {"weight": 10.0, "distance": "mse"},
}


class Feature(Method):
    """Plain feature distillation: the student's features, through a 1x1 convolution, equal the teacher's.

    ``mean over positions of d(A x, t)``, at the embedding, with ``stages`` also at every backbone stage, or there
    alone; mean over these places. A is a 1x1 convolution without bias, trained with the student and left out of it.
    Maps finer than stride 8 are average-pooled to it, stages of dilated backbones to the strides 8, 8, 16, 32 of
    others; the teacher's are resized bilinearly to the student's size.

    ``preset="fitnet"`` is Romero et al., *FitNets: Hints for Thin Deep Nets*, ICLR 2015 (arXiv 1412.6550), as the
    segmentation papers compare with it: the mean squared difference of the embeddings as they are, weight 10 (the
    reimplementation in CIRKD's code, whose mean over all elements equals ours without ignored pixels). FitNets
    itself has half the sum over all elements instead of the mean, at a middle layer, as a stage of its own before the
    training: a weight for that sum times C h w / 2 is ours. The value of ``"mse"`` depends on the scale of the
    teacher's features; that of ``"normalised"`` and ``"cosine"`` does not.

    Args:
        preset: ``"normalised"`` or ``"fitnet"``: what `weight` and `distance` are where they are not given.
        weight: weight of the term; 1, or 10 for ``"fitnet"``.
        distance: ``"mse"``: mean squared difference; ``"normalised"``: the same of standardised features;
            ``"cosine"``: 1 - cosine of the two vectors at each position.
        standardise: for ``"normalised"``: ``"channel"``: each channel has mean 0 and variance 1 over the valid
            positions of its image; ``"position"``: each position has them over its channels.
        embedding: match the embeddings, the last features before the classifier.
        stages: match every backbone stage; without ``embedding`` the student's backbone alone learns.
        balance: ``"labels"`` or ``"teacher"`` to weigh positions by their class; see `PixelWeights`.
    """

    family = "feature"
    paper = "Romero (FitNets), ICLR, arXiv 1412.6550, as one setting"
    year = 2015
    cost = 1.011
    presets = _PRESETS
    needs_embedding = True

    def __init__(
        self,
        *,
        preset: Literal["normalised", "fitnet"] = "normalised",
        weight: float | None = None,
        distance: Literal["mse", "cosine", "normalised"] | None = None,
        standardise: Literal["channel", "position"] = "channel",
        embedding: bool = True,
        stages: bool = False,
        balance: Balance = None,
    ) -> None:
        super().__init__()
        values = preset_values("feature", preset, _PRESETS, {"weight": weight, "distance": distance})
        check_not_negative("feature", weight=values["weight"])
        check_choice("feature", "distance", values["distance"], ("mse", "cosine", "normalised"))
        check_choice("feature", "standardise", standardise, ("channel", "position"))
        check_balance("feature", balance)
        if not (embedding or stages):
            raise UserError("feature: embedding and stages are both false, expected one of them to be true at least")
        self.preset = preset
        self.weight: float = values["weight"]
        self.distance: str = values["distance"]
        self.standardise = standardise
        self.embedding = embedding
        self.stages = stages
        self.balance = balance
        self.needs_embedding = embedding
        self.needs_stages = stages
        self.needs_labels = balance == "labels"
        self.needs_teacher_logits = balance == "teacher"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher, embedding=self.embedding, stages=self.stages, undilated=True)
        self.adapters = nn.ModuleList(nn.Conv2d(s.channels, t.channels, 1, bias=False) for s, t in self._places.taps)
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher)
        return outputs | {"logits": teacher.logits} if self.balance == "teacher" else outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        counted = self.pixels(valid=valid, labels=labels, teacher=teacher)
        pairs = zip(self.adapters, self._places.pairs(student, teacher), strict=True)
        distances = [self._distance(adapter(x), t, counted.at(size_of(x))) for adapter, (x, t) in pairs]
        return {"features": self.weight * torch.stack(distances).mean()}

    def _distance(self, student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
        if self.distance == "cosine":
            return feature_cosine(student=student, teacher=teacher, valid=valid)
        standardise = self.standardise if self.distance == "normalised" else None
        return feature_mse(student=student, teacher=teacher, standardise=standardise, valid=valid)
