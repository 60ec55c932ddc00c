"""DRD: how positions relate to each other, and how channels do."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from segdistill.losses import affinity_mse, channel_relation_mse, relation_mse, shrink_valid
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative
from segdistill.networks.features import Features, NetworkInfo


class DRD(Method):
    """Li et al., *Building Lightweight Semantic Segmentation Models for Aerial Images Using Dual Relation
    Distillation*, 2025 (arXiv 2506.20688).

    Spatial relation: similarity of every pair of positions. Channel relation: similarity of every pair of channel
    maps, the student brought to the teacher's channels by a 1x1 convolution first. Both maps of the student are
    drawn to the teacher's by their mean squared difference. Taken at the embedding, pooled to stride 8 where it is
    finer; the teacher is resized bilinearly to the student's size.

    This library's reading: similarities are cosines, which keeps the weights independent of a network's feature
    scale; the paper's self-attention form of the spatial relation is ``normalize="softmax"``, each row's squared
    distance times the number of positions, since its entries shrink with them. The default weights bring both terms
    near the task loss in the first epoch, and to a tenth of it later (docs/benchmarks/results-idd-lite.md).

    Args:
        spatial: weight of the spatial relation; 0 leaves it out.
        channel: weight of the channel relation; 0 leaves it out.
        normalize: ``"cosine"``, or ``"softmax"`` for rows of cosines turned into attention over all other positions.
        stages: also relate every backbone stage, each with the same weights; terms are averaged over all places.
    """

    family = "relation"
    paper = "Li, arXiv 2506.20688"
    year = 2025
    cost = 1.021
    needs_embedding = True

    def __init__(
        self,
        *,
        spatial: float = 10.0,
        channel: float = 10.0,
        normalize: Literal["cosine", "softmax"] = "cosine",
        stages: bool = False,
    ) -> None:
        super().__init__()
        check_not_negative("drd", spatial=spatial, channel=channel)
        check_choice("drd", "normalize", normalize, ("cosine", "softmax"))
        self.spatial = spatial
        self.channel = channel
        self.normalize = normalize
        self.stages = stages
        self.needs_stages = stages

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher, stages=self.stages)
        self.adapters = nn.ModuleList()
        if self.channel:
            self.adapters.extend(nn.Conv2d(s.channels, t.channels, 1) for s, t in self._places.taps)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return self._places.teacher_outputs(teacher)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        places = self._places.pairs(student, teacher)
        terms: dict[str, Tensor] = {}
        for index, (x, t) in enumerate(places):
            counted = shrink_valid(valid, size_of(x))
            if self.spatial:
                if self.normalize == "cosine":
                    distance = affinity_mse(student=x, teacher=t, valid=counted)
                else:
                    distance = relation_mse(student=x, teacher=t, valid=counted) * math.prod(size_of(x))
                spatial = distance * (self.spatial / len(places))
                terms["spatial"] = terms["spatial"] + spatial if "spatial" in terms else spatial
            if self.channel:
                channel = channel_relation_mse(student=self.adapters[index](x), teacher=t, valid=counted)
                channel = channel * (self.channel / len(places))
                terms["channel"] = terms["channel"] + channel if "channel" in terms else channel
        return terms
