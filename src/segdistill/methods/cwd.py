"""CWD: where in the image each class, or each channel, is found."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segdistill.losses import channel_kl, shrink_valid
from segdistill.methods.alignment import Places, resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class CWD(Method):
    """Shu et al., *Channel-wise Knowledge Distillation for Dense Prediction*, ICCV 2021 (arXiv 2011.13256).

    Each class's scores, or each channel of the embedding, become a distribution over the image's valid positions,
    ``softmax(z / tau)``; ``tau^2 / C * sum_c KL(teacher || student)`` (eq. 5), mean over images. For features the
    student is brought to the teacher's channels by a 1x1 convolution. The teacher is resized bilinearly to the
    student's size.

    Reduction: the authors' code divides by B C, as here, so that its weights hold unchanged: 3 for logits and 50 for
    features in the paper, 35 to 50 in their scripts. Its adapter ends in an activated batch normalisation; ours does
    not.

    Args:
        at: ``"logits"`` or ``"embedding"``.
        weight: weight of the term; 3 for logits and 50 for the embedding by default, the paper's.
        temperature: tau, above 0.
    """

    family = "logit"
    paper = "Shu, ICCV, arXiv 2011.13256"
    year = 2021
    cost = 1.000

    def __init__(
        self,
        *,
        at: Literal["logits", "embedding"] = "logits",
        weight: float | None = None,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        check_choice("cwd", "at", at, ("logits", "embedding"))
        self.at = at
        self.weight = weight if weight is not None else 3.0 if at == "logits" else 50.0
        check_not_negative("cwd", weight=self.weight)
        check_positive("cwd", temperature=temperature)
        self.temperature = temperature
        self.needs_logits = at == "logits"
        self.needs_embedding = at == "embedding"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        channels = student.embedding.channels, teacher.embedding.channels
        self.adapter = nn.Conv2d(*channels, 1) if self.at == "embedding" else None

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits} if self.at == "logits" else self._places.teacher_outputs(teacher)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        if self.adapter is None:
            x, t = student.logits, resize(teacher["logits"], size_of(student.logits))
        else:
            [(x, t)] = self._places.pairs(student, teacher)
            x = self.adapter(x)
        loss = channel_kl(student=x, teacher=t, temperature=self.temperature, valid=shrink_valid(valid, size_of(x)))
        return {self.at: self.weight * loss}
