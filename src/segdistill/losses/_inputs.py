"""What every loss asks of its tensors, checked once and told in one sentence.

Only shapes and types are checked: looking at values would make the host wait for the accelerator.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segdistill.errors import UserError


def pair(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None,
    *,
    same_channels: bool = False,
    weights_allowed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Check a pair; return both in float32 at least, the teacher detached, ignored positions set to 0.

    With ``weights_allowed`` the mask may hold a weight >= 0 for each position; those of weight 0 are ignored.
    Ignored positions are overwritten before any arithmetic, so that whatever stands there (a huge value, even
    a NaN) reaches neither the value nor a gradient.
    """
    student, teacher = checked(student, teacher, valid, same_channels=same_channels, weights_allowed=weights_allowed)
    if valid is None:
        return student, teacher
    inside = _inside(valid)
    # `masked_fill` would turn channels_last maps, and their gradients all the way back, into contiguous ones.
    return torch.where(inside, student, 0.0), torch.where(inside, teacher, 0.0)


def difference(student: Tensor, teacher: Tensor, valid: Tensor | None, *, weights_allowed: bool = False) -> Tensor:
    """Student minus teacher, checked as `pair` does with equal channels; 0 at ignored positions."""
    student, teacher = checked(student, teacher, valid, same_channels=True, weights_allowed=weights_allowed)
    return student - teacher if valid is None else torch.where(_inside(valid), student - teacher, 0.0)


def _inside(valid: Tensor) -> Tensor:
    """(B, 1, H, W): which positions have any weight."""
    return (valid if valid.dtype == torch.bool else valid > 0).unsqueeze(1)


def checked(
    student: Tensor,
    teacher: Tensor,
    valid: Tensor | None,
    *,
    same_channels: bool = False,
    weights_allowed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Check a pair; return both in float32 at least, the teacher detached. Ignored positions are left as they are."""
    check_features("student", student)
    check_features("teacher", teacher)
    batch, _, height, width = student.shape
    if same_channels and teacher.shape != student.shape:
        raise UserError(
            f"teacher has shape {tuple(teacher.shape)}, expected the student's shape {tuple(student.shape)}"
        )
    if teacher.shape[0] != batch or teacher.shape[2:] != student.shape[2:]:
        raise UserError(
            f"teacher has shape {tuple(teacher.shape)}, expected ({batch}, C, {height}, {width}) "
            f"for a student of shape {tuple(student.shape)}"
        )
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    if valid is not None:
        check_valid(valid, (batch, height, width), weights_allowed=weights_allowed)
    return student.to(dtype), teacher.detach().to(dtype)


def check_features(name: str, features: Tensor) -> None:
    """``features`` is a floating-point (B, C, H, W) tensor."""
    if features.dim() != 4:
        raise UserError(f"{name} has shape {tuple(features.shape)}, expected four dimensions (B, C, H, W)")
    if not features.is_floating_point():
        raise UserError(f"{name} has dtype {features.dtype}, expected a floating-point dtype")


def check_valid(valid: Tensor, shape: tuple[int, ...] | None = None, *, weights_allowed: bool = False) -> None:
    """``valid`` is a bool (B, H, W) tensor, of ``shape`` if given; or floating-point weights, where allowed."""
    if valid.dtype != torch.bool and not (weights_allowed and valid.is_floating_point()):
        weights = " or, for weights, a floating-point dtype" if weights_allowed else ""
        raise UserError(f"valid has dtype {valid.dtype}, expected torch.bool{weights}")
    if valid.dim() != 3 or (shape is not None and valid.shape != shape):
        raise UserError(f"valid has shape {tuple(valid.shape)}, expected {shape or '(B, H, W)'}")


def check_positive(name: str, value: float) -> None:
    """``value`` is above 0 (and not NaN)."""
    if not value > 0:
        raise UserError(f"{name} is {value}, expected a number above 0")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
