"""IFVD: how similar each pixel is to the mean of its class."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from segdistill.losses import class_center_mse, shrink_labels
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.kd import class_kl
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, preset_values
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"variation": 50.0, "kd": 10.0},
    "authors": {"variation": 200.0, "kd": 10 / 19},
}


class IFVD(Method):
    """Wang et al., *Intra-class Feature Variation Distillation for Semantic Segmentation*, ECCV 2020.

    The paper has no arXiv number. ``variation``: with the mean feature of each class's pixels in the image as its
    centre, the cosine of every pixel of the embedding with the centre of its class; mean squared difference of the
    student's cosines and the teacher's. ``kd``: pixel-wise KL of the class probabilities. The adversarial term (weight
    0.1 in the paper) is left out. Labels are taken at the centre of each position; the teacher is resized bilinearly
    to the student's size.

    Reduction and presets. ``variation`` is the mean over labelled pixels. In the authors' code pixels without a label
    take part with a difference of 0, so that theirs is ours times the share of labelled pixels. ``kd`` there is a mean
    over classes too, hence 1/K of ours: their 10 for the 19 classes of Cityscapes is 10/19.

    Args:
        preset: ``"paper"`` (50 and 10) or ``"authors"`` (200 and 10/19): the weights where they are not given.
        variation: weight of the intra-class variation.
        kd: weight of the pixel-wise term; 0 leaves it out.
        balance: ``"labels"`` or ``"teacher"`` to weigh the pixels of both terms by class; see `PixelWeights`.
    """

    family = "relation"
    paper = "Wang, ECCV"
    year = 2020
    cost = 1.009
    presets = _PRESETS
    needs_labels = True

    _classes: int

    def __init__(
        self,
        *,
        preset: Literal["paper", "authors"] = "paper",
        variation: float | None = None,
        kd: float | None = None,
        balance: Balance = None,
    ) -> None:
        super().__init__()
        values = preset_values("ifvd", preset, _PRESETS, {"variation": variation, "kd": kd})
        check_not_negative("ifvd", **values)
        check_balance("ifvd", balance)
        self.preset = preset
        self.variation: float = values["variation"]
        self.kd: float = values["kd"]
        self.balance = balance
        self.needs_logits = bool(self.kd)
        self.needs_embedding = bool(self.variation)
        self.needs_teacher_logits = balance == "teacher"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        self._classes = student.num_classes
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher) if self.variation else {}
        return outputs | {"logits": teacher.logits} if self.kd or self.balance == "teacher" else outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        assert labels is not None, "the Distiller refuses images without labels"
        counted = self.pixels(valid=valid, labels=labels, teacher=teacher)
        terms: dict[str, Tensor] = {}
        if self.variation:
            [(x, t)] = self._places.pairs(student, teacher)
            variation = class_center_mse(
                student=x,
                teacher=t,
                labels=shrink_labels(labels, size_of(x)),
                num_classes=self._classes,
                valid=counted.at(size_of(x)),
            )
            terms["variation"] = self.variation * variation
        if self.kd:
            terms["kd"] = self.kd * class_kl(student, teacher, counted)
        return terms
