"""AttnFD: features refined by channel and spatial attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from segdistill.losses import shrink_valid, unit_map_mse
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative
from segdistill.networks.features import Features, NetworkInfo


class AttnFD(Method):
    """Mansourian et al., *Attention-guided Feature Distillation for Semantic Segmentation*, 2024 (arXiv 2403.05451).

    Both networks' features are refined by attention as in CBAM, first over channels, from each channel's mean and
    largest value, then over positions, from each position's mean and largest value; both pass a sigmoid and multiply
    the features. The student's attention is learned (two linear layers; a 7x7 convolution with batch normalisation),
    the teacher's has no parameters (the sum of mean and largest value). The student is brought to the teacher's
    channels by a 1x1 convolution with batch normalisation, both maps are scaled to unit length, and the loss is the
    squared length of their difference, mean over images and places. At the embedding and, with ``stages``, at every
    backbone stage. Maps finer than stride 8 are average-pooled to it; the teacher's are resized bilinearly to the
    student's size.

    The authors scale the tensor of the whole batch to unit length and divide by the batch size B once more: their value
    is about 1 / B of this one, which is taken image by image and does not depend on B. Their weight of 2 is 2 / B here.

    Args:
        weight: weight of the term.
        stages: also match every backbone stage.
    """

    family = "feature"
    paper = "Mansourian, arXiv 2403.05451"
    year = 2024
    cost = 1.016
    needs_embedding = True

    def __init__(self, *, weight: float = 1.0, stages: bool = False) -> None:
        super().__init__()
        check_not_negative("attnfd", weight=weight)
        self.weight = weight
        self.stages = stages
        self.needs_stages = stages

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher, stages=self.stages)
        self.attention = nn.ModuleList(_Attention(s.channels) for s, _ in self._places.taps)
        self.adapters = nn.ModuleList(
            nn.Sequential(nn.Conv2d(s.channels, t.channels, 1, bias=False), nn.BatchNorm2d(t.channels))
            for s, t in self._places.taps
        )

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return self._places.teacher_outputs(teacher)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        distances = []
        places = self._places.pairs(student, teacher)
        for attention, adapter, (x, t) in zip(self.attention, self.adapters, places, strict=True):
            inside = shrink_valid(valid, size_of(x))
            with torch.no_grad():
                refined = _by_position(_by_channel(t, inside))
            distances.append(unit_map_mse(student=adapter(attention(x, inside)), teacher=refined, valid=inside))
        return {"features": self.weight * torch.stack(distances).mean()}


class _Attention(nn.Module):
    """The student's: learned."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // 16)
        self.channel = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))
        self.position = nn.Sequential(nn.Conv2d(2, 1, 7, padding=3, bias=False), nn.BatchNorm2d(1))

    def forward(self, maps: Tensor, inside: Tensor) -> Tensor:
        mean, largest = _over_positions(maps, inside)
        maps = maps * (self.channel(mean) + self.channel(largest)).sigmoid()[:, :, None, None]
        both = torch.stack([maps.amax(dim=1), maps.mean(dim=1)], dim=1)
        refined: Tensor = maps * self.position(both).sigmoid()
        return refined


def _by_channel(maps: Tensor, inside: Tensor) -> Tensor:
    mean, largest = _over_positions(maps, inside)
    return maps * (mean + largest).sigmoid()[:, :, None, None]


def _by_position(maps: Tensor) -> Tensor:
    return maps * (maps.amax(dim=1, keepdim=True) + maps.mean(dim=1, keepdim=True)).sigmoid()


def _over_positions(maps: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and largest value of each channel over the valid positions, (B, C) both; 0 where there is none."""
    inside = inside.unsqueeze(1)
    count = inside.sum(dim=(2, 3))
    mean = torch.where(inside, maps, 0.0).sum(dim=(2, 3)) / count.clamp(min=1)
    largest = torch.where(inside, maps, torch.finfo(maps.dtype).min).amax(dim=(2, 3))
    return mean, torch.where(count > 0, largest, 0.0)
