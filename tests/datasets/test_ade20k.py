from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from segdistill.datasets.ade20k import ADE20K
from segdistill.datasets.reading.checking import check_dataset
from segdistill.errors import UserError
from tests.datasets.official_trees import ade20k_tree, codes_mask

COUNTS = {"training": 2, "validation": 1}


def test_the_constants_are_the_challenges() -> None:
    assert len(ADE20K.CLASSES) == len(set(ADE20K.CLASSES)) == 150
    assert len(ADE20K.PALETTE) == len(set(ADE20K.PALETTE)) == 150
    assert ADE20K.SPLIT_SIZES == {"train": 20210, "val": 2000}
    # Lines of objectInfo150.txt and colours of color150.mat, counted from 1.
    official = {
        1: ("wall", (120, 120, 120)),
        2: ("building", (180, 120, 120)),
        7: ("road", (140, 140, 140)),
        13: ("person", (150, 5, 61)),
        21: ("car", (0, 102, 200)),
        50: ("fireplace", (250, 10, 15)),
        76: ("swivel chair", (10, 0, 255)),
        100: ("buffet", (255, 112, 0)),
        125: ("microwave", (255, 0, 235)),
        150: ("flag", (92, 0, 255)),
    }
    for number, (name, color) in official.items():
        assert (ADE20K.CLASSES[number - 1], ADE20K.PALETTE[number - 1]) == (name, color)


@pytest.mark.parametrize("level", [".", "ADEChallengeData2016"])
def test_label_zero_is_ignored_and_the_others_count_from_zero(tmp_path: Path, level: str) -> None:
    written = codes_mask(range(151))
    ade20k_tree(tmp_path / level, COUNTS, written)
    dataset = ADE20K(tmp_path)
    assert dataset.ids == ("ADE_train_00000001", "ADE_train_00000002")
    assert ADE20K(tmp_path, split="val").ids == ("ADE_val_00000001",)
    assert dataset[1][1].tolist() == [[255 if value == 0 else value - 1 for value in row] for row in written.tolist()]
    assert set(dataset.labels(0).unique().tolist()) == {*range(150), 255}


def test_wrong_label_values_are_named(tmp_path: Path) -> None:
    ade20k_tree(tmp_path, COUNTS, codes_mask([0, 150, 151, 255]))
    with pytest.raises(
        UserError, match=r"001.png holds the label values 151, 255; expected 0 for other objects and the"
    ):
        check_dataset(ADE20K(tmp_path))


def test_missing_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds no ADEChallengeData2016/images nor images; expected the folder ADEChal"
    ):
        ADE20K(tmp_path)
    ade20k_tree(tmp_path, {"training": 2}, codes_mask(range(151)))
    with pytest.raises(UserError, match=r"has no split 'val'; it has train$"):
        ADE20K(tmp_path, split="val")
    with pytest.raises(UserError, match=r"has no split 'training'; it has train$"):
        ADE20K(tmp_path, split="training")
    (tmp_path / "annotations" / "training" / "ADE_train_00000002.png").unlink()
    with pytest.raises(
        UserError, match=r"1 image of .*training without a mask of the same stem .*: ADE_train_00000002$"
    ):
        ADE20K(tmp_path)
    shutil.rmtree(tmp_path / "annotations")
    with pytest.raises(UserError, match=r"training does not exist; expected the masks"):
        ADE20K(tmp_path)
