"""What a run says of its data before the first epoch; `test_damages` has a case for each finding."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from segdistill import UserError
from segdistill.datasets import check_dataset
from segdistill.inspection import duplicates
from segdistill.inspection.before_run import check_before_run
from segdistill.inspection.duplicates import same_files
from segdistill.recipe.data import build_data, keep_decoded
from tests.inspection.trees import HEIGHT, WIDTH, areas, folder_data, save, sound_tree
from tests.training.runs import SCENES

COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], dtype=np.uint8)


def told(data: dict[str, Any], *, overfit: int | None = None, unlabelled: bool = False) -> list[str]:
    """The lines that a run would print."""
    console = Console(file=io.StringIO(), width=40)
    made = keep_decoded(build_data(data | {"crop": [32, 32]}, overfit), Console(quiet=True))
    splits = check_before_run(made, console, unlabelled=unlabelled)
    assert splits["train"].counts.pixels.tolist() == check_dataset(made.train).pixels.tolist()
    lines = console.file.getvalue().splitlines()
    assert all(line.startswith("warning: ") for line in lines)
    return lines


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sound_tree(tmp_path / "data")


def test_nothing_is_said_of_sound_data(root: Path) -> None:
    assert told(folder_data(root)) == []


@pytest.mark.parametrize("how", [{}, {"decoded_cache": "ram"}, {"decoded_cache": "disk"}, {"resize": [24, 32]}])
def test_files_are_looked_at_however_they_are_read(how: dict[str, Any], root: Path, tmp_path: Path) -> None:
    if "disk" in how.values():
        how = {"decoded_cache": str(tmp_path / "kept")}
    shutil.copy(root / "images/train/train0.png", root / "images/val/val1.png")
    (line,) = told(folder_data(root, **how))
    assert line.startswith("warning: 1 image of train is also in val: the same file: ")
    save(np.full((HEIGHT, WIDTH), 1, np.uint8), root / "masks/train/train1.jpg")
    (root / "masks/train/train1.png").unlink()
    with pytest.raises(UserError, match=r"train: 1 mask saved with lossy compression .*train1.jpg; save them again"):
        told(folder_data(root, **how) | {"decoded_cache": how.get("decoded_cache") and "ram"})


def test_one_split_twice_shares_no_images_with_itself(root: Path) -> None:
    assert told(folder_data(root), overfit=2) == []


def test_data_without_files() -> None:
    lines = told(SCENES)
    assert len(lines) == 2
    assert "clutter' occurs in no mask of train" in lines[0]
    assert "car' occurs in no mask of val" in lines[1]


def test_blank_images_are_all_alike(root: Path) -> None:
    """Tiles at the border of a map hold nothing: that two splits have some is no leak."""
    for split in ("train", "val"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / f"images/{split}/{split}0.png")
    lines = told(folder_data(root))
    assert [line.partition(": ")[2][:30] for line in lines] == [
        "train: 1 image all of one colo",
        "val: 1 image all of one colour",
    ]


def test_a_training_without_labels_goes_on_where_it_needs_none(root: Path) -> None:
    for path in root.glob("masks/train/*"):
        save(np.full((HEIGHT, WIDTH), 255, np.uint8), path)
    with pytest.raises(UserError, match=r"train: every pixel of every mask is ignored: .*train0.png, .* and 2 more; "):
        told(folder_data(root))
    assert any("every pixel of every mask is ignored" in line for line in told(folder_data(root), unlabelled=True))
    for path in root.glob("masks/val/*"):
        save(np.full((HEIGHT, WIDTH), 255, np.uint8), path)
    with pytest.raises(UserError, match="val: every pixel of every mask is ignored"):
        told(folder_data(root), unlabelled=True)


def test_palettes_of_files_count_only_beside_one_of_the_data_set(root: Path) -> None:
    mask = Image.fromarray(areas(3, 1)).convert("P")
    mask.putpalette(COLORS[[1, 2, 0]].tobytes())
    save(mask, root / "masks/train/train1.png")
    assert told(folder_data(root)) == []
    with pytest.raises(UserError, match=r"numbers and colours stand for different classes: .*shows index 0 in "):
        told(folder_data(root, palette=["#ff0000", "#00ff00", "#0000ff"]))


def test_broken_files_are_told_of_with_the_way_on(root: Path) -> None:
    (root / "masks/train/train1.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"train1.png cannot be read, .*; `segdistill data check` lists all"):
        told(folder_data(root))


def test_few_files_are_read_for_finding_equal_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompressed images are all of one size."""
    rng = np.random.default_rng(0)
    files = {name: tmp_path / name for name in "abcdef"}
    for file in files.values():
        file.write_bytes(rng.bytes(200_000))
    files["e"].write_bytes(files["a"].read_bytes())
    almost = bytearray(files["b"].read_bytes())
    almost[0] ^= 1  # not where the glance falls
    files["f"].write_bytes(almost)
    (tmp_path / "other-size").write_bytes(files["c"].read_bytes() + b"x")
    read: list[Path] = []
    whole = duplicates.digest
    monkeypatch.setattr(duplicates, "digest", lambda path: (read.append(path), whole(path))[1])
    train = [files[name] for name in "abcd"]
    (finding,) = same_files({"train": train, "val": [files["e"], files["f"], tmp_path / "other-size"]})
    assert finding.files == (f"{files['a']} = {files['e']}",)
    assert {path.name for path in read} == set("aebf")
