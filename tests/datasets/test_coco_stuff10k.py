from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from segdistill.datasets.coco_stuff10k import COCOStuff10K
from segdistill.datasets.reading.checking import check_dataset
from segdistill.errors import UserError
from tests.datasets.official_trees import coco_stuff_tree, codes_mask, write_matlab
from tests.datasets.trees import write_mask

SPLITS = {
    "train": ["COCO_train2014_000000000077", "COCO_train2014_000000000089"],
    "test": ["COCO_train2014_000000000064"],
}
# Numbers that COCO reserves for things it never labelled.
UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
USED = [code for code in range(1, 183) if code not in UNUSED]
# Lines of the publishers' labels.txt, around every gap and at both ends.
OFFICIAL = {
    1: "person",
    11: "fire hydrant",
    13: "stop sign",
    25: "giraffe",
    27: "backpack",
    28: "umbrella",
    31: "handbag",
    44: "bottle",
    46: "wine glass",
    65: "bed",
    67: "dining table",
    70: "toilet",
    72: "tv",
    82: "refrigerator",
    84: "book",
    90: "toothbrush",
    92: "banner",
    96: "building-other",
    110: "desk-stuff",
    133: "mirror-stuff",
    165: "table",
    182: "wood",
}


def mat_tree(root: Path, mask: np.ndarray) -> Path:
    coco_stuff_tree(root, SPLITS)
    for name in chain(*SPLITS.values()):
        content = {
            "S": mask,
            "names": np.array(["person", "bicycle"], dtype=object),
            "regionMapStuff": np.ones((12, 16)),
        }
        write_matlab(root / "annotations" / f"{name}.mat", content)
    return root


def png_tree(root: Path, mask: np.ndarray, inner: bool = True) -> Path:
    coco_stuff_tree(root, SPLITS)
    for split, names in SPLITS.items():
        for name in names:
            folder = root / "annotations" / (f"{split}2014" if inner else ".")
            write_mask(folder / f"{name}_labelTrainIds.png", mask)
            if inner:
                (root / "images" / f"{split}2014").mkdir(exist_ok=True)
                (root / "images" / f"{name}.jpg").rename(root / "images" / f"{split}2014" / f"{name}.jpg")
    return root


def test_the_constants_are_the_publishers() -> None:
    assert len(COCOStuff10K.CLASSES) == len(set(COCOStuff10K.CLASSES)) == len(USED) == 171
    assert len(COCOStuff10K.PALETTE) == len(set(COCOStuff10K.PALETTE)) == 171
    assert COCOStuff10K.SPLIT_SIZES == {"train": 9000, "val": 1000, "test": 1000}
    for code, name in OFFICIAL.items():
        assert COCOStuff10K.CLASSES[USED.index(code)] == name
    stuff = COCOStuff10K.CLASSES[80:]
    assert len(stuff) == 91
    assert list(stuff) == sorted(stuff)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_published_numbers_become_labels_without_gaps(tmp_path: Path, dtype: type) -> None:
    written = codes_mask([0, *USED], dtype=dtype)
    dataset = COCOStuff10K(mat_tree(tmp_path, written))
    assert dataset.ids == tuple(SPLITS["train"])
    expected = [[255 if code == 0 else USED.index(int(code)) for code in row] for row in written]
    assert dataset[1][1].tolist() == expected
    assert set(dataset.labels(0).unique().tolist()) == {*range(171), 255}


@pytest.mark.parametrize("inner", [True, False])
def test_converted_masks_count_from_one(tmp_path: Path, inner: bool) -> None:
    written = codes_mask(range(172))
    dataset = COCOStuff10K(png_tree(tmp_path, written, inner))
    image, labels = dataset[0]
    assert labels.tolist() == [[255 if value == 0 else value - 1 for value in row] for row in written.tolist()]
    assert image.shape == (3, 12, 16)


def test_converted_masks_win(tmp_path: Path) -> None:
    mat_tree(tmp_path, codes_mask([1]))
    assert COCOStuff10K(tmp_path)[0][1].unique().tolist() == [0]
    png_tree(tmp_path, codes_mask([2]), inner=False)
    assert COCOStuff10K(tmp_path)[0][1].unique().tolist() == [1]


def test_the_test_split_is_the_validation_split(tmp_path: Path) -> None:
    mat_tree(tmp_path, codes_mask([1]))
    assert COCOStuff10K(tmp_path, split="val").ids == COCOStuff10K(tmp_path, split="test").ids == tuple(SPLITS["test"])


def test_wrong_label_values_are_named(tmp_path: Path) -> None:
    mat_tree(tmp_path / "mat", codes_mask([0, 1, 12, 183]))
    with pytest.raises(UserError, match=r"77.mat holds the label values 12, 183; expected 0 for unlabeled and the 171"):
        check_dataset(COCOStuff10K(tmp_path / "mat"))
    png_tree(tmp_path / "png", codes_mask([171, 172, 255]))
    with pytest.raises(
        UserError, match=r"Ids.png holds the label values 172, 255; expected 0 for unlabeled and the cl"
    ):
        check_dataset(COCOStuff10K(tmp_path / "png"))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"imageLists does not exist; expected train.txt and test.txt"):
        COCOStuff10K(tmp_path)
    mat_tree(tmp_path, codes_mask([1]))
    with pytest.raises(UserError, match=r"has no split 'all'; it has test, train, val$"):
        COCOStuff10K(tmp_path, split="all")
    (tmp_path / "annotations" / "COCO_train2014_000000000089.mat").unlink()
    with pytest.raises(UserError, match=r"without a mask in .*annotations \(\*.mat\): COCO_train2014_000000000089$"):
        COCOStuff10K(tmp_path)
    (tmp_path / "images" / "COCO_train2014_000000000064.jpg").unlink()
    with pytest.raises(UserError, match=r"1 name listed in .*test.txt without an image: COCO_train2014_000000000064$"):
        COCOStuff10K(tmp_path, split="test")
    shutil.rmtree(tmp_path / "annotations")
    with pytest.raises(UserError, match=r"annotations does not exist; expected the masks of cocostuff-10k-v1.1.zip"):
        COCOStuff10K(tmp_path)
    (tmp_path / "annotations").mkdir()
    with pytest.raises(UserError, match=r"holds no masks; expected \*_labelTrainIds.png or \*.mat$"):
        COCOStuff10K(tmp_path)
