"""The pairs of a split that are there although something is wrong with it, and findings about the rest."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from segdistill.datasets.reading.files import Pair, read_lines
from segdistill.datasets.reading.images import SUFFIXES
from segdistill.datasets.reading.listing import Listing
from segdistill.errors import UserError
from segdistill.inspection.findings import Finding, Severity
from segdistill.progress import counted


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


def folder_splits(root: Path) -> list[str]:
    """Train and val, which every run needs, and what other splits a `folder` data set seems to have."""
    found = {path.name for side in ("images", "masks") for path in _entries(root / side) if _is_subfolder(path)}
    for listing in [*(root / "splits").glob("*.txt"), *root.glob("*.txt")]:
        try:
            lines = read_lines(listing)
        except UserError:
            continue  # where train or val needs this file, its pairing reports it
        # Other text files lie there too, a README.txt or the names of the classes.
        look_up = _listing_of(root, listing).look_up
        if any(look_up(line).image or look_up(Path(line).stem).image for line in lines):
            found.add(listing.stem)
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
    listed: set[Path | None] = set()
    for split in splits:
        listing = _listing(root, split)
        if listing is not None and not (images / split).is_dir():
            try:
                lines = read_lines(listing)
            except UserError:
                continue  # reported by the split's own pairing
            listed |= {_listing_of(root, listing).look_up(line).image for line in lines}
    unused = [path for path in loose if path not in listed]
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


def folder_pairs(root: Path, split: str) -> Pairing:
    """The pairs of a split of a `folder` data set."""
    pairing = Pairing(split)
    images, masks = root / "images", root / "masks"
    listing = _listing(root, split)
    if (images / split).is_dir() or (listing is None and (masks / split).is_dir()):
        _pair_folders(pairing, images / split, masks / split)
    elif listing is not None:
        _pair_listed(pairing, root, listing)
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


def _pair_listed(pairing: Pairing, root: Path, listing: Path) -> None:
    images, masks = root / "images", root / "masks"
    lines = _lines(pairing, listing)
    image_files, mask_files = (
        _files(pairing, folder, what) if images.is_dir() or masks.is_dir() else {}  # a list of paths needs neither
        for folder, what in ((images, "images"), (masks, "masks"))
    )
    look_up = Listing(listing, root, images, masks, image_files, mask_files).look_up
    listed = [look_up(line) for line in lines]
    twice = [image for image, count in Counter(entry.image for entry in listed if entry.image).items() if count > 1]
    if twice:
        pairing.tell(
            "error",
            "listed-twice",
            f"{counted(len(twice), 'name')} listed more than once",
            "list every name once",
            [f"{image.stem} in {listing}" for image in twice],
        )
    nowhere = [f"{line} in {listing}" for line in dict.fromkeys(entry.line for entry in listed if entry.image is None)]
    if nowhere:
        pairing.tell(
            "error",
            "missing-image",
            f"{counted(len(nowhere), 'listed name')} without an image in {images}",
            "add the images, or take the names out of the list",
            nowhere,
        )
    pairs = {entry.image: entry.mask for entry in listed if entry.image}
    lone = {image.stem: image for image, mask in pairs.items() if mask is None}
    _tell_of_orphans(pairing, lone, mask_files, masks_too=False)
    pairing.pairs = [(image, mask) for image, mask in pairs.items() if mask]


def _listing_of(root: Path, listing: Path) -> Listing:
    """A list beside files that are looked at as they are."""
    images, masks = root / "images", root / "masks"
    image_files, mask_files = ({path.stem: path for path in _entries(folder)} for folder in (images, masks))
    return Listing(listing, root, images, masks, image_files, mask_files)


def camvid_pairs(root: Path, split: str) -> Pairing:
    """The pairs of a split of CamVid."""
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
            # Where lists make the splits, the sub-folders beside them are reported nowhere else.
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


def _entries(folder: Path) -> list[Path]:
    return [folder / name for name in sorted(os.listdir(folder))] if folder.is_dir() else []
