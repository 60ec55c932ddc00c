"""Text files that list the samples of a split: stems, file names, paths of images, or pairs of paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from segdistill.datasets.reading.images import SUFFIXES


@dataclass(frozen=True)
class Listed:
    """What one line names.

    Attributes:
        line: the line.
        image, mask: the files; None where there is none.
    """

    line: str
    image: Path | None
    mask: Path | None


class Listing:
    """Looks up the lines of a split's list.

    A line is a stem or file name in ``images``; the path of an image, whose mask has the same stem at the same place
    below ``masks``; or the paths of an image and its mask, with a blank, tab, comma or semicolon between them. Paths
    are absolute, or count from the data set's root, the list's own folder, or ``images`` and ``masks``.

    Args:
        path: the text file.
        root: of the data set.
        images, masks: its folders.
        image_files, mask_files: the files right in these folders, by stem.
    """

    def __init__(
        self,
        path: Path,
        root: Path,
        images: Path,
        masks: Path,
        image_files: Mapping[str, Path],
        mask_files: Mapping[str, Path],
    ) -> None:
        self.path = path
        self._places = (root, path.parent)
        self._images, self._masks = images, masks
        self._image_files, self._mask_files = image_files, mask_files
        self._by_name = {file.name: stem for stem, file in image_files.items()}
        self._in_folder: dict[Path, dict[str, Path]] = {}

    def look_up(self, line: str) -> Listed:
        """What a line names."""
        # A stem may hold a dot ("tile.01"), so a line is a file name only where there is such a file.
        stem = self._by_name.get(line, line)
        if stem in self._image_files:
            return Listed(line, self._image_files[stem], self._mask_files.get(stem))
        image = self._find(line, self._images)
        if image is not None:
            return Listed(line, image, self._mask_of(image))
        parts = [part for part in re.split(r"\t+|\s*[,;]\s*" if re.search(r"[\t,;]", line) else r"\s+", line) if part]
        if len(parts) == 2:
            return Listed(line, self._find(parts[0], self._images), self._find(parts[1], self._masks))
        return Listed(line, None, None)

    def _find(self, text: str, folder: Path) -> Path | None:
        path = Path(text.replace("\\", "/"))
        # Lists of VOC begin with a slash that stands for its root.
        below = Path(*path.parts[1:]) if path.is_absolute() else path
        candidates = ([path] if path.is_absolute() else []) + [place / below for place in (*self._places, folder)]
        return next((file for file in candidates if file.suffix.lower() in SUFFIXES and file.is_file()), None)

    def _mask_of(self, image: Path) -> Path | None:
        if not image.is_relative_to(self._images):
            return None
        folder = self._masks / image.relative_to(self._images).parent
        if folder not in self._in_folder:
            files = sorted(folder.iterdir()) if folder.is_dir() else []
            self._in_folder[folder] = {file.stem: file for file in files if file.suffix.lower() in SUFFIXES}
        return self._in_folder[folder].get(image.stem)
