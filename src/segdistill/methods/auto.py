"""Auto: the teacher's features first, then its class probabilities and features where there are no labels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.methods.balance import check_adjust
from segdistill.methods.feature import Feature
from segdistill.methods.kd import KD
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative, check_ratio
from segdistill.networks.features import Features, NetworkInfo


class Auto(Method):
    """The method that is used where none is named: features first; then labels, and the teacher where there are none.

    In the first part of a run the student learns the teacher's features at every stage (`Feature`), and nothing else,
    as with the hints of FitNets (Romero et al., ICLR 2015, arXiv 1412.6550). In the second, a pixel with a label learns
    from it alone; `KD` and `Feature` teach all others. A short run has one part, and so has one whose student begins
    with trained weights or a frozen backbone: labels, `KD` and `Feature` together, everywhere.

    What the two networks do not share is left out: `KD` where the teacher has other classes or none, stages where one
    of the networks names none. The method as a whole follows no paper; it was put together in 2026 by what was measured
    on road scenes (docs/methods/auto.md).

    Args:
        logits: weight of `KD`; 0 leaves it out.
        features: weight of `Feature`; 0 leaves it out.
        balance: of `KD`: ``"teacher"``: rare classes count more, as with the class-balanced task loss, also on images
            without labels; mIoU counts them alike. ``None``: all pixels count alike. See `PixelWeights`.
        adjust: of `KD`, which has it only with ``balance="teacher"``: 0 to 1, as in the balanced task loss; ``None``:
            class scores are compared as they are.
        teacher_adjust: of `KD`: 0 to 1, that of the loss that the teacher was trained with, 1 for plain cross-entropy;
            ``None``: as ``adjust``, without which it is refused.
        features_first: the first part's share of a run's epochs; 0 for one part. The first part of a run has at least
            500 steps, or 1000 where there are pixels without labels to learn from, or there is none.
    """

    family = "feature"
    paper = "this library's default: kd and feature"
    year = 2026
    cost = 1.039

    def __init__(
        self,
        *,
        logits: float = 10.0,
        features: float = 5.0,
        balance: Literal["teacher"] | None = "teacher",
        adjust: float | None = 0.5,
        teacher_adjust: float | None = None,
        features_first: float = 0.5,
    ) -> None:
        super().__init__()
        check_not_negative("auto", logits=logits, features=features)
        if not logits and not features:
            raise UserError("auto: logits and features are both 0, expected a weight above 0 for one of them")
        check_choice("auto", "balance", balance, ("teacher", None))
        check_adjust("auto", "teacher", adjust if balance else None, teacher_adjust)
        check_ratio("auto", features_first=features_first)
        self.logits = logits
        self.features = features
        self.balance: Literal["teacher"] | None = balance
        self.adjust = adjust
        self.teacher_adjust = teacher_adjust
        self.features_first = features_first
        self.needs_embedding = not logits  # of a teacher that shows none, class scores alone are taken

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self.num_classes = student.num_classes
        self.needs_logits = bool(self.logits) and student.num_classes == teacher.num_classes
        self.needs_embedding = bool(self.features and teacher.embedding.channels)
        self.needs_stages = bool(self.needs_embedding and student.stages and teacher.stages)
        parts: list[Method] = [self._kd()] if self.needs_logits else []
        if self.needs_embedding:
            parts.append(Feature(weight=self.features, stages=self.needs_stages))
        if not parts:
            raise UserError(
                f"auto: the teacher has {teacher.num_classes} classes and the student {student.num_classes}, and there "
                "are no features to compare: nothing is left to distil"
            )
        for part in parts:
            part.build(student, teacher)
        self.parts = nn.ModuleList(parts)

    def _kd(self) -> KD:
        adjust = self.adjust if self.balance else None
        return KD(weight=self.logits, balance=self.balance, adjust=adjust, teacher_adjust=self.teacher_adjust)

    @property
    def only_without_labels(self) -> bool:
        return self.features_done

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs: TeacherOutputs = {}
        for part in self._parts():
            outputs |= part.teacher_outputs(teacher)
        return outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        if self.only_without_labels and labels is not None:
            if not teacher:
                needed = {"logits": self.needs_logits, "features": self.needs_embedding}
                return {name: student.logits.new_zeros(()) for name, is_needed in needed.items() if is_needed}
            valid = valid & ((labels < 0) | (labels >= self.num_classes))
        terms: dict[str, Tensor] = {}
        for part in self._parts():
            terms |= part(student=student, teacher=teacher, labels=labels, valid=valid)
        return terms

    def of_features_alone(self, *, student: Features, teacher: TeacherOutputs, valid: Tensor) -> dict[str, Tensor]:
        feature = [part for part in self._parts() if isinstance(part, Feature)]
        return feature[0](student=student, teacher=teacher, labels=None, valid=valid) if feature else {}

    def _parts(self) -> list[Method]:
        return [part for part in self.parts if isinstance(part, Method)]
