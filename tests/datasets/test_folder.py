from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.datasets import Folder
from segdistill.errors import UserError
from segdistill.inspection.tolerant import open_tolerantly
from segdistill.recipe.data import build_split
from tests.datasets.trees import folder_tree, index_mask, write_image, write_mask

CLASSES = ("road", "roof", "tree")


def flat_tree(root: Path, names: tuple[str, ...]) -> Path:
    for number, name in enumerate(names):
        write_image(root / "images" / f"{name}.jpg", seed=number)
        write_mask(root / "masks" / f"{name}.png", index_mask(3, seed=number))
    return root


def test_reads_splits_in_sub_folders(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 3, "val": 1})
    train, val = Folder(tmp_path, CLASSES), Folder(tmp_path, CLASSES, split="val")
    assert (train.ids, val.ids) == (("train0", "train1", "train2"), ("val0",))
    image, labels = train[2]
    assert (image.shape, labels.shape) == ((3, 12, 16), (12, 16))
    assert labels.equal(torch.from_numpy(index_mask(3, seed=2)).long())


@pytest.mark.parametrize("where", [".", "splits"])
def test_reads_splits_in_text_files_of_stems_or_file_names(tmp_path: Path, where: str) -> None:
    flat_tree(tmp_path, ("a", "b.01", "c"))
    (tmp_path / where).mkdir(exist_ok=True)
    (tmp_path / where / "train.txt").write_text("c\nb.01\n\n")
    (tmp_path / where / "val.txt").write_text("a.jpg\n")
    assert Folder(tmp_path, CLASSES).ids == ("c", "b.01")
    assert Folder(tmp_path, CLASSES, split="val").ids == ("a",)


def test_droppings_of_file_systems_are_not_samples(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 1})
    (tmp_path / "images" / "train" / "._train0.png").write_bytes(b"mac")
    (tmp_path / "images" / "train" / "Thumbs.db").write_bytes(b"windows")
    assert len(Folder(tmp_path, CLASSES)) == 1


def test_resize_brings_image_and_mask_to_one_size_and_keeps_labels_whole(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 1})
    image, labels = Folder(tmp_path, CLASSES, resize=(6, 9))[0]
    assert (image.shape, labels.shape) == ((3, 6, 9), (6, 9))
    assert set(labels.unique().tolist()) <= {0, 1, 2}
    # Labels for the check stay at full size.
    assert Folder(tmp_path, CLASSES, resize=(6, 9)).labels(0).shape == (12, 16)
    with pytest.raises(UserError, match=r"resize is \(6,\); expected \[height, width\]"):
        Folder(tmp_path, CLASSES, resize=(6,))


@pytest.mark.parametrize("palette", [["#ff0000", "#00ff00", "#0000ff"], [[255, 0, 0], [0, 255, 0], [0, 0, 255]]])
def test_rgb_masks_are_read_through_the_palette(tmp_path: Path, palette: list[str]) -> None:
    indices = index_mask(4)
    colors = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)], dtype=np.uint8)
    write_image(tmp_path / "images/train/x.png")
    write_mask(tmp_path / "masks/train/x.png", colors[indices])
    dataset = Folder(tmp_path, CLASSES, palette=palette, ignore_color="#000000")
    expected = torch.from_numpy(indices).long()
    assert dataset[0][1].equal(torch.where(expected == 3, 255, expected))
    assert dataset.palette == ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def test_ignore_names_the_index_of_ignored_pixels(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/x.png", 2, 3)
    write_mask(tmp_path / "masks/train/x.png", np.array([[0, 1, 2], [9, 9, 0]], dtype=np.uint8))
    assert Folder(tmp_path, CLASSES, ignore=9)[0][1].tolist() == [[0, 1, 2], [255, 255, 0]]
    write_mask(tmp_path / "masks/train/x.png", np.array([[0, 1, 2], [1, 1, 0]], dtype=np.uint8))
    assert Folder(tmp_path, CLASSES, ignore=0)[0][1].tolist() == [[255, 1, 2], [1, 1, 255]]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere does not exist; expected a folder that holds images/ and masks/"):
        Folder(tmp_path / "nowhere", CLASSES)
    (tmp_path / "images" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="masks does not exist; expected the masks"):
        Folder(tmp_path, CLASSES)
    (tmp_path / "masks").mkdir()
    write_image(tmp_path / "images/train/x.png")
    with pytest.raises(UserError, match=r"masks.train does not exist; expected the masks"):
        Folder(tmp_path, CLASSES)


def test_an_empty_or_unknown_split_is_told(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 1, "val": 1})
    for kind in ("images", "masks"):
        (tmp_path / kind / "empty").mkdir()
    with pytest.raises(UserError, match=r"images.empty holds no image, so the split is empty"):
        Folder(tmp_path, CLASSES, split="empty")
    (tmp_path / "more.txt").write_text("x")
    with pytest.raises(UserError, match=r"has no split 'test'; it has empty, more, train, val$"):
        Folder(tmp_path, CLASSES, split="test")


