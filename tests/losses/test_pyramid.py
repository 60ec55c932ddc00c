"""`pyramid_mse` with its own 1x1 convolution; without one it is among the pairs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import pyramid_mse


def inputs(*, channels_last: bool) -> tuple[list[Tensor], Tensor, Tensor]:
    """(student, weight and bias of the adapter), teacher, valid; an image has no valid position."""
    generator = torch.Generator().manual_seed(3)
    shapes = ((3, 4, 6, 9), (7, 4), (7,), (3, 7, 6, 9))
    *own, teacher = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    valid = torch.rand(3, 6, 9, generator=generator) > 0.3
    valid[1] = False
    if channels_last:
        own[0], teacher = (maps.contiguous(memory_format=torch.channels_last) for maps in (own[0], teacher))
    return [one.requires_grad_() for one in own], teacher, valid


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_adapter_within_is_one_before(masked: bool, channels_last: bool) -> None:
    own, teacher, valid = inputs(channels_last=channels_last)
    given = {"teacher": teacher, "valid": valid if masked else None}
    adapted = F.conv2d(own[0], own[1][:, :, None, None], own[2])
    expected = pyramid_mse(student=adapted, **given)
    value = pyramid_mse(student=own[0], adapter=(own[1], own[2]), **given)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    for slope, known in zip(*(torch.autograd.grad(5 * loss, own) for loss in (value, expected)), strict=True):
        torch.testing.assert_close(slope, known, rtol=1e-10, atol=1e-14)


def test_an_ignored_position_reaches_no_gradient_of_the_adapter() -> None:
    own, teacher, valid = inputs(channels_last=True)
    maps = torch.where(valid.unsqueeze(1), own[0], torch.nan).detach().requires_grad_()
    pyramid_mse(student=maps, teacher=teacher, valid=valid, adapter=(own[1], own[2])).backward()
    assert all(one.grad is not None and one.grad.isfinite().all() for one in (maps, own[1], own[2]))


def test_an_adapter_of_other_channels_is_refused() -> None:
    own, teacher, _ = inputs(channels_last=False)
    with pytest.raises(UserError, match=r"weight has shape \(7, 3\), expected \(7, 4\)"):
        pyramid_mse(student=own[0], teacher=teacher, adapter=(own[1][:, :3], own[2]))
