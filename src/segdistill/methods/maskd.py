"""MasKD: the teacher's scores or features, inside receptive fields that were learned from the teacher beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import mask_overlap, receptive_masks, receptive_mse, shrink_valid
from segdistill.methods.alignment import Places, resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class MasKD(Method):
    """Huang et al., *Masked Distillation with Receptive Tokens*, ICLR 2023 (arXiv 2205.14589).

    Pre-stage (`prepare`, one pass over the images): ``tokens`` vectors are learned, each of which marks a soft
    receptive field in the teacher's map, ``m = sigmoid(token . t)``, so that the map seen through all of them still
    tells the classes, and the fields overlap little (mean Dice coefficient of every two). Then, on every batch, half
    the mean squared difference of student and teacher inside each field, mean over fields and channels
    (`segdistill.losses.receptive_mse`). The teacher is resized bilinearly to the student's size.

    ``preset="authors"``, the default, is their code for segmentation: fields and differences on the logits.
    ``preset="paper"`` is the paper's text: both on features, here the embedding (pooled to stride 8 where it is finer)
    divided by its root mean square over the pre-stage's first batch, the student's through a 1x1 convolution. Their
    sums are over the positions of an image, divided by a field's size, and then means, as here: the weight of 1 carries
    over.

    This library's reading: the pre-stage's classes are the teacher's own most probable ones, so that no labels are
    needed; on the embedding a 1x1 classifier, dropped afterwards, takes the place of the rest of the teacher. One pass
    at a constant rate, where the authors make 10000 steps at a falling one.

    Args:
        preset: ``"authors"`` (logits) or ``"paper"`` (embedding).
        weight: weight of the term.
        tokens: number of receptive fields, 1 or more.
        lr: learning rate of the pre-stage's SGD (momentum 0.9).
        weight_decay: its weight decay.
    """

    family = "feature"
    paper = "Huang, ICLR, arXiv 2205.14589"
    year = 2023
    cost = 1.0

    receptive_tokens: Tensor
    rms: Tensor
    prepared: Tensor

    def __init__(
        self,
        *,
        preset: Literal["authors", "paper"] = "authors",
        weight: float = 1.0,
        tokens: int = 8,
        lr: float = 0.1,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__()
        check_choice("maskd", "preset", preset, ("authors", "paper"))
        check_not_negative("maskd", weight=weight, weight_decay=weight_decay)
        check_positive("maskd", tokens=tokens, lr=lr)
        self.preset = preset
        self.weight = weight
        self.tokens = tokens
        self.lr = lr
        self.weight_decay = weight_decay
        self.needs_logits = preset == "authors"
        self.needs_embedding = not self.needs_logits
        self.needs_teacher_logits = True  # for the tokens
        self._ready = False

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._places = Places(student, teacher)
        channels = teacher.num_classes if self.needs_logits else teacher.embedding.channels
        self.adapter = None if self.needs_logits else nn.Conv2d(student.embedding.channels, channels, 1)
        self._classes = teacher.num_classes
        self.register_buffer("receptive_tokens", 0.01 * torch.randn(self.tokens, channels))
        self.register_buffer("rms", torch.ones(()))
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        logits = {"logits": teacher.logits}
        return logits if self.needs_logits else logits | self._places.teacher_outputs(teacher)

    def prepare(self, batches: Iterable[TeacherOutputs]) -> None:
        """Learns the tokens by one pass of SGD over the ``batches``; nothing else is changed."""
        tokens = nn.Parameter(self.receptive_tokens.clone())
        head: nn.Module = nn.Identity()
        if not self.needs_logits:
            head = nn.Conv2d(tokens.shape[1], self._classes, 1).to(tokens)
        optimizer = torch.optim.SGD(
            [tokens, *head.parameters()], lr=self.lr, momentum=0.9, weight_decay=self.weight_decay
        )
        seen = False
        for batch in batches:
            maps = (batch["logits"] if self.needs_logits else batch["embedding.pooled"]).detach().to(tokens.dtype)
            if not seen and not self.needs_logits:
                self.rms = maps.square().mean().sqrt().clamp_min(1e-6)
            with torch.autocast(maps.device.type, enabled=False):
                masks = receptive_masks(maps / self.rms, tokens)
                scores = head(maps / self.rms * masks.sum(dim=1, keepdim=True))
                classes = resize(batch["logits"].float(), size_of(maps)).argmax(dim=1)
                loss = F.cross_entropy(scores, classes) + mask_overlap(masks)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_([tokens, *head.parameters()], 1.0)
            optimizer.step()
            seen = True
        if not seen:
            raise UserError("maskd: the tokens' pre-stage got no batch of images")
        if not bool(torch.isfinite(tokens).all()):
            raise UserError(f"maskd: the tokens diverged at lr {self.lr}; choose a smaller one")
        self.receptive_tokens = tokens.detach().clone()
        self.prepared = torch.ones_like(self.prepared)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        # The buffer may have come from a checkpoint; it is read once, since reading it on a GPU waits for all work.
        self._ready = self._ready or bool(self.prepared)
        if not self._ready:
            raise UserError("maskd: its tokens are not trained yet; call distiller.prepare(batches) first")
        if self.adapter is None:
            x = student.logits
            t = resize(teacher["logits"], size_of(x))
        else:
            ((x, t),) = self._places.pairs(student, teacher)
            x, t = self.adapter(x), t / self.rms
        loss = receptive_mse(student=x, teacher=t, tokens=self.receptive_tokens, valid=shrink_valid(valid, size_of(x)))
        return {"logits" if self.adapter is None else "features": self.weight * loss}
