"""Every method of `SETTINGS` made ready to be tried: in a `Distiller`, or alone on features."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import Distiller, Features, Network, Tap
from segdistill.methods import Method
from tests.methods.settings import SETTINGS, Setting
from tests.tiny import tiny_network

every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


@functools.cache
def _network(**options: int) -> Network:
    return tiny_network(**options)


def network(**options: int) -> Network:
    """A `tiny_network` of one's own; looking for its taps takes longer than a step, and is done once."""
    return copy.deepcopy(_network(**options))


def batch(size: tuple[int, int] = (64, 64), images: int = 2, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(images, 3, *size, generator=generator)
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    return pixels, labels


def distiller_of(setting: Setting, strides: tuple[int, int] = (8, 8), width: int = 4, **options: Any) -> Distiller:
    torch.manual_seed(0)
    student, teacher = strides
    made = Distiller(
        network(width=8, stride=teacher, seed=1),
        network(width=width, stride=student, seed=2),
        setting.make(),
        **options,
    )
    made.prepare([batch()[0]])
    return made


def method_terms(out: Any) -> dict[str, Tensor]:
    return {name: term for name, term in out.losses.items() if name != "task"}


@dataclasses.dataclass
class Case:
    """A built method and everything that it is called with."""

    method: Method
    student: Features
    teacher: Features
    labels: Tensor
    valid: Tensor

    def terms(self, **changes: Any) -> dict[str, Tensor]:
        given = {"student": self.student, "teacher": self.teacher, "labels": self.labels, "valid": self.valid}
        torch.manual_seed(5)
        return self.method(**(given | changes))

    def value(self, **changes: Any) -> Tensor:
        return torch.stack(list(self.terms(**changes).values())).sum()


def case_of(setting: Setting, side: int = 64, images: int = 2) -> Case:
    distiller = distiller_of(setting).eval()
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        random_features(shown, generator, side, images) for shown in (distiller.student, distiller.teacher)
    )
    blocks = torch.randint(0, 5, (images, side // 8, side // 8), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    valid = torch.ones(images, side, side, dtype=torch.bool)
    return Case(distiller.methods[setting.name], student, teacher, labels, valid)


def random_features(shown: Network, generator: torch.Generator, side: int, images: int) -> Features:
    """Every position near one of six prototypes, as in an image of few classes: none is only like itself."""

    def maps(tap: Tap) -> Tensor:
        size = (images, side // tap.stride, side // tap.stride)
        prototypes = torch.randn(6, tap.channels, generator=generator)
        members = prototypes[torch.randint(0, 6, size, generator=generator)].permute(0, 3, 1, 2)
        return members + 0.1 * torch.randn(members.shape, generator=generator)

    info = shown.info
    return Features(tuple(maps(tap) for tap in info.stages), maps(info.embedding), maps(info.logits))


def changed(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    return Features(
        tuple(change(stage) for stage in features.stages), change(features.embedding), change(features.logits)
    )


def leaves(features: Features) -> tuple[Features, list[Tensor]]:
    """The same features, to be differentiated by."""
    copy = changed(features, lambda maps: maps.detach().clone(memory_format=torch.preserve_format).requires_grad_())
    return copy, [*copy.stages, copy.embedding, copy.logits]


def value_and_gradients(case: Case, student: Features, **changes: Any) -> tuple[float, list[Tensor]]:
    """The value, and its gradients by the student's features and the method's own parameters."""
    student, inputs = leaves(student)
    parameters = [parameter for parameter in case.method.parameters() if parameter.requires_grad]
    value = case.value(student=student, **changes)
    gradients = torch.autograd.grad(value, [*inputs, *parameters], allow_unused=True)
    return value.item(), [gradient for gradient in gradients if gradient is not None]