def test_flat_images_without_any_split_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no split 'train'; it has none at all"):
        Folder(flat_tree(tmp_path, ("a",)), CLASSES)


def test_halves_of_pairs_are_counted_and_named(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 6})
    for number in range(4):
        (tmp_path / f"masks/train/train{number}.png").unlink()
    with pytest.raises(UserError, match=r"4 images of .* without a mask .*: train0, train1, train2, \.\.\.$"):
        Folder(tmp_path, CLASSES)
    for number in range(5):
        (tmp_path / f"images/train/train{number}.png").unlink()
    with pytest.raises(UserError, match=r"1 mask of .* without an image .*: train4$"):
        Folder(tmp_path, CLASSES)


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 1})
    write_image(tmp_path / "images/train/train0.jpg")
    with pytest.raises(UserError, match=r"holds both train0.jpg and train0.png; expected one file per stem"):
        Folder(tmp_path, CLASSES)


def test_listed_names_must_be_there_once(tmp_path: Path) -> None:
    flat_tree(tmp_path, ("a", "b"))
    listing = tmp_path / "train.txt"
    listing.write_text("a\nz\ny\n")
    with pytest.raises(UserError, match=r"2 names listed in .*train.txt without an image in .*images: z, y$"):
        Folder(tmp_path, CLASSES)
    listing.write_text("a\nb\na.jpg\n")
    with pytest.raises(UserError, match=r"train.txt lists a more than once"):
        Folder(tmp_path, CLASSES)
    listing.write_text("a\nb\n")
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(UserError, match=r"1 image listed in .*train.txt without a mask of the same stem in .*: b$"):
        Folder(tmp_path, CLASSES)
    listing.write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(UserError, match=r"train.txt cannot be read as a text file"):
        Folder(tmp_path, CLASSES)


def test_contradicting_colours_are_refused(tmp_path: Path) -> None:
    folder_tree(tmp_path, {"train": 1})
    palette = ["#ff0000", "#00ff00", "#0000ff"]
    with pytest.raises(UserError, match="ignore_color #00ff00 is also the colour of 'roof'"):
        Folder(tmp_path, CLASSES, palette=palette, ignore_color="#00ff00")
    with pytest.raises(UserError, match="ignore is -1; expected the index"):
        Folder(tmp_path, CLASSES, ignore=-1)


@pytest.mark.parametrize(
    ("stored", "values", "labels"),
    [
        ([[0, 255, 255]], {255: 1}, [[0, 1, 1]]),
        ([[1, 2, 3]], {1: 0, 2: 1, 3: 2}, [[0, 1, 2]]),
        ([[0, 1, 2]], {0: 255, 1: 0, 2: 1}, [[255, 0, 1]]),
        ([[7, 200, 2]], {7: 255, 200: 0}, [[255, 0, 2]]),
        ([[1000, 0, 65535]], {1000: 1, 65535: 2}, [[1, 0, 2]]),
    ],
)
def test_mask_values_say_what_numbers_stand_for(
    tmp_path: Path, stored: list[list[int]], values: dict[int, int], labels: list[list[int]]
) -> None:
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (3, 1)).save(tmp_path / "images/train/a.png")
    numbers = np.array(stored, dtype=np.uint16 if max(max(stored)) > 255 else np.uint8)
    Image.fromarray(numbers).save(tmp_path / "masks/train/a.png")
    assert Folder(tmp_path, ("a", "b", "c"), mask_values=values)[0][1].tolist() == labels
    written = {"dataset": "folder", "root": str(tmp_path), "classes": ["a", "b", "c"]}
    written["mask_values"] = {str(value): label for value, label in values.items()}  # as JSON has it
    assert build_split(written, "train")[0][1].tolist() == labels


@pytest.mark.parametrize("values", [5, [1, 2], {"0": 0, "255": 1}, {0: "no"}, {0: None}, {0.5: 1}, {0: 1.5}], ids=repr)
def test_mask_values_that_are_no_whole_numbers(tmp_path: Path, values: Any) -> None:
    with pytest.raises(UserError, match=re.escape(f"mask_values is {values!r}; expected whole numbers in the masks")):
        Folder(folder_tree(tmp_path, {"train": 1}), ("no", "yes"), mask_values=values)


