"""BPKD: class probabilities at the borders of objects, and the shapes of classes elsewhere."""

from __future__ import annotations

from torch import Tensor

from segdistill.losses import channel_kl, label_edges, pixel_kl, shrink_any, shrink_valid
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class BPKD(Method):
    """Liu et al., *BPKD: Boundary Privileged Knowledge Distillation For Semantic Segmentation*, WACV 2024
    (arXiv 2306.08075).

    Edges are the pixels with another label at most ``width`` pixels away; at the logits' resolution every position that
    covers one. ``edge``: pixel-wise KL of the class probabilities, mean over valid edge positions. ``body``: each
    class's scores as a distribution over the valid positions off the edges, KL as in CWD, mean over images that have
    one. On the logits before up-sampling; the teacher's are resized bilinearly to the student's size.

    This library's reading: the training code was never released, and neither weights nor temperatures were to be found.
    The defaults are those of KD (1, at a temperature of 1) and of CWD on logits (3, at 4).

    Args:
        edge: weight of the edge term; 0 leaves it out.
        body: weight of the body term; 0 leaves it out.
        width: half the width of the edge band in pixels of the image, 1 or more.
        edge_temperature: temperature of the edge term, above 0.
        body_temperature: temperature of the body term, above 0.
        balance: ``"labels"`` or ``"teacher"`` to weigh the pixels of ``edge`` by their class; see `PixelWeights`.
    """

    family = "boundary"
    paper = "Liu, WACV, arXiv 2306.08075"
    year = 2024
    cost = 1.003
    needs_labels = True
    needs_logits = True

    _classes: int

    def __init__(
        self,
        *,
        edge: float = 1.0,
        body: float = 3.0,
        width: int = 3,
        edge_temperature: float = 1.0,
        body_temperature: float = 4.0,
        balance: Balance = None,
    ) -> None:
        super().__init__()
        check_not_negative("bpkd", edge=edge, body=body)
        check_positive("bpkd", width=width, edge_temperature=edge_temperature, body_temperature=body_temperature)
        check_balance("bpkd", balance)
        self.edge = edge
        self.body = body
        self.width = width
        self.edge_temperature = edge_temperature
        self.body_temperature = body_temperature
        self.balance = balance

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._classes = student.num_classes
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"logits": teacher.logits}

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        assert labels is not None, "the Distiller refuses images without labels"
        x = student.logits
        size = size_of(x)
        t = resize(teacher["logits"], size)
        edges = shrink_any(label_edges(labels, width=self.width, num_classes=self._classes), size)
        counted = self.pixels(valid=valid, labels=labels, teacher=teacher).at(size)
        terms: dict[str, Tensor] = {}
        if self.edge:
            loss = pixel_kl(student=x, teacher=t, temperature=self.edge_temperature, valid=counted * edges)
            terms["edge"] = self.edge * loss
        if self.body:
            loss = channel_kl(
                student=x, teacher=t, temperature=self.body_temperature, valid=shrink_valid(valid, size) & ~edges
            )
            terms["body"] = self.body * loss
        return terms
