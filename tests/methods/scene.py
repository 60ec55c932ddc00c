"""Features of two small networks, in float64, for formulas written out in tests."""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill import Features
from tests.tiny import tiny_network

WIDTHS = (4, 8)  # student, teacher


def networks() -> tuple[object, object]:
    """Both of stride 8 throughout the head: nothing is pooled, nothing resized."""
    student, teacher = (tiny_network(width, stride=8, classes=5, seed=width) for width in WIDTHS)
    return student.info, teacher.info


def features(info: object, seed: int) -> Features:
    generator = torch.Generator().manual_seed(seed)

    def maps(tap: object) -> Tensor:
        side = 72 // tap.stride  # type: ignore[attr-defined]
        return torch.randn(2, tap.channels, side, side, generator=generator, dtype=torch.float64)  # type: ignore[attr-defined]

    return Features(
        tuple(maps(tap) for tap in info.stages),  # type: ignore[attr-defined]
        maps(info.embedding),  # type: ignore[attr-defined]
        maps(info.logits),  # type: ignore[attr-defined]
    )


def built(method: object) -> object:
    method.build(*networks())  # type: ignore[attr-defined]
    return method.double().eval()  # type: ignore[attr-defined]