@pytest.mark.parametrize(
    ("argument", "value", "sentence"),
    [
        ("classes", None, "Folder: classes is None, expected "),
        ("split", 5, "Folder: split: expected str, found 5"),
        ("split", None, "Folder: split is None, expected str"),
        ("resize", 5, r"Folder: resize: expected list\[int\] or null, found 5"),
        ("palette", 5, "Folder: palette: expected .* found 5"),
        ("bands", 5, "bands is 5; expected numbers of bands"),
        ("bands", ["a"], r"bands is \['a'\]; expected numbers of bands"),
        ("bands", [1.5], r"bands is \[1.5\]; expected numbers of bands"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(tmp_path: Path, argument: str, value: Any, sentence: str) -> None:
    folder_tree(tmp_path, {"train": 1})
    with pytest.raises(UserError, match=sentence):
        Folder(**{"root": tmp_path, "classes": ("no", "yes"), argument: value})


def test_an_error_of_a_data_set_of_ones_own_is_left_as_it_is() -> None:
    class Own(Folder):
        def __init__(self, where: Path) -> None:
            super().__init__(where / 1, CLASSES)  # type: ignore[operator]

    with pytest.raises(TypeError, match="unsupported operand"):
        Own(Path("data"))


def test_mask_values_out_of_range_and_the_sentence_that_names_them(tmp_path: Path) -> None:
    for folder in ("images/train", "masks/train"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (2, 1)).save(tmp_path / "images/train/a.png")
    Image.fromarray(np.array([[0, 77]], dtype=np.uint8)).save(tmp_path / "masks/train/a.png")
    with pytest.raises(UserError, match=r"holds the label value 77, .* are named in mask_values, such as \{77: 1\}"):
        Folder(tmp_path, ("a", "b"))[0]
    with pytest.raises(
        UserError, match="mask_values says that 77 is the class 2; expected a class from 0 to 1, or 255"
    ):
        Folder(tmp_path, ("a", "b"), mask_values={77: 2})


@pytest.mark.parametrize(
    "line",
    [
        "a",
        "a.jpg",
        "images/a.jpg",
        "images/a.jpg masks/a.png",
        "/images/a.jpg /masks/a.png",
        "images/a.jpg\tmasks/a.png",
        "images/a.jpg, masks/a.png",
        "a.jpg a.png",
        "images\\a.jpg;masks\\a.png",
        "{root}/images/a.jpg {root}/masks/a.png",
        "images/deep er/b.png",
        "deep er/b.png;deep er/b.png",
    ],
)
def test_lists_of_paths_and_of_pairs(tmp_path: Path, line: str) -> None:
    for name in ("images/a.jpg", "masks/a.png", "images/deep er/b.png", "masks/deep er/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB" if name.startswith("images") else "L", (4, 4)).save(tmp_path / name)
    (tmp_path / "train.txt").write_text(line.format(root=tmp_path) + "\n")
    [(image, mask)] = Folder(tmp_path, ("no", "yes")).pairs
    place = "deep er/b" if "deep" in line else "a"
    assert image.with_suffix("") == tmp_path / "images" / place
    assert mask == tmp_path / "masks" / f"{place}.png"
    data = {"dataset": "folder", "root": str(tmp_path), "classes": ["no", "yes"]}
    [(found, of_it)] = open_tolerantly(data, "train").pairs
    assert (found, of_it) == (image, mask)


def test_a_list_of_pairs_needs_no_images_folder(tmp_path: Path) -> None:
    for name in ("photos/a.jpg", "labels/x.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB" if name.startswith("photos") else "L", (4, 4)).save(tmp_path / name)
    (tmp_path / "train.txt").write_text("photos/a.jpg labels/x.png\n")
    assert Folder(tmp_path, ("no", "yes")).pairs == ((tmp_path / "photos/a.jpg", tmp_path / "labels/x.png"),)
    data = {"dataset": "folder", "root": str(tmp_path), "classes": ["no", "yes"]}
    assert open_tolerantly(data, "train").findings == ()
    (tmp_path / "train.txt").write_text("photos/a.jpg labels/y.png\n")
    with pytest.raises(UserError, match=r"1 image listed in .*train.txt without a mask"):
        Folder(tmp_path, ("no", "yes"))
