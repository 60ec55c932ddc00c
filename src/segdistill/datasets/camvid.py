"""CamVid: road scenes from a driving car."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from segdistill.datasets.reading.files import (
    FileDataset,
    Pair,
    existing_folder,
    missing_split,
    pair_folders,
    read_lines,
    refuse_missing,
)
from segdistill.datasets.reading.masks import MaskReader
from segdistill.errors import UserError
from segdistill.files import as_path

_VOID = 11
_SPLITS = ("train", "val", "test")


class CamVid(FileDataset):
    """CamVid in the 11-class, 480 x 360 form of the SegNet tutorial: 367 train, 101 val and 233 test images.

    Brostow, Fauqueur, Cipolla, *Semantic object classes in video*, Pattern Recognition Letters 2009.

    ``root`` holds ``train/`` and ``trainannot/``, ``val/`` and ``valannot/``, ``test/`` and ``testannot/``
    (those that are there), images as .jpg or .png, masks of the same stem. Where ``train.txt`` lies beside
    them, as in the tutorial's own archive, the split is what it lists: an image and a mask per line, of which
    the last two parts of each path count ("/SegNet/CamVid/train/x.png"). All this may lie in a folder
    ``CamVid/`` of ``root``. Label 11, void, is ignored.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, unknown or empty split, image without mask, mask without image.
    """

    CLASSES = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    PALETTE = (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    )

    def __init__(self, root: str | Path, split: str = "train", resize: Sequence[int] | None = None) -> None:
        super().__init__(
            _find_pairs(as_path(root, "root"), split),
            MaskReader(len(self.CLASSES), ignore=_VOID),
            classes=self.CLASSES,
            palette=self.PALETTE,
            resize=resize,
        )


def _find_pairs(root: Path, split: str) -> list[Pair]:
    existing_folder(root, "the folder of CamVid that holds train/ and trainannot/")
    if not _known_splits(root) and (root / "CamVid").is_dir():
        root = root / "CamVid"
    if split not in _known_splits(root):
        raise missing_split(root, split, _known_splits(root))
    if (root / f"{split}.txt").is_file():
        return _listed_pairs(root, root / f"{split}.txt")
    return pair_folders(root / split, root / f"{split}annot")


def _known_splits(root: Path) -> list[str]:
    return [split for split in _SPLITS if (root / split).is_dir() or (root / f"{split}.txt").is_file()]


def _listed_pairs(root: Path, listing: Path) -> list[Pair]:
    pairs = []
    for line in read_lines(listing):
        paths = line.split()
        if len(paths) != 2:
            raise UserError(f"{listing} has the line '{line}'; expected the path of an image and that of its mask")
        image, mask = (root.joinpath(*path.replace("\\", "/").split("/")[-2:]) for path in paths)
        pairs.append((image, mask))
    there = {str(path): path for pair in pairs for path in pair if path.is_file()}
    refuse_missing([str(image) for image, _ in pairs], there, f"image{{s}} listed in {listing} but not there")
    refuse_missing([str(mask) for _, mask in pairs], there, f"mask{{s}} listed in {listing} but not there")
    return pairs
