"""Af-DCD: masked feature mimicking, and contrast over channel groups and small patches."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.losses import feature_mse, omni_contrast, shrink_valid
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import CountedPixels
from segdistill.methods.draws import Draws
from segdistill.methods.kd import class_kl
from segdistill.methods.method import (
    Method,
    TeacherOutputs,
    check_not_negative,
    check_positive,
    check_ratio,
    preset_values,
)
from segdistill.methods.mgd import generator, masked_positions
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "scaled": {"mimic": 1.0, "contrast": 0.1},
    "authors": {"mimic": 33.5, "contrast": 0.08},
}


class AfDCD(Method):
    """Fan et al., *Augmentation-Free Dense Contrastive Knowledge Distillation for Efficient Semantic Segmentation*,
    NeurIPS 2023 (arXiv 2312.04168).

    The student's embedding, through a 1x1 convolution, is set to 0 at a share of the positions drawn at each step, and
    two 3x3 convolutions with a ReLU between them make the teacher's embedding of it. ``mimic``: mean squared
    difference. ``contrast``: both maps are max-pooled by ``pool`` and cut into patches and groups of channels; each
    piece is drawn to the teacher's piece of the same position and group, and pushed from those of the other groups in
    its patch (`segdistill.losses.omni_contrast`). Together with pixel-wise KD. Embeddings finer than stride 8 are
    average-pooled to it; the teacher's is resized bilinearly to the student's size.

    The authors' ``mimic`` is the sum over channels and positions, divided by the batch, times 2e-6 (Cityscapes):
    ``2e-6 * C * h * w`` here, 33.5 for their 2048 channels on 64 x 128. Their ``contrast`` is the sum over channel
    groups, mean over positions, times 0.005: times 16 groups here. They tune both for each data set. ``"authors"`` also
    sums a piece's distance over its channels. ``"scaled"``, the default, divides the teacher's embedding by its root
    mean square over an image's valid positions, and takes the mean over a piece's channels, so that neither its scale
    nor its width matters.

    Args:
        preset: ``"scaled"`` or ``"authors"``: how features are scaled, and what the next two are where not given.
        mimic: weight of the mimicking term; 0 leaves it out.
        contrast: weight of the contrast; 0 leaves it out.
        kd: weight of pixel-wise KD of the logits at temperature 1; 0 leaves it out.
        masked: share of positions set to 0, at least 0 and below 1.
        groups: groups of channels, 1 or more.
        patch: side of a patch in pooled positions, 1 or more.
        pool: window of the max-pooling, 1 or more; 1 for none.
        temperature: temperature of the contrast, above 0.
    """

    family = "feature"
    paper = "Fan, NeurIPS, arXiv 2312.04168"
    year = 2023
    cost = 1.036
    presets = _PRESETS

    def __init__(
        self,
        *,
        preset: Literal["scaled", "authors"] = "scaled",
        mimic: float | None = None,
        contrast: float | None = None,
        kd: float = 1.0,
        masked: float = 0.75,
        groups: int = 16,
        patch: int = 4,
        pool: int = 4,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        values = preset_values("afdcd", preset, _PRESETS, {"mimic": mimic, "contrast": contrast})
        check_not_negative("afdcd", mimic=values["mimic"], contrast=values["contrast"], kd=kd)
        check_positive("afdcd", groups=groups, patch=patch, pool=pool, temperature=temperature)
        check_ratio("afdcd", masked=masked)
        self.preset = preset
        self.mimic: float = values["mimic"]
        self.contrast: float = values["contrast"]
        self.kd = kd
        self.masked = masked
        self.groups = groups
        self.patch = patch
        self.pool = pool
        self.temperature = temperature
        self.needs_logits = bool(kd)
        self.needs_embedding = bool(self.mimic or self.contrast)

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        self.draws = Draws()
        if self.needs_embedding:
            self.adapter = nn.Conv2d(student.embedding.channels, teacher.embedding.channels, 1)
            self.generator = generator(teacher.embedding.channels)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher) if self.needs_embedding else {}
        return outputs | {"logits": teacher.logits} if self.kd else outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        terms = self._of_features(student, teacher, valid) if self.needs_embedding else {}
        if self.kd:
            terms["kd"] = self.kd * class_kl(student, teacher, CountedPixels(valid))
        return terms

    def _of_features(self, student: Features, teacher: TeacherOutputs, valid: Tensor) -> dict[str, Tensor]:
        ((x, t),) = self._places.pairs(student, teacher)
        inside = shrink_valid(valid, size_of(x))
        temperature = self.temperature
        if self.preset == "scaled":
            t = _divided_by_rms(t, inside)
        else:
            temperature /= -(-t.shape[1] // min(self.groups, t.shape[1]))
        self.draws.advance()
        made = self.generator(masked_positions(self.adapter(x), self.draws, self.masked))
        terms: dict[str, Tensor] = {}
        if self.mimic:
            terms["mimic"] = self.mimic * feature_mse(student=made, teacher=t, valid=inside)
        if self.contrast:
            made, t = (self._pooled(maps, inside) for maps in (made, t))
            loss = omni_contrast(
                student=made,
                teacher=t,
                groups=self.groups,
                patch=self.patch,
                temperature=temperature,
                valid=shrink_valid(inside, size_of(made)),
            )
            terms["contrast"] = self.contrast * loss
        return terms

    def _pooled(self, maps: Tensor, inside: Tensor) -> Tensor:
        """Largest valid value of each window; 0 in windows without one."""
        if self.pool == 1:
            return maps
        lowest = torch.finfo(maps.dtype).min
        pooled = F.max_pool2d(torch.where(inside.unsqueeze(1), maps, lowest), self.pool, ceil_mode=True)
        return torch.where(pooled > lowest, pooled, 0.0)


def _divided_by_rms(maps: Tensor, inside: Tensor) -> Tensor:
    maps = torch.where(inside.unsqueeze(1), maps.float(), 0.0)
    count = inside.sum(dim=(1, 2)).clamp(min=1)[:, None, None, None] * maps.shape[1]
    square = maps.square().sum(dim=(1, 2, 3), keepdim=True) / count
    return maps * square.clamp(min=torch.finfo(maps.dtype).tiny).rsqrt()
