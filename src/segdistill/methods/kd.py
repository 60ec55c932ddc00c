"""KD: the teacher's class probabilities, pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.losses import pixel_kl
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, CountedPixels, PixelWeights, check_adjust, check_balance
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class KD(Method):
    """Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015 (arXiv 1503.02531), for every pixel.

    ``T^2 KL(softmax(z_t / T) || softmax(z_x / T))``, mean over valid pixels, on the logits before up-sampling; the
    teacher's are resized bilinearly to the student's size.

    With ``adjust``, at temperature 1, it is the balanced task loss (`segdistill.losses.BalancedCrossEntropy`) with the
    teacher's probabilities in place of labels: a teacher trained with ``teacher_adjust`` gives class k the
    probability ``p_k = softmax(z_t - (1 - teacher_adjust) log w)_k``, w the class weights; a pixel weighs
    ``sum_k w_k p_k``; and the divergence is that between ``z_t + teacher_adjust log w`` and ``z_x + adjust log w``. So
    pixels with and without a label teach the student the same scores. Without ``adjust`` a pixel weighs as its most
    probable class alone.

    Args:
        weight: weight of the term.
        temperature: T, above 0.
        balance: ``"labels"`` or ``"teacher"`` to weigh pixels by their class; see `PixelWeights`.
        adjust: 0 to 1: ``adjust`` of the balanced task loss that the student is trained with, see above; ``None``: the
            scores are compared as they are. Only with ``balance="teacher"``.
        teacher_adjust: 0 to 1: the same of the loss that the teacher was trained with, 1 for plain cross-entropy;
            ``None``: as ``adjust``.
    """

    family = "logit"
    paper = "Hinton, arXiv 1503.02531"
    year = 2015
    cost = 1.0
    needs_logits = True

    def __init__(
        self,
        *,
        weight: float = 1.0,
        temperature: float = 1.0,
        balance: Balance = None,
        adjust: float | None = None,
        teacher_adjust: float | None = None,
    ) -> None:
        super().__init__()
        check_balance("kd", balance)
        check_adjust("kd", balance, adjust, teacher_adjust)
        check_not_negative("kd", weight=weight)
        check_positive("kd", temperature=temperature)
        self.weight = weight
        self.temperature = temperature
        self.balance = balance
        self.adjust = adjust
        self.teacher_adjust = teacher_adjust
        self.needs_labels = balance == "labels"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        if self.adjust is None:
            counted = self.pixels(valid=valid, labels=labels, teacher=teacher)
        else:
            student, teacher, counted = self._adjusted(self.adjust, student, teacher, valid)
        return {"logits": self.weight * class_kl(student, teacher, counted, temperature=self.temperature)}

    def _adjusted(
        self, adjust: float, student: Features, teacher: TeacherOutputs, valid: Tensor
    ) -> tuple[Features, TeacherOutputs, CountedPixels]:
        """The scores of both as the balanced task loss sees them, and the pixels with the weights of soft labels."""
        of_teacher = adjust if self.teacher_adjust is None else self.teacher_adjust
        of_classes, _, counted = self.pixels.class_weights(valid=valid, labels=None, teacher=teacher)
        weights = of_classes[:, None, None]
        shift = torch.where(weights > 0, weights, 1.0).log()
        scores = teacher["logits"].detach()
        probabilities = (scores - (1 - of_teacher) * shift).softmax(dim=1)
        pixels = (probabilities * weights).sum(dim=1) * counted
        return (
            Features((), student.logits[:, :0], student.logits + adjust * shift),
            teacher | {"logits": scores + of_teacher * shift},
            CountedPixels(valid, pixels),
        )


def class_kl(student: Features, teacher: TeacherOutputs, counted: CountedPixels, *, temperature: float = 1.0) -> Tensor:
    """Compute the divergence of the class probabilities, pixel by pixel, which many methods add to their own terms.

    Args:
        student: its class scores, before up-sampling.
        teacher: with ``logits``, which are resized bilinearly to the student's size.
        counted: the pixels that count.
        temperature: T, above 0.

    Returns:
        Scalar >= 0, float32; see `pixel_kl`.
    """
    size = size_of(student.logits)
    return pixel_kl(
        student=student.logits,
        teacher=resize(teacher["logits"], size),
        temperature=temperature,
        valid=counted.at(size),
    )
