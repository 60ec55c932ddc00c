"""RDD: what another method transfers, with its pixels weighted by their difficulty."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import shrink_labels, shrink_valid, shrink_weights
from segdistill.losses._labels import labelled
from segdistill.losses._means import mean_over_pixels
from segdistill.methods.alignment import resize, size_of
from segdistill.methods.balance import CountedPixels
from segdistill.methods.building import build_methods
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class RDD(Method):
    """Sun et al., *Relative Difficulty Distillation for Semantic Segmentation*, 2024 (arXiv 2407.03719): a weighting
    of pixels for another method.

    In the first ``warmup`` steps a pixel weighs ``exp(-H)``, H being the entropy of the teacher's class probabilities:
    the student begins with what is easy for the teacher. Afterwards it weighs 1 where exactly one of the two finds it
    hard, that is, gives its labelled class a probability of at most ``threshold``, and 0 elsewhere: what both know, and
    what neither does, is left out. The wrapped method's means over pixels become means weighted so. ``ce`` adds a
    cross-entropy with the labels that is weighted in the same way.

    The authors weigh the task loss, and leave a distillation loss beside it as it is: set ``ce=1`` and the task loss's
    weight to 0 (``loss_weights: {task: 0}`` in a recipe) for that, and add the method beside RDD instead of in it. They
    measure the teacher's difficulty by the divergence of its auxiliary head from its main one; few networks show such a
    head, so its entropy stands in. And they keep at least the 100000 hardest pixels of a batch whatever their
    probability, which depends on batch and crop; here the threshold decides alone. Their mean divides by all pixels,
    ours by the sum of the weights.

    Args:
        method: name of the method to weigh: one with means over pixels, such as ``"kd"``, ``"feature"``, ``"dkd"``.
        options: its hyper-parameters by name.
        warmup: steps of the first stage, 0 or more; the authors take 4000 to 8000 of 40000.
        threshold: probability up to which a pixel is hard, above 0 and at most 1.
        ce: weight of the weighted cross-entropy; 0 leaves it out.
    """

    family = "logit"
    paper = "Sun, arXiv 2407.03719"
    year = 2024
    cost = 1.001
    needs_labels = True
    needs_logits = True

    step: Tensor

    def __init__(
        self,
        *,
        method: str = "kd",
        options: dict[str, Any] | None = None,
        warmup: int = 4000,
        threshold: float = 0.7,
        ce: float = 0.0,
    ) -> None:
        super().__init__()
        check_not_negative("rdd", warmup=warmup, ce=ce)
        check_positive("rdd", threshold=threshold)
        if threshold > 1:
            raise UserError(f"rdd: threshold is {threshold}, expected a probability, above 0 and at most 1")
        self.method = method
        self.options = options
        self.warmup = warmup
        self.threshold = threshold
        self.ce = ce
        self.weighed = _made(method, options or {})
        self.needs_stages = self.weighed.needs_stages
        self.needs_embedding = self.weighed.needs_embedding
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self.weighed.build(student, teacher)
        pixels = getattr(self.weighed, "pixels", None)
        if not isinstance(pixels, nn.Module):
            raise UserError(
                f"rdd: method '{self.method}' has no mean over pixels that could be weighted; expected one that has, "
                "such as 'kd', 'feature' or 'dkd'"
            )
        self.weighed.pixels = _Weighed(pixels)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return self.weighed.teacher_outputs(teacher) | {"logits": teacher.logits}

    def prepare(self, batches: Iterable[TeacherOutputs]) -> None:
        """Runs the wrapped method's pre-stage, if it has one."""
        self.weighed.prepare(batches)

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        assert labels is not None, "the Distiller refuses images without labels"
        x = student.logits
        size = size_of(x)
        known, counted = labelled(shrink_labels(labels, size), x.shape[1], x, shrink_valid(valid, size))
        with torch.no_grad():
            weights = self._weights(x, resize(teacher["logits"], size), known, counted)
            if self.training:
                self.step += 1
        assert isinstance(self.weighed.pixels, _Weighed)
        self.weighed.pixels.weights = weights
        terms = self.weighed(student=student, teacher=teacher, labels=labels, valid=valid)
        self.weighed.pixels.weights = None
        if self.ce:
            scores = torch.where(counted.unsqueeze(1), x, 0.0)
            losses = F.cross_entropy(scores.to(torch.promote_types(x.dtype, torch.float32)), known, reduction="none")
            terms["ce"] = self.ce * mean_over_pixels(losses, weights)
        return terms

    def _weights(self, student: Tensor, teacher: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """(B, h, w), 0 where a pixel does not count."""
        log_x, log_t = (scores.float().log_softmax(dim=1) for scores in (student, teacher))
        easy = (log_t.exp() * log_t).sum(dim=1).exp()
        hard_x, hard_t = (
            log.gather(1, labels.unsqueeze(1)).squeeze(1).exp() <= self.threshold for log in (log_x, log_t)
        )
        return torch.where(self.step < self.warmup, easy, (hard_x ^ hard_t).to(easy.dtype)) * counted


class _Weighed(nn.Module):
    """Stands in for a method's `PixelWeights`: its weights, times those of RDD."""

    def __init__(self, pixels: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.weights: Tensor | None = None

    def forward(self, *, valid: Tensor, labels: Tensor | None, teacher: TeacherOutputs) -> _WeighedPixels:
        assert self.weights is not None, "RDD sets them before every batch"
        return _WeighedPixels(self.pixels(valid=valid, labels=labels, teacher=teacher), self.weights)


class _WeighedPixels:
    def __init__(self, counted: CountedPixels, weights: Tensor) -> None:
        self._counted = counted
        self._weights = weights

    def at(self, size: tuple[int, int]) -> Tensor:
        """As `CountedPixels.at`."""
        return shrink_weights(self._weights, size) * self._counted.at(size)


def _made(name: str, options: dict[str, Any]) -> Method:
    if name == "rdd":
        raise UserError("rdd: method is 'rdd', expected another method, whose pixels it weighs")
    return build_methods({name: options})[0]
