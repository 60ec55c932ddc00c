from __future__ import annotations

from pathlib import Path

import pytest

from segdistill.datasets.reading.layouts import files_ending, find_root, listed_pairs
from segdistill.errors import UserError


@pytest.mark.parametrize("given", [".", "kit", "kit/VOC"])
def test_the_root_may_be_named_at_any_level(tmp_path: Path, given: str) -> None:
    (tmp_path / "kit" / "VOC" / "images").mkdir(parents=True)
    found = find_root(tmp_path / given, ("kit/VOC", "VOC", "."), "images", "the folder of VOC")
    assert found.resolve() == (tmp_path / "kit" / "VOC").resolve()


def test_a_root_without_the_marker_is_told_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no kit/VOC/images nor VOC/images nor images; expected the folder of"):
        find_root(tmp_path, ("kit/VOC", "VOC", "."), "images", "the folder of VOC")
    with pytest.raises(UserError, match=r"nowhere does not exist; expected the folder of VOC"):
        find_root(tmp_path / "nowhere", (".",), "images", "the folder of VOC")


def test_files_are_found_below_a_folder_without_droppings(tmp_path: Path) -> None:
    for name in ("b/y_mask.png", "a/z_mask.png", "x_mask.png", "._x_mask.png", "x_other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = files_ending(tmp_path, "_mask.png")
    assert found == {
        "z": tmp_path / "a/z_mask.png",
        "y": tmp_path / "b/y_mask.png",
        "x": tmp_path / "x_mask.png",
    }
    assert list(found) == ["z", "y", "x"]
    assert files_ending(tmp_path / "nowhere", ".png") == {}


def test_listed_names_keep_their_order_and_must_be_complete() -> None:
    images = {name: Path(f"{name}.jpg") for name in "abc"}
    masks = {name: Path(f"{name}.png") for name in "ab"}
    listing = Path("train.txt")
    pairs = listed_pairs(["b", "a"], images, masks, listing=listing, where="masks")
    assert pairs == [(Path("b.jpg"), Path("b.png")), (Path("a.jpg"), Path("a.png"))]
    with pytest.raises(UserError, match=r"^1 name listed in train.txt without an image: d$"):
        listed_pairs(["a", "d"], images, masks, listing=listing, where="masks")
    with pytest.raises(UserError, match=r"^1 name listed in train.txt without a mask in masks: c$"):
        listed_pairs(["a", "c"], images, masks, listing=listing, where="masks")
    with pytest.raises(UserError, match=r"^train.txt lists b more than once$"):
        listed_pairs(["b", "a", "b"], images, masks, listing=listing, where="masks")


def test_linked_folders_are_followed_and_none_without_end(tmp_path: Path) -> None:
    for place in ("set/a_mask.png", "elsewhere/b_mask.png"):
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).touch()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set")
    found = files_ending(tmp_path / "set", "_mask.png")
    assert found == {"a": tmp_path / "set/a_mask.png", "b": tmp_path / "set/linked/b_mask.png"}
