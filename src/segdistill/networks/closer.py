"""A teacher that sees the student's picture at a multiple of its resolution: reduced pictures, and strides that fit."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.features import Features, NetworkInfo, Tap


def reduced(images: Tensor, factor: int) -> Tensor:
    """Images at 1 / ``factor`` of their size: each pixel is the mean of ``factor`` x ``factor`` pixels.

    Of uint8 images it is rounded to whole numbers, the same on every device.

    Args:
        images: (B, C, H, W) or (C, H, W), uint8 or floating.
        factor: at least 1.

    Returns:
        (..., H / factor, W / factor), of the same type; ``images`` itself for a factor of 1.

    Raises:
        UserError: a side that the factor does not divide.

    Example:
        >>> import torch
        >>> reduced(torch.tensor([[[0, 1, 9, 9], [2, 2, 9, 9]]], dtype=torch.uint8), 2)
        tensor([[[1, 9]]], dtype=torch.uint8)
    """
    if factor == 1:
        return images
    height, width = images.shape[-2:]
    if height % factor or width % factor:
        raise UserError(f"images are {height} x {width}, expected sides that teacher_scale {factor} divides")
    if images.is_floating_point():
        return F.avg_pool2d(images, factor)
    # Sums of whole numbers below 2^24 are exact in single precision, in whatever order a device adds them.
    return F.avg_pool2d(images.float(), factor).round_().to(images.dtype)


def info_on_student_grid(info: NetworkInfo, factor: int) -> NetworkInfo:
    """What is known of a teacher that sees ``factor`` times the student's size, with strides in the student's pixels.

    A stride of 4 is 2 for a factor of 2. Where this is no whole number, `features_on_student_grid` makes the maps
    coarser: a stride of 1 stays 1. Of a teacher for images of one size, that size is the student's too.

    Raises:
        UserError: a teacher for images of one size, which the factor does not divide.
    """
    size = info.size
    if size is not None and (size[0] % factor or size[1] % factor):
        raise UserError(
            f"the teacher takes only images of {size[0]} x {size[1]} pixels, and teacher_scale {factor} does not "
            "divide both sides; choose a teacher_scale that does"
        )

    def tap(one: Tap) -> Tap:
        return replace(one, stride=one.stride * _coarser(one, factor) // factor)

    stages = tuple(map(tap, info.stages))
    size = None if size is None else (size[0] // factor, size[1] // factor)
    return replace(info, stages=stages, embedding=tap(info.embedding), logits=tap(info.logits), size=size)


def features_on_student_grid(features: Features, info: NetworkInfo, factor: int) -> Features:
    """A teacher's features with the strides that `info_on_student_grid` says: averaged where they would be finer.

    Args:
        features: what the teacher shows of images of ``factor`` times the student's size.
        info: the teacher's own.
        factor: at least 1.
    """

    def averaged(maps: Tensor, tap: Tap) -> Tensor:
        window = _coarser(tap, factor)
        if window == 1 or not maps.shape[1]:  # a backbone without a head has scores of no class
            return maps
        return F.avg_pool2d(maps, window, ceil_mode=True, count_include_pad=False)

    return Features(
        stages=tuple(averaged(maps, tap) for maps, tap in zip(features.stages, info.stages, strict=True)),
        embedding=averaged(features.embedding, info.embedding),
        logits=averaged(features.logits, info.logits),
    )


def _coarser(tap: Tap, factor: int) -> int:
    return factor // math.gcd(tap.stride, factor)
