"""KA: the teacher's features in the latent space of an auto-encoder, and their affinities."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import affinity_mse, latent_distance, shrink_valid
from segdistill.methods.alignment import bounded, bounded_stride, resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_not_negative, check_positive
from segdistill.networks.features import Features, NetworkInfo


class KA(Method):
    """He et al., *Knowledge Adaptation for Efficient Semantic Segmentation*, CVPR 2019 (arXiv 1903.04688).

    Pre-stage (`prepare`, one pass over the images): an auto-encoder of the frozen teacher's last feature map, three
    strided convolutions E and three transposed ones D, ``||F - D(E(F))||^2 + 1e-7 ||E(F)||_1`` (eq. 1), so that E's
    output has the student's stride. Then, on every batch: ``adapt``, the distance of l2-normalised
    ``C_f(x)`` and ``E(t)``, l1 over channels, mean over positions (eq. 2, p = 1, q = 2); and ``affinity``, the mean
    squared difference of the cosine similarities of every pair of positions of ``C_a(x)`` and ``E(t)`` (eq. 3-4).
    C_f and C_a are 3x3 convolution, batch normalisation, ReLU.

    Embeddings finer than stride 8 are average-pooled to it first. Where the student is the finer one, E does not
    stride and its output is resized bilinearly to the student's size.

    This library's reading: the teacher's features are divided by their root mean square over the pre-stage's first
    batch, so that the paper's learning rate holds for any teacher; both losses are scale-free, so nothing else changes.
    And ``adapt`` weighs 1, not the published 50: with the l1 norm summed over channels as eq. 2 has it, 50 made the
    term some forty times the task loss, and the student worse than alone (docs/benchmarks/results-idd-lite.md).

    Args:
        adapt: weight of the latent distance; 0 leaves it out; the paper has 50.
        affinity: weight of the affinity term; 0 leaves it out.
        latent_channels: channels of E's output; half the teacher's, at least 16, by default.
        lr: learning rate of the pre-stage's SGD (momentum 0.9).
        weight_decay: its weight decay.
        sparsity: weight of the l1 norm of the latent code.
    """

    family = "feature"
    paper = "He, CVPR, arXiv 1903.04688"
    year = 2019
    cost = 1.021
    needs_embedding = True

    rms: Tensor
    prepared: Tensor
    _strides: tuple[int, int]

    def __init__(
        self,
        *,
        adapt: float = 1.0,
        affinity: float = 1.0,
        latent_channels: int | None = None,
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        sparsity: float = 1e-7,
    ) -> None:
        super().__init__()
        check_not_negative("ka", adapt=adapt, affinity=affinity, weight_decay=weight_decay, sparsity=sparsity)
        check_positive("ka", lr=lr)
        if latent_channels is not None:
            check_positive("ka", latent_channels=latent_channels)
        self.adapt = adapt
        self.affinity = affinity
        self.latent_channels = latent_channels
        self.lr = lr
        self.weight_decay = weight_decay
        self.sparsity = sparsity
        self._ready = False
        # Buffers, so that a resumed run knows that the pre-stage is behind it.
        self.register_buffer("rms", torch.ones(()))
        self.register_buffer("prepared", torch.zeros((), dtype=torch.bool))

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._strides = (student.embedding.stride, teacher.embedding.stride)
        ratio = bounded_stride(student.embedding.stride) / bounded_stride(teacher.embedding.stride)
        halvings = round(math.log2(ratio))
        strides = [2 if index < halvings else 1 for index in range(3)]
        channels = teacher.embedding.channels
        latent = self.latent_channels or max(16, channels // 2)
        self.encoder, self.decoder = _autoencoder(channels, latent, strides)
        # Nothing but the pre-stage trains it, so the student's optimizer must not see it.
        self.encoder.requires_grad_(False).eval()
        self.decoder.requires_grad_(False).eval()
        self.adapt_adapter = _conv(student.embedding.channels, latent) if self.adapt else None
        self.affinity_adapter = _conv(student.embedding.channels, latent) if self.affinity else None

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return {"embedding.pooled": bounded(teacher.embedding, self._strides[1])}

    def prepare(self, batches: Iterable[TeacherOutputs]) -> None:
        """Trains the auto-encoder by one pass of SGD over the ``batches``; nothing else is changed."""
        autoencoder = nn.ModuleList([self.encoder, self.decoder]).requires_grad_(True).train()
        parameters = list(autoencoder.parameters())
        optimizer = torch.optim.SGD(parameters, lr=self.lr, momentum=0.9, weight_decay=self.weight_decay)
        rms: Tensor | None = None
        for batch in batches:
            features = batch["embedding.pooled"].detach()
            if rms is None:
                rms = self.rms = features.float().square().mean().sqrt().clamp_min(1e-6)
            target = features / rms
            code = self.encoder(target)
            restored = resize(self.decoder(code), size_of(target))
            loss = F.mse_loss(restored.float(), target.float()) + self.sparsity * code.float().abs().sum() / len(code)
            optimizer.zero_grad()
            loss.backward()
            # A deep teacher's features have outliers; without a bound the paper's rate can blow up on the first ones.
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        if rms is None:
            raise UserError("ka: the auto-encoder's pre-stage got no batch of images")
        if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
            raise UserError(f"ka: the auto-encoder diverged at lr {self.lr}; choose a smaller one")
        optimizer.zero_grad()
        autoencoder.requires_grad_(False).eval()
        self.prepared = torch.ones_like(self.prepared)

    def train(self, mode: bool = True) -> KA:
        super().train(mode)
        # E is frozen after its pre-stage: its batch statistics must not drift while the student learns.
        if hasattr(self, "encoder"):
            self.encoder.eval()
            self.decoder.eval()
        return self

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        # The buffer may have come from a checkpoint; it is read once, since reading it on a GPU waits for all work.
        self._ready = self._ready or bool(self.prepared)
        if not self._ready:
            raise UserError("ka: its auto-encoder is not trained yet; call distiller.prepare(batches) first")
        x = bounded(student.embedding, self._strides[0])
        size = size_of(x)
        with torch.no_grad():
            code = self.encoder(teacher["embedding.pooled"] / self.rms)
            code = resize(code, size)
        counted = shrink_valid(valid, size)
        terms: dict[str, Tensor] = {}
        if self.adapt_adapter is not None:
            distance = latent_distance(student=self.adapt_adapter(x), teacher=code, valid=counted)
            terms["adapt"] = self.adapt * distance
        if self.affinity_adapter is not None:
            affinity = affinity_mse(student=self.affinity_adapter(x), teacher=code, valid=counted)
            terms["affinity"] = self.affinity * affinity
        return terms


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _autoencoder(channels: int, latent: int, strides: list[int]) -> tuple[nn.Sequential, nn.Sequential]:
    widths = [channels, latent, latent, latent]
    encoder = nn.Sequential(*(_conv(widths[i], widths[i + 1], stride) for i, stride in enumerate(strides)))
    decoder = nn.Sequential()
    for i, stride in reversed([*enumerate(strides)]):
        # A kernel of 4 doubles a map exactly; 3 keeps its size.
        decoder.append(nn.ConvTranspose2d(widths[i + 1], widths[i], 2 + stride, stride=stride, padding=1))
        if i > 0:
            decoder.append(nn.BatchNorm2d(widths[i]))
            decoder.append(nn.ReLU())
    return encoder, decoder
