"""Your own images: a folder of images and a folder of masks."""

from __future__ import annotations

from collections.abc import Sequence
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
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.errors import UserError


class Folder(TileDataset):
    """Images and masks of equal stems, with splits as sub-folders or as text files.

    Either ``images/train``, ``masks/train``, ``images/val``, ``masks/val`` and so on, or flat ``images/`` and
    ``masks/`` with ``train.txt``, ``val.txt`` in ``root`` or in ``root/splits``, one stem or file name per
    line. Sub-folders win over text files. A split may have any name.

    Args:
        root: the folder that holds ``images`` and ``masks``.
        classes: names of the classes, in the order of their indices in the masks.
        split: which split.
        palette: a colour per class, as [red, green, blue] or "#rrggbb": needed where masks are RGB pictures,
            else only for display.
        ignore: the index of ignored pixels in index masks.
        ignore_color: the colour of ignored pixels in RGB masks; without it every colour must be a class's.
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
            _find_pairs(Path(root), split),
            MaskReader(len(classes), ignore=ignore, palette=colors, ignore_color=ignored),
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
    images = existing_folder(root / "images", "the images, or a sub-folder of them for each split")
    masks = existing_folder(root / "masks", "the masks, or a sub-folder of them for each split")
    if (images / split).is_dir():
        return pair_folders(images / split, masks / split)
    listings = {path.stem: path for folder in (root / "splits", root) for path in sorted(folder.glob("*.txt"))}
    if split in listings:
        return _listed_pairs(images, masks, listings[split])
    raise missing_split(root, split, {path.name for path in images.iterdir() if path.is_dir()} | set(listings))


def _listed_pairs(images: Path, masks: Path, listing: Path) -> list[Pair]:
    image_files, mask_files = files_by_stem(images), files_by_stem(masks)
    by_name = {path.name: stem for stem, path in image_files.items()}
    # A stem may hold a dot ("tile.01"), so a line is a file name only where there is such a file.
    stems = [by_name.get(line, line) for line in read_lines(listing)]
    twice = {stem for stem in stems if stems.count(stem) > 1} if len(set(stems)) < len(stems) else set()
    if twice:
        raise UserError(f"{listing} lists {min(twice)} more than once")
    refuse_missing(stems, image_files, f"name{{s}} listed in {listing} without an image in {images}")
    refuse_missing(stems, mask_files, f"image{{s}} listed in {listing} without a mask of the same stem in {masks}")
    return [(image_files[stem], mask_files[stem]) for stem in stems]
