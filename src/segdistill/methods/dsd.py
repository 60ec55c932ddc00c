"""DSD: how the attention map changes from layer to layer, and how similar the positions of every two classes are."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.losses import attention_map, category_similarity_mse, residual_attention_mse, shrink_valid
from segdistill.methods.alignment import attention_outputs, averaged, bounded, match_stages, resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo

_CATEGORY_STRIDE = 16


class DSD(Method):
    """Feng et al., *Double Similarity Distillation for Semantic Image Segmentation*, IEEE TIP 2021 (no arXiv number).

    ``pixel``: attention maps (sum over channels of squares, of unit length) of the second backbone stage, the embedding
    and the class scores; the difference of every two of them, again of unit length, is the residual attention;
    squared distance between student and teacher, mean over pairs. ``category``: the class scores, averaged to stride
    16 (2 x 2 positions of a map of stride 8), as a softmax over positions at temperature 4; cosines of every two
    classes' maps; mean squared difference. Attention maps are resized bilinearly to the student's embedding.

    This library's reading: only CIRKD's port was available, and the paper is said to scale the class maps to unit
    length, which the port leaves out; we scale, so that the value depends on no crop. The port's 1000 times a mean over
    N positions is 1000 / N here: 0.12 at 64 x 128. Its category term, 10 times a square of products that shrink as
    1/N, is next to nothing; our weights bring both terms to the size of the task loss.

    Args:
        pixel: weight of the residual attention, which needs stages; 0 leaves it out.
        category: weight of the category similarity; 0 leaves it out.
        temperature: softmax temperature of the class maps, above 0.
    """

    family = "relation"
    paper = "Feng, TIP"
    year = 2021
    cost = 1.004

    _stages: tuple[int, int]
    _strides: tuple[int, int]

    def __init__(self, *, pixel: float = 1.0, category: float = 10.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_not_negative("dsd", pixel=pixel, category=category)
        check_positive("dsd", temperature=temperature)
        self.pixel = pixel
        self.category = category
        self.temperature = temperature
        self.needs_logits = bool(pixel or category)
        self.needs_stages = bool(pixel)
        self.needs_embedding = bool(pixel)

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._strides = (student.embedding.stride, student.logits.stride)
        if self.pixel:
            self._stages = match_stages(student.stages, teacher.stages)[:2][-1]

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = attention_outputs(teacher, {self._stages[1]}, embedding=True, logits=True) if self.pixel else {}
        return outputs | {"logits": teacher.logits} if self.category else outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        if self.pixel:
            stage, of_teacher = self._stages
            own = [attention_map(maps)[:, None] for maps in (student.stages[stage], student.embedding, student.logits)]
            names = [f"stages.{of_teacher}", "embedding", "logits"]
            size = size_of(bounded(own[1], self._strides[0]))
            x = torch.cat([_shrunk(maps, size) for maps in own], dim=1)
            t = torch.cat([_shrunk(teacher[f"attention.{name}"], size) for name in names], dim=1)
            loss = residual_attention_mse(student=x, teacher=t, valid=shrink_valid(valid, size))
            terms["pixel"] = self.pixel * loss
        if self.category:
            x, t = student.logits, resize(teacher["logits"], size_of(student.logits))
            x, t = (bounded(maps, self._strides[1], _CATEGORY_STRIDE) for maps in (x, t))
            loss = category_similarity_mse(
                student=x, teacher=t, temperature=self.temperature, valid=shrink_valid(valid, size_of(x))
            )
            terms["category"] = self.category * loss
        return terms


def _shrunk(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``maps`` at ``size``: averaged over whole windows where they are much finer, then resized bilinearly."""
    return resize(averaged(maps, max(1, maps.shape[-2] // size[0])), size)
