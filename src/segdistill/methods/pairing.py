"""Which methods a teacher can teach that shows features alone, or class scores alone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from segdistill.errors import UserError
from segdistill.methods import METHODS
from segdistill.methods.method import Method
from segdistill.networks.features import Features, NetworkInfo, Tap


def check_shown(method: Method, teacher: NetworkInfo) -> None:
    """Check that a teacher shows what a method needs, before the method is built.

    Args:
        method: of any hyper-parameters.
        teacher: what is known of the teacher.

    Raises:
        UserError: it does not; the sentence names methods that it can teach.
    """
    if teacher.num_classes == 0 and reads_scores(method):
        _refuse_without_scores(method)
    if teacher.embedding.channels == 0 and _compares_features(method):
        _refuse_without_features(method)


def check_taken(method: Method, teacher: NetworkInfo) -> None:
    """Check what a built method takes from a teacher: it may need more than it says.

    Raises:
        UserError: as for `check_shown`.
    """
    if teacher.num_classes and teacher.embedding.channels:
        return
    with torch.no_grad():
        taken = method.teacher_outputs(blank_features(teacher))
    if teacher.num_classes == 0 and "logits" in taken:
        _refuse_without_scores(method)
    if teacher.embedding.channels == 0 and any(name.startswith(("embedding", "stages")) for name in taken):
        _refuse_without_features(method)


def blank_features(info: NetworkInfo) -> Features:
    """Features of zeros (1, C, 8, 8), of the channels that a network has."""

    def blank(tap: Tap) -> Tensor:
        return torch.zeros(1, tap.channels, 8, 8)

    return Features(tuple(map(blank, info.stages)), blank(info.embedding), blank(info.logits))


def reads_scores(method: Method) -> bool:
    """Whether a method says that it needs the teacher's class scores, to compare them or otherwise."""
    return method.needs_logits or method.needs_teacher_logits


def _compares_features(method: Method) -> bool:
    return method.needs_embedding or method.needs_stages


def _refuse_without_scores(method: Method) -> None:
    part = [name for name, kind in METHODS.items() if _takes_kd(kind) and reads_scores(kind())]
    raise UserError(
        f"method {method.name} compares class scores of student and teacher, but the teacher is a backbone without a "
        f"segmentation head and has none; methods for it are {_listed(_without(reads_scores))}, and with kd: 0 "
        f"{_listed(part)}"
    )


def _refuse_without_features(method: Method) -> None:
    raise UserError(
        f"method {method.name} compares features of student and teacher, but the teacher gives only class scores; "
        f"methods for it are {_listed(_without(_compares_features))}"
    )


def _without(need: Callable[[Method], bool]) -> list[str]:
    return [name for name, kind in METHODS.items() if not need(kind())]


def _takes_kd(kind: type[Method]) -> bool:
    return "kd" in inspect.signature(kind).parameters


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
