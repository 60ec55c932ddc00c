"""Auto: which parts it has for two networks, and whose pixels the teacher speaks for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from segdistill import UserError
from segdistill.methods import KD, Auto, Feature
from segdistill.methods.pairing import check_shown
from segdistill.networks.features import NetworkInfo
from tests.methods.scene import built, networks


def parts_of(method: Auto, **of_teacher: Any) -> list[type]:
    student, teacher = networks()
    assert isinstance(student, NetworkInfo)
    assert isinstance(teacher, NetworkInfo)
    method.build(student, dataclasses.replace(teacher, **of_teacher))
    return [type(part) for part in method.parts]


def embedding(channels: int) -> dict[str, Any]:
    _, teacher = networks()
    return {"embedding": dataclasses.replace(teacher.embedding, channels=channels)}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "of_teacher", "parts"),
    [
        ({}, {}, [KD, Feature]),
        ({"logits": 0.0}, {}, [Feature]),
        ({"features": 0.0}, {}, [KD]),
        ({}, {"num_classes": 3}, [Feature]),
        ({}, embedding(1), [KD, Feature]),
        ({}, embedding(0) | {"stages": ()}, [KD]),
    ],
)
def test_a_part_for_all_that_both_networks_show(
    options: dict[str, float], of_teacher: dict[str, Any], parts: list[type]
) -> None:
    method = Auto(**options)
    assert parts_of(method, **of_teacher) == parts
    assert (method.needs_logits, method.needs_embedding) == (KD in parts, Feature in parts)


def test_a_teacher_of_class_scores_alone_is_taken_unless_they_are_left_out() -> None:
    _, teacher = networks()
    assert isinstance(teacher, NetworkInfo)
    scores = dataclasses.replace(teacher, stages=(), **embedding(0))
    check_shown(Auto(), scores)
    with pytest.raises(UserError, match="method auto compares features of student and teacher"):
        check_shown(Auto(logits=0.0), scores)


def test_features_come_first_and_alone(case: dict[str, Any]) -> None:
    method = built(Auto(logits=2.0, features=3.0))
    given = {"student": case["student"], "teacher": method.teacher_outputs(case["teacher"]), "valid": case["valid"]}
    alone = method.of_features_alone(**given)
    assert list(alone) == ["features"]
    assert alone["features"].equal(method(**case)["features"])
    assert built(Auto(features=0.0)).of_features_alone(**given) == {}


def test_where_a_label_is_the_teacher_is_silent_afterwards(case: dict[str, Any]) -> None:
    """Of five classes: -1, 5 and 255 are none. Rows of 24 pixels, whole positions of every stride."""
    method = built(Auto())
    labels = torch.randint(0, 5, (2, 72, 72), generator=torch.Generator().manual_seed(0))
    labels[0, 24:48], labels[0, 48:], labels[1, :24] = -1, 5, 255
    labels[1, 24:48] = 0
    without = torch.zeros_like(case["valid"])
    without[0, 24:] = True
    without[1, :24] = True
    assert case["valid"][0, :24].sum() == 0
    before = method(**(case | {"labels": labels}))
    assert all(before[name].equal(term) for name, term in method(**case).items()), "labels do not count in one part"
    alone = method(**(case | {"valid": without}))
    method.features_done = True
    assert method.only_without_labels
    terms = method(**(case | {"labels": labels}))
    for name, term in alone.items():
        assert terms[name].item() == pytest.approx(term.item(), rel=1e-9)
        assert terms[name].item() != pytest.approx(before[name].item(), rel=1e-3)
    for name, term in method(**case).items():
        assert term.equal(before[name]), "images without labels are the teacher's"


@pytest.mark.parametrize(
    ("options", "names"),
    [({}, ["logits", "features"]), ({"logits": 0.0}, ["features"]), ({"features": 0.0}, ["logits"])],
)
def test_without_the_teacher_its_terms_are_nothing(
    case: dict[str, Any], options: dict[str, float], names: list[str]
) -> None:
    """It is not run where every pixel has a label."""
    method = built(Auto(**options))
    method.features_done = True
    terms = method(**(case | {"teacher": {}, "labels": torch.zeros(2, 72, 72, dtype=torch.long)}))
    assert {name: term.item() for name, term in terms.items()} == dict.fromkeys(names, 0.0)
