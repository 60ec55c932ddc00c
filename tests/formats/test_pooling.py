"""Adaptive pooling as matrix products, and networks that pool so in exported files of any size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import segdistill
from segdistill import Network
from segdistill.exporting.export import export
from segdistill.formats.pooling import MatrixPooling, with_matrix_pooling


@pytest.mark.parametrize("cells", [(1, 1), (2, 3), (6, 6), (6, None), (9, 20)])
@pytest.mark.parametrize("size", [(6, 6), (7, 13), (24, 33), (3, 5)])
def test_it_is_adaptive_average_pooling(cells: tuple[int, int | None], size: tuple[int, int]) -> None:
    """Also where cells overlap, since nothing divides, and where there are more cells than pixels."""
    features = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = nn.AdaptiveAvgPool2d(cells)(features)
    torch.testing.assert_close(MatrixPooling(cells)(features), expected, rtol=1e-12, atol=1e-12)


def test_only_what_needs_it_is_replaced_and_in_a_copy() -> None:
    plain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1))
    assert with_matrix_pooling(plain) is plain
    pyramid = nn.Sequential(nn.AdaptiveAvgPool2d((2, 2)), nn.AdaptiveAvgPool2d(1))
    copied = with_matrix_pooling(pyramid)
    assert isinstance(copied[0], MatrixPooling)
    assert isinstance(copied[1], nn.AdaptiveAvgPool2d)
    assert isinstance(pyramid[0], nn.AdaptiveAvgPool2d)


class Pyramid(nn.Module):
    """Pools to 3 x 3 cells and back, but by another way while ONNX is written, as smp's pyramid pooling does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 4, 4)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Conv2d(8, 8, 1))
        self.classifier = nn.Conv2d(16, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.body(images)
        if torch.onnx.is_in_onnx_export():
            pooled = self.pool[1](F.interpolate(seen, size=(3, 3), mode="area"))
        else:
            pooled = self.pool(seen)
        wide = F.interpolate(pooled, size=seen.shape[-2:], mode="bilinear", align_corners=True)
        scores: Tensor = self.classifier(torch.cat([seen, wide], 1))
        return scores


def build_pyramid(num_classes: int, in_channels: int) -> Network:
    return Network(Pyramid(), stages=["body"], embedding="body", logits="classifier", multiple=4)


@pytest.mark.parametrize("format", [pytest.param("onnx", marks=pytest.mark.slow), "torch-export"])
def test_a_pooling_pyramid_is_exported_for_any_size(format: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    segdistill.load_network("python:tests.formats.test_pooling:build_pyramid", num_classes=4).save(tmp_path / "net")
    found = export(run=tmp_path / "net", format=format, quiet=True)
    assert len(found.agreement.sizes) > 1
    assert found.agreement.is_close


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec", ["smp:PSPNet:resnet18", "smp:PSPNet:resnet18?encoder_depth=5&output_stride=8", "smp:UPerNet:resnet18"]
)
def test_the_papers_networks_are_exported_for_any_size(spec: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = segdistill.load_network(spec, num_classes=5)
    with torch.no_grad():
        network(torch.rand(4, 3, 96, 96))
    network.save(tmp_path / "net")
    found = export(run=tmp_path / "net", format="onnx", quiet=True)
    assert len(found.agreement.sizes) > 1
    assert found.agreement.is_close
