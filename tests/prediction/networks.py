"""Tiny networks in folders, as `export` takes them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from segdistill import Network, load_network
from tests.tiny import TinyModel

CLASSES = 5
BUILDER = "python:tests.prediction.networks:"
"""What the name of any of these networks begins with."""


def build_any(num_classes: int, in_channels: int) -> Network:
    """Takes images of any size."""
    return _wrapped(TinyModel(4, 8, num_classes, in_channels), in_channels, multiple=1)


def build_padded(num_classes: int, in_channels: int) -> Network:
    """Takes only sizes that 16 divides."""
    model = TinyModel(4, 16, num_classes, in_channels)
    model.forward = _Strict(model).forward
    return _wrapped(model, in_channels, multiple=16)


def _wrapped(model: TinyModel, in_channels: int, multiple: int) -> Network:
    return Network(
        model,
        stages=[f"layers.{index}" for index in range(4)],
        embedding="head",
        logits="classifier",
        in_channels=in_channels,
        multiple=multiple,
        mean=[0.1 * (1 + band) for band in range(in_channels)],
        std=[0.2 + 0.1 * band for band in range(in_channels)],
    )


class _Strict:
    def __init__(self, model: TinyModel) -> None:
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[-2] % 16 == images.shape[-1] % 16 == 0
        return TinyModel.forward(self.model, images)


class _Global(TinyModel):
    """Normalises by all that it is shown: grey beside an image changes its labels everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        for layer in self.layers:
            features = nn.functional.layer_norm(layer(features), layer(features).shape[-3:])
        return self.classifier(self.head(features))


def build_global(num_classes: int, in_channels: int) -> Network:
    return _wrapped(_Global(8, 8, num_classes, in_channels), in_channels, multiple=8)


class OneSize(nn.Module):
    """Learnt positions, as of a transformer: one size alone."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 4, stride=4)
        self.positions = nn.Parameter(torch.randn(1, 8, 8, 8))
        self.classifier = nn.Conv2d(8, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.stem(images) + self.positions)


def build_one_size(num_classes: int, in_channels: int) -> Network:
    model = OneSize(num_classes, in_channels)
    return Network(
        model, stages=["stem"], embedding="stem", logits="classifier", in_channels=in_channels, probe_size=32
    )


def saved(folder: Path, builder: str, in_channels: int = 3, classes: int = CLASSES) -> Path:
    """A folder with a network of some classes, weights from a fixed seed, that sees every class in noise."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = load_network(builder, classes, in_channels)
        noise = torch.rand(4, in_channels, 32, 32)
        network(noise)  # batch norm gets statistics other than 0 and 1
        classifier = network.model.get_submodule(network.info.logits.name)
        scores = network.eval().features(noise).logits.transpose(0, 1).flatten(1)
        classifier.weight /= scores.std(1)[:, None, None, None]
        classifier.bias.copy_((classifier.bias - scores.mean(1)) / scores.std(1))
    network.save(folder)
    return folder
