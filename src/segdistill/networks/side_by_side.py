"""`SideBySide`: several networks as one, which shows the features of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.features import Features, NetworkInfo, Tap
from segdistill.networks.network import Network
from segdistill.networks.wrapper import Wrapper


class SideBySide(Wrapper):
    """Several networks of the same channels, whose features stand side by side: a teacher of features alone.

    Stages are joined channel after channel, resized bilinearly to the finest of them: in their order where all networks
    have equally many, else each stage of the first network with the stage of every other one whose stride is nearest.
    So are the embeddings. Class scores are not shown.

    Args:
        networks: two or more, each with features.

    Raises:
        UserError: fewer networks, other channels among them, or one that shows no features.

    Example:
        >>> import segdistill
        >>> specs = "smp:FPN:resnet18", "smp:Unet:resnet34"
        >>> both = SideBySide([segdistill.load_network(spec, num_classes=4) for spec in specs])
        >>> [(stage.channels, stage.stride) for stage in both.info.stages]
        [(128, 4), (256, 8), (512, 16), (1024, 32)]
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        if len(networks) < 2:
            raise UserError(f"{len(networks)} networks are given to stand side by side, expected 2 or more")
        first = networks[0]
        for number, network in enumerate(networks, 1):
            if network.info.in_channels != first.info.in_channels:
                raise UserError(
                    f"teacher {number} takes {network.info.in_channels} channels, but the first one "
                    f"{first.info.in_channels}; choose what each sees by teacher_bands, or SelectedBands in Python"
                )
            if not network.info.embedding.channels:
                raise UserError(f"teacher {number} shows no features, only class scores; leave it out")
        stride = math.lcm(*(network.description.stride for network in networks))
        described = replace(first.description, spec=None, mean=None, std=None, stride=stride, classes=(), palette=())
        levels = _levels([network.info.stages for network in networks])
        super().__init__(networks, _info(networks, levels), described)
        self._stages_of_levels = levels

    def scores(self, logits: Sequence[Tensor]) -> Tensor:
        """None: no class, at the size of the first network's."""
        return logits[0][:, :0]

    def shown(self, features: Sequence[Features]) -> Features:
        """The features of all networks, side by side."""
        stages = [
            [one.stages[index] for one, index in zip(features, level, strict=True)] for level in self._stages_of_levels
        ]
        embedding = _joined([one.embedding for one in features])
        return Features(stages=tuple(map(_joined, stages)), embedding=embedding, logits=embedding[:, :0])


def _info(networks: Sequence[Network], levels: Sequence[Sequence[int]]) -> NetworkInfo:
    infos = [network.info for network in networks]
    sizes = sorted({info.size for info in infos if info.size is not None})
    if len(sizes) > 1:
        told = " and ".join(f"{height} x {width}" for height, width in sizes)
        raise UserError(f"the teachers take only images of {told} pixels: no image fits all of them")
    embedding = _joined_tap([info.embedding for info in infos])
    stages = [[info.stages[index] for info, index in zip(infos, level, strict=True)] for level in levels]
    return NetworkInfo(
        stages=tuple(map(_joined_tap, stages)),
        embedding=embedding,
        logits=Tap(name="", channels=0, stride=embedding.stride),
        num_classes=0,
        in_channels=infos[0].in_channels,
        size=sizes[0] if sizes else None,
    )


def _levels(stages: Sequence[Sequence[Tap]]) -> list[list[int]]:
    """For each stage of the first network, which stage of every network stands there; none where one has no stages."""
    if not all(stages):
        return []
    if len({len(own) for own in stages}) == 1:
        return [[level] * len(stages) for level in range(len(stages[0]))]
    return [[_nearest(own, tap.stride) for own in stages] for tap in stages[0]]


def _nearest(stages: Sequence[Tap], stride: int) -> int:
    return min(range(len(stages)), key=lambda index: (abs(stages[index].stride - stride), -index))


def _joined_tap(taps: Sequence[Tap]) -> Tap:
    finest = min(tap.stride for tap in taps)
    return Tap("+".join(tap.name for tap in taps), sum(tap.channels for tap in taps), finest)


def _joined(maps: Sequence[Tensor]) -> Tensor:
    size = max(one.shape[-2] for one in maps), max(one.shape[-1] for one in maps)
    return torch.cat(
        [
            one if one.shape[-2:] == size else F.interpolate(one, size=size, mode="bilinear", align_corners=False)
            for one in maps
        ],
        dim=1,
    )
