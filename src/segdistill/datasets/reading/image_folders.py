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


def images_below(folder: Path, without: Path | None = None) -> list[Path]:
    """Every picture, raster and video in and below ``folder``, sorted.

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
    if not found:
        raise UserError(f"{folder} holds no image; expected files ending in {' '.join(IN_FOLDERS)}")
    return found
