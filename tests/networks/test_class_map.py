"""Which class of a teacher means which class of the data."""

from __future__ import annotations

from typing import Any

import pytest

from segdistill import UserError
from segdistill.networks.class_map import count_of_classes, read_class_map

THEIRS = ("Road", "car", "bus", "sky")
OURS = ("vehicle", "road")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"car": "vehicle", "bus": "vehicle", "sky": "ignore"}, (1, 0, 0, None)),  # road by its name
        ({0: 1, 1: 0, 2: 0, 3: "ignore"}, (1, 0, 0, None)),
        ({"0": "1", "1": "0", "*": "ignore"}, (1, 0, None, None)),  # as config.yaml writes numbers
        ({"ROAD": "vehicle", "*": "road"}, (0, 1, 1, 1)),
        ({"road": "ignore", "car": "vehicle", "bus": "road", "sky": "road"}, (None, 0, 1, 1)),
    ],
)
def test_meanings(given: dict[Any, Any], expected: tuple[int | None, ...]) -> None:
    assert read_class_map(given, THEIRS, OURS) == expected


def test_a_class_called_as_the_word_for_none_is_a_class() -> None:
    assert read_class_map({"car": "ignore", "*": "road"}, THEIRS, ("road", "ignore")) == (0, 1, 0, 0)


def test_classes_of_one_name_go_together() -> None:
    assert read_class_map({"wall": "a", "*": "b"}, ("wall", "door", "wall"), ("a", "b")) == (0, 1, 0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"cra": "vehicle"}, "unknown class of the teacher in teacher_classes: 'cra': did you mean 'car'"),
        ({"car": "vehicel"}, "unknown class of the data in teacher_classes: 'vehicel': did you mean 'vehicle'"),
        ({4: "road"}, "unknown class of the teacher in teacher_classes: 4, expected 0 to 3 or one of Road, car"),
        ({"car": 2}, "unknown class of the data in teacher_classes: 2, expected 0 to 1"),
        ({"car": "vehicle", 1: "road"}, r"teacher_classes names class 1 of the teacher \(car\) twice"),
        ({"car": "vehicle"}, r"teacher_classes lacks 2 classes of the teacher: bus \(2\), sky \(3\); name"),
        ({"*": "road"}, "teacher_classes gives nothing to 'vehicle' of the data: expected at least one class"),
        ({"car": None}, "unknown class of the data in teacher_classes: 'None'"),
        ({True: "road"}, "unknown class of the teacher in teacher_classes: 'True'"),
    ],
)
def test_mistakes(given: dict[Any, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_class_map(given, THEIRS, OURS)


def test_numbers_count_the_classes_of_a_spec() -> None:
    assert count_of_classes({"0": "road", 20: "ignore", "*": "car"}, "teacher x") == 21
    with pytest.raises(UserError, match="the classes of teacher x, a network spec, have no names: number them"):
        count_of_classes({"road": "road"}, "teacher x")
