"""DKD: the probability of the labelled class and, separately, the distribution over the other classes."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from segdistill.losses import non_target_kl, shrink_labels, target_kl
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.method import (
    Method,
    TeacherOutputs,
    check_not_negative,
    check_positive,
    check_several_classes,
    preset_values,
)
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "segmentation": {"target": 1.0, "non_target": 1.0, "temperature": 1.0},
    "paper": {"target": 1.0, "non_target": 8.0, "temperature": 4.0},
}


class DKD(Method):
    """Zhao et al., *Decoupled Knowledge Distillation*, CVPR 2022 (arXiv 2203.08679), for every pixel.

    ``alpha TCKD + beta NCKD`` (eq. 7): TCKD is the divergence of the probability of the labelled class against all
    others together, NCKD that of the distribution over the other classes. Plain KD weighs NCKD by the teacher's doubt,
    so that pixels the teacher is sure of teach little; here its weight is free. Mean over valid pixels that have a
    label, on the logits before up-sampling; the teacher's are resized bilinearly to the student's size, labels are
    taken at each position's middle.

    The authors' code divides the sum over samples by their number, times T^2, as here: weights carry over.
    ``preset="paper"`` has their weights for CIFAR-100. For millions of pixels beside a cross-entropy they are large;
    the default has 1 and 1 at a temperature of 1.

    Args:
        preset: ``"segmentation"`` or ``"paper"``: what the next three are where they are not given.
        target: alpha, weight of TCKD; 0 leaves it out.
        non_target: beta, weight of NCKD; 0 leaves it out.
        temperature: T, above 0.
        balance: ``"labels"`` or ``"teacher"`` to weigh pixels by their class; see `PixelWeights`.
    """

    family = "logit"
    paper = "Zhao, CVPR, arXiv 2203.08679"
    year = 2022
    cost = 1.002
    presets = _PRESETS
    needs_labels = True
    needs_logits = True

    def __init__(
        self,
        *,
        preset: Literal["segmentation", "paper"] = "segmentation",
        target: float | None = None,
        non_target: float | None = None,
        temperature: float | None = None,
        balance: Balance = None,
    ) -> None:
        super().__init__()
        given = {"target": target, "non_target": non_target, "temperature": temperature}
        values = preset_values("dkd", preset, _PRESETS, given)
        check_not_negative("dkd", target=values["target"], non_target=values["non_target"])
        check_positive("dkd", temperature=values["temperature"])
        check_balance("dkd", balance)
        self.preset = preset
        self.target: float = values["target"]
        self.non_target: float = values["non_target"]
        self.temperature: float = values["temperature"]
        self.balance = balance

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        check_several_classes(self, student, teacher)
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        assert labels is not None, "the Distiller refuses images without labels"
        size = size_of(student.logits)
        terms: dict[str, Tensor] = {}
        counted = self.pixels(valid=valid, labels=labels, teacher=teacher).at(size)
        for name, weight, loss in (("target", self.target, target_kl), ("non_target", self.non_target, non_target_kl)):
            if weight:
                terms[name] = weight * loss(
                    student=student.logits,
                    teacher=resize(teacher["logits"], size),
                    labels=shrink_labels(labels, size),
                    temperature=self.temperature,
                    valid=counted,
                )
        return terms
