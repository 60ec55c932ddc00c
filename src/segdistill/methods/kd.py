"""KD: the teacher's class probabilities, pixel by pixel."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import pixel_kl
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class KD(Method):
    """Hinton et al., *Distilling the Knowledge in a Neural Network*, 2015 (arXiv 1503.02531), for every pixel.

    ``T^2 KL(softmax(z_t / T) || softmax(z_x / T))``, mean over valid pixels, on the logits before up-sampling; the
    teacher's are resized bilinearly to the student's size.

    Args:
        weight: weight of the term.
        temperature: T, above 0.
        balance: ``"labels"`` or ``"teacher"`` to weigh pixels by their class; see `PixelWeights`.
    """

    family = "logit"
    paper = "Hinton, arXiv 1503.02531"
    year = 2015
    cost = 1.0
    needs_logits = True

    def __init__(self, *, weight: float = 1.0, temperature: float = 1.0, balance: Balance = None) -> None:
        super().__init__()
        check_balance("kd", balance)
        check_not_negative("kd", weight=weight)
        check_positive("kd", temperature=temperature)
        self.weight = weight
        self.temperature = temperature
        self.balance = balance
        self.needs_labels = balance == "labels"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        size = size_of(student.logits)
        loss = pixel_kl(
            student=student.logits,
            teacher=resize(teacher["logits"], size),
            temperature=self.temperature,
            valid=self.pixels(valid=valid, labels=labels, teacher=teacher).at(size),
        )
        return {"logits": self.weight * loss}
