"""Every loss with extreme values, half precision, other memory layouts, and without values at all."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.losses.pairs import Case, every_loss, mask, value_and_gradient


@every_loss
@pytest.mark.parametrize("extreme", ["peaked", "constant", "zero", "far from zero"])
def test_extreme_maps_stay_finite(case: Case, extreme: str) -> None:
    student, teacher = (x.detach() for x in case.inputs())
    change: Callable[[Tensor], Tensor] = {
        "peaked": lambda maps: 1e4 * maps,
        "constant": lambda maps: torch.full_like(maps, 3.1),
        "far from zero": lambda maps: maps + 1e6,
    }.get(extreme, torch.zeros_like)
    for one, other in ((change(student), change(teacher)), (change(student), teacher), (student, change(teacher))):
        value, gradient = value_and_gradient(case, one, other, mask())
        assert math.isfinite(value)
        assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(case: Case, half: torch.dtype) -> None:
    student, teacher = (x.detach().to(half) for x in case.inputs())
    expected, slope = value_and_gradient(case, student.float(), teacher.float(), mask())
    student.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = case(student, teacher, mask())
    value.backward()
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert student.grad is not None
    torch.testing.assert_close(student.grad.double(), slope.to(half).double(), rtol=0.01, atol=1e-6)


@every_loss
def test_memory_layout_does_not_matter(case: Case) -> None:
    student, teacher = case.inputs()
    value, gradient = value_and_gradient(case, student, teacher, mask())
    for relaid in (
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.detach().transpose(2, 3).contiguous().transpose(2, 3),
    ):
        other, slope = value_and_gradient(case, relaid(student), relaid(teacher), relaid(mask()[None])[0])
        assert other == pytest.approx(value, rel=2e-6)
        torch.testing.assert_close(slope, gradient, rtol=1e-4, atol=1e-7)


@every_loss
def test_a_dead_pixel_is_harmless(case: Case) -> None:
    student, teacher = case.inputs()
    with torch.no_grad():
        student[0, :, 2, 3] = 0
        student[2] = 0
    value, gradient = value_and_gradient(case, student, teacher, None)
    assert math.isfinite(value)
    assert gradient.abs().max() < 10


@every_loss
def test_the_host_never_waits_for_a_value(case: Case) -> None:
    # Fake tensors have shapes and no values: whoever reads one, or sizes a result by a mask, fails.
    with FakeTensorMode(allow_non_fake_inputs=True):
        student = torch.randn(3, case.channels[0], 5, 7, requires_grad=True)
        teacher = torch.randn(3, case.channels[1], 5, 7)
        case(student, teacher, torch.ones(3, 5, 7, dtype=torch.bool)).backward()
        assert student.grad is not None
