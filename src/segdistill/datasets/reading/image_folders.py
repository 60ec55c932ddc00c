"""The images and videos of a folder, those of its sub-folders and of linked folders among them."""

from __future__ import annotations

from pathlib import Path

from segdistill.datasets.reading.images import PICTURES
from segdistill.datasets.reading.rasters import RASTERS
from segdistill.datasets.reading.videos import VIDEOS
from segdistill.errors import UserError
from segdistill.files import files_below

IN_FOLDERS = (*PICTURES, *(suffix for suffix in RASTERS if suffix != ".vrt"), *VIDEOS)
"""What is taken of a folder: all but files that are made of others there."""

LABEL_MAP_KEY = "segdistill_key"
"""Name of the text, in small or capital letters, that says what a label map of segdistill was made from."""

OVERLAY, PROBABILITIES, VIDEO_OVERLAY = COMPANIONS = ("-overlay.png", "-probabilities.tif", "-overlay.mp4")
"""How the names of the pictures, rasters and videos end that go with a label map."""

LABELLED = ("recipe.yaml", "# Made by segdistill label")
"""The file that marks a data set of pseudo-labels, and how it begins."""

_BEGINNING = 2**14
"""Bytes of a PNG, a GeoTIFF or a Matroska video that hold its texts; pixels follow."""


def images_below(folder: Path, without: Path | None = None) -> list[Path]:
    """Every picture, raster and video in and below ``folder``, sorted; nothing that segdistill wrote there.

    Label maps are left out, and folders of pseudo-labels below ``folder``, whose images are copies of others.

    Args:
        folder: linked folders in it are followed.
        without: a folder whose files are left out.

    Raises:
        UserError: there is none.
    """
    left_out = None if without is None else without.resolve()
    found = [
        file
        for file in files_below(folder)
        if file.suffix.lower() in IN_FOLDERS
        # A leading dot marks droppings of file systems, and folders of unfinished work.
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and (left_out is None or left_out not in file.resolve().parents)
    ]
    images = _without_label_maps(_without_labelled(found, folder))
    if not images:
        told = "only label maps of segdistill" if found else "no image"
        raise UserError(f"{folder} holds {told}; expected files ending in {' '.join(IN_FOLDERS)}")
    return images


def _without_labelled(files: list[Path], folder: Path) -> list[Path]:
    """The files that lie in no data set of pseudo-labels below ``folder``."""
    above = {parent for file in files for parent in file.parents if folder in parent.parents}
    labelled = {one for one in above if is_labelled(one)}
    return [file for file in files if labelled.isdisjoint(file.parents)]


def is_labelled(folder: Path) -> bool:
    """Whether a folder is a data set of pseudo-labels that segdistill made."""
    name, begins = LABELLED
    try:
        with (folder / name).open("rb") as stream:
            return stream.read(len(begins)) == begins.encode()
    except OSError:
        return False


def _without_label_maps(files: list[Path]) -> list[Path]:
    """The files that are no label map of segdistill, and no picture that goes with one."""
    maps = {file for file in files if file.suffix.lower() in (".png", ".tif", ".tiff", ".mkv") and _is_label_map(file)}
    made = {map_.with_name(f"{map_.stem}{ending}") for map_ in maps for ending in COMPANIONS}
    return [file for file in files if file not in maps and file not in made]


def _is_label_map(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return LABEL_MAP_KEY.encode() in stream.read(_BEGINNING).lower()
    except OSError:  # told where the image is read
        return False
