"""CIRKD: how pixels relate to pixels of other images, and to pixels and regions in a memory of many images."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from segdistill.losses import cross_image_relation_kl, memory_relation_kl, shrink_labels, shrink_valid
from segdistill.losses._unit_length import unit_length
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import CountedPixels
from segdistill.methods.draws import Draws
from segdistill.methods.gathering import gather_batch
from segdistill.methods.kd import class_kl
from segdistill.methods.memory import ClassMemory
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive, preset_values
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "bounded": {"anchors": 256, "pixel_memory": 2000, "region_memory": 500},
    "paper": {"anchors": None, "pixel_memory": 20000, "region_memory": 2000},
}

#: Vectors that a step is related to, of all classes together, and pixels that an image adds for each class.
_PIXELS_RECALLED = 4096
_REGIONS_RECALLED = 1024
_PIXELS_ADDED = 16


class CIRKD(Method):
    """Yang et al., *Cross-Image Relational Knowledge Distillation for Semantic Segmentation*, CVPR 2022
    (arXiv 2204.06986).

    ``minibatch``: cosine similarities of every pixel to all pixels of each image in the batch, a softmax over each
    image, KL divergence from the teacher's (eq. 4-6). ``pixel`` and ``region``: the same to about 4096 pixels and 1024
    regions drawn from memories of the teacher's features (eq. 8-12), the student's brought to the teacher's channels by
    1x1 convolution, batch normalisation, ReLU, 1x1 convolution. After each batch in training, 16 pixels of every class
    and the mean of every class go from each image into the memories. Together with pixel-wise KD. At the embedding,
    pooled to stride 8 where it is finer; the teacher is resized bilinearly to the student's size.

    The paper's weights are 1, 0.1 and 0.1 at a temperature of 0.1, without the tau^2 that is inside here: times 100
    they are the defaults. The authors' code keeps arbitrary pixels under a class; here, as in the paper, they are of
    the class itself. With ``preset="paper"`` every pixel is related, and memories hold 20000 pixels and 2000 regions of
    each class: gigabytes for many classes or wide teachers, and more time than the student's own step. ``"bounded"``
    relates those of an even grid of 256 in each image, and keeps a tenth and a quarter as many.

    With several processes each relates its own pixels to the images of all, and all keep the same memories, so that the
    number of processes changes nothing but the batch. Memories are in the method's state dict.

    Args:
        preset: ``"bounded"`` or ``"paper"``: what the last three are where they are not given.
        minibatch: weight of the relations within the batch; 0 leaves them out.
        pixel: weight of the relations to remembered pixels; 0 leaves them out.
        region: weight of the relations to remembered regions; 0 leaves them out.
        kd: weight of pixel-wise KD of the logits at temperature 1; 0 leaves it out.
        temperature: softmax temperature of all relations, above 0.
        anchors: at most how many pixels of an image are related, 1 or more.
        pixel_memory: pixels remembered of each class, 1 or more.
        region_memory: regions remembered of each class, 1 or more.
    """

    family = "relation"
    paper = "Yang, CVPR, arXiv 2204.06986"
    year = 2022
    cost = 1.034
    presets = _PRESETS

    def __init__(
        self,
        *,
        preset: Literal["bounded", "paper"] = "bounded",
        minibatch: float = 100.0,
        pixel: float = 10.0,
        region: float = 10.0,
        kd: float = 1.0,
        temperature: float = 0.1,
        anchors: int | None = None,
        pixel_memory: int | None = None,
        region_memory: int | None = None,
    ) -> None:
        super().__init__()
        given = {"anchors": anchors, "pixel_memory": pixel_memory, "region_memory": region_memory}
        values = preset_values("cirkd", preset, _PRESETS, given)
        check_not_negative("cirkd", minibatch=minibatch, pixel=pixel, region=region, kd=kd)
        check_positive("cirkd", temperature=temperature)
        check_positive("cirkd", **{name: value for name, value in values.items() if value is not None})
        self.preset = preset
        self.minibatch = minibatch
        self.pixel = pixel
        self.region = region
        self.kd = kd
        self.temperature = temperature
        self.anchors: int | None = values["anchors"]
        self.pixel_memory: int = values["pixel_memory"]
        self.region_memory: int = values["region_memory"]
        self.needs_labels = bool(pixel or region)
        self.needs_logits = bool(kd)
        self.needs_embedding = bool(minibatch or pixel or region)

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        self._classes = student.num_classes
        s, t = student.embedding.channels, teacher.embedding.channels
        self.pixels_of = ClassMemory(self._classes, self.pixel_memory, t) if self.pixel else None
        self.regions_of = ClassMemory(self._classes, self.region_memory, t) if self.region else None
        self.draws = Draws()
        self.projection = None
        if self.needs_labels:
            self.projection = nn.Sequential(
                nn.Conv2d(s, t, 1, bias=False), nn.BatchNorm2d(t), nn.ReLU(), nn.Conv2d(t, t, 1, bias=False)
            )

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher) if self.needs_embedding else {}
        return outputs | {"logits": teacher.logits} if self.kd else outputs

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
        if self.minibatch:
            whole = (gather_batch(x), gather_batch(t), gather_batch(inside.to(torch.uint8)).bool())
            loss = cross_image_relation_kl(
                student=x, teacher=t, temperature=self.temperature, valid=inside, anchors=self.anchors, others=whole
            )
            terms["minibatch"] = self.minibatch * loss
        if self.projection is not None and labels is not None:
            self.draws.advance()
            if self.training:
                self._remember(t, torch.where(inside, shrink_labels(labels, size_of(x)), -1))
            projected = self.projection(x)
            for stream, (name, weight, memory, count) in enumerate(
                (
                    ("pixel", self.pixel, self.pixels_of, _PIXELS_RECALLED),
                    ("region", self.region, self.regions_of, _REGIONS_RECALLED),
                )
            ):
                if memory is not None:
                    vectors, remembered = memory.recall(count, self.draws, stream + 1)
                    loss = memory_relation_kl(
                        student=projected,
                        teacher=t,
                        memory=vectors,
                        remembered=remembered,
                        temperature=self.temperature,
                        valid=inside,
                        anchors=self.anchors,
                    )
                    terms[name] = weight * loss
        return terms

    @torch.no_grad()
    def _remember(self, teacher: Tensor, labels: Tensor) -> None:
        """Puts pixels and class means of the batch of all processes into the memories; labels are -1 where none is."""
        maps, labels = gather_batch(teacher.float().contiguous()), gather_batch(labels.contiguous()).flatten(1)
        vectors = unit_length(maps.flatten(2), dim=1).mT  # (B, N, C)
        classes = torch.arange(self._classes, device=labels.device).view(1, -1, 1)
        members = labels.unsqueeze(1) == classes  # (B, K, N)
        if self.pixels_of is not None:
            drawn = self.draws(*labels.shape, same_everywhere=True).unsqueeze(1)
            added = min(_PIXELS_ADDED, labels.shape[1])
            found = torch.where(members, drawn, -1.0).topk(added, dim=2)
            chosen = vectors.gather(1, found.indices.flatten(1).unsqueeze(2).expand(-1, -1, vectors.shape[2]))
            chosen = chosen.view(*found.indices.shape, -1)
            self.pixels_of.remember(
                chosen.transpose(0, 1).flatten(1, 2), (found.values >= 0).transpose(0, 1).flatten(1)
            )
        if self.regions_of is not None:
            means = unit_length(members.to(vectors.dtype) @ vectors, dim=2)
            self.regions_of.remember(means.transpose(0, 1), members.any(dim=2).T)
