from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.losses import boundary_map, boundary_mse

OPERATORS: list[Literal["pool", "laplacian", "sobel"]] = ["pool", "laplacian", "sobel"]


def pool_at(image: Tensor, row: int, column: int) -> float:
    window = image[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
    return float((image[row, column] - window.mean()) ** 2)


def filtered(image: Tensor, kernel: list[list[float]]) -> Tensor:
    padded = F.pad(image[None, None], (1, 1, 1, 1), mode="replicate")
    return F.conv2d(padded, torch.tensor(kernel, dtype=image.dtype)[None, None])[0, 0]


def test_pool_is_the_distance_from_the_average_of_the_neighbours() -> None:
    features = torch.randn(2, 3, 5, 7, dtype=torch.float64)
    expected = torch.tensor(
        [
            [[sum(pool_at(channel, y, x) for channel in image) / 3 for x in range(7)] for y in range(5)]
            for image in features
        ]
    )
    torch.testing.assert_close(boundary_map(features), expected.double())


def test_laplacian_and_sobel_are_their_kernels() -> None:
    image = torch.randn(5, 7, dtype=torch.float64)
    laplacian = filtered(image, [[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    across = filtered(image, [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    down = filtered(image, [[-1, -2, -1], [0, 0, 0], [1, 2, 1]])
    torch.testing.assert_close(boundary_map(image[None, None], "laplacian")[0], laplacian**2)
    torch.testing.assert_close(boundary_map(image[None, None], "sobel")[0], across**2 + down**2)


@pytest.mark.parametrize("operator", OPERATORS)
def test_flat_features_have_no_boundary_and_an_edge_has_one(operator) -> None:
    features = torch.full((1, 2, 6, 8), 3.0)
    assert (boundary_map(features, operator) == 0).all()
    features[..., 4:] = 5.0
    energy = boundary_map(features, operator)
    assert (energy[..., 3:5] > 0).all()
    assert (energy[..., :3] == 0).all()
    assert (energy[..., 5:] == 0).all()


@pytest.mark.parametrize("operator", OPERATORS)
def test_gradient_through_the_map(operator) -> None:
    features = torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: boundary_map(x, operator), (features,))
    half = features.detach().bfloat16().requires_grad_()
    assert boundary_map(half, operator).dtype == torch.float32


def test_flat_student_stays_finite() -> None:
    student = torch.ones(1, 2, 6, 6, requires_grad=True)
    teacher = boundary_map(torch.randn(1, 2, 6, 6)).unsqueeze(1)
    loss = boundary_mse(student=boundary_map(student).unsqueeze(1), teacher=teacher)
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_bad_arguments_are_told() -> None:
    with pytest.raises(UserError, match="unknown boundary operator 'sobbel': did you mean 'sobel'"):
        boundary_map(torch.zeros(1, 1, 3, 3), "sobbel")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"features has shape \(1, 3, 3\), expected four dimensions"):
        boundary_map(torch.zeros(1, 3, 3))
