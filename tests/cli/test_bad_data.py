"""Data on disk that cannot be trained on: one sentence, and nothing is overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.cli.main import main
from tests.cli.failing import CLASSES, TINY, TRAIN, argv, broken, fails
from tests.datasets.trees import folder_tree, index_mask, write_image, write_mask
from tests.training.runs import contents


def rgb(path: Path, *colors: tuple[int, int, int]) -> None:
    Image.fromarray(np.array([[colors[i % len(colors)] for i in range(16)]] * 12, dtype=np.uint8)).save(path)


PALETTE = {"palette": ["#ff0000", "#00ff00", "#0000ff"]}
DAMAGES: dict[str, tuple[Callable[[Path], object], dict[str, Any], list[str]]] = {
    "missing root": (
        shutil.rmtree,
        {},
        ["/data does not exist", "expected a folder that holds images/ and masks/"],
    ),
    "root is a file": (
        lambda root: (shutil.rmtree(root), root.write_text("")),
        {},
        ["/data is no folder", "expected a folder that holds images/ and masks/"],
    ),
    "no masks at all": (lambda root: shutil.rmtree(root / "masks"), {}, ["/masks does not exist"]),
    "no validation split": (
        lambda root: (shutil.rmtree(root / "images" / "val"), shutil.rmtree(root / "masks" / "val")),
        {},
        ["has no split 'val'; it has train"],
    ),
    "missing image": (
        lambda root: (root / "images/train/train1.png").unlink(),
        {},
        ["1 mask of", "without an image of the same stem in", "train1"],
    ),
    "missing mask": (
        lambda root: (root / "masks/val/val0.png").unlink(),
        {},
        ["1 image of", "without a mask of the same stem in", "val0"],
    ),
    "mask of another size": (
        lambda root: write_mask(root / "masks/train/train2.png", index_mask(3, 12, 20)),
        {},
        ["train2.png is 20 x 12 pixels but its image", "is 16 x 12"],
    ),
    "truncated mask": (
        lambda root: broken(root / "masks/val/val1.png"),
        {},
        ["masks/val/val1.png cannot be read, it is truncated or no image"],
    ),
    "image that is no image": (
        lambda root: (root / "images/val/val1.png").write_text("hello"),
        {},
        ["images/val/val1.png cannot be read, it is truncated or no image"],
    ),
    "label outside": (
        lambda root: write_mask(root / "masks/train/train3.png", index_mask(3) + 3 * index_mask(2, seed=1)),
        {},
        ["train3.png holds the label values 3, 4, 5, outside the classes 0 to 2", "0/255", "RGB palette"],
    ),
    "masks of 0 and 255": (
        lambda root: [write_mask(path, index_mask(2) * 255) for path in (root / "masks/train").iterdir()],
        {},
        ["hold nothing but 'road' and the ignore label", "0/255 instead of 0/1"],
    ),
    "colours without a palette": (
        lambda root: rgb(root / "masks/train/train0.png", (255, 0, 0)),
        {},
        ["train0.png is an RGB mask, and no palette says which colour is which class"],
    ),
    "colour outside the palette": (
        lambda root: rgb(root / "masks/train/train0.png", (255, 0, 0), (1, 2, 3)),
        PALETTE,
        ["train0.png holds the colour #010203, not in the palette"],
    ),
    "palette of another length": (
        lambda root: None,
        {"palette": ["#ff0000", "#00ff00"]},
        ["palette has 2 colours for 3 classes (road, roof, tree)"],
    ),
    "empty split": (
        lambda root: [path.unlink() for path in [*root.glob("*/val/*")]],
        {},
        ["images/val holds no image, so the split is empty"],
    ),
    "empty split file": (
        lambda root: (
            [shutil.move(path, path.parent.parent) for path in root.glob("*/*/*.png")],
            [shutil.rmtree(path) for path in root.glob("*/*/")],
            (root / "train.txt").write_text("train0\n"),
            (root / "val.txt").write_text("\n"),
        ),
        {},
        ["val.txt is an empty file, so the split is empty"],
    ),
    "listed name that is not there": (
        lambda root: (
            [shutil.move(path, path.parent.parent) for path in root.glob("*/*/*.png")],
            [shutil.rmtree(path) for path in root.glob("*/*/")],
            (root / "train.txt").write_text("train0\ntrain77\n"),
            (root / "val.txt").write_text("val0\n"),
        ),
        {},
        ["1 name listed in", "train.txt without an image", "train77"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_data(tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str) -> None:
    do, extra, told = DAMAGES[damage]
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    do(root)
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]} | extra
    fails(capfd, argv("train", data=data, network=TINY, train=TRAIN, device="cpu", output=tmp_path / "run"), *told)
    assert not (tmp_path / "run").exists()


def test_truncated_image_is_found_before_anything_is_overwritten(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]}
    command = argv("train", data=data, network=TINY, train=TRAIN, device="cpu", output=tmp_path / "run")
    assert main([*command, "--quiet"]) == 0
    before = contents(tmp_path / "run")
    broken(root / "images/train/train2.png")
    fails(capfd, [*command, "--overwrite"], "images/train/train2.png cannot be read, it is truncated or no image")
    assert contents(tmp_path / "run") == before


def test_image_and_mask_helpers_are_sound(tmp_path: Path) -> None:
    """The tree that the damages are done to is one that trains."""
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    write_image(root / "images/train/more.png")
    write_mask(root / "masks/train/more.png", index_mask(3))
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]}
    assert main(argv("train", data=data, network=TINY, train=TRAIN, device="cpu", output=str(tmp_path / "run"))) == 0
