"""Synthetic aerial scenes: a data set without files, for demos, tests and first experiments."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from segdistill.datasets.base import SegmentationDataset
from segdistill.datasets.synthetic.scene import draw_scene
from segdistill.errors import UserError, unknown_name


class _Scenes(dict[int, tuple[Tensor, Tensor]]):
    """Scenes that were drawn, by number: a dict that can be referred to weakly."""


#: What data sets of this process have drawn, by size, seed and split, for as long as one of them is there.
_DRAWN: WeakValueDictionary[tuple[int, int, int, str], _Scenes] = WeakValueDictionary()

_COUNTS = {"train": 400, "val": 80, "test": 80}


class SyntheticAerial(SegmentationDataset):
    """Drawn aerial scenes with the six ISPRS classes, the same for the same seed.

    Roads and thin paths that cross, cars in shadow and half on the kerb, crowns and their shadows over roofs
    and roads, roofs of the colour of asphalt; light, haze, blur and noise change from scene to scene. Each
    scene is a function of (seed, split, index) alone, so that no split shares a scene with another and a
    smaller ``count`` is the beginning of a larger one. A scene is drawn when first asked for and then kept,
    as long as any data set of the same size, seed and split exists in this process.

    Args:
        split: "train", "val" or "test".
        count: number of scenes; 400, 80 and 80 if not given.
        size: (height, width) in pixels, at least 32 each.
        seed: of all chance.

    Raises:
        UserError: unknown split, count below 1, or a size that is too small.

    Example:
        >>> scenes = SyntheticAerial("val", count=2, size=(64, 96))
        >>> image, labels = scenes[0]
        >>> image.shape, image.dtype, labels.shape, labels.dtype
        (torch.Size([3, 64, 96]), torch.uint8, torch.Size([64, 96]), torch.int64)
    """

    CLASSES = ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
    PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))

    def __init__(
        self, split: str = "train", count: int | None = None, size: Sequence[int] = (128, 128), seed: int = 0
    ) -> None:
        if split not in _COUNTS:
            raise unknown_name("split of synthetic-aerial", split, _COUNTS)
        count = _COUNTS[split] if count is None else count
        if count < 1:
            raise UserError(f"count is {count}, so the split is empty; expected at least 1 scene")
        if len(size) != 2 or min(size) < 32:
            raise UserError(f"size is {size!r}; expected [height, width], at least 32 pixels each")
        if seed < 0:
            raise UserError(f"seed is {seed}; expected 0 or more")
        super().__init__(
            classes=self.CLASSES, palette=self.PALETTE, ids=[f"{split}-{index:05d}" for index in range(count)]
        )
        self.size = (size[0], size[1])
        self._entropy = (seed, list(_COUNTS).index(split))
        self._scenes = _DRAWN.setdefault((*self.size, seed, split), _Scenes())

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number = range(len(self))[index]
        scene = self._scenes.get(number)
        if scene is None:
            image, labels = draw_scene(np.random.default_rng([*self._entropy, number]), *self.size)
            scene = (torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(labels))
            self._scenes[number] = scene
        return scene[0].clone(), scene[1].long()
