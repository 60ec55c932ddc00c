"""Small hand-made networks of any stride and width, for tests."""

from __future__ import annotations

import torch
from torch import nn

from segdistill import Network


class TinyModel(nn.Module):
    """Four stages of strides 4, 8, 16, 32, each bounded by ``stride``; a head; logits at ``stride``."""

    def __init__(self, width: int, stride: int, classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.layers = nn.ModuleList()
        channels, reached = width, 2
        for index in range(4):
            step = 2 if reached < stride or index == 0 else 1
            reached *= step
            self.layers.append(nn.Sequential(nn.Conv2d(channels, width * (index + 1), 3, step, 1), nn.ReLU()))
            channels = width * (index + 1)
        self.head = nn.Sequential(nn.Conv2d(channels, 2 * width, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.classifier = nn.Conv2d(2 * width, classes, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        for layer in self.layers:
            features = layer(features)
        return self.classifier(self.head(features))


def tiny_network(width: int = 4, stride: int = 8, classes: int = 5, in_channels: int = 3, seed: int = 0) -> Network:
    """A `Network` around a `TinyModel` with weights drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyModel(width, stride, classes, in_channels)
    return Network(
        model,
        stages=[f"layers.{index}" for index in range(4)],
        embedding="head",
        logits="classifier",
        in_channels=in_channels,
    )


def pair(**options: int) -> tuple[Network, Network]:
    """A teacher and a student of other widths; `options` are those of `tiny_network`."""
    return tiny_network(8, seed=1, **options), tiny_network(4, seed=2, **options)


def build_tiny(num_classes: int, in_channels: int) -> Network:
    """For ``python:tests.tiny:build_tiny``."""
    return tiny_network(classes=num_classes, in_channels=in_channels)
