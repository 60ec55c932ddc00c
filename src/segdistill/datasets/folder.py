"""Your own images: a folder of images and a folder of masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from segdistill.colors import hex_color, parse_color, parse_palette
from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.files import (
    Pair,
    existing_folder,
    files_by_stem,
    missing_split,
    pair_folders,
    read_lines,
    refuse_missing,
)
from segdistill.datasets.reading.listing import Listing
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.errors import UserError
from segdistill.files import as_path


class Folder(TileDataset):
    """Images and masks of equal stems, with splits as sub-folders or as text files.

    Either ``images/train``, ``masks/train``, ``images/val``, ``masks/val`` and so on, or flat ``images/`` and
    ``masks/`` with ``train.txt``, ``val.txt`` in ``root`` or in ``root/splits``. A line there is a stem, a file name,
    the path of an image, or the paths of an image and its mask, see :class:`Listing`. Sub-folders win over text files.
    A split may have any name.

    Args:
        root: the folder that holds ``images`` and ``masks``.
        classes: names of the classes, in the order of their indices in the masks.
        split: which split.
        palette: a colour per class, as [red, green, blue] or "#rrggbb": needed where masks are RGB pictures,
            else only for display.
        ignore: the index of ignored pixels in index masks.
        ignore_color: the colour of ignored pixels in RGB masks; without it every colour must be a class's.
        mask_values: what numbers in index masks stand for where that is not the class of that number: a class, or 255
            for ignored pixels. {255: 1} for masks of 0 and 255; {0: 255, 1: 0, 2: 1} for two classes that count from 1.
        resize: (height, width) on reading, see :class:`FileDataset`.
        bands: numbers of the bands to read, the first being 1, from images of any type and any format that GDAL knows;
            without it images are RGB pictures of 8 bits. This and ``tiled_copy`` need rasterio, see
            :class:`TileDataset`.
        tiled_copy: a folder for images and masks converted into tiles, for large images, see :class:`TileDataset`.
        crops_per_image: training samples that an epoch takes from each image, for few large images.
        evaluation_window: longest side, in pixels, of what goes through a network at once in evaluation.

    Raises:
        UserError: missing folder, unknown or empty split, image without mask, mask without image, two files
            of one stem, a listed name that is not there or is listed twice, or a palette that does not fit
            the classes.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str],
        split: str = "train",
        palette: Sequence[str | Sequence[int]] | None = None,
        ignore: int = IGNORE_INDEX,
        ignore_color: str | Sequence[int] | None = None,
        mask_values: Mapping[int, int] | None = None,
        resize: Sequence[int] | None = None,
        bands: Sequence[int] | None = None,
        tiled_copy: str | Path | None = None,
        crops_per_image: int = 1,
        evaluation_window: int | None = None,
    ) -> None:
        colors = None if palette is None else parse_palette(palette, classes)
        ignored = None if ignore_color is None else parse_color(ignore_color, argument="ignore_color")
        if colors is not None and ignored in colors:
            raise UserError(
                f"ignore_color {hex_color(ignored)} is also the colour of '{classes[colors.index(ignored)]}'"
            )
        super().__init__(
            _find_pairs(as_path(root, "root"), split),
            MaskReader(len(classes), ignore=ignore, palette=colors, ignore_color=ignored, values=mask_values),
            classes=classes,
            palette=colors,
            resize=resize,
            bands=bands,
            tiled_copy=tiled_copy,
            crops_per_image=crops_per_image,
            evaluation_window=evaluation_window,
        )


def _find_pairs(root: Path, split: str) -> list[Pair]:
    existing_folder(root, "a folder that holds images/ and masks/")
    images, masks = root / "images", root / "masks"
    if (images / split).is_dir() and masks.is_dir():
        return pair_folders(images / split, masks / split)
    listings = {path.stem: path for folder in (root / "splits", root) for path in sorted(folder.glob("*.txt"))}
    if split in listings and (images.is_dir() == masks.is_dir()):  # a list of paths needs neither
        return _listed_pairs(root, images, masks, listings[split])
    existing_folder(images, "the images, or a sub-folder of them for each split")
    existing_folder(masks, "the masks, or a sub-folder of them for each split")
    raise missing_split(root, split, {path.name for path in images.iterdir() if path.is_dir()} | set(listings))


def _listed_pairs(root: Path, images: Path, masks: Path, listing: Path) -> list[Pair]:
    lines = Listing(
        listing, root, images, masks, *(files_by_stem(folder) if folder.is_dir() else {} for folder in (images, masks))
    )
    listed = [lines.look_up(line) for line in read_lines(listing)]
    twice = [image for image, count in Counter(entry.image for entry in listed if entry.image).items() if count > 1]
    if twice:
        raise UserError(f"{listing} lists {twice[0].stem} more than once")
    pairs = {entry.line: (entry.image, entry.mask) for entry in listed}
    names = [entry.line for entry in listed]
    refuse_missing(
        names,
        {line: image for line, (image, _) in pairs.items() if image},
        f"name{{s}} listed in {listing} without an image in {images}",
    )
    refuse_missing(
        names,
        {line: mask for line, (_, mask) in pairs.items() if mask},
        f"image{{s}} listed in {listing} without a mask of the same stem in {masks}",
    )
    return [(image, mask) for image, mask in pairs.values() if image and mask]
