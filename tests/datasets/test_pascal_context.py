from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill.datasets.pascal_context import PascalContext
from segdistill.datasets.reading.checking import check_dataset
from segdistill.errors import UserError
from tests.datasets.official_trees import codes_mask, context_tree, write_matlab
from tests.datasets.trees import write_mask

SPLITS = {"train": ["2008_000002", "2008_000003"], "val": ["2008_000015"]}
# Names of the 459 published numbers, of the classes and of their neighbours, from labels.txt.
PUBLISHED = {
    1: None,  # accordion
    2: "aeroplane",
    3: None,  # air conditioner
    9: "bag",
    17: None,  # bathtub
    18: "bed",
    19: "bedclothes",
    23: "bicycle",
    105: "curtain",
    144: "fence",
    284: "person",
    307: None,  # pot
    308: "pottedplant",
    355: "sign",
    397: "table",
    415: "track",
    416: "train",
    427: "tvmonitor",
    431: None,  # unknown
    454: "window",
    455: None,  # window blinds
    458: "wood",
    459: None,  # wool
}


def png_tree(root: Path, mask: np.ndarray) -> Path:
    context_tree(root, SPLITS)
    for name in chain(*SPLITS.values()):
        write_mask(root / "SegmentationClassContext" / f"{name}.png", mask)
    return root


def mat_tree(root: Path, mask: np.ndarray, lists: str = "Main") -> Path:
    context_tree(root, SPLITS, lists)
    for name in chain(*SPLITS.values()):
        write_matlab(root / "trainval" / f"{name}.mat", {"LabelMap": mask})
    return root


def test_the_constants_are_the_59_classes_in_alphabetical_order() -> None:
    assert len(PascalContext.CLASSES) == len(set(PascalContext.CLASSES)) == 59
    assert list(PascalContext.CLASSES) == sorted(PascalContext.CLASSES)
    pascal = (
        "aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant sheep"
    )
    assert {*pascal.split(), "sofa", "train", "tvmonitor"} < set(PascalContext.CLASSES)
    assert len(set(PascalContext.PALETTE)) == len(PascalContext.PALETTE) == 59
    assert (0, 0, 0) not in PascalContext.PALETTE
    assert PascalContext.SPLIT_SIZES == {"train": 4998, "val": 5105}
    assert sum(PascalContext.SPLIT_SIZES.values()) == 10103


@pytest.mark.parametrize("level", [".", "VOC2010", "VOCdevkit/VOC2010"])
def test_converted_masks_count_from_one(tmp_path: Path, level: str) -> None:
    written = codes_mask(range(60))
    png_tree(tmp_path / level, written)
    without = PascalContext(tmp_path)
    assert without.ids == tuple(SPLITS["train"])
    assert without[0][1].tolist() == [[255 if value == 0 else value - 1 for value in row] for row in written.tolist()]
    assert without.classes == PascalContext.CLASSES
    with_background = PascalContext(tmp_path, split="val", background=True)
    assert with_background[0][1].equal(torch.from_numpy(written).long())
    assert with_background.classes == ("background", *PascalContext.CLASSES)
    assert len(set(with_background.palette)) == 60
    assert with_background.palette[0] == (0, 0, 0)


def test_published_masks_are_mapped_from_their_459_numbers(tmp_path: Path) -> None:
    written = codes_mask(PUBLISHED, dtype=np.uint16)
    mat_tree(tmp_path, written)
    plain, counted = PascalContext(tmp_path), PascalContext(tmp_path, background=True)
    for dataset, unnamed in ((plain, 255), (counted, 0)):
        expected = [
            [dataset.classes.index(name) if (name := PUBLISHED[value]) else unnamed for value in row]
            for row in written.tolist()
        ]
        assert dataset[1][1].tolist() == expected
        assert dataset.labels(1).tolist() == expected


def test_all_published_numbers_are_known_and_59_of_them_are_classes(tmp_path: Path) -> None:
    counts = np.zeros(60, dtype=int)
    for first in range(0, 460, 46):
        mat_tree(tmp_path, codes_mask(range(first, first + 46), dtype=np.uint16))
        labels = PascalContext(tmp_path, background=True)[0][1]
        counts[labels.unique()[labels.unique() > 0]] += 1
    assert counts[1:].tolist() == [1] * 59


@pytest.mark.parametrize("lists", ["Main", "SegmentationContext"])
def test_published_masks_may_lie_beside_the_devkit(tmp_path: Path, lists: str) -> None:
    mat_tree(tmp_path / "VOC2010", codes_mask([0, 2], dtype=np.uint16), lists)
    (tmp_path / "VOC2010" / "trainval").rename(tmp_path / "trainval")
    assert set(PascalContext(tmp_path, split="val")[0][1].unique().tolist()) == {0, 255}


def test_the_lists_of_the_conversion_win(tmp_path: Path) -> None:
    png_tree(tmp_path, codes_mask(range(60)))
    context_tree(tmp_path, {"train": ["2008_000015"]}, "Main")
    assert PascalContext(tmp_path).ids == tuple(SPLITS["train"])


def test_wrong_label_values_are_named(tmp_path: Path) -> None:
    png_tree(tmp_path / "png", codes_mask([0, 60, 255]))
    with pytest.raises(
        UserError, match=r"2008_000002.png holds the label values 60, 255; expected 0 for background and"
    ):
        check_dataset(PascalContext(tmp_path / "png"))
    mat_tree(tmp_path / "mat", codes_mask([0, 460], dtype=np.uint16))
    with pytest.raises(UserError, match=r"2008_000002.mat holds the label value 460; expected the numbers 0 to 459"):
        check_dataset(PascalContext(tmp_path / "mat"))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no VOCdevkit/VOC2010/JPEGImages nor .*; expected the folder of Pascal"):
        PascalContext(tmp_path)
    context_tree(tmp_path, {"train": SPLITS["train"]})
    with pytest.raises(UserError, match=r"has no split 'val'; it has train$"):
        PascalContext(tmp_path, split="val")
    with pytest.raises(UserError, match=r"has no masks; expected SegmentationClassContext/\*.png or trainval/\*.mat$"):
        PascalContext(tmp_path)
    write_mask(tmp_path / "SegmentationClassContext" / "2008_000002.png", codes_mask([0]))
    with pytest.raises(UserError, match=r"without a mask in SegmentationClassContext: 2008_000003$"):
        PascalContext(tmp_path)
    (tmp_path / "JPEGImages" / "2008_000002.jpg").unlink()
    with pytest.raises(UserError, match=r"1 name listed in .*train.txt without an image: 2008_000002$"):
        PascalContext(tmp_path)
