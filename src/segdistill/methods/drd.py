"""DRD: how positions relate to each other, and how channels do."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.losses import affinity_mse, channel_relation_mse, relation_mse, shrink_valid
from segdistill.methods.alignment import bounded, match_stages, resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative
from segdistill.networks.features import Features, NetworkInfo, Tap


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
    near the task loss in the first epoch, and to a tenth of it later (docs/results.md).

    Args:
        spatial: weight of the spatial relation; 0 leaves it out.
        channel: weight of the channel relation; 0 leaves it out.
        normalize: ``"cosine"``, or ``"softmax"`` for rows of cosines turned into attention over all other positions.
        stages: also relate every backbone stage, each with the same weights; terms are averaged over all places.
    """

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
        if normalize not in ("cosine", "softmax"):
            raise UserError(f"drd: normalize is '{normalize}', expected 'cosine' or 'softmax'")
        self.spatial = spatial
        self.channel = channel
        self.normalize = normalize
        self.stages = stages
        self.adapters = nn.ModuleList()
        self._strides: list[tuple[int, int]] = []
        self._pairs: list[tuple[int, int]] = []

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        taps: list[tuple[Tap, Tap]] = [(student.embedding, teacher.embedding)]
        self._pairs = match_stages(student.stages, teacher.stages) if self.stages else []
        taps += [(student.stages[i], teacher.stages[j]) for i, j in self._pairs]
        self._strides = [(s.stride, t.stride) for s, t in taps]
        self.adapters = nn.ModuleList()
        if self.channel:
            self.adapters.extend(nn.Conv2d(s.channels, t.channels, 1) for s, t in taps)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        teacher_outputs = {"embedding.pooled": bounded(teacher.embedding, self._strides[0][1])}
        for (_, stage), (_, stride) in zip(self._pairs, self._strides[1:], strict=True):
            teacher_outputs[f"stages.{stage}.pooled"] = bounded(teacher.stages[stage], stride)
        return teacher_outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        places = [(student.embedding, teacher["embedding.pooled"])]
        places += [(student.stages[i], teacher[f"stages.{j}.pooled"]) for i, j in self._pairs]
        terms: dict[str, Tensor] = {}
        for index, (student_maps, teacher_maps) in enumerate(places):
            x = bounded(student_maps, self._strides[index][0])
            t = resize(teacher_maps, size_of(x))
            counted = shrink_valid(valid, size_of(x))
            if self.spatial:
                if self.normalize == "cosine":
                    distance = affinity_mse(student=x, teacher=t, valid=counted)
                else:
                    distance = relation_mse(student=x, teacher=t, valid=counted) * (x.shape[-2] * x.shape[-1])
                spatial = distance * (self.spatial / len(places))
                terms["spatial"] = terms["spatial"] + spatial if "spatial" in terms else spatial
            if self.channel:
                channel = channel_relation_mse(student=self.adapters[index](x), teacher=t, valid=counted)
                channel = channel * (self.channel / len(places))
                terms["channel"] = terms["channel"] + channel if "channel" in terms else channel
        return terms
