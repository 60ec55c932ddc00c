"""Brings what two different networks show to the same positions, channels and number of stages."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.features import NetworkInfo, Tap

#: Relations and adapters work at this stride where a map is finer: a stride-4 decoder would otherwise make the
#: method dearer than the student, and an affinity over 16 times the positions says little more.
FINEST_STRIDE = 8


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, C, H, W) maps to ``size``; the same tensor where the size is already right."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def bounded_stride(stride: int) -> int:
    """Stride of a map after `bounded`."""
    return stride * _pooling(stride)


def bounded(maps: Tensor, stride: int) -> Tensor:
    """Average-pools (B, C, H, W) maps of a ``stride`` below `FINEST_STRIDE` to about that stride."""
    window = _pooling(stride)
    if window == 1:
        return maps
    maps = maps.contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(maps, window, ceil_mode=True, count_include_pad=False)


def _pooling(stride: int) -> int:
    return max(1, FINEST_STRIDE // stride)


def size_of(maps: Tensor) -> tuple[int, int]:
    """Height and width of (B, C, H, W) maps."""
    return maps.shape[-2], maps.shape[-1]


def match_stages(student: tuple[Tap, ...], teacher: tuple[Tap, ...]) -> list[tuple[int, int]]:
    """Pairs each stage of the student with one of the teacher.

    Networks of equally many stages are paired in order, since stages mean the same then even where one is dilated.
    Otherwise each student stage goes with the teacher stage of the nearest stride, the later one of equals.

    Example:
        >>> taps = lambda *strides: tuple(Tap(f"s{s}", 8, s) for s in strides)
        >>> match_stages(taps(4, 8, 16, 32), taps(4, 8, 8, 8))
        [(0, 0), (1, 1), (2, 2), (3, 3)]
        >>> match_stages(taps(4, 8), taps(4, 8, 16, 32))
        [(0, 0), (1, 1)]
    """
    if len(student) == len(teacher):
        return [(index, index) for index in range(len(student))]
    return [
        (index, min(range(len(teacher)), key=lambda j: (abs(teacher[j].stride - tap.stride), -j)))
        for index, tap in enumerate(student)
    ]


def check_same_classes(method: str, student: NetworkInfo, teacher: NetworkInfo) -> None:
    """Raises a `UserError` unless both networks score the same number of classes."""
    if student.num_classes != teacher.num_classes:
        raise UserError(
            f"{method} compares class scores, but the student has {student.num_classes} classes and the teacher "
            f"{teacher.num_classes}; build both for the classes of the data"
        )
