"""LoveDA: towns and countryside of three Chinese cities from the air."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.coded_masks import CodedMaskReader
from segdistill.datasets.reading.files import FileDataset, existing_folder, missing_split, pair_folders
from segdistill.files import as_path

_SPLITS = {"train": "Train", "val": "Val"}


class LoveDA(FileDataset):
    """LoveDA: 2522 train and 1669 val images of 1024 x 1024 pixels, 30 cm each, of seven classes.

    Wang et al., *LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptive Semantic Segmentation*, NeurIPS
    Datasets and Benchmarks 2021, arXiv 2110.08733.

    ``root`` holds the unpacked downloads: ``Train/Urban/images_png``, ``Train/Urban/masks_png``, ``Train/Rural/...``,
    ``Val/...``. The labels of the test images are not public. Masks count the classes from 1, and 0 is ignored.

    Args:
        root: the folder.
        split: "train" or "val".
        scene: "urban" (1156 train and 677 val images), "rural" (1366 and 992), or both.
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, unknown or empty split, image without mask, mask without image.
    """

    CLASSES = ("background", "building", "road", "water", "barren", "forest", "agriculture")
    PALETTE = (
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    )

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        scene: Literal["both", "urban", "rural"] = "both",
        resize: Sequence[int] | None = None,
    ) -> None:
        root = existing_folder(as_path(root, "root"), "the folder of LoveDA that holds Train/ and Val/")
        if split not in _SPLITS:
            raise missing_split(root, split, _SPLITS)
        scenes = ("Urban", "Rural") if scene == "both" else (scene.capitalize(),)
        folders = [root / _SPLITS[split] / name for name in scenes]
        codes = {0: IGNORE_INDEX} | {label + 1: label for label in range(len(self.CLASSES))}
        super().__init__(
            [pair for folder in folders for pair in pair_folders(folder / "images_png", folder / "masks_png")],
            CodedMaskReader(codes, meaning="0 for no data or 1 to 7 for the classes"),
            classes=self.CLASSES,
            palette=self.PALETTE,
            resize=resize,
        )
