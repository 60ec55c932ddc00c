"""The value and the gradient of every loss: those of the plain formula, and of the valid positions alone."""

from __future__ import annotations

import pytest
import torch

from tests.losses.pairs import CASES, Case, every_loss, mask, value_and_gradient

# Of a single channel nothing but its sign is left once it is scaled to unit length: there is no slope to
# compare.
FLAT = {"affinity_mse-1-5", "relation_kl-1-5", "latent_distance-1-1-p=1-q=1", "feature_cosine-1-1"}


@every_loss
@pytest.mark.parametrize(("batch", "masked"), [(1, False), (3, False), (1, True), (3, True)])
def test_value_and_gradient_are_the_plain_formulas(case: Case, batch: int, masked: bool) -> None:
    student, teacher = case.inputs(batch)
    valid = mask(batch) if masked else None
    value, gradient = value_and_gradient(case, student, teacher, valid)
    expected, slope = value_and_gradient(case.plain, student.double(), teacher.double(), valid)
    assert value == pytest.approx(expected, rel=1e-5)
    if str(case) in FLAT:
        assert gradient.abs().max() < 1e-5
    else:
        assert (gradient - slope).norm() <= 1e-5 * slope.norm()


@every_loss
def test_a_single_valid_pixel(case: Case) -> None:
    student, teacher = case.inputs(1)
    valid = torch.zeros(1, 5, 7, dtype=torch.bool)
    valid[0, 3, 4] = True
    value, gradient = value_and_gradient(case, student, teacher, valid)
    assert value == pytest.approx(case.plain(student, teacher, valid).item(), rel=1e-5, abs=1e-12)
    assert gradient.isfinite().all()


@every_loss
def test_derivative_is_that_of_the_value(case: Case) -> None:
    student, teacher = (x.detach().double() for x in case.inputs(2, (2, 3), seed=1))
    valid = torch.tensor([[[1, 1, 0], [1, 0, 1]], [[0, 1, 1], [1, 1, 1]]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: 3 * case(x, teacher, valid), (student.requires_grad_(),))


@every_loss
def test_zero_when_equal(case: Case) -> None:
    student, _ = case.inputs()
    value, gradient = value_and_gradient(case, student, student.detach().clone(), mask())
    if case.zero_when_equal:
        assert abs(value) < 2e-7
        assert not case.smooth_at_zero or gradient.abs().max() < 1e-6


@every_loss
def test_only_the_student_gets_a_gradient(case: Case) -> None:
    student, teacher = case.inputs()
    teacher.requires_grad_()
    case(student, teacher, mask()).backward()
    assert student.grad is not None
    assert teacher.grad is None


@every_loss
def test_nothing_valid_is_zero(case: Case) -> None:
    student, teacher = case.inputs()
    value, gradient = value_and_gradient(case, student, teacher, torch.zeros(3, 5, 7, dtype=torch.bool))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
def test_an_image_without_a_valid_pixel_does_not_count(case: Case) -> None:
    student, teacher = case.inputs(2)
    valid = mask(2)
    valid[1] = False
    if case.across_batch:
        return
    alone = case(student[:1], teacher[:1], valid[:1])
    torch.testing.assert_close(case(student, teacher, valid), alone, rtol=1e-6, atol=0)


@every_loss
@pytest.mark.parametrize("rubbish", [1e30, float("inf"), float("nan")])
def test_what_stands_at_ignored_pixels_does_not_matter(case: Case, rubbish: float) -> None:
    student, teacher = case.inputs()
    valid = mask()
    value, gradient = value_and_gradient(case, student, teacher, valid)
    ignored = ~valid.unsqueeze(1)
    spoilt = student.detach().masked_fill(ignored, rubbish), teacher.masked_fill(ignored, -rubbish)
    value_spoilt, gradient_spoilt = value_and_gradient(case, *spoilt, valid)
    assert value_spoilt == value
    assert torch.equal(gradient_spoilt, gradient)
    assert (gradient.masked_select(ignored) == 0).all()


@every_loss
def test_mask_of_ones_is_no_mask(case: Case) -> None:
    student, teacher = case.inputs()
    ones = torch.ones(3, 5, 7, dtype=torch.bool)
    torch.testing.assert_close(case(student, teacher, ones), case(student, teacher), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("case", [case for case in CASES if case.repeated is not None], ids=str)
def test_value_does_not_move_with_the_size_of_the_map(case: Case) -> None:
    student, teacher = case.inputs()
    valid = mask()
    value = case(student, teacher, valid)
    larger = case(student.repeat(1, 1, 2, 2), teacher.repeat(1, 1, 2, 2), valid.repeat(1, 2, 2))
    torch.testing.assert_close(larger, case.repeated * value, rtol=1e-5, atol=0)


@pytest.mark.parametrize("case", [case for case in CASES if case.weights], ids=str)
def test_weights_of_positions_make_a_weighted_mean(case: Case) -> None:
    """A weight of 2 is a position twice; its scale means nothing; 0 ignores; equal weights are a mask."""
    student, teacher = case.inputs()
    valid = mask()
    torch.testing.assert_close(case(student, teacher, 0.3 * valid), case(student, teacher, valid))
    if (
        case.options.get("standardise") == "channel" or case.name == "class_center_mse"
    ):  # statistics take each position once
        return
    weights = valid + valid.logical_and(torch.arange(7) % 2 == 0).float()
    if case.labels:  # positions without a label do not count
        known = valid & (case._given(student)["labels"] < case.channels[0])
        number = torch.arange(known.numel()).view_as(known)
        single = [case(student, teacher, number == at) for at in number[known]]
        expected = (torch.stack(single) * weights[known]).sum() / weights[known].sum()
        torch.testing.assert_close(case(student, teacher, weights), expected, rtol=1e-5, atol=1e-7)
        return
    double = [torch.cat([maps, maps[..., ::2]], dim=3) for maps in (student, teacher)]
    expected = case(*double, torch.cat([valid, valid[..., ::2]], dim=2))
    torch.testing.assert_close(case(student, teacher, weights), expected, rtol=1e-5, atol=1e-7)
    assert case(student, teacher, torch.zeros(3, 5, 7)) == 0


def test_one_class_has_no_divergence() -> None:
    case = Case("pixel_kl", channels=(1, 1))
    value, gradient = value_and_gradient(case, *case.inputs(), mask())
    assert value == 0
    assert (gradient == 0).all()
