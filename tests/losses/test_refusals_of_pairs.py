"""What the losses refuse: shapes, dtypes and options that do not fit, each with both sides named."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segdistill import losses
from segdistill.errors import UserError
from tests.losses.pairs import Case, every_loss, mask


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
