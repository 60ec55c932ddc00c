"""Opening a split although something is wrong with it: the pairs that are there, and findings about the rest."""

from __future__ import annotations

import inspect
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from segdistill.colors import parse_color, parse_palette
from segdistill.datasets import CamVid
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.files import FileDataset, Pair, existing_folder, read_lines
from segdistill.datasets.reading.images import SUFFIXES, read_rgb
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.rasters import read_header
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.errors import UserError
from segdistill.inspection.findings import Finding, Severity, counted
from segdistill.recipe.values import construct


@dataclass
class Pairing:
    """The pairs of one split, and what is wrong with its files.

    Attributes:
        split: name of the split.
        pairs: image and mask files that belong together.
        findings: about all other files.
    """

    split: str
    pairs: list[Pair] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def tell(self, severity: Severity, kind: str, what: str, advice: str, files: Iterable[object] = ()) -> None:
        """Adds a finding."""
        names = tuple(str(file) for file in files)
        self.findings.append(Finding(severity, kind, self.split, what, advice, names))


class TolerantFiles(FileDataset, ABC):
    """A data set of files that opens although some of its files do not pair.

    Attributes:
        findings: what is wrong with the files.
        reader: turns mask files into labels.
    """

    findings: tuple[Finding, ...]
    reader: MaskReader

    @abstractmethod
    def image_alone(self, index: int) -> Tensor:
        """The image of one sample, (C, H, W), whether or not its mask can be read."""

    def mask_alone(self, index: int) -> Tensor:
        """The label map of one sample, int64 (H, W), whether or not its image can be read."""
        return self.reader.read(self.pairs[index][1])


