"""A fingerprint of data notices every edit of a file, and no copy of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from segdistill.datasets import Folder
from segdistill.recipe.data import build_data
from segdistill.recipe.fingerprint import SMALLEST, fingerprint
from tests.datasets.trees import folder_tree


def data(root: Path) -> dict[str, object]:
    return {"dataset": "folder", "root": str(root), "classes": ["a", "b", "c"], "unlabelled": str(root / "more")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 1})
    shutil.copytree(root / "images" / "train", root / "more")
    return root


@pytest.mark.parametrize("edited", ["images/train/train1.png", "masks/train/train0.png", "masks/val/val0.png", "more"])
def test_an_edit_of_equal_size_and_time_is_noticed(root: Path, edited: str) -> None:
    before = build_data(data(root)).fingerprint()
    file = root / edited if edited != "more" else root / "more" / "train0.png"
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert file.stat().st_size == state.st_size
    found = build_data(data(root) | {"crop": [8, 8]}).fingerprint()
    assert found != before
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert build_data(data(root) | {"crop": [8, 8]}).fingerprint() == before


def test_a_copy_elsewhere_at_another_time_is_equal(root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "elsewhere" / "data", copy_function=shutil.copyfile))
    for file in copy.rglob("*.png"):
        os.utime(file, (1, 1))
    assert build_data(data(copy)).fingerprint() == build_data(data(root)).fingerprint()


def test_images_that_change_places_are_noticed(root: Path) -> None:
    before = build_data(data(root)).fingerprint()
    first, second = (root / "masks" / "train" / f"train{number}.png" for number in (0, 1))
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)
    assert build_data(data(root)).fingerprint() != before


@pytest.mark.parametrize(
    ("place", "noticed"), [("first", True), ("middle", True), ("last", True), ("a quarter", False)]
)
def test_of_large_files_three_places_are_read(tmp_path: Path, place: str, noticed: bool) -> None:
    """What a set of many files costs is bounded, and the price is that an edit between these places goes unseen."""
    root = folder_tree(tmp_path, {"train": 1})
    file = root / "images" / "train" / "train0.png"
    content = np.zeros(4 * SMALLEST, dtype=np.uint8)
    file.write_bytes(content.tobytes())

    def found() -> str:
        return fingerprint([Folder(root, classes=["a", "b", "c"])], budget=1)

    before = found()
    content[{"first": 0, "middle": len(content) // 2, "last": -1, "a quarter": len(content) // 4}[place]] = 1
    file.write_bytes(content.tobytes())
    assert (found() != before) == noticed
    assert fingerprint([Folder(root, classes=["a", "b", "c"])]) != before  # with the budget for it all is read


def test_a_file_that_has_gone_is_another_set_and_no_error(root: Path) -> None:
    built = build_data(data(root))
    before = built.fingerprint()
    (root / "images" / "train" / "train0.png").unlink()
    assert built.fingerprint() != before
