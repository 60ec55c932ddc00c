"""One suite over every loss that compares a student's map with a teacher's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segdistill import losses
from segdistill.errors import UserError
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
# Of a single channel nothing but its sign is left once it is scaled to unit length: there is no slope to
# compare.
FLAT = {"affinity_mse-1-5", "relation_kl-1-5", "latent_distance-1-1-p=1-q=1", "feature_cosine-1-1"}


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


@every_loss
def test_shapes_that_do_not_fit_are_told(case: Case) -> None:
    student, teacher = case.inputs()
    wrong: list[tuple[Tensor, Tensor, Tensor | None, str]] = [
        (student[0], teacher, None, r"student has shape \(\d+, 5, 7\), expected four dimensions"),
        (student, teacher[0], None, r"teacher has shape \(\d+, 5, 7\), expected four dimensions"),
        (student, teacher[:2], None, r"teacher has shape \(2, \d+, 5, 7\), expected .*\(3, "),
        (student, teacher[..., :6], None, r"teacher has shape \(3, \d+, 5, 6\), expected .* 5, 7\)"),
        (student.long(), teacher, None, r"student has dtype torch.int64, expected a floating-point dtype"),
        (student, teacher, mask().long(), r"valid has dtype torch.int64, expected torch.bool"),
        (student, teacher, mask()[:, :4], r"valid has shape \(3, 4, 7\), expected \(3, 5, 7\)"),
        (student, teacher, mask()[0], r"valid has shape \(5, 7\), expected \(3, 5, 7\)"),
    ]
    if not case.weights:
        wrong.append((student, teacher, mask().float(), r"valid has dtype torch.float32, expected torch.bool"))
    for bad_student, bad_teacher, valid, message in wrong:
        with pytest.raises(UserError, match=message):
            case(bad_student, bad_teacher, valid)


@pytest.mark.parametrize(
    "name",
    [
        "pixel_kl",
        "channel_kl",
        "channel_relation_mse",
        "boundary_mse",
        "latent_distance",
        "feature_mse",
        "feature_cosine",
        "residual_attention_mse",
        "category_similarity_mse",
        "pyramid_mse",
    ],
)
def test_channels_must_agree(name: str) -> None:
    with pytest.raises(UserError, match=r"teacher has shape \(1, 4, 2, 2\), expected .*\(1, 3, 2, 2\)"):
        Case(name)(torch.rand(1, 3, 2, 2), torch.rand(1, 4, 2, 2))


@pytest.mark.parametrize("name", ["pixel_kl", "channel_kl", "relation_kl", "relation_mse", "category_similarity_mse"])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(name: str, temperature: float) -> None:
    with pytest.raises(UserError, match=r"temperature is .*, expected a number above 0"):
        Case(name, options={"temperature": temperature})(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2))


def test_one_class_has_no_divergence() -> None:
    case = Case("pixel_kl", channels=(1, 1))
    value, gradient = value_and_gradient(case, *case.inputs(), mask())
    assert value == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(("p", "q", "name"), [(0.5, 2, "p"), (1, 0, "q")])
def test_orders_below_one_are_no_norms(p: float, q: float, name: str) -> None:
    with pytest.raises(UserError, match=f"{name} is .*, expected a number of at least 1"):
        Case("latent_distance", options={"p": p, "q": q})(torch.rand(1, 3, 2, 2), torch.rand(1, 3, 2, 2))


def test_a_standardisation_must_be_known() -> None:
    with pytest.raises(UserError, match="standardise is 'image', expected 'channel', 'position' or None"):
        losses.feature_mse(student=torch.rand(1, 3, 2, 2), teacher=torch.rand(1, 3, 2, 2), standardise="image")


def test_residual_attention_needs_two_places() -> None:
    with pytest.raises(UserError, match=r"student has shape \(1, 1, 2, 2\), expected the maps of at least 2 places"):
        losses.residual_attention_mse(student=torch.rand(1, 1, 2, 2), teacher=torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(1, 2, 2), "labels has dtype torch.float32, expected an integer dtype"),
        (torch.zeros(1, 2, 3).long(), r"labels has shape \(1, 2, 3\), expected \(1, 2, 2\)"),
    ],
)
def test_labels_must_fit(labels: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        losses.class_center_mse(
            student=torch.rand(1, 3, 2, 2), teacher=torch.rand(1, 3, 2, 2), labels=labels, num_classes=2
        )


def test_a_boundary_map_has_one_channel() -> None:
    with pytest.raises(UserError, match=r"student has shape \(1, 3, 2, 2\), expected a boundary map"):
        losses.boundary_mse(student=torch.rand(1, 3, 2, 2), teacher=torch.rand(1, 3, 2, 2))