class TolerantFolder(TileDataset, TolerantFiles):
    """`segdistill.datasets.Folder` with its arguments and layouts, which opens broken trees too.

    Every pixel is looked at and nothing is written, so ``resize`` and ``tiled_copy`` change nothing here.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        split: str = "train",
        palette: Sequence[str | Sequence[int]] | None = None,
        ignore: int = IGNORE_INDEX,
        ignore_color: str | Sequence[int] | None = None,
        resize: Sequence[int] | None = None,
        bands: Sequence[int] | None = None,
        tiled_copy: str | Path | None = None,
        crops_per_image: int = 1,
        evaluation_window: int | None = None,
    ) -> None:
        existing_folder(Path(root), "a folder that holds images/ and masks/")
        colors = None if palette is None else parse_palette(palette, classes)
        ignored = None if ignore_color is None else parse_color(ignore_color, argument="ignore_color")
        pairing = _folder_pairs(Path(root), split)
        pairs = pairing.pairs if bands is None else _readable_first(pairing.pairs)
        reader = MaskReader(len(classes), ignore=ignore, palette=colors, ignore_color=ignored)
        super().__init__(
            pairs,
            reader,
            classes=classes,
            palette=colors,
            resize=resize,
            bands=bands if pairs else None,
            crops_per_image=crops_per_image,
            evaluation_window=evaluation_window,
        )
        self.resize = None
        self.findings = tuple(pairing.findings)
        self.reader = reader

    def image_alone(self, index: int) -> Tensor:
        """See `TolerantFiles`."""
        return self._image(index).whole()[0]


class TolerantCamVid(TolerantFiles):
    """`segdistill.datasets.CamVid` with its arguments and layouts, which opens broken trees too."""

    def __init__(self, root: str | Path, split: str = "train", resize: Sequence[int] | None = None) -> None:
        existing_folder(Path(root), "the folder of CamVid that holds train/ and trainannot/")
        pairing = _camvid_pairs(camvid_root(Path(root)), split)
        reader = MaskReader(len(CamVid.CLASSES), ignore=len(CamVid.CLASSES))
        super().__init__(pairing.pairs, reader, classes=CamVid.CLASSES, palette=CamVid.PALETTE, resize=resize)
        self.resize = None  # every pixel is looked at
        self.findings = tuple(pairing.findings)
        self.reader = reader

    def image_alone(self, index: int) -> Tensor:
        """See `TolerantFiles`."""
        return read_rgb(self.pairs[index][0])


TOLERANT: dict[str, type[TolerantFiles]] = {"folder": TolerantFolder, "camvid": TolerantCamVid}
"""The data sets that open although files are missing; others are built as for a run."""


def open_tolerantly(data: Mapping[str, Any], split: str) -> TolerantFiles:
    """One split of a data set in `TOLERANT`.

    Args:
        data: a recipe's ``data``.
        split: its name.

    Raises:
        UserError: a root that does not exist, or a wrong argument.
    """
    kind = TOLERANT[data["dataset"]]
    reading = {key: value for key, value in data.items() if key in inspect.signature(kind).parameters}
    return construct(kind, reading | {"split": split}, "data")


def folder_splits(root: Path) -> list[str]:
    """Train and val, which every run needs, and what other splits a `folder` data set seems to have."""
    found = {path.name for side in ("images", "masks") for path in _entries(root / side) if _is_subfolder(path)}
    images = {path.stem for path in _entries(root / "images")}
    for listing in [*(root / "splits").glob("*.txt"), *root.glob("*.txt")]:
        try:
            # Other text files lie there too, a README.txt or the names of the classes.
            if any(line in images or Path(line).stem in images for line in read_lines(listing)):
                found.add(listing.stem)
        except UserError:
            continue  # where train or val needs this file, its pairing tells of it
    return ["train", "val", *sorted(found - {"train", "val"})]


def camvid_root(root: Path) -> Path:
    """``root``, or the folder CamVid in it that holds the splits."""
    here = any((root / split).is_dir() or (root / f"{split}.txt").is_file() for split in ("train", "val", "test"))
    return root / "CamVid" if not here and (root / "CamVid").is_dir() else root


def camvid_splits(root: Path) -> list[str]:
    """Train and val, which every run needs, and test if it is there."""
    base = camvid_root(root)
    there = (base / "test").is_dir() or (base / "test.txt").is_file()
    return ["train", "val", *(["test"] if there else [])]


def unused_files(root: Path, splits: Iterable[str]) -> list[Finding]:
    """Notes about images of a `folder` data set that belong to no split."""
    images = root / "images"
    loose = [path for path in _entries(images) if path.suffix.lower() in SUFFIXES and not path.is_dir()]
    listed: set[str] = set()
    for split in splits:
        listing = _listing(root, split)
        if listing is not None and not (images / split).is_dir():
            try:
                listed |= set(read_lines(listing))
            except UserError:
                continue  # told of by the split's own pairing
    unused = [path for path in loose if path.name not in listed and path.stem not in listed]
    if not unused:
        return []
    return [
        Finding(
            "note",
            "unused-image",
            None,
            f"{counted(len(unused), 'image')} in {images} belong{'s' * (len(unused) == 1)} to no split",
            "list them in a split file, or move them into the folder of a split, if they are meant to be used",
            tuple(str(path) for path in unused),
        )
    ]


def _folder_pairs(root: Path, split: str) -> Pairing:
    pairing = Pairing(split)
    images, masks = root / "images", root / "masks"
    listing = _listing(root, split)
    if (images / split).is_dir() or (listing is None and (masks / split).is_dir()):
        _pair_folders(pairing, images / split, masks / split)
    elif listing is not None:
        _pair_listed(pairing, images, masks, listing)
    else:
        pairing.tell(
            "error",
            "missing-split",
            f"there is neither a folder {images / split} nor a file {root / (split + '.txt')}",
            "put the images and masks of the split into images/ and masks/ of its name, or list their stems in a file",
        )
    return pairing


def _listing(root: Path, split: str) -> Path | None:
    """The text file of a split; the one in ``root`` wins, as in `Folder`."""
    found = [path for path in (root / f"{split}.txt", root / "splits" / f"{split}.txt") if path.is_file()]
    return found[0] if found else None


def _pair_folders(pairing: Pairing, images: Path, masks: Path) -> None:
    image_files, mask_files = _files(pairing, images, "images"), _files(pairing, masks, "masks")
    _tell_of_orphans(pairing, image_files, mask_files)
    pairing.pairs = [(image_files[stem], mask_files[stem]) for stem in image_files if stem in mask_files]
    if not image_files and images.is_dir():
        pairing.tell(
            "error",
            "empty-split",
            f"{images} holds no image",
            f"put images into it; their names end in {' '.join(SUFFIXES)}",
        )


def _pair_listed(pairing: Pairing, images: Path, masks: Path, listing: Path) -> None:
    lines = _lines(pairing, listing)
    image_files, mask_files = _files(pairing, images, "images"), _files(pairing, masks, "masks")
    by_name = {path.name: stem for stem, path in image_files.items()}
    stems = [by_name.get(line, line) for line in lines]
    counts = {stem: stems.count(stem) for stem in dict.fromkeys(stems)} if len(set(stems)) < len(stems) else {}
    twice = [f"{stem} in {listing}" for stem, count in counts.items() if count > 1]
    if twice:
        pairing.tell(
            "error",
            "listed-twice",
            f"{counted(len(twice), 'name')} listed more than once",
            "list every name once",
            twice,
        )
    nowhere = [f"{stem} in {listing}" for stem in dict.fromkeys(stems) if stem not in image_files]
    if nowhere:
        pairing.tell(
            "error",
            "missing-image",
            f"{counted(len(nowhere), 'listed name')} without an image in {images}",
            "add the images, or take the names out of the list",
            nowhere,
        )
    chosen = {stem: image_files[stem] for stem in stems if stem in image_files}
    _tell_of_orphans(pairing, chosen, mask_files, masks_too=False)
    pairing.pairs = [(image, mask_files[stem]) for stem, image in chosen.items() if stem in mask_files]


def _camvid_pairs(root: Path, split: str) -> Pairing:
    pairing = Pairing(split)
    listing = root / f"{split}.txt"
    if not listing.is_file():
        if (root / split).is_dir():
            _pair_folders(pairing, root / split, root / f"{split}annot")
        else:
            pairing.tell(
                "error",
                "missing-split",
                f"there is neither a folder {root / split} nor a file {listing}",
                f"put the images into {root / split} and the masks into {root / split}annot",
            )
        return pairing
    wrong, lost_images, lost_masks = [], [], []
    for line in _lines(pairing, listing):
        paths = line.split()
        if len(paths) != 2:
            wrong.append(f"'{line}' in {listing}")
            continue
        image, mask = (root.joinpath(*path.replace("\\", "/").split("/")[-2:]) for path in paths)
        if image.is_file() and mask.is_file():
            pairing.pairs.append((image, mask))
        if not image.is_file():
            lost_images.append(image)
        if not mask.is_file():
            lost_masks.append(mask)
    for kind, files, what in (
        ("bad-line", wrong, "line"),
        ("missing-image", lost_images, "listed image"),
        ("missing-mask", lost_masks, "listed mask"),
    ):
        if files:
            fault = "without the path of an image and that of its mask" if kind == "bad-line" else "not there"
            pairing.tell(
                "error",
                kind,
                f"{counted(len(files), what)} {fault}",
                "add the files, or take the lines out of the list",
                files,
            )
    return pairing


def _lines(pairing: Pairing, listing: Path) -> list[str]:
    try:
        return read_lines(listing)
    except UserError as error:
        pairing.tell("error", "bad-split-file", str(error), "write one sample per line, as UTF-8 text")
        return []


def _files(pairing: Pairing, folder: Path, what: str) -> dict[str, Path]:
    """The image files of a folder by stem; everything else in it becomes a finding."""
    if not folder.is_dir():
        found = "is no folder" if folder.exists() else "does not exist"
        pairing.tell("error", "missing-folder", f"the folder {folder} {found}", f"put the {what} of the split there")
        return {}
    groups: dict[str, list[Path]] = {}
    others, folders = [], []
    for path in _entries(folder):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            groups.setdefault(path.stem, []).append(path)
        elif path.is_dir():
            # Where lists make the splits, the sub-folders beside them are told of nowhere else.
            folders.append(path)
        else:
            others.append(path)
    twice = [" and ".join(str(path) for path in paths) for paths in groups.values() if len(paths) > 1]
    if twice:
        pairing.tell(
            "error",
            "stem-twice",
            f"{counted(len(twice), 'stem')} with more than one file in {folder}",
            "keep one file per stem, since images and masks pair by it",
            twice,
        )
    if folders:
        pairing.tell(
            "warning",
            "sub-folder",
            f"{counted(len(folders), 'sub-folder')} of {folder} not looked into",
            "move the files up if they belong to this split",
            folders,
        )
    if others:
        pairing.tell(
            "note",
            "other-file",
            f"{counted(len(others), 'file')} of {folder} not read: hidden, or another ending than {' '.join(SUFFIXES)}",
            "save them in one of these formats if they belong to the data set",
            others,
        )
    return {stem: paths[0] for stem, paths in groups.items()}


def _tell_of_orphans(
    pairing: Pairing, images: Mapping[str, Path], masks: Mapping[str, Path], masks_too: bool = True
) -> None:
    lone_images = {stem: path for stem, path in images.items() if stem not in masks}
    lone_masks = {stem: path for stem, path in masks.items() if stem not in images}
    hint = _naming_hint(lone_images, lone_masks)
    if lone_images:
        pairing.tell(
            "error",
            "missing-mask",
            f"{counted(len(lone_images), 'image')} without a mask of the same stem",
            hint or "add the masks, or take the images away",
            lone_images.values(),
        )
    if lone_masks and masks_too:
        pairing.tell(
            "error",
            "missing-image",
            f"{counted(len(lone_masks), 'mask')} without an image of the same stem",
            hint or "add the images, or take the masks away",
            lone_masks.values(),
        )


def _naming_hint(images: Mapping[str, Path], masks: Mapping[str, Path]) -> str | None:
    """What to do where names differ by a common ending ("tile7_mask"), or only in how they are written."""
    if not images or not masks:
        return None
    first = next(iter(images))
    endings = {mask.removeprefix(first) for mask in masks if mask.startswith(first)}
    for ending in sorted(endings, key=len):
        if sum(stem + ending in masks for stem in images) * 2 > len(images):
            return f"take '{ending}' out of the masks' names, so that they equal those of their images"
    plain = {_plain(stem) for stem in masks}
    if any(_plain(stem) in plain for stem in images):
        return "give image and mask the same name: some differ only in capitals or in how accents are encoded"
    return None


def _plain(stem: str) -> str:
    return unicodedata.normalize("NFC", stem).casefold()


def _is_subfolder(path: Path) -> bool:
    return path.is_dir() and path.suffix.lower() not in SUFFIXES and not path.name.startswith(".")


def _readable_first(pairs: list[Pair]) -> list[Pair]:
    """The pairs, one with a readable image first: the first image says how the bands of all are stored."""
    for number, pair in enumerate(pairs):
        try:
            read_header(pair[0])
        except UserError:
            continue
        return [pair, *pairs[:number], *pairs[number + 1 :]]
    return []


def _entries(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder))] if folder.is_dir() else []
