"""A teacher cache of tiny networks and scenes, and what is compared of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console

from segdistill import Distiller, Network
from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import TrainingSamples
from segdistill.datasets import SyntheticAerial
from segdistill.methods import Method
from segdistill.training import loading
from segdistill.training.strategies import launch
from segdistill.training.teacher_cache import TeacherCache
from segdistill.training.teacher_outputs import teacher_output_names
from tests.tiny import tiny_network

QUIET = Console(quiet=True)
SEED = 3
#: Not square, so that a quarter turn for the wrong view would not even fit.
AUGMENTATION: dict[str, Any] = {
    "crop": (32, 40),
    "scale": (0.8, 1.3),
    "vertical_flip": True,
    "quarter_turns": True,
    "jitter": 0.4,
}


class Filling:
    """All that goes into a cache of tiny networks and scenes."""

    def __init__(
        self,
        folder: Path,
        methods: Sequence[Method],
        *,
        images: int = 3,
        views: int = 2,
        precision: str = "fp32",
        factor: float = 1.0,
    ) -> None:
        self.images, self.views = images, views
        self.scenes = SyntheticAerial("train", images, (48, 64))
        self.augmentation = Augmentation(**AUGMENTATION)
        self.teacher = tiny_network(width=8, stride=8, classes=6)
        with torch.no_grad():
            for parameter in self.teacher.model.parameters():
                parameter.mul_(2.5)  # else a network without training says nearly the same of every image
            for parameter in self.teacher.model.classifier.parameters():
                parameter.mul_(factor)
        self.distiller = Distiller(self.teacher, tiny_network(width=4, stride=16, classes=6), methods)
        self.fabric: Fabric = launch("cpu", precision)
        self.cache = TeacherCache(folder, {"precision": precision}, images, views)
        self.names = teacher_output_names(self.distiller)

    def fill(self, *, batch_size: int = 2, console: Console = QUIET, progress: bool = False) -> TeacherCache:
        self.cache.want(self.names)
        self.cache.fill(
            self.distiller,
            TrainingSamples(self.scenes, self.augmentation, SEED, self.views),
            batch_size=batch_size,
            workers=0,
            fabric=self.fabric,
            console=console,
            progress=progress,
        )
        assert self.cache.want(self.names) == []
        return self.cache

    def shown(self, view: int, image: int) -> torch.Tensor:
        """The very pixels that training will show."""
        return self.augmentation(*self.scenes[image], key=(SEED, view, image))[0][None]

    def live(self, view: int, image: int) -> dict[str, torch.Tensor]:
        with self.fabric.autocast():
            teacher_outputs = self.distiller.teacher_outputs(self.shown(view, image))
        return {name: value[0] for name, value in teacher_outputs.items()}

    def all_keys(self) -> list[tuple[int, int]]:
        return [(view, image) for view in range(self.views) for image in range(self.images)]


def agree(kept: torch.Tensor, live: torch.Tensor, bits: int) -> bool:
    """Within half a unit in the last of ``bits`` binary places, and what the order of sums may change in float32."""
    largest = float(live.float().abs().max())
    within = live.float().abs() * 2.0**-bits + 1e-5 * largest + 2.0**-25
    return kept.shape == live.shape and bool(((kept.float() - live.float()).abs() <= within).all())


def numbers_in(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every record of a cache of float16 as numbers."""
    return {path.name: np.fromfile(path, np.float16) for path in sorted(folder.glob("*.bin"))}


def same_records(ours: Path, theirs: Path) -> bool:
    one, two = numbers_in(ours), numbers_in(theirs)
    return one.keys() == two.keys() and all(np.allclose(one[name], two[name], rtol=2e-3, atol=1e-5) for name in one)


def count_done(folder: Path) -> int:
    return sum(path.read_bytes().count(1) for path in folder.glob("*.done"))


def all_but_the_teacher(monkeypatch: pytest.MonkeyPatch, teacher: Path) -> None:
    """From now on nobody may load the teacher."""
    load = loading.load_trained

    def refusing(spec: str, *arguments: Any, **options: Any) -> Network:
        assert spec != str(teacher), "the teacher was loaded"
        return load(spec, *arguments, **options)

    monkeypatch.setattr(loading, "load_trained", refusing)
