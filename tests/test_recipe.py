from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from segdistill import UserError
from segdistill.methods import BRD, CWD, KA, KD
from segdistill.methods.building import build_methods
from segdistill.recipe.data import LARGEST_DEFAULT_CROP, build_data, build_split
from segdistill.recipe.keywords import from_values
from segdistill.recipe.values import plain
from tests.datasets.trees import folder_tree, index_mask, write_image, write_mask

SCENES = {"dataset": "synthetic-aerial", "count": 2, "size": [32, 48]}


def test_data_set_and_augmentation_side_by_side(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"train": 3, "val": 2})
    values = {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"], "crop": [8, 10], "jitter": 0.2}
    data = build_data(values)
    assert (len(data.train), len(data.val)) == (3, 2)
    assert data.augmentation.crop == (8, 10)
    assert data.augmentation.jitter == 0.2
    assert data.augmentation.ignore_index == data.train.ignore_index
    assert data.values == values


def test_crop_is_chosen_by_the_first_image() -> None:
    data = build_data(SCENES)
    assert data.values == SCENES | {"crop": [32, 48]}
    assert data.augmentation.crop == (32, 48)
    assert "crop" not in SCENES  # what was given is left as it was


def test_chosen_crop_is_bounded(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / "images" / split / "a.png", 700, 300)
        write_mask(tmp_path / "masks" / split / "a.png", index_mask(2, 700, 300))
    data = build_data({"dataset": "folder", "root": str(tmp_path), "classes": ["a", "b"]})
    assert data.values["crop"] == [LARGEST_DEFAULT_CROP, 300]


def test_split_by_name() -> None:
    assert build_split(SCENES, "test").ids[0].startswith("test")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dataset": "camvd"}, "unknown data set 'camvd': did you mean 'camvid'? Known: ade20k, camvid, "),
        ({"dataset": None}, "data: the key 'dataset' is missing"),
        ({"dataset": ["camvid"]}, "unknown data set '['camvid']'"),
        ({"dataset": "camvid"}, "unknown key in data: 'count'"),
        ({"dataset": "folder", "count": None}, "unknown key in data: 'count'"),
        ({"sise": [1, 2]}, "unknown key in data: 'sise': did you mean 'size'?"),
        ({"split": "train"}, "unknown key in data: 'split'"),
        ({"ignore_index": 3}, "unknown key in data: 'ignore_index'"),
        ({"count": "many"}, "data: count: expected int or null, found many"),
        ({"count": 0}, "count is 0, so the split is empty"),
        ({"size": 64}, "data: size: expected list, found 64"),
        ({"size": [16, 16]}, "size is [16, 16]; expected [height, width], at least 32 pixels each"),
        ({"crop": "big"}, "data: crop: expected list[int] or null, found big"),
        ({"crop": [32]}, "crop is [32]; expected [height, width] in pixels"),
        ({"flip": "maybe"}, "data: flip: expected true or false, found maybe"),
        ({"jitter": 3}, "jitter is 3"),
        ({"scale": [2, 1]}, "scale is [2.0, 1.0]; expected [smallest, largest]"),
    ],
)
def test_bad_data(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        build_data(SCENES | change)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "flip"), [("yes", True), ("no", False), ("on", True), ("true", True)])
def test_words_for_true_and_false_where_one_is_expected(text: str, flip: bool) -> None:
    """YAML's yes and no are texts, so that classes may be called so; a switch still understands them."""
    assert build_data(SCENES | {"flip": text}).augmentation.flip is flip


def test_missing_argument_of_a_data_set() -> None:
    with pytest.raises(UserError, match=r"^data: the key 'classes' is missing$"):
        build_data({"dataset": "folder", "root": "x"})
    with pytest.raises(UserError, match=r"^data: the key 'root' is missing$"):
        build_data({"dataset": "camvid", "root": None})


@pytest.mark.parametrize(
    ("spec", "kinds"),
    [
        ("kd", [KD]),
        (["brd", "cwd"], [BRD, CWD]),
        ({"cwd": None, "brd": {}}, [CWD, BRD]),
        ([{"ka": {"adapt": 1}}, "kd"], [KA, KD]),
        (["kd", "kd"], [KD, KD]),
    ],
)
def test_methods(spec: Any, kinds: list[type]) -> None:
    assert [type(method) for method in build_methods(spec)] == kinds


def test_hyper_parameters_arrive() -> None:
    (method,) = build_methods({"brd": {"boundary": 2, "operator": "sobel"}})
    assert isinstance(method, BRD)
    assert (method.boundary, method.operator, method.kd) == (2.0, "sobel", BRD().kd)


def test_ready_made_methods_pass_through() -> None:
    ready = KD(weight=3.0)
    assert build_methods(ready) == [ready]
    assert build_methods([ready, "brd"])[0] is ready


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("brb", "unknown method 'brb': did you mean 'brd'? Known: "),
        (["kd", "brb"], "unknown method 'brb'"),
        ({1: {}}, "unknown method '1'"),
        (
            {"brd": {"boundry": 2}},
            "unknown key in method brd: 'boundry': did you mean 'boundary'? Known: anchors, boundary, kd, ",
        ),
        ({"brd": {"boundary": "x"}}, "method brd: boundary: expected float, found x"),
        (
            {"brd": {"operator": "poool"}},
            "method brd: operator: expected one of 'pool', 'laplacian', 'sobel', found poool",
        ),
        ({"brd": 2}, "method brd is followed by 2, expected a mapping"),
        ([5], "method is 5, expected a method's name"),
        ([], "method is [], expected a method's name"),
        ({}, "method is {}, expected a method's name"),
    ],
)
def test_bad_methods(spec: Any, told: str) -> None:
    with pytest.raises(UserError) as error:
        build_methods(spec)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_plain_values() -> None:
    assert plain({"a": (1, Path("x/y")), "b": {"c": None, 3: True}}, "") == {
        "a": [1, "x/y"],
        "b": {"c": None, "3": True},
    }
    with pytest.raises(UserError, match=r"^data.root holds a object, expected what a recipe can write down"):
        plain({"data": {"root": object()}}, "")


@dataclass
class Fields:
    """Of every kind that a recipe has."""

    number: int = 0
    maybe: int | None = None
    choice: Literal["a", "b"] = "a"
    place: str | Path = "here"
    anything: Any = None
    several: list[int] | int = 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"number": None}, "number: expected int, found null"),
        ({"choice": None}, "choice: expected text, found null"),
        ({"place": None}, "place: expected text or a path, found null"),
        ({"several": None}, "several: expected list[int] or int, found null"),
        ({"number": KD}, "number: expected int, found <class 'segdistill.methods.kd.KD'>"),
        ({"maybe": KD}, "maybe: expected int or null, found <class 'segdistill.methods.kd.KD'>"),
    ],
)
def test_null_and_objects_are_refused_where_the_field_does_not_take_them(values: dict[str, Any], told: str) -> None:
    """The parser passes both on; a recipe with ``seed: null`` ended in a traceback."""
    with pytest.raises(UserError, match=re.escape(told)):
        from_values(Fields, values)


def test_null_and_objects_are_taken_where_the_field_takes_them() -> None:
    made = from_values(Fields, {"maybe": None, "anything": KD, "place": Path("there"), "several": [1, 2]})
    assert made == Fields(maybe=None, anything=KD, place=Path("there"), several=[1, 2])
