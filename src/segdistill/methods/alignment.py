"""Bring the features of two different networks to the same positions and number of stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses import attention_map
from segdistill.networks.features import Features, NetworkInfo, Tap

#: Relations and adapters work at this stride where a map is finer: with a stride-4 decoder the method would otherwise
#: cost more than the student, and an affinity over 16 times the positions says little more.
FINEST_STRIDE = 8


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B, C, H, W) maps to ``size``; the same tensor where the size is already right."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def bounded_stride(stride: int) -> int:
    """Stride of a map after `bounded`."""
    return stride * _pooling(stride)


def bounded(maps: Tensor, stride: int, finest: int = FINEST_STRIDE) -> Tensor:
    """Average-pools (B, C, H, W) maps of a ``stride`` below ``finest`` to about that stride."""
    return averaged(maps, _pooling(stride, finest))


def averaged(maps: Tensor, window: int) -> Tensor:
    """Means of (B, C, H, W) maps over windows side by side; of what there is of a window over the border."""
    if window == 1:
        return maps
    maps = maps.contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(maps, window, ceil_mode=True, count_include_pad=False)


def _pooling(stride: int, finest: int = FINEST_STRIDE) -> int:
    return max(1, finest // stride)


def stage_stride(index: int) -> int:
    """The finest stride at which the stage of this number, from 0, is compared: 8, 8, 16, 32.

    It is that of a backbone without dilation. A dilated one shows its widest stages at stride 8; comparing 16 times as
    many positions there would cost more than a third of a small student's step.
    """
    return max(FINEST_STRIDE, 4 << index)


def peak_of_one(maps: Tensor) -> Tensor:
    """Maps >= 0, (B, 1, H, W), divided by the largest value of each image: for losses to which their scale is nothing.

    What is small as a whole could not be held in half precision by a teacher cache.
    """
    return maps / maps.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def attention_outputs(
    teacher: Features, stages: Iterable[int], *, embedding: bool, logits: bool = False
) -> dict[str, Tensor]:
    """The teacher's attention maps (B, 1, H, W), named ``attention.stages.0``, ``attention.embedding``, ..."""
    chosen = {f"stages.{stage}": teacher.stages[stage] for stage in sorted(stages)}
    chosen |= {"embedding": teacher.embedding} if embedding else {}
    chosen |= {"logits": teacher.logits} if logits else {}
    return {f"attention.{name}": peak_of_one(attention_map(maps)[:, None]) for name, maps in chosen.items()}


def size_of(maps: Tensor) -> tuple[int, int]:
    """Height and width of (B, C, H, W) maps."""
    return maps.shape[-2], maps.shape[-1]


def match_stages(student: tuple[Tap, ...], teacher: tuple[Tap, ...]) -> list[tuple[int, int]]:
    """Pairs each stage of the student with one of the teacher.

    Networks of equally many stages are paired in order, since stages mean the same then even where one is dilated.
    Otherwise each student stage goes with the teacher stage of the nearest stride, the later one of equals.

    Example:
        >>> taps = lambda *strides: tuple(Tap(f"s{s}", 8, s) for s in strides)
        >>> match_stages(taps(4, 8, 16, 32), taps(4, 8, 8, 8))
        [(0, 0), (1, 1), (2, 2), (3, 3)]
        >>> match_stages(taps(4, 8), taps(4, 8, 16, 32))
        [(0, 0), (1, 1)]
    """
    if len(student) == len(teacher):
        return [(index, index) for index in range(len(student))]
    return [
        (index, min(range(len(teacher)), key=lambda j: (abs(teacher[j].stride - tap.stride), -j)))
        for index, tap in enumerate(student)
    ]


class Places:
    """Where two networks are compared: at the embedding, at every backbone stage, or at both.

    Maps finer than `FINEST_STRIDE` are average-pooled to it; the teacher's are then resized to the student's size.

    Args:
        student: the student's taps.
        teacher: the teacher's taps.
        embedding: compare the embeddings.
        stages: compare the stages, paired by `match_stages`; or ``"last"`` for the last one of each.
        undilated: pool the stages of dilated backbones to `stage_stride`.

    Attributes:
        taps: (student's, teacher's) tap of each place; the embedding is the first.
    """

    def __init__(
        self,
        student: NetworkInfo,
        teacher: NetworkInfo,
        *,
        embedding: bool = True,
        stages: bool | Literal["last"] = False,
        undilated: bool = False,
    ) -> None:
        self.embedding = embedding
        self.undilated = undilated
        self.taps: list[tuple[Tap, Tap]] = [(student.embedding, teacher.embedding)] if embedding else []
        self._pairs = match_stages(student.stages, teacher.stages) if stages else []
        if stages == "last":
            self._pairs = [(len(student.stages) - 1, len(teacher.stages) - 1)]
        self.taps += [(student.stages[i], teacher.stages[j]) for i, j in self._pairs]

    def teacher_outputs(self, teacher: Features) -> dict[str, Tensor]:
        """The teacher's pooled maps, by name: all that `pairs` needs of the teacher."""
        outputs: dict[str, Tensor] = {}
        if self.embedding:
            outputs["embedding.pooled"] = bounded(teacher.embedding, self.taps[0][1].stride)
        for (_, stage), (_, tap) in zip(self._pairs, self._stage_taps(), strict=True):
            if self._name(stage) not in outputs:
                outputs[self._name(stage)] = bounded(teacher.stages[stage], tap.stride, self._finest(stage))
        return outputs

    def pairs(self, student: Features, teacher: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """(student's, teacher's) map of each place, both of the same height and width."""
        found = [(student.embedding, teacher["embedding.pooled"])] if self.embedding else []
        found += [(student.stages[i], teacher[self._name(j)]) for i, j in self._pairs]
        finest = [FINEST_STRIDE] * self.embedding + [self._finest(stage) for stage, _ in self._pairs]
        pooled = [bounded(x, tap.stride, most) for (x, _), (tap, _), most in zip(found, self.taps, finest, strict=True)]
        return [(x, resize(t, size_of(x))) for x, (_, t) in zip(pooled, found, strict=True)]

    def _finest(self, stage: int) -> int:
        return stage_stride(stage) if self.undilated else FINEST_STRIDE

    def _name(self, stage: int) -> str:
        return f"stages.{stage}.{'undilated' if self.undilated else 'pooled'}"

    def _stage_taps(self) -> list[tuple[Tap, Tap]]:
        return self.taps[1:] if self.embedding else self.taps
