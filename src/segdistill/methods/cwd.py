"""CWD: where in the image each class is found."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import channel_kl, shrink_valid
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features


class CWD(Method):
    """Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021 (arXiv 2011.13256), on logits.

    Each class's scores become a distribution over the image's valid positions, ``softmax(z / tau)``;
    ``tau^2 / C * sum_c KL(teacher || student)`` (eq. 5), mean over images. The teacher's logits are resized
    bilinearly to the student's size.

    Args:
        weight: weight of the term; 3 is the paper's for logits.
        temperature: tau, above 0.
    """

    needs_logits = True

    def __init__(self, *, weight: float = 3.0, temperature: float = 4.0) -> None:
        super().__init__()
        check_not_negative("cwd", weight=weight)
        check_positive("cwd", temperature=temperature)
        self.weight = weight
        self.temperature = temperature

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        size = size_of(student.logits)
        loss = channel_kl(
            student=student.logits,
            teacher=resize(teacher["logits"], size),
            temperature=self.temperature,
            valid=shrink_valid(valid, size),
        )
        return {"logits": self.weight * loss}
