from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from segdistill.datasets.cityscapes import Cityscapes
from segdistill.datasets.reading.checking import check_dataset
from segdistill.errors import UserError
from tests.datasets.official_trees import cityscapes_tree, codes_mask
from tests.datasets.trees import write_mask

# The benchmark's own table, written out: label id, train id (255: not scored), name and colour of scored ones.
OFFICIAL = {
    7: (0, "road", (128, 64, 128)),
    8: (1, "sidewalk", (244, 35, 232)),
    11: (2, "building", (70, 70, 70)),
    12: (3, "wall", (102, 102, 156)),
    13: (4, "fence", (190, 153, 153)),
    17: (5, "pole", (153, 153, 153)),
    19: (6, "traffic light", (250, 170, 30)),
    20: (7, "traffic sign", (220, 220, 0)),
    21: (8, "vegetation", (107, 142, 35)),
    22: (9, "terrain", (152, 251, 152)),
    23: (10, "sky", (70, 130, 180)),
    24: (11, "person", (220, 20, 60)),
    25: (12, "rider", (255, 0, 0)),
    26: (13, "car", (0, 0, 142)),
    27: (14, "truck", (0, 0, 70)),
    28: (15, "bus", (0, 60, 100)),
    31: (16, "train", (0, 80, 100)),
    32: (17, "motorcycle", (0, 0, 230)),
    33: (18, "bicycle", (119, 11, 32)),
}
NAMES = {"train": ["aachen_000000_000019", "zurich_000001_000019"], "val": ["lindau_000000_000019"]}
LABEL_IDS = codes_mask(range(34))


def test_the_constants_are_the_benchmarks() -> None:
    rows = sorted(OFFICIAL.values())
    assert [row[0] for row in rows] == list(range(19))
    assert tuple(row[1] for row in rows) == Cityscapes.CLASSES
    assert tuple(row[2] for row in rows) == Cityscapes.PALETTE
    assert Cityscapes.SPLIT_SIZES == {"train": 2975, "val": 500, "test": 1525}
    assert sum(Cityscapes.SPLIT_SIZES.values()) == 5000


def test_every_label_id_becomes_its_train_id(tmp_path: Path) -> None:
    dataset = Cityscapes(cityscapes_tree(tmp_path, NAMES, {"labelIds": LABEL_IDS}))
    assert dataset.ids == ("aachen_000000_000019_leftImg8bit", "zurich_000001_000019_leftImg8bit")
    image, labels = dataset[1]
    written = torch.from_numpy(LABEL_IDS).tolist()
    assert labels.tolist() == [[OFFICIAL[code][0] if code in OFFICIAL else 255 for code in row] for row in written]
    assert image.shape == (3, 12, 16)
    assert image.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {*range(19), 255}
    assert dataset.classes == Cityscapes.CLASSES


def test_train_ids_are_read_where_there_are_no_label_ids(tmp_path: Path) -> None:
    train_ids = codes_mask([*range(19), 255], seed=1)
    Cityscapes(cityscapes_tree(tmp_path, NAMES, {"labelTrainIds": train_ids}))
    assert Cityscapes(tmp_path)[0][1].equal(torch.from_numpy(train_ids).long())
    # Train ids are made of label ids, by a table that users may change: the original wins.
    cityscapes_tree(tmp_path, NAMES, {"labelIds": LABEL_IDS})
    assert (Cityscapes(tmp_path)[0][1] == 255).sum() == sum(code not in OFFICIAL for code in LABEL_IDS.flat)


def test_resize_brings_both_to_size(tmp_path: Path) -> None:
    dataset = Cityscapes(cityscapes_tree(tmp_path, NAMES, {"labelIds": LABEL_IDS}), split="val", resize=(6, 8))
    image, labels = dataset[0]
    assert (image.shape, labels.shape) == ((3, 6, 8), (6, 8))
    assert dataset.labels(0).shape == (12, 16)


def test_withheld_test_annotations_are_all_ignored(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path, {"test": ["berlin_000000_000019"]}, {"labelIds": codes_mask([0, 1, 3])})
    counts = check_dataset(Cityscapes(tmp_path, split="test"))
    assert (int(counts.pixels.sum()), counts.ignored) == (0, 12 * 16)


def test_wrong_label_values_are_named(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path, NAMES, {"labelIds": codes_mask([7, 34, 255])})
    with pytest.raises(UserError, match=r"labelIds.png holds the label values 34, 255; expected the label ids 0 to 33"):
        check_dataset(Cityscapes(tmp_path))
    cityscapes_tree(tmp_path / "other", NAMES, {"labelTrainIds": codes_mask([0, 19])})
    with pytest.raises(UserError, match=r"labelTrainIds.png holds the label value 19; expected the train ids 0 to 18"):
        check_dataset(Cityscapes(tmp_path / "other"))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leftImg8bit does not exist; expected the images, as leftImg8bit_trainval"):
        Cityscapes(tmp_path)
    cityscapes_tree(tmp_path, NAMES, {"labelIds": LABEL_IDS})
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, val$"):
        Cityscapes(tmp_path, split="test")
    masks = tmp_path / "gtFine" / "train"
    (masks / "zurich" / "zurich_000001_000019_gtFine_labelIds.png").unlink()
    with pytest.raises(UserError, match=r"1 image of .*train without a mask \*_gtFine_labelIds.png in .*: zurich_0"):
        Cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit" / "train" / "zurich")
    write_mask(masks / "bonn" / "bonn_000000_000019_gtFine_labelIds.png", LABEL_IDS)
    with pytest.raises(UserError, match=r"1 mask of .*train without an image \*_leftImg8bit.png in .*: bonn_000000"):
        Cityscapes(tmp_path)
    shutil.rmtree(masks)
    with pytest.raises(UserError, match=r"gtFine.train does not exist; expected the masks of the images in"):
        Cityscapes(tmp_path)
    masks.mkdir()
    with pytest.raises(
        UserError, match=r"holds no masks; expected CITY/\*_gtFine_labelIds.png or CITY/\*_gtFine_labelT"
    ):
        Cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "leftImg8bit" / "train" / "aachen")
    with pytest.raises(UserError, match=r"holds no image, so the split is empty; expected CITY/\*_leftImg8bit.png"):
        Cityscapes(tmp_path)
