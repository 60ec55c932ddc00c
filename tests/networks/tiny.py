"""A network of a few layers, wrapped by hand: quick to build, with everything a tap can name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from segdistill.networks.network import Network


class TinyModel(nn.Module):
    """Two stages of stride 4 and 8, whose backbone returns a dict of lists, and a classifier."""

    def __init__(self, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(channels, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.stage2 = nn.Conv2d(8, 16, 2, stride=2)
        self.backbone = Backbone()
        self.dropout = nn.Dropout2d(0.5)
        self.classifier = nn.Conv2d(16, classes, 1)
        self.unused = nn.Conv2d(3, 3, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        fine = self.stage1(images)
        features = self.backbone(fine=fine, coarse=self.stage2(fine))
        return {"out": self.classifier(self.dropout(features["maps"][1]))}


class Backbone(nn.Module):
    """Hands its inputs on as a dict that holds a list."""

    def forward(self, fine: Tensor, coarse: Tensor) -> dict[str, Any]:
        return {"maps": [fine, coarse], "tokens": torch.zeros(1, 4, 8), "note": "text"}


def tiny_network(classes: int = 5, channels: int = 3, **options: Any) -> Network:
    """A `TinyModel` wrapped by hand."""
    taps: dict[str, Any] = {"stages": ["stage1", "stage2"], "embedding": "stage2", "logits": "classifier"}
    return Network(TinyModel(classes, channels), **{**taps, "in_channels": channels, **options})


def make_tiny(num_classes: int, in_channels: int, **options: Any) -> Network:
    """What a spec python:module:function calls."""
    return tiny_network(num_classes, in_channels, **options)
