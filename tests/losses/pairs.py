"""Every loss that compares a student's map with a teacher's, as the shared tests try it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import losses
from tests.losses import plain_formulas, plain_predictions


@dataclass(frozen=True)
class Case:
    name: str
    channels: tuple[int, int] = (6, 6)
    options: dict[str, Any] = field(default_factory=dict)
    # The value for a map repeated twice in height and width, in terms of the map's own. None: no such law, as
    # where a position is left out of its own row, and counts less in a larger map.
    repeated: float | None = 1.0
    # Takes weights of the positions as `valid`.
    weights: bool = False
    # Takes the labels, (B, H, W).
    labels: bool = False
    # Relates the images of a batch, so that one without a valid pixel is no different from a smaller batch.
    across_batch: bool = False
    # Equal maps give 0, and it has a slope of 0 there (not: it has a kink, as an l_1 distance has).
    zero_when_equal: bool = True
    smooth_at_zero: bool = True

    def __call__(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        loss: Callable[..., Tensor] = getattr(losses, self.name)
        return loss(student=student, teacher=teacher, valid=valid, **self._given(student))

    def _given(self, student: Tensor) -> dict[str, Any]:
        """The options, and the labels, the same for every map of one size: three classes and a few pixels without."""
        if not self.labels:
            return self.options
        batch, height, width = len(student), *student.shape[-2:]
        generator = torch.Generator().manual_seed(11)
        labels = torch.randint(0, 4, (batch, 5, 7), generator=generator).repeat(1, height // 5 + 1, width // 7 + 1)
        labels = labels[:, :height, :width]
        return self.options | {"labels": labels.masked_fill(labels == 3, 255)}

    def plain(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is None:
            valid = torch.ones_like(student[:, 0], dtype=torch.bool)
        formulas = plain_predictions if hasattr(plain_predictions, self.name) else plain_formulas
        assert hasattr(formulas, self.name), f"write {self.name} into tests/losses/plain_formulas.py"
        formula: Callable[..., Tensor] = getattr(formulas, self.name)
        return formula(student, teacher, valid, **self._given(student))

    def inputs(self, batch: int = 3, size: tuple[int, int] = (5, 7), seed: int = 0) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        student, teacher = (torch.randn(batch, width, *size, generator=generator) for width in self.channels)
        if self.name in ("boundary_mse", "residual_attention_mse"):
            student, teacher = student.abs(), teacher.abs()
        return student.requires_grad_(), teacher

    def __str__(self) -> str:
        told = (k if isinstance(v, Tensor) else f"{k}={v}" for k, v in self.options.items())
        return "-".join([self.name, *map(str, self.channels), *told])


VECTORS = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))

CASES = [
    Case("pixel_kl", weights=True),
    Case("pixel_kl", options={"temperature": 3.0}, weights=True),
    Case("pixel_kl", channels=(2, 2), weights=True),
    Case("feature_mse", weights=True),
    Case("feature_mse", channels=(1, 1), weights=True),
    Case("feature_mse", options={"standardise": "channel"}, weights=True),
    Case("feature_mse", options={"standardise": "position"}, weights=True),
    Case("feature_cosine", weights=True),
    Case("feature_cosine", channels=(1, 1), weights=True),
    Case("channel_kl"),
    Case("channel_kl", options={"temperature": 0.5}),
    Case("channel_kl", channels=(1, 1)),
    Case("affinity_mse"),
    Case("affinity_mse", channels=(4, 9)),
    Case("affinity_mse", channels=(9, 4)),
    Case("affinity_mse", channels=(3, 40)),  # fewer positions than channels: the N x N form
    Case("affinity_mse", channels=(1, 5)),
    Case("relation_kl", repeated=None),
    Case("relation_kl", channels=(4, 9), options={"temperature": 0.3}, repeated=None),
    Case("relation_kl", channels=(9, 4), options={"include_self": True}),
    Case("relation_kl", channels=(1, 5), repeated=None),
    Case("relation_mse", repeated=None),
    Case("relation_mse", channels=(4, 9), options={"temperature": 0.3, "include_self": True}, repeated=0.25),
    Case("channel_relation_mse"),
    Case("boundary_mse", channels=(1, 1)),
    Case("attention_mse", channels=(4, 9)),
    Case("attention_mse", channels=(1, 1)),
    Case("residual_attention_mse", channels=(3, 3)),
    Case("residual_attention_mse", channels=(2, 2)),
    Case("category_similarity_mse"),
    Case("category_similarity_mse", channels=(2, 2), options={"temperature": 0.7}),
    Case("class_center_mse", channels=(4, 9), options={"num_classes": 3}, labels=True, weights=True),
    Case("class_center_mse", options={"num_classes": 2}, labels=True, weights=True),
    Case("pyramid_mse", repeated=None),
    Case("pyramid_mse", channels=(1, 1), options={"levels": (5, 3, 2)}, repeated=None),
    Case("latent_distance", weights=True, smooth_at_zero=False),
    Case("latent_distance", options={"p": 2, "q": 2}, weights=True),
    Case("latent_distance", options={"p": 1.5, "q": 3}, weights=True, smooth_at_zero=False),
    Case("latent_distance", channels=(1, 1), options={"p": 1, "q": 1}, weights=True, smooth_at_zero=False),
    Case("target_kl", labels=True, weights=True),
    Case("target_kl", options={"temperature": 3.0}, labels=True, weights=True),
    Case("target_kl", channels=(2, 2), labels=True, weights=True),
    Case("non_target_kl", labels=True, weights=True),
    Case("non_target_kl", options={"temperature": 3.0}, labels=True, weights=True),
    Case("standardised_kl", weights=True),
    Case("standardised_kl", channels=(1, 1), weights=True),
    Case("class_correlation", weights=True),
    Case("class_correlation", options={"temperature": 4.0}, weights=True),
    Case("position_correlation"),
    Case("position_correlation", options={"temperature": 4.0, "across": "batch"}, across_batch=True),
    Case("class_distance_mse", channels=(4, 9), options={"num_classes": 3}, labels=True),
    Case("class_distance_mse", options={"num_classes": 3, "relative": False}, labels=True),
    Case("receptive_mse", options={"tokens": VECTORS}),
    Case("unit_map_mse"),
    Case("omni_contrast", options={"groups": 3, "patch": 4}, repeated=None, zero_when_equal=False),
    Case(
        "omni_contrast",
        channels=(5, 5),
        options={"groups": 2, "patch": 2, "temperature": 0.5},
        repeated=None,
        zero_when_equal=False,
    ),
    Case("cross_image_relation_kl", channels=(4, 9), across_batch=True),
    Case("cross_image_relation_kl", options={"temperature": 0.5}, across_batch=True),
    Case("memory_relation_kl", options={"memory": VECTORS / VECTORS.norm(dim=1, keepdim=True)}),
]
every_loss = pytest.mark.parametrize("case", CASES, ids=str)


def mask(batch: int = 3, size: tuple[int, int] = (5, 7)) -> Tensor:
    """Most positions valid; in the second image none, in the third a few."""
    valid = torch.rand(batch, *size, generator=torch.Generator().manual_seed(7)) < 0.7
    if batch > 2:
        valid[1] = False
        valid[2] = False
        valid[2, 3, :4] = True
    return valid


def value_and_gradient(
    loss: Callable[..., Tensor], student: Tensor, teacher: Tensor, valid: Tensor | None
) -> tuple[float, Tensor]:
    student = student.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(student, teacher, valid)
    (gradient,) = torch.autograd.grad(value, student)
    return value.item(), gradient.double()
