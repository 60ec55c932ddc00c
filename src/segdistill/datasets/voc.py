"""Pascal VOC 2012: photographs of twenty kinds of objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from segdistill.colors import Color
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.coded_masks import MATLAB_SUFFIX, CodedMaskReader
from segdistill.datasets.reading.files import FileDataset, Pair, missing_split, read_lines
from segdistill.datasets.reading.layouts import files_ending, find_root, listed_pairs
from segdistill.errors import UserError
from segdistill.files import as_path

_LEVELS = ("VOCdevkit/VOC2012", "VOC2012", ".")
_SBD_LEVELS = ("benchmark_RELEASE/dataset", "dataset", ".")
_SPLITS = ("train", "val")


def voc_colors(labels: Sequence[int]) -> tuple[Color, ...]:
    """The colours that Pascal VOC gives to labels 0..255: bits 0, 3, 6 of a label are the highest of red, and so on.

    Bits 1, 4, 7 make green and bits 2, 5 blue, from the highest bit of a colour downwards; label 0 is black, no two
    labels have one colour.

    Example:
        >>> voc_colors([0, 1, 2, 9])
        ((0, 0, 0), (128, 0, 0), (0, 128, 0), (192, 0, 0))
    """
    return tuple((_channel(label, 0), _channel(label, 1), _channel(label, 2)) for label in labels)


def _channel(label: int, first_bit: int) -> int:
    return sum((label >> (first_bit + 3 * place) & 1) << (7 - place) for place in range(3))


class VOC(FileDataset):
    """Pascal VOC 2012 with background, 21 classes: 10,582 augmented train (1464 of VOC alone) and 1449 val images.

    Everingham, Van Gool, Williams, Winn, Zisserman, *The Pascal Visual Object Classes (VOC) Challenge*, IJCV 2010.
    The further train images are those of SBD: Hariharan, Arbelaez, Bourdev, Maji, Malik, *Semantic Contours from
    Inverse Detectors*, ICCV 2011.

    ``root`` is ``VOC2012`` (``JPEGImages/``, ``SegmentationClass/``, ``ImageSets/Segmentation/``), or the folder
    above it, or the one that holds ``VOCdevkit/VOC2012``. The boundary label 255 is ignored.

    The augmented train split is the usual one: every image with a mask in VOC's train split or anywhere in SBD, less
    VOC's val split. It is read from ``ImageSets/Segmentation/trainaug.txt`` and the PNGs in ``SegmentationClassAug/``
    where these are there. What is missing of the two comes from SBD's archive (``benchmark_RELEASE/dataset`` with
    ``train.txt``, ``val.txt`` and ``cls/*.mat``; reading them needs scipy), whose images are all in ``JPEGImages``.
    An image that VOC itself annotated keeps VOC's mask.

    torchvision's ``VOCSegmentation`` and ``SBDataset`` do not fit: the union of the two is neither's, each expects
    ``root`` at its own level, and a missing file is reported only when its turn comes.

    Args:
        root: the folder.
        split: "train" or "val".
        augmented: train on the 10,582 images; False: on VOC's own 1464.
        sbd: the folder of SBD that holds ``cls/``, or one above it; looked for in and beside ``root`` if not given.
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, unknown or empty split, a listed name without image or mask, a training list with
            val images in it, SBD without scipy.
    """

    CLASSES = (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
    PALETTE = voc_colors(range(21))
    SPLIT_SIZES: ClassVar[Mapping[str, int]] = {"train": 10582, "val": 1449}
    """Images of the complete splits."""
    OWN_TRAIN_SIZE = 1464
    """Images of VOC's own train split."""

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        augmented: bool = True,
        sbd: str | Path | None = None,
        resize: Sequence[int] | None = None,
    ) -> None:
        codes = {label: label for label in (*range(len(self.CLASSES)), IGNORE_INDEX)}
        super().__init__(
            _find_pairs(as_path(root, "root"), split, augmented, None if sbd is None else Path(sbd)),
            CodedMaskReader(
                codes, meaning="the classes 0 to 20, and 255 for ignored pixels", variable=("GTcls", "Segmentation")
            ),
            classes=self.CLASSES,
            palette=self.PALETTE,
            resize=resize,
        )


def _find_pairs(root: Path, split: str, augmented: bool, sbd: Path | None) -> list[Pair]:
    voc = find_root(root, _LEVELS, "JPEGImages", "the folder of Pascal VOC 2012")
    lists = voc / "ImageSets" / "Segmentation"
    known = [name for name in _SPLITS if (lists / f"{name}.txt").is_file()]
    if split not in known:
        raise missing_split(voc, split, known)
    listing: Path | str = lists / f"{split}.txt"
    names = read_lines(lists / f"{split}.txt")
    masks = files_ending(voc / "SegmentationClass", ".png")
    where = "SegmentationClass"
    if split == "train" and augmented:
        found = _find_sbd(root, voc, sbd)
        more, where = _augmenting_masks(voc, found)
        masks = more | masks
        listing, names = _augmented_names(lists, names, found)
    return listed_pairs(names, files_ending(voc / "JPEGImages", ".jpg"), masks, listing=listing, where=where)


def _find_sbd(root: Path, voc: Path, sbd: Path | None) -> Path | None:
    """SBD's folder that holds ``cls``: as the user says, else in or beside ``root``, if it is there at all."""
    if sbd is not None:
        return find_root(sbd, _SBD_LEVELS, "cls", "the folder of SBD")
    beside = (root, voc, voc.parent, voc.parent.parent)
    places = [folder / "benchmark_RELEASE" / "dataset" for folder in beside]
    return next((place for place in places if (place / "cls").is_dir()), None)


def _augmenting_masks(voc: Path, sbd: Path | None) -> tuple[dict[str, Path], str]:
    """The masks that SBD adds, and where they are."""
    images = voc / "SegmentationClassAug"
    if images.is_dir():
        return files_ending(images, ".png"), f"SegmentationClass or {images.name}"
    if sbd is None:
        raise UserError(
            f"{voc} has no SegmentationClassAug, and SBD is not beside it; expected the augmented train masks "
            "(give the folder of SBD as sbd, or augmented: false to train on VOC's own)"
        )
    return files_ending(sbd / "cls", MATLAB_SUFFIX), f"SegmentationClass or {sbd / 'cls'}"


def _augmented_names(lists: Path, own: Sequence[str], sbd: Path | None) -> tuple[Path | str, list[str]]:
    """The names of the augmented train split, and the file or files that list them."""
    listing = lists / "trainaug.txt"
    if not (lists / "val.txt").is_file():
        raise UserError(f"{lists} has no val.txt; expected it beside train.txt, as its images must not be trained on")
    val = set(read_lines(lists / "val.txt"))
    if listing.is_file():
        names = read_lines(listing)
        leaked = sorted(val.intersection(names))
        if leaked:
            raise UserError(
                f"{listing} lists {len(leaked)} image{'s' * (len(leaked) > 1)} of val.txt: {', '.join(leaked[:3])}"
            )
        return listing, names
    if sbd is None:
        raise UserError(
            f"{lists} has no trainaug.txt, and SBD is not beside it; expected the list of the augmented train split "
            "(give the folder of SBD as sbd, or augmented: false to train on VOC's own)"
        )
    theirs = [*read_lines(sbd / "train.txt"), *read_lines(sbd / "val.txt")]
    return f"{lists} and {sbd}", sorted({*own, *theirs} - val)
