"""What every method has of its base class: what it is given of the teacher, and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import Features, UserError
from segdistill.methods import DIST, DKD, KD, LSKD, Feature, Method
from tests.methods.scene import built, features, networks
from tests.tiny import tiny_network


class Shown(Method):
    """Keeps what it is shown of the teacher; does not say what it needs."""

    def forward(self, *, student: Features, teacher: Features, labels: Tensor | None, valid: Tensor) -> dict[str, Any]:
        self.seen = teacher
        return {"sum": student.logits.sum() * valid.sum()}


def maps(channels: int) -> Tensor:
    return torch.randn(2, channels, 3, 3, generator=torch.Generator().manual_seed(channels))


@pytest.mark.parametrize(
    ("stages", "embedding", "logits", "kept"),
    [
        ((4, 6), 7, 5, ["logits", "embedding", "stages.0", "stages.1"]),
        ((4, 6), 7, 0, ["embedding", "stages.0", "stages.1"]),
        ((), 0, 5, ["logits"]),
    ],
)
def test_a_method_that_says_nothing_is_shown_all_that_the_teacher_has(
    stages: tuple[int, ...], embedding: int, logits: int, kept: list[str]
) -> None:
    """From the teacher itself, and from what a teacher cache has kept."""
    method = Shown()
    whole = Features(tuple(map(maps, stages)), maps(embedding), maps(logits))
    outputs = method.teacher_outputs(whole)
    assert list(outputs) == kept
    valid = torch.ones(2, 3, 3, dtype=torch.bool)
    for teacher in (whole, outputs):
        terms = method(student=whole, teacher=teacher, labels=None, valid=valid)
        assert terms["sum"].item() == pytest.approx(18 * whole.logits.sum().item())
        assert len(method.seen.stages) == len(stages)
        pairs = zip(
            (*method.seen.stages, method.seen.embedding, method.seen.logits), (*stages, embedding, logits), strict=True
        )
        for shown, channels in pairs:
            torch.testing.assert_close(shown, maps(channels))


def test_what_features_alone_can_teach(case: dict[str, Any]) -> None:
    method = built(Feature(stages=True))
    given = {name: case[name] for name in ("student", "valid")} | {"teacher": method.teacher_outputs(case["teacher"])}
    assert method.of_features_alone(**given)["features"].equal(method(**case)["features"])
    assert built(KD()).of_features_alone(**given) == {}
    labels = torch.zeros(2, 72, 72, dtype=torch.long)
    assert built(Feature(balance="labels")).of_features_alone(**given) == {}
    assert built(Feature(balance="labels"))(**(case | {"labels": labels}))


def test_a_temperature_is_finite() -> None:
    with pytest.raises(UserError, match="kd: temperature is inf, expected a number above 0"):
        KD(temperature=math.inf)


@pytest.mark.parametrize("kind", [DKD, DIST, LSKD])
def test_two_classes_are_several(kind: type[Method]) -> None:
    method = kind()
    student, teacher = (tiny_network(width, classes=2).info for width in (4, 8))
    method.build(student, teacher)
    shown = features(student, 1), features(teacher, 2)
    labels = torch.zeros(2, 72, 72, dtype=torch.long)
    terms = method(student=shown[0], teacher=shown[1], labels=labels, valid=labels == 0)
    assert all(torch.isfinite(term) for term in terms.values())


def test_equal_numbers_of_classes_are_asked_of_methods_that_compare_them_alone() -> None:
    student, teacher = networks()
    other = tiny_network(8, classes=3).info
    KD().build(student, teacher)  # type: ignore[arg-type]
    Feature().build(student, other)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the student has 5 classes and the teacher 3"):
        KD().build(student, other)  # type: ignore[arg-type]
