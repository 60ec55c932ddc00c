"""Cityscapes: street scenes of 50 cities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.coded_masks import CodedMaskReader
from segdistill.datasets.reading.files import FileDataset, existing_folder, missing_split, refuse_missing
from segdistill.datasets.reading.layouts import files_ending
from segdistill.errors import UserError
from segdistill.files import as_path

_SPLITS = ("train", "val", "test")
_IMAGE_ENDING = "_leftImg8bit.png"

# The label ids of the 19 classes that the benchmark scores, in the order of the train ids.
_SCORED_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LABEL_IDS = dict.fromkeys(range(34), IGNORE_INDEX) | {code: label for label, code in enumerate(_SCORED_IDS)}
_TRAIN_IDS = {label: label for label in range(len(_SCORED_IDS))} | {IGNORE_INDEX: IGNORE_INDEX}

_FORMS = {
    "_gtFine_labelIds.png": (_LABEL_IDS, "the label ids 0 to 33"),
    "_gtFine_labelTrainIds.png": (_TRAIN_IDS, "the train ids 0 to 18, and 255 for ignored pixels"),
}


class Cityscapes(FileDataset):
    """Cityscapes with fine annotations, 19 classes, 2048 x 1024: 2975 train, 500 val and 1525 test images.

    Cordts, Omran, Ramos, Rehfeld, Enzweiler, Benenson, Franke, Roth, Schiele, *The Cityscapes Dataset for Semantic
    Urban Scene Understanding*, CVPR 2016.

    ``root`` holds what the two archives ``leftImg8bit_trainvaltest.zip`` and ``gtFine_trainvaltest.zip`` unpack to:
    ``leftImg8bit/train/CITY/*_leftImg8bit.png`` and ``gtFine/train/CITY/*_gtFine_labelIds.png``. The label ids 0 to
    33 become the 19 train ids, all others are ignored. A split without ``labelIds`` files is read from
    ``*_gtFine_labelTrainIds.png``. The test split's annotations are withheld: its masks hold nothing but ignored
    pixels.

    torchvision's ``Cityscapes`` does not fit: it unpacks archives by itself, reports a missing mask only when its
    turn comes, and knows no train ids.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, unknown or empty split, image without mask, mask without image.
    """

    CLASSES = (
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    )
    PALETTE = (
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    )
    SPLIT_SIZES: ClassVar[Mapping[str, int]] = {"train": 2975, "val": 500, "test": 1525}
    """Images of the complete splits."""

    def __init__(self, root: str | Path, split: str = "train", resize: Sequence[int] | None = None) -> None:
        images, masks = _find_folders(as_path(root, "root"), split)
        image_files = files_ending(images, _IMAGE_ENDING)
        if not image_files:
            raise UserError(f"{images} holds no image, so the split is empty; expected CITY/*{_IMAGE_ENDING}")
        ending, mask_files = _find_masks(masks)
        refuse_missing(image_files, mask_files, f"image{{s}} of {images} without a mask *{ending} in {masks}")
        refuse_missing(mask_files, image_files, f"mask{{s}} of {masks} without an image *{_IMAGE_ENDING} in {images}")
        codes, meaning = _FORMS[ending]
        super().__init__(
            [(image_files[name], mask_files[name]) for name in image_files],
            CodedMaskReader(codes, meaning=meaning),
            classes=self.CLASSES,
            palette=self.PALETTE,
            resize=resize,
        )


def _find_folders(root: Path, split: str) -> tuple[Path, Path]:
    existing_folder(root, "the folder of Cityscapes that holds leftImg8bit/ and gtFine/")
    images = existing_folder(root / "leftImg8bit", "the images, as leftImg8bit_trainvaltest.zip unpacks")
    masks = existing_folder(root / "gtFine", "the masks, as gtFine_trainvaltest.zip unpacks")
    known = [name for name in _SPLITS if (images / name).is_dir()]
    if split not in known:
        raise missing_split(root, split, known)
    return images / split, existing_folder(masks / split, f"the masks of the images in {images / split}")


def _find_masks(masks: Path) -> tuple[str, Mapping[str, Path]]:
    """The ending of the mask files, and the files: label ids where there are any, since train ids are made of them."""
    for ending in _FORMS:
        files = files_ending(masks, ending)
        if files:
            return ending, files
    raise UserError(f"{masks} holds no masks; expected CITY/*{' or CITY/*'.join(_FORMS)}")
