"""The teacher's own score on the validation split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from segdistill.training.callbacks.callback import Callback
from segdistill.training.callbacks.validation import Validation
from segdistill.training.teacher_source import TeacherSource
from segdistill.training.validator import Validator
from segdistill.training.watch import Watch

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class TeacherScore(Callback):
    """Scores the teacher after the first validation, and warns where the student is already better.

    Args:
        source: the teacher.
        validation: knows the student's scores.
        validator: scores the teacher, at the size at which it sees images.
        data: the recipe's ``data`` and a hash of its images and masks, by which a teacher cache keeps the score.
        watch: says the warning.

    Attributes:
        miou: the teacher's mIoU; None while, or where, it is not known.
    """

    def __init__(
        self,
        source: TeacherSource,
        validation: Validation,
        validator: Validator,
        data: Mapping[str, Any],
        watch: Watch,
    ) -> None:
        self.source = source
        self.validation = validation
        self.validator = validator
        self.data = data
        self.watch = watch
        self.miou: float | None = None

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        scores = self.validation.scores
        if not self.validation.validated or scores is None or self.miou is not None:
            return
        self.miou = self.source.miou(
            self.data,
            lambda network: self.validator(network, "validating the teacher").miou,
            keep=loop.step.fabric.is_global_zero,
        )
        if self.miou is not None:
            self.watch.teacher(self.miou, scores.miou)

    def state_dict(self) -> dict[str, Any]:
        return {"miou": self.miou}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.miou = state["miou"]
