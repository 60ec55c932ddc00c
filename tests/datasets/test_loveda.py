from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segdistill.datasets.loveda import LoveDA
from segdistill.errors import UserError
from tests.datasets.trees import index_mask, write_image, write_mask


def loveda_tree(root: Path, counts: dict[str, int]) -> Path:
    """Samples in "Train/Urban" and so on, numbered through."""
    number = 0
    for folder, count in counts.items():
        for _ in range(count):
            write_image(root / folder / "images_png" / f"{number}.png", seed=number)
            write_mask(root / folder / "masks_png" / f"{number}.png", index_mask(8, seed=number))
            number += 1
    return root


def test_labels_are_shifted_by_one_and_no_data_is_ignored(tmp_path: Path) -> None:
    dataset = LoveDA(loveda_tree(tmp_path, {"Train/Rural": 1, "Train/Urban": 2}), "train")
    assert dataset.ids == ("1", "2", "0")
    written = torch.from_numpy(index_mask(8, seed=2)).long()
    image, labels = dataset[1]
    assert image.shape == (3, 12, 16)
    assert labels.equal(torch.where(written == 0, 255, written - 1))
    assert labels.equal(dataset.labels(1))
    assert set(labels.unique().tolist()) == {0, 1, 2, 3, 4, 5, 6, 255}


def test_the_classes_and_their_colours_are_the_published_ones(tmp_path: Path) -> None:
    dataset = LoveDA(loveda_tree(tmp_path, {"Train/Rural": 1, "Train/Urban": 1}))
    published = dict(zip(dataset.classes, dataset.palette, strict=True))
    assert published["building"] == (255, 0, 0)
    assert published["barren"] == (159, 129, 183)
    assert published["agriculture"] == (255, 195, 128)
    assert dataset.classes == ("background", "building", "road", "water", "barren", "forest", "agriculture")


def test_one_scene_alone(tmp_path: Path) -> None:
    root = loveda_tree(tmp_path, {"Val/Urban": 2, "Val/Rural": 1})
    assert LoveDA(root, "val", scene="urban").ids == ("0", "1")
    assert LoveDA(root, "val", scene="rural").ids == ("2",)
    assert LoveDA(root, "val", scene="rural", resize=(6, 8))[0][1].shape == (6, 8)


def test_what_is_missing_or_no_class_is_told(tmp_path: Path) -> None:
    root = loveda_tree(tmp_path, {"Train/Urban": 1})
    with pytest.raises(UserError, match=r"has no split 'test'; it has train, val"):
        LoveDA(root, "test")
    with pytest.raises(UserError, match=r"Train.Rural.images_png does not exist; expected the images"):
        LoveDA(root)
    write_mask(root / "Train/Urban/masks_png/0.png", np.full((12, 16), 8, dtype=np.uint8))
    with pytest.raises(UserError, match=r"0.png holds the label value 8; expected 0 for no data or 1 to 7"):
        LoveDA(root, scene="urban")[0]
