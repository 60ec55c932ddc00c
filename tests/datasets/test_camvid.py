from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.datasets import CamVid
from segdistill.errors import UserError
from tests.datasets.trees import camvid_tree, index_mask, write_image


def test_reads_the_folders_and_ignores_void(tmp_path: Path) -> None:
    dataset = CamVid(camvid_tree(tmp_path, {"train": 3, "val": 2}), split="train")
    image, labels = dataset[1]
    written = torch.from_numpy(index_mask(12, seed=1)).long()
    assert dataset.ids == ("train0", "train1", "train2")
    assert image.dtype == torch.uint8
    assert image.shape == (3, 12, 16)
    assert labels.equal(torch.where(written == 11, 255, written))
    assert len(dataset.palette) == len(dataset.classes) == 11


@pytest.mark.parametrize("folder", [".", "CamVid"])
def test_reads_the_tutorials_listing_also_from_a_sub_folder(tmp_path: Path, folder: str) -> None:
    root = camvid_tree(tmp_path / folder, {"train": 3}, suffix=".png")
    line = "/SegNet/CamVid/train/train{0}.png /SegNet/CamVid/trainannot/train{0}.png"
    (root / "train.txt").write_text("\n".join(line.format(number) for number in (2, 0)) + "\n")
    dataset = CamVid(tmp_path)
    assert dataset.ids == ("train2", "train0")
    image, _ = dataset[0]
    assert image.permute(1, 2, 0).equal(torch.from_numpy(np.array(Image.open(root / "train/train2.png"))))


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere does not exist; expected the folder of CamVid"):
        CamVid(tmp_path / "nowhere")


def test_a_missing_split_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    camvid_tree(tmp_path, {"train": 1, "val": 1})
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, val$"):
        CamVid(tmp_path, split="test")
    with pytest.raises(UserError, match=r"has no split 'trainannot'; it has train, val$"):
        CamVid(tmp_path, split="trainannot")


def test_a_missing_mask_folder_is_named(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "x.png")
    with pytest.raises(UserError, match="trainannot does not exist; expected the masks"):
        CamVid(tmp_path)


def test_listed_files_must_be_there_and_come_in_pairs(tmp_path: Path) -> None:
    camvid_tree(tmp_path, {"train": 1}, suffix=".png")
    listing = tmp_path / "train.txt"
    listing.write_text("CamVid/train/train0.png CamVid/trainannot/train0.png\ntrain/y.png trainannot/train0.png")
    with pytest.raises(UserError, match=r"1 image listed in .*train.txt but not there: .*y.png$"):
        CamVid(tmp_path)
    listing.write_text("train/train0.png trainannot/a.png\ntrain/train0.png trainannot/b.png")
    with pytest.raises(UserError, match=r"2 masks listed in .*train.txt but not there: .*a.png, .*b.png$"):
        CamVid(tmp_path)
    listing.write_text("train/train0.png\n")
    with pytest.raises(UserError, match=r"has the line 'train/train0.png'; expected the path of an image and that"):
        CamVid(tmp_path)
    listing.write_text("\n \n")
    with pytest.raises(UserError, match=r"train.txt is an empty file, so the split is empty"):
        CamVid(tmp_path)
