"""IDD: how far apart the classes are in feature space, and which position in the image a feature has."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import class_distance_mse, feature_mse, shrink_labels, shrink_valid
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import CountedPixels
from segdistill.methods.kd import class_kl
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative
from segdistill.networks.features import Features, NetworkInfo


class IDD(Method):
    """Zhang et al., *Distilling Inter-Class Distance for Semantic Segmentation*, IJCAI 2022 (arXiv 2205.03650).

    ``distance``: the centres of the classes that an image shows are the nodes of a graph, their distances its edges;
    mean squared difference of the two networks' edges. ``position``: a position head reads each position's coordinates
    from its features; mean squared difference of what is read from the student and from the teacher. Together with
    pixel-wise KD. At the embedding, pooled to stride 8 where it is finer; the teacher is resized bilinearly to the
    student's size, labels are taken at each position's middle.

    This library's reading, since the official code was not to be found: distances are divided by the root mean square
    of the teacher's own in that image, so that the weight means the same for any teacher (``relative=False`` leaves
    them as published, where the sum over pairs is halved: their weight is 1/2 per pair). Classes that an image does not
    show have no node; the one port that was found gives them a centre of 0. The position head is a 1x1 convolution to
    the two coordinates, from -1 to 1. The teacher's is fitted by least squares in a pre-stage (`prepare`, one pass over
    the images), the student's is trained with the student and left out of it.

    Args:
        distance: weight of the class distances; 0 leaves them out.
        position: weight of the position term; 0 leaves it and the pre-stage out.
        kd: weight of pixel-wise KD of the logits at temperature 1; 0 leaves it out.
        relative: divide distances by the teacher's.
    """

    family = "relation"
    paper = "Zhang, IJCAI, arXiv 2205.03650"
    year = 2022
    cost = 1.003

    reading: Tensor
    prepared: Tensor
    _classes: int

    def __init__(self, *, distance: float = 1.0, position: float = 1.0, kd: float = 1.0, relative: bool = True) -> None:
        super().__init__()
        check_not_negative("idd", distance=distance, position=position, kd=kd)
        self.distance = distance
        self.position = position
        self.kd = kd
        self.relative = relative
        self.needs_labels = bool(distance)
        self.needs_logits = bool(kd)
        self.needs_embedding = bool(distance or position)
        self._ready = False

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        self._classes = student.num_classes
        self.head = nn.Conv2d(student.embedding.channels, 2, 1) if self.position else None
        # (2, C + 1): coordinates from the teacher's features and a constant.
        self.register_buffer("reading", torch.zeros(2, teacher.embedding.channels + 1))
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher) if self.needs_embedding else {}
        return outputs | {"logits": teacher.logits} if self.kd else outputs

    def prepare(self, batches: Iterable[TeacherOutputs]) -> None:
        """Fits the teacher's position head by least squares over the ``batches``; nothing else is changed."""
        if not self.position:
            return
        size = self.reading.shape[1]
        sums = torch.zeros(size, size + 2, dtype=torch.float64)
        seen = False
        for batch in batches:
            maps = batch["embedding.pooled"].detach().float()
            with torch.autocast(maps.device.type, enabled=False):
                features = F.pad(maps.flatten(2), (0, 0, 0, 1), value=1.0).transpose(0, 1).flatten(1)  # (C + 1, B N)
                where = _coordinates(maps).flatten(2).expand(len(maps), -1, -1).transpose(0, 1).flatten(1)
                sums += (features @ torch.cat([features, where]).T).double().cpu()
            seen = True
        if not seen:
            raise UserError("idd: the position head's pre-stage got no batch of images")
        # Channels that are always 0 or copies of others have no unique solution without a little weight decay.
        squares, products = sums[:, :size], sums[:, size:]
        squares.diagonal().add_(1e-4 * squares.diagonal().mean())
        self.reading = torch.linalg.solve(squares, products).T.to(self.reading)
        self.prepared = torch.ones_like(self.prepared)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        terms = self._of_features(student, teacher, labels, valid) if self.needs_embedding else {}
        if self.kd:
            terms["kd"] = self.kd * class_kl(student, teacher, CountedPixels(valid))
        return terms

    def _of_features(
        self, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        ((x, t),) = self._places.pairs(student, teacher)
        inside = shrink_valid(valid, size_of(x))
        terms: dict[str, Tensor] = {}
        if self.distance:
            assert labels is not None, "the Distiller refuses images without labels"
            loss = class_distance_mse(
                student=x,
                teacher=t,
                labels=shrink_labels(labels, size_of(x)),
                num_classes=self._classes,
                relative=self.relative,
                valid=inside,
            )
            terms["distance"] = self.distance * loss
        if self.head is not None:
            # The buffer may have come from a checkpoint; it is read once, since reading it on a GPU waits for all work.
            self._ready = self._ready or bool(self.prepared)
            if not self._ready:
                raise UserError("idd: its position head is not fitted yet; call distiller.prepare(batches) first")
            read = F.conv2d(t.to(self.reading.dtype), self.reading[:, :-1, None, None], self.reading[:, -1])
            terms["position"] = self.position * feature_mse(student=self.head(x), teacher=read, valid=inside)
        return terms


def _coordinates(maps: Tensor) -> Tensor:
    """(1, 2, H, W): row and column of each position's middle, from -1 to 1."""
    rows, columns = ((2 * torch.arange(side, device=maps.device) + 1) / side - 1 for side in maps.shape[2:])
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij")).unsqueeze(0)
