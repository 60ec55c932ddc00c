"""KD: the teacher's class probabilities, pixel by pixel."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import pixel_kl
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, CountedPixels, PixelWeights, check_balance
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
        counted = self.pixels(valid=valid, labels=labels, teacher=teacher)
        return {"logits": self.weight * class_kl(student, teacher, counted, temperature=self.temperature)}


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
