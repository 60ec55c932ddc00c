"""Average pooling to a fixed grid, as products of matrices: what exporters can write down for images of any size."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MatrixPooling(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products, equal to it but for rounding.

    Adaptive pooling has no counterpart in ONNX where the size is open: which pixels a cell averages depends on it. As a
    matrix with a row for each cell and a column for each pixel it is arithmetic on the size alone.

    Args:
        cells: rows and columns of the result; None keeps that axis as it is.

    Example:
        >>> images = torch.rand(1, 2, 7, 10)
        >>> torch.allclose(MatrixPooling((3, 6))(images), nn.AdaptiveAvgPool2d((3, 6))(images))
        True
    """

    def __init__(self, cells: tuple[int | None, int | None]) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        """Pool (B, C, H, W) to (B, C, *cells)."""
        rows, columns = self.cells
        if rows is not None:
            features = torch.matmul(_averages(rows, features.shape[-2], features), features)
        if columns is not None:
            features = torch.matmul(features, _averages(columns, features.shape[-1], features).transpose(0, 1))
        return features


def with_matrix_pooling(network: nn.Module) -> nn.Module:
    """A copy of ``network`` whose adaptive average poolings are `MatrixPooling`; itself where it has none.

    Pooling to a single cell is a plain mean, which every format has.
    """
    found = {
        name: cells
        for name, module in network.named_modules()
        if isinstance(module, nn.AdaptiveAvgPool2d) and (cells := _cells(module)) != (1, 1)
    }
    if not found:
        return network
    copied = copy.deepcopy(network)
    for name, cells in found.items():
        copied.set_submodule(name, MatrixPooling(cells))
    return copied


def _cells(module: nn.AdaptiveAvgPool2d) -> tuple[int | None, int | None]:
    size = module.output_size
    return (size, size) if size is None or isinstance(size, int) else (size[0], size[1])


def _averages(cells: int, length: int, like: Tensor) -> Tensor:
    """(cells, length): row i holds the weights of the pixels that cell i averages, as PyTorch chooses them."""
    cell = torch.arange(cells, device=like.device)[:, None]
    pixel = torch.arange(length, device=like.device)[None]
    first = torch.div(cell * length, cells, rounding_mode="floor")
    last = torch.div((cell + 1) * length + cells - 1, cells, rounding_mode="floor")
    inside = ((pixel >= first) & (pixel < last)).to(like.dtype)
    return inside / (last - first).to(like.dtype)


@contextmanager
def traced_as_it_runs(module: nn.Module) -> Iterator[None]:
    """Inside, a network with `MatrixPooling` does not change its course because it is exported.

    smp's pyramid pooling leaves its own layers out and pools by another function while ONNX is written, which ONNX
    cannot express for images of any size either.
    """
    if not any(isinstance(part, MatrixPooling) for part in module.modules()):
        yield
        return
    asked = torch.onnx.is_in_onnx_export
    torch.onnx.is_in_onnx_export = lambda: False
    try:
        yield
    finally:
        torch.onnx.is_in_onnx_export = asked
