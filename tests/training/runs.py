"""Small networks, scenes and runs that train in a fraction of a second."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

import segdistill
from segdistill import Network, RunFolder, TrainConfig
from tests.tiny import TinyModel

STUDENT = "python:tests.training.runs:build_student"
TEACHER = "python:tests.training.runs:build_teacher"
SCENES: dict[str, Any] = {
    "dataset": "synthetic-aerial",
    "size": [32, 32],
    "count": 5,
    "crop": [32, 32],
    "scale": [0.8, 1.2],
}
FAST = TrainConfig(epochs=3, batch_size=2, lr=3e-3, precision="fp32", workers=0)


def build_student(num_classes: int, in_channels: int) -> Network:
    """Weights from the global random state; dropout before the classifier."""
    model = TinyModel(4, 8, num_classes, in_channels)
    model.classifier = nn.Sequential(nn.Dropout(0.5), model.classifier)
    return _wrapped(model, in_channels)


def build_teacher(num_classes: int, in_channels: int) -> Network:
    return _wrapped(TinyModel(8, 8, num_classes, in_channels), in_channels)


def build_unnormalised(num_classes: int, in_channels: int) -> Network:
    """No batch statistics and no chance: a batch means the same however many processes share it."""
    model = TinyModel(4, 8, num_classes, in_channels)
    model.stem[1], model.head[1] = nn.GroupNorm(1, 4), nn.GroupNorm(1, 8)
    return _wrapped(model, in_channels)


def _wrapped(model: TinyModel, in_channels: int) -> Network:
    stages = [f"layers.{index}" for index in range(4)]
    return Network(model, stages=stages, embedding="head", logits="classifier", in_channels=in_channels)


def train_tiny(output: Path, network: str = STUDENT, seed: int = 0, **options: Any) -> RunFolder:
    """A run of `FAST`, or with other values of the recipe's ``train``."""
    own = {key: options.pop(key) for key in list(options) if key in TrainConfig.__dataclass_fields__}
    data = options.pop("data", SCENES)
    return segdistill.train(
        data=data,
        network=network,
        output=output,
        train=replace(FAST, **own),
        seed=seed,
        device="cpu",
        quiet=True,
        **options,
    )


def distill_tiny(output: Path, teacher: Path, seed: int = 0, **options: Any) -> RunFolder:
    own = {key: options.pop(key) for key in list(options) if key in TrainConfig.__dataclass_fields__}
    data = options.pop("data", SCENES)
    return segdistill.distill(
        data=data,
        teacher=teacher,
        student=STUDENT,
        output=output,
        train=replace(FAST, **own),
        seed=seed,
        device="cpu",
        quiet=True,
        **options,
    )


def fingerprint(run: RunFolder | Path) -> str:
    """Hash of the weights that a run saved."""
    folder = run.path if isinstance(run, RunFolder) else run
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, byte by byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
