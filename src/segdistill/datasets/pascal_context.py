"""Pascal Context: the photographs of Pascal VOC 2010, labelled everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.coded_masks import MATLAB_SUFFIX, CodedMaskReader
from segdistill.datasets.reading.files import FileDataset, missing_split, read_lines
from segdistill.datasets.reading.layouts import files_ending, find_root, listed_pairs
from segdistill.datasets.voc import voc_colors
from segdistill.errors import UserError
from segdistill.files import as_path

_LEVELS = ("VOCdevkit/VOC2010", "VOC2010", ".")
_LISTS = ("Main", "SegmentationContext")  # the later wins
_SPLITS = ("train", "val")

_ALL_IDS = 459
# The numbers of the 59 classes among the 459 of the published label maps, in the same, alphabetical order.
# fmt: off
_CLASS_IDS = (
    2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144, 158,
    159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355, 360,
    366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458,
)
# fmt: on


class PascalContext(FileDataset):
    """Pascal Context with its 59 usual classes: 4998 train and 5105 val images.

    Mottaghi, Chen, Liu, Cho, Lee, Fidler, Urtasun, Yuille, *The Role of Context for Object Detection and Semantic
    Segmentation in the Wild*, CVPR 2014.

    ``root`` is ``VOC2010`` (with ``JPEGImages/``), or the folder above it, or the one that holds
    ``VOCdevkit/VOC2010``. Masks are, whichever is there first:

    * ``SegmentationClassContext/*.png`` in ``VOC2010``, as conversions by the Detail API leave them (mmsegmentation's
      among them): 0 is background, 1 to 59 are the classes in alphabetical order. (The files of the publishers'
      ``59_context_labels.tar.gz`` follow another order and must not be put there.)
    * ``trainval/*.mat`` in ``VOC2010`` or in ``root``, as published: ``LabelMap`` of 459 numbers, of which 59 are
      classes and the others background. Reading them needs scipy.

    Splits are those of ``ImageSets/SegmentationContext/train.txt`` and ``val.txt``, or the equal ones that VOC 2010
    itself has in ``ImageSets/Main``. Colours are Pascal VOC's for labels 1 to 59: the data set has none of its own.

    Args:
        root: the folder.
        split: "train" or "val".
        background: count background as class 0, of 60 classes; otherwise it is ignored.
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, unknown or empty split, a listed name without image or mask.
    """

    CLASSES = (
        "aeroplane",
        "bag",
        "bed",
        "bedclothes",
        "bench",
        "bicycle",
        "bird",
        "boat",
        "book",
        "bottle",
        "building",
        "bus",
        "cabinet",
        "car",
        "cat",
        "ceiling",
        "chair",
        "cloth",
        "computer",
        "cow",
        "cup",
        "curtain",
        "dog",
        "door",
        "fence",
        "floor",
        "flower",
        "food",
        "grass",
        "ground",
        "horse",
        "keyboard",
        "light",
        "motorbike",
        "mountain",
        "mouse",
        "person",
        "plate",
        "platform",
        "pottedplant",
        "road",
        "rock",
        "sheep",
        "shelves",
        "sidewalk",
        "sign",
        "sky",
        "snow",
        "sofa",
        "table",
        "track",
        "train",
        "tree",
        "truck",
        "tvmonitor",
        "wall",
        "water",
        "window",
        "wood",
    )
    """The 59 classes; with background, that comes before them."""
    PALETTE = voc_colors(range(1, 60))
    SPLIT_SIZES: ClassVar[Mapping[str, int]] = {"train": 4998, "val": 5105}
    """Images of the complete splits."""

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        background: bool = False,
        resize: Sequence[int] | None = None,
    ) -> None:
        voc = find_root(as_path(root, "root"), _LEVELS, "JPEGImages", "the folder of Pascal VOC 2010")
        listing = _find_listing(voc, split)
        masks, where = _find_masks(voc, as_path(root, "root"))
        first = 1 if background else 0
        unnamed = 0 if background else IGNORE_INDEX
        if where == "trainval":
            codes = dict.fromkeys(range(_ALL_IDS + 1), unnamed)
            codes |= {code: first + label for label, code in enumerate(_CLASS_IDS)}
            meaning = "the numbers 0 to 459 of the published label maps"
        else:
            codes = {0: unnamed} | {1 + label: first + label for label in range(len(self.CLASSES))}
            meaning = "0 for background and the classes 1 to 59"
        super().__init__(
            listed_pairs(
                read_lines(listing), files_ending(voc / "JPEGImages", ".jpg"), masks, listing=listing, where=where
            ),
            CodedMaskReader(codes, meaning=meaning, variable=("LabelMap",)),
            classes=("background", *self.CLASSES) if background else self.CLASSES,
            palette=(*voc_colors([0]), *self.PALETTE) if background else self.PALETTE,
            resize=resize,
        )


def _find_listing(voc: Path, split: str) -> Path:
    listings = [voc / "ImageSets" / folder / f"{name}.txt" for folder in _LISTS for name in _SPLITS]
    known = {listing.stem: listing for listing in listings if listing.is_file()}
    if split not in known:
        raise missing_split(voc, split, known)
    return known[split]


def _find_masks(voc: Path, root: Path) -> tuple[dict[str, Path], str]:
    """The mask files, and the name of their folder."""
    converted = voc / "SegmentationClassContext"
    if converted.is_dir():
        return files_ending(converted, ".png"), converted.name
    for folder in (voc / "trainval", root / "trainval"):
        if folder.is_dir():
            return files_ending(folder, MATLAB_SUFFIX), folder.name
    raise UserError(f"{voc} has no masks; expected SegmentationClassContext/*.png or trainval/*{MATLAB_SUFFIX}")
