"""COCO-Stuff 10K: photographs of COCO with things and stuff labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.coded_masks import MATLAB_SUFFIX, CodedMaskReader
from segdistill.datasets.reading.files import FileDataset, existing_folder, missing_split, read_lines
from segdistill.datasets.reading.layouts import files_ending, listed_pairs
from segdistill.datasets.voc import voc_colors
from segdistill.errors import UserError
from segdistill.files import as_path

_LAST_ID = 182
# Numbers of COCO's 91 things that no image has: street sign, hat, shoe, eye glasses, plate, mirror, window, desk, door,
# blender, hair brush.
_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
_CLASS_IDS = tuple(code for code in range(1, _LAST_ID + 1) if code not in _UNUSED_IDS)

_PUBLISHED = {0: IGNORE_INDEX} | {code: label for label, code in enumerate(_CLASS_IDS)}
_CONVERTED = {0: IGNORE_INDEX} | {1 + label: label for label in range(len(_CLASS_IDS))}

_FORMS = {
    "_labelTrainIds.png": (_CONVERTED, "0 for unlabeled and the classes 1 to 171"),
    MATLAB_SUFFIX: (_PUBLISHED, "0 for unlabeled and the 171 classes within 1 to 182 (the annotations of version 1.1)"),
}

_LISTS = {"train": "train.txt", "val": "test.txt", "test": "test.txt"}


class COCOStuff10K(FileDataset):
    """COCO-Stuff 10K, version 1.1, 80 things and 91 kinds of stuff: 9000 train and 1000 test images.

    Caesar, Uijlings, Ferrari, *COCO-Stuff: Thing and Stuff Classes in Context*, CVPR 2018.

    ``root`` holds what ``cocostuff-10k-v1.1.zip`` unpacks to: ``images/*.jpg``, ``annotations/*.mat`` (variable ``S``)
    and ``imageLists/train.txt``, ``test.txt``. Masks converted to
    ``annotations/**/*_labelTrainIds.png`` (0 for unlabeled, 1 to 171 for the classes; mmsegmentation's converter
    makes them) are taken instead where there are any. Unlabeled pixels are ignored.

    The 1000 test images are labelled, and published figures are of them: they are split "test", and split "val" too,
    as there is no other. Colours are Pascal VOC's for the numbers 1 to 182: the publishers' are drawn at random.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, unknown or empty split, a listed name without image or mask.
    """

    CLASSES = (
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "airplane",
        "bus",
        "train",
        "truck",
        "boat",
        "traffic light",
        "fire hydrant",
        "stop sign",
        "parking meter",
        "bench",
        "bird",
        "cat",
        "dog",
        "horse",
        "sheep",
        "cow",
        "elephant",
        "bear",
        "zebra",
        "giraffe",
        "backpack",
        "umbrella",
        "handbag",
        "tie",
        "suitcase",
        "frisbee",
        "skis",
        "snowboard",
        "sports ball",
        "kite",
        "baseball bat",
        "baseball glove",
        "skateboard",
        "surfboard",
        "tennis racket",
        "bottle",
        "wine glass",
        "cup",
        "fork",
        "knife",
        "spoon",
        "bowl",
        "banana",
        "apple",
        "sandwich",
        "orange",
        "broccoli",
        "carrot",
        "hot dog",
        "pizza",
        "donut",
        "cake",
        "chair",
        "couch",
        "potted plant",
        "bed",
        "dining table",
        "toilet",
        "tv",
        "laptop",
        "mouse",
        "remote",
        "keyboard",
        "cell phone",
        "microwave",
        "oven",
        "toaster",
        "sink",
        "refrigerator",
        "book",
        "clock",
        "vase",
        "scissors",
        "teddy bear",
        "hair drier",
        "toothbrush",
        "banner",
        "blanket",
        "branch",
        "bridge",
        "building-other",
        "bush",
        "cabinet",
        "cage",
        "cardboard",
        "carpet",
        "ceiling-other",
        "ceiling-tile",
        "cloth",
        "clothes",
        "clouds",
        "counter",
        "cupboard",
        "curtain",
        "desk-stuff",
        "dirt",
        "door-stuff",
        "fence",
        "floor-marble",
        "floor-other",
        "floor-stone",
        "floor-tile",
        "floor-wood",
        "flower",
        "fog",
        "food-other",
        "fruit",
        "furniture-other",
        "grass",
        "gravel",
        "ground-other",
        "hill",
        "house",
        "leaves",
        "light",
        "mat",
        "metal",
        "mirror-stuff",
        "moss",
        "mountain",
        "mud",
        "napkin",
        "net",
        "paper",
        "pavement",
        "pillow",
        "plant-other",
        "plastic",
        "platform",
        "playingfield",
        "railing",
        "railroad",
        "river",
        "road",
        "rock",
        "roof",
        "rug",
        "salad",
        "sand",
        "sea",
        "shelf",
        "sky-other",
        "skyscraper",
        "snow",
        "solid-other",
        "stairs",
        "stone",
        "straw",
        "structural-other",
        "table",
        "tent",
        "textile-other",
        "towel",
        "tree",
        "vegetable",
        "wall-brick",
        "wall-concrete",
        "wall-other",
        "wall-panel",
        "wall-stone",
        "wall-tile",
        "wall-wood",
        "water-other",
        "waterdrops",
        "window-blind",
        "window-other",
        "wood",
    )
    PALETTE = voc_colors(_CLASS_IDS)
    SPLIT_SIZES: ClassVar[Mapping[str, int]] = {"train": 9000, "val": 1000, "test": 1000}
    """Images of the complete splits."""

    def __init__(self, root: str | Path, split: str = "train", resize: Sequence[int] | None = None) -> None:
        root = existing_folder(
            as_path(root, "root"), "the folder of COCO-Stuff 10K that holds images/, annotations/, imageLists/"
        )
        listing = _find_listing(root, split)
        images = existing_folder(root / "images", "the images of cocostuff-10k-v1.1.zip")
        annotations = existing_folder(root / "annotations", "the masks of cocostuff-10k-v1.1.zip")
        ending, masks = _find_masks(annotations)
        codes, meaning = _FORMS[ending]
        super().__init__(
            listed_pairs(
                read_lines(listing),
                files_ending(images, ".jpg"),
                masks,
                listing=listing,
                where=f"{annotations} (*{ending})",
            ),
            CodedMaskReader(codes, meaning=meaning, variable=("S",)),
            classes=self.CLASSES,
            palette=self.PALETTE,
            resize=resize,
        )


def _find_listing(root: Path, split: str) -> Path:
    lists = existing_folder(root / "imageLists", "train.txt and test.txt, the splits of cocostuff-10k-v1.1.zip")
    known = {name: lists / listing for name, listing in _LISTS.items() if (lists / listing).is_file()}
    if split not in known:
        raise missing_split(root, split, known)
    return known[split]


def _find_masks(annotations: Path) -> tuple[str, Mapping[str, Path]]:
    """The ending of the mask files, and the files."""
    for ending in _FORMS:
        files = files_ending(annotations, ending)
        if files:
            return ending, files
    raise UserError(f"{annotations} holds no masks; expected *{' or *'.join(_FORMS)}")
