"""BRD: object boundaries from every backbone stage, and how pixels relate to each other."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segdistill.losses import boundary_map, boundary_mse, relation_kl, shrink_valid
from segdistill.methods.alignment import bounded, match_stages, peak_of_one, resize, size_of
from segdistill.methods.balance import CountedPixels
from segdistill.methods.kd import class_kl
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class BRD(Method):
    """Zhang et al., *Boundary and Relation Distillation for Semantic Segmentation*, 2024 (arXiv 2401.13174).

    Boundary: for each pair of backbone stages, ``b(F) = l2-normalise(mean_c (F - avgpool3(F))^2)``, the energy of what
    a local mean leaves over, and ``||b(x) - b(t)||^2``, mean over stages. The teacher's energy is resized bilinearly
    to the student's stage. Relation: similarities of every pixel of the embedding to all others, as a softmax over
    each row; KL divergence from the teacher's rows, tiled so that the N x N matrix is never held. Together with
    pixel-wise KD of the logits.

    This library's reading: similarities are cosines. At a temperature of 1 a row of cosines is nearly uniform
    whatever the features are; 0.1 (as in CIRKD) lets the softmax tell near from far. And not every row is compared,
    but those of an even grid of ``anchors`` in each image, each with all pixels: all rows cost N^2, and at a 512 x 512
    crop more than half of the student's own step (docs/benchmarks/training.md).

    Args:
        boundary: weight of the boundary term; 0 leaves it out.
        relation: weight of the relation term; 0 leaves it out.
        kd: weight of pixel-wise KD of the logits at temperature 1; 0 leaves it out.
        temperature: softmax temperature of the relation's rows, above 0.
        anchors: at most how many rows of an image's relation are compared, 1 or more; ``None`` for all, as published.
        operator: what takes the boundary from a feature map: ``"pool"``, ``"laplacian"`` or ``"sobel"``.
    """

    family = "boundary"
    paper = "Zhang, arXiv 2401.13174"
    year = 2024
    cost = 1.037

    _pairs: list[tuple[int, int]]
    _strides: tuple[int, int]

    def __init__(
        self,
        *,
        boundary: float = 1.0,
        relation: float = 10.0,
        kd: float = 1.0,
        temperature: float = 0.1,
        anchors: int | None = 256,
        operator: Literal["pool", "laplacian", "sobel"] = "pool",
    ) -> None:
        super().__init__()
        check_not_negative("brd", boundary=boundary, relation=relation, kd=kd)
        check_positive("brd", temperature=temperature)
        if anchors is not None:
            check_positive("brd", anchors=anchors)
        check_choice("brd", "operator", operator, ("pool", "laplacian", "sobel"))
        self.boundary = boundary
        self.relation = relation
        self.kd = kd
        self.temperature = temperature
        self.anchors = anchors
        self.operator = operator
        self.needs_logits = bool(kd)
        self.needs_stages = bool(boundary)
        self.needs_embedding = bool(relation)

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        if self.boundary:
            self._pairs = match_stages(student.stages, teacher.stages)
        self._strides = (student.embedding.stride, teacher.embedding.stride)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        teacher_outputs: TeacherOutputs = {}
        if self.boundary:
            for stage in sorted({stage for _, stage in self._pairs}):
                energy = boundary_map(teacher.stages[stage], operator=self.operator)[:, None]
                teacher_outputs[self._boundary_name(stage)] = peak_of_one(energy)
        if self.relation:
            teacher_outputs["embedding.pooled"] = bounded(teacher.embedding, self._strides[1])
        if self.kd:
            teacher_outputs["logits"] = teacher.logits
        return teacher_outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.boundary:
            terms["boundary"] = self.boundary * self._boundary_term(student, teacher, valid)
        if self.relation:
            x = bounded(student.embedding, self._strides[0])
            t = resize(teacher["embedding.pooled"], size_of(x))
            terms["relation"] = self.relation * relation_kl(
                student=x,
                teacher=t,
                temperature=self.temperature,
                valid=shrink_valid(valid, size_of(x)),
                anchors=self.anchors,
            )
        if self.kd:
            terms["kd"] = self.kd * class_kl(student, teacher, CountedPixels(valid))
        return terms

    def _boundary_name(self, stage: int) -> str:
        return f"boundary.{self.operator}.{stage}"

    def _boundary_term(self, student: Features, teacher: TeacherOutputs, valid: Tensor) -> Tensor:
        losses = []
        for i, j in self._pairs:
            energy = boundary_map(student.stages[i], operator=self.operator)[:, None]
            size = size_of(energy)
            target = resize(teacher[self._boundary_name(j)], size)
            losses.append(boundary_mse(student=energy, teacher=target, valid=shrink_valid(valid, size)))
        return torch.stack(losses).mean()
