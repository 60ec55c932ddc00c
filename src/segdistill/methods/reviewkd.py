"""ReviewKD: the teacher's stages, each from the student's stages at and above it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.losses import pyramid_mse, shrink_valid
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class ReviewKD(Method):
    """Chen et al., *Distilling Knowledge via Knowledge Review*, CVPR 2021 (arXiv 2104.09044).

    TransKD (arXiv 2202.13393) takes the same loss between the stages of two transformers.

    From the last stage to the first, an attention-based fusion joins the student's stage with what came from the
    stages above: both weighted, position by position, by a sigmoid of a 1x1 convolution of both. A 3x3 convolution of
    the fusion's width and a 1x1 convolution to the teacher's channels follow. The result is compared with the teacher's
    stage at four scales (HCL): mean squared differences of the maps and of their averages over 4 x 4, 2 x 2 and 1
    cells, weighing 1, 1/2, 1/4, 1/8. The authors have a single 3x3 convolution, to the teacher's channels, which costs
    more than a small student.
    Stages finer than stride 8 are average-pooled to it; the teacher's are resized bilinearly to the student's size.

    Reduction: mean over stages; the paper has the sum with a weight of 1, so that for four stages 4 is its weight.
    The value depends on the scale of the teacher's features, as published.

    Args:
        weight: weight of the term.
        channels: width of the fusion; the paper's 512 would cost more than a small student.
    """

    family = "feature"
    paper = "Chen, CVPR, arXiv 2104.09044"
    year = 2021
    cost = 1.023
    needs_stages = True

    def __init__(self, *, weight: float = 4.0, channels: int = 48) -> None:
        super().__init__()
        check_not_negative("reviewkd", weight=weight)
        check_positive("reviewkd", channels=channels)
        self.weight = weight
        self.channels = channels

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher, embedding=False, stages=True)
        last = len(self._places.taps) - 1
        self.fusions = nn.ModuleList(
            _Fusion(s.channels, self.channels, t.channels, fuses=index < last)
            for index, (s, t) in enumerate(self._places.taps)
        )

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return self._places.teacher_outputs(teacher)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        pairs = self._places.pairs(student, teacher)
        above: Tensor | None = None
        distances = []
        for fusion, (x, t) in reversed(list(zip(self.fusions, pairs, strict=True))):
            distance, above = fusion(x, above, t, shrink_valid(valid, size_of(x)))
            distances.append(distance)
        return {"review": self.weight * torch.stack(distances).mean()}


class _Fusion(nn.Module):
    """One stage of the student joined with what came from the stages above (ABF)."""

    def __init__(self, student: int, width: int, teacher: int, *, fuses: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(student, width, 1, bias=False), nn.BatchNorm2d(width))
        self.attention = nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid()) if fuses else None
        self.smooth = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.expand = nn.Linear(width, teacher)

    def forward(self, maps: Tensor, above: Tensor | None, teacher: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(distance from the teacher's stage, what is for the next stage below)."""
        reduced = self.reduce(maps)
        if self.attention is not None:
            assert above is not None, "only the last stage has none above"
            above = F.interpolate(above, size=size_of(reduced), mode="nearest")
            shares = self.attention(torch.cat([reduced, above], dim=1))
            reduced = reduced * shares[:, :1] + above * shares[:, 1:]
        adapter = self.expand.weight, self.expand.bias
        return pyramid_mse(student=self.smooth(reduced), teacher=teacher, valid=valid, adapter=adapter), reduced
