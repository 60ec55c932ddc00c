from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.datasets import Folder, SegmentationDataset, check_dataset
from segdistill.errors import UserError
from tests.datasets.trees import folder_tree, index_mask, write_image, write_mask

CLASSES = ("road", "roof", "tree")


def test_counts_every_pixel_of_every_class(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"train": 5})
    write_mask(root / "masks/train/train0.png", np.full((12, 16), 255, dtype=np.uint8))
    counts = check_dataset(Folder(root, CLASSES))
    pixels = np.concatenate([index_mask(3, seed=seed).ravel() for seed in range(1, 5)])
    assert counts.pixels.dtype == torch.int64
    assert counts.pixels.tolist() == np.bincount(pixels, minlength=3).tolist()
    assert counts.ignored == 12 * 16
    assert counts.shares.sum() == pytest.approx(0.8)


def test_the_progress_bar_goes_to_the_error_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check_dataset(Folder(folder_tree(tmp_path, {"train": 2}), CLASSES), progress=True)
    assert capsys.readouterr().out == ""


def test_a_mask_of_another_size_is_found_from_the_header(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"train": 3})
    write_image(root / "images/train/train1.png", 10, 16)
    with pytest.raises(UserError, match=r"train1.png is 16 x 12 pixels but its image .*train1.png is 16 x 10$"):
        check_dataset(Folder(root, CLASSES))
    with pytest.raises(UserError, match="is 16 x 12 pixels but its image"):
        Folder(root, CLASSES, resize=(8, 8))[1]


def test_the_first_bad_mask_is_named_among_many(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"train": 30})
    for number in (4, 7):
        write_mask(root / f"masks/train/train{number}.png", np.full((12, 16), 77, dtype=np.uint8))
    with pytest.raises(UserError, match=r"train4.png holds the label value 77, outside the classes 0 to 2"):
        check_dataset(Folder(root, CLASSES))


def test_a_truncated_mask_is_found(tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"train": 3})
    path = root / "masks/train/train2.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match=r"train2.png cannot be read, it is truncated"):
        check_dataset(Folder(root, CLASSES))


def test_masks_written_as_0_and_255_are_found_though_255_is_the_ignore_label(tmp_path: Path) -> None:
    write_image(tmp_path / "images/train/x.png")
    write_mask(tmp_path / "masks/train/x.png", index_mask(2) * 255)
    with pytest.raises(UserError, match="hold nothing but 'road' and the ignore label; masks written as 0/255"):
        check_dataset(Folder(tmp_path, CLASSES))


class Wrong(SegmentationDataset):
    def __init__(self) -> None:
        super().__init__(classes=("a", "b"), ids=("fine", "broken"))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(3, 2, 2, dtype=torch.uint8), torch.tensor([[0, 1], [1, 255]]) - 2 * index


def test_labels_of_a_users_own_data_set_are_checked_too() -> None:
    with pytest.raises(UserError, match="sample broken holds the label values -2, -1, 253, outside the classes 0 to 1"):
        check_dataset(Wrong())
