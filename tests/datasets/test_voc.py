from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill.datasets.reading.checking import check_dataset
from segdistill.datasets.voc import VOC, voc_colors
from segdistill.errors import UserError
from segdistill.recipe.data import build_split
from tests.datasets.official_trees import codes_mask, sbd_tree, voc_tree, write_listing
from tests.datasets.trees import write_mask

SPLITS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
SBD = {"train": ["2008_000008", "2007_000032", "2007_000033"], "val": ["2008_000015"]}  # a val image of VOC among them
ALL_TRAIN = ("2007_000032", "2007_000039", "2008_000008", "2008_000015")
OWN_MASK = codes_mask([*range(21), 255])
SBD_MASK = codes_mask(range(21), seed=1)


def own_tree(root: Path) -> Path:
    return voc_tree(root, SPLITS, OWN_MASK, more=["2008_000008", "2008_000015"])


def aug_tree(root: Path) -> Path:
    own_tree(root)
    write_listing(root / "ImageSets" / "Segmentation" / "trainaug.txt", ALL_TRAIN)
    for name in ALL_TRAIN:
        write_mask(root / "SegmentationClassAug" / f"{name}.png", SBD_MASK)
    return root


def as_labels(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(values).long()


def test_the_constants_are_the_challenges() -> None:
    names = (
        "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
        "pottedplant sheep sofa train tvmonitor"
    )
    assert tuple(names.split()) == VOC.CLASSES
    # As the development kit's documentation prints them.
    assert VOC.PALETTE[:6] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert VOC.PALETTE[15:] == (
        (192, 128, 128),
        (0, 64, 0),
        (128, 64, 0),
        (0, 192, 0),
        (128, 192, 0),
        (0, 64, 128),
    )
    assert len(set(VOC.PALETTE)) == len(VOC.PALETTE) == 21
    assert (VOC.SPLIT_SIZES, VOC.OWN_TRAIN_SIZE) == ({"train": 10582, "val": 1449}, 1464)


def test_all_colours_differ_and_the_boundary_has_its_own() -> None:
    colors = voc_colors(range(256))
    assert len(set(colors)) == 256
    assert colors[255] == (224, 224, 192)


@pytest.mark.parametrize("level", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_vocs_own_splits_are_read_from_any_level(tmp_path: Path, level: str) -> None:
    own_tree(tmp_path / level)
    train = VOC(tmp_path, augmented=False)
    val = VOC(tmp_path, split="val")
    assert (train.ids, val.ids) == (tuple(SPLITS["train"]), tuple(SPLITS["val"]))
    image, labels = val[0]
    assert labels.equal(as_labels(OWN_MASK))  # 0..20 are themselves, the boundary stays 255
    assert (image.dtype, image.shape) == (torch.uint8, (3, 12, 16))


def test_the_augmented_split_is_the_converted_one_where_there_is_one(tmp_path: Path) -> None:
    dataset = VOC(aug_tree(tmp_path))
    assert dataset.ids == ALL_TRAIN
    assert dataset[1][1].equal(as_labels(OWN_MASK))  # VOC's own mask wins
    assert dataset[2][1].equal(as_labels(SBD_MASK))


@pytest.mark.parametrize("place", ["benchmark_RELEASE/dataset", "VOCdevkit/benchmark_RELEASE/dataset", "elsewhere"])
def test_the_augmented_split_is_the_union_of_voc_and_sbd_less_val(tmp_path: Path, place: str) -> None:
    own_tree(tmp_path / "VOCdevkit" / "VOC2012")
    sbd = sbd_tree(tmp_path / place, SBD, SBD_MASK)
    dataset = VOC(tmp_path, sbd=sbd if place == "elsewhere" else None)
    assert dataset.ids == ALL_TRAIN
    assert [dataset[index][1].equal(as_labels(OWN_MASK)) for index in range(4)] == [True, True, False, False]
    assert dataset[3][1].equal(as_labels(SBD_MASK))
    assert dataset.labels(3).equal(as_labels(SBD_MASK))
    assert VOC(tmp_path, split="val").ids == tuple(SPLITS["val"])


def test_the_list_of_the_one_and_the_masks_of_the_other_go_together(tmp_path: Path) -> None:
    aug_tree(tmp_path)
    shutil.rmtree(tmp_path / "SegmentationClassAug")
    write_listing(tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt", ["2008_000015", "2007_000032"])
    sbd_tree(tmp_path / "benchmark_RELEASE" / "dataset", SBD, SBD_MASK)
    assert VOC(tmp_path).ids == ("2008_000015", "2007_000032")


def test_a_recipe_trains_on_the_augmented_split(tmp_path: Path) -> None:
    aug_tree(tmp_path)
    values = {"dataset": "voc", "root": str(tmp_path)}
    assert len(build_split(values, "train")) == 4
    assert len(build_split(values | {"augmented": False}, "train")) == 2


def test_neither_conversion_nor_sbd_is_told_with_the_ways_out(tmp_path: Path) -> None:
    own_tree(tmp_path)
    with pytest.raises(UserError, match=r"has no SegmentationClassAug, and SBD is not beside it; .*augmented: false"):
        VOC(tmp_path)
    aug_tree(tmp_path)
    (tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt").unlink()
    with pytest.raises(UserError, match=r"has no trainaug.txt, and SBD is not beside it; .*augmented: false"):
        VOC(tmp_path)
    with pytest.raises(UserError, match=r"nor cls; expected the folder of SBD$"):
        VOC(tmp_path, sbd=tmp_path)


def test_a_training_list_with_val_images_is_refused(tmp_path: Path) -> None:
    aug_tree(tmp_path)
    listing = tmp_path / "ImageSets" / "Segmentation" / "trainaug.txt"
    write_listing(listing, [*ALL_TRAIN, "2007_000033"])
    with pytest.raises(UserError, match=r"trainaug.txt lists 1 image of val.txt: 2007_000033$"):
        VOC(tmp_path)
    (listing.parent / "val.txt").unlink()
    with pytest.raises(UserError, match=r"has no val.txt; expected it beside train.txt"):
        VOC(tmp_path)


def test_wrong_label_values_are_named(tmp_path: Path) -> None:
    own_tree(tmp_path)
    write_mask(tmp_path / "SegmentationClass" / "2007_000033.png", codes_mask([0, 21, 254]))
    with pytest.raises(
        UserError, match=r"2007_000033.png holds the label values 21, 254; expected the classes 0 to 20"
    ):
        check_dataset(VOC(tmp_path, split="val"))
    sbd_tree(tmp_path / "benchmark_RELEASE" / "dataset", SBD, codes_mask([0, 22]))
    with pytest.raises(UserError, match=r"2008_000008.mat holds the label value 22; expected the classes 0 to 20"):
        check_dataset(VOC(tmp_path))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no VOCdevkit/VOC2012/JPEGImages nor .*; expected the folder of Pascal"):
        VOC(tmp_path)
    own_tree(tmp_path)
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, val$"):
        VOC(tmp_path, split="test")
    (tmp_path / "JPEGImages" / "2007_000039.jpg").unlink()
    with pytest.raises(UserError, match=r"1 name listed in .*train.txt without an image: 2007_000039$"):
        VOC(tmp_path, augmented=False)
    (tmp_path / "SegmentationClass" / "2007_000033.png").unlink()
    with pytest.raises(
        UserError, match=r"1 name listed in .*val.txt without a mask in SegmentationClass: 2007_000033$"
    ):
        VOC(tmp_path, split="val")
