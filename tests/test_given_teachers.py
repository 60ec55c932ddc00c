"""The teachers of a recipe, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from segdistill import DistillRecipe, UserError
from segdistill.recipe.teachers import GivenTeacher, given_teachers
from segdistill.training.loading import Images, seeing
from tests.tiny import tiny_network

BOTH = ["runs/a", "smp:FPN:resnet18"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("runs/a",), [GivenTeacher("runs/a")]),
        ((["runs/a"],), [GivenTeacher("runs/a")]),
        (("runs/a", "a.pth", {"x": "y"}, [3, 1]), [GivenTeacher("runs/a", 1.0, "a.pth", {"x": "y"}, (3, 1))]),
        ((BOTH, [None, "b.pth"]), [GivenTeacher("runs/a", 0.5), GivenTeacher(BOTH[1], 0.5, "b.pth")]),
        (({"runs/a": 3, "runs/b": 1.0},), [GivenTeacher("runs/a", 0.75), GivenTeacher("runs/b", 0.25)]),
        ((BOTH, {BOTH[1]: "b.pth"}), [GivenTeacher("runs/a", 0.5), GivenTeacher(BOTH[1], 0.5, "b.pth")]),
        (
            (BOTH, None, {"runs/a": {0: "x"}}, {BOTH[1]: [1]}),
            [GivenTeacher("runs/a", 0.5, None, {0: "x"}), GivenTeacher(BOTH[1], 0.5, None, None, (1,))],
        ),
        ((BOTH, None, None, [1, 2]), [GivenTeacher(one, 0.5, bands=(1, 2)) for one in BOTH]),
    ],
)
def test_forms(given: tuple[Any, ...], expected: list[GivenTeacher]) -> None:
    assert given_teachers(*given) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (([],), r"teacher is \[\], expected a run folder"),
        (({"runs/a": 0},), "teacher gives runs/a the weight 0, expected a number above 0"),
        (({"runs/a": "2"},), "teacher gives runs/a the weight '2'"),
        (({"runs/a": True},), "teacher gives runs/a the weight True"),
        (({"runs/a": float("nan")},), "teacher gives runs/a the weight nan"),
        ((["runs/a", "runs/a"],), "teacher holds runs/a twice"),
        ((["runs/a", 3],), "teacher holds 3, expected run folders"),
        (
            (BOTH, "a.pth"),
            "teacher_weights is 'a.pth', expected a list of 2 files, null for a teacher that has its own",
        ),
        ((BOTH, ["a.pth"]), r"teacher_weights is \['a.pth'\], expected a list of 2 files"),
        ((BOTH, {"runs/a": "a.pth", "runs/c": "c.pth"}), "unknown teacher in teacher_weights: 'runs/c'"),
        (
            (BOTH, None, {"runs/a": {}}),
            r"teacher_classes of runs/a is \{\}, expected \{class of the teacher: class of the data, or ignore\}, "
            r"or \{teacher: such a mapping\} for several teachers$",
        ),
        (("runs/a", None, {"x": None}), r"teacher_classes is \{'x': None\}, expected"),
        (
            ("runs/a", None, None, [0]),
            r"teacher_bands is \[0\], expected numbers of the data's channels, the first being",
        ),
        (("runs/a", None, None, {"runs/b": [1]}), "teacher_bands is {'runs/b': .*, or such a list for each teacher"),
        ((tiny_network(), "a.pth"), "teacher_weights go with a teacher that is given by its spec"),
    ],
)
def test_mistakes(given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        given_teachers(*given)


def test_a_recipe_is_written_and_read_again() -> None:
    values = {
        "data": {"dataset": "synthetic-aerial"},
        "student": "smp:FPN:resnet18",
        "teacher": {"runs/a": 2.0, "smp:FPN:resnet34": 1.0},
        "teacher_weights": {"smp:FPN:resnet34": "b.pth"},
        "teacher_classes": {"runs/a": {0: "road", "sky": "ignore"}},
        "teacher_bands": {"runs/a": [1, 2, 3]},
    }
    recipe = DistillRecipe.from_dict(values)
    again = DistillRecipe.from_dict(recipe.as_dict())
    assert again.as_dict() == recipe.as_dict()
    assert again.as_dict()["teacher_classes"] == {"runs/a": {"0": "road", "sky": "ignore"}}
    assert [one.share for one in again.teachers()] == [2 / 3, 1 / 3]


def test_a_mistake_is_found_when_the_recipe_is_made() -> None:
    with pytest.raises(UserError, match="the weight 0"):
        DistillRecipe.from_dict({"data": {}, "student": "a", "teacher": {"runs/a": 0}})


@pytest.mark.parametrize(("channels", "advice"), [(1, r"\[1, 1, 1\]"), (5, r"\[1, 2, 3\]")])
def test_advice_on_bands_names_bands_that_are_there(channels: int, advice: str) -> None:
    images = Images(("road", "roof", "tree"), channels)
    with pytest.raises(UserError, match=f"takes 3 channels, .* have {channels}; .* teacher_bands, such as {advice}"):
        seeing(tiny_network(classes=3), GivenTeacher("runs/a"), images)
