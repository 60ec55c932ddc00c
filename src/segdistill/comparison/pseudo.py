"""The teacher's hard labels of unlabelled pixels: the baseline `PSEUDO` of a comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.losses import cross_entropy
from segdistill.methods.alignment import resize
from segdistill.methods.method import Method, TeacherOutputs
from segdistill.networks.features import Features


class PseudoLabels(Method):
    """Lee, *Pseudo-Label*, ICML workshop 2013: cross-entropy with the teacher's most probable class.

    Only pixels without a label count, and of these only the ones of which the teacher is sure. What it adds to the task
    loss on labels is what a student gets from files that `segdistill label` writes, in the same batches.

    Args:
        confidence: least probability of the teacher's class, 0 to 1.
    """

    paper = "Lee, ICML workshop 2013"
    year = 2013
    needs_logits = True

    def __init__(self, *, confidence: float = 0.9) -> None:
        super().__init__()
        self.confidence = confidence

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        """See `Method.teacher_outputs`."""
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        """See `Method.forward`."""
        size = (valid.shape[-2], valid.shape[-1])
        surest, chosen = resize(teacher["logits"].float(), size).softmax(1).max(1)
        # The labels of unlabelled pixels, which count, look like those of ignored ones, which do not.
        counted = valid if labels is None else valid & (labels == IGNORE_INDEX)
        wanted = torch.where(counted & (surest >= self.confidence), chosen, IGNORE_INDEX)
        return {"labels": cross_entropy(logits=resize(student.logits, size), labels=wanted)}
