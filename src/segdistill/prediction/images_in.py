"""What is to be predicted: the files that a path, a folder or a pattern means, and where their label maps go."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from segdistill.datasets.base import Window
from segdistill.datasets.reading.image_folders import images_below
from segdistill.datasets.reading.images import PICTURES, open_image
from segdistill.datasets.reading.rasters import RASTERS
from segdistill.datasets.reading.videos import VIDEOS
from segdistill.errors import UserError

_TARGETS = {"raster": (".tif", ".tiff"), "picture": (".png",), "video": (".mkv",)}
"""What the label map of each kind may end in; the first where the user does not say."""


Kind = Literal["picture", "raster", "video"]


@dataclass(frozen=True)
class Item:
    """One file and its label map.

    Attributes:
        path: the image.
        target: where its label map goes.
    """

    path: Path
    target: Path

    @property
    def kind(self) -> Kind:
        """A raster is read and written by windows, a picture as a whole, a video by frames."""
        return _kind(self.path)

    def beside(self, ending: str) -> Path:
        """A file that goes with the label map, such as ``scene-overlay.png``."""
        return self.target.with_name(f"{self.target.stem}{ending}")


def find_items(given: str | Path | Sequence[str | Path], output: Path) -> list[Item]:
    """The files that are meant, and where their label maps go.

    Args:
        given: a file, a folder (all images and videos in it and in its folders), a pattern such as ``photos/*.jpg`` or
            ``photos/**/*.jpg``, or a list of these.
        output: for one file a file of the same kind or a folder, else a folder; the folders in a folder are kept.

    Raises:
        UserError: nothing there, no image among it, a file of another kind, two files for one label map, or a label map
            in the place of an image.
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    found = find_files(entries, output)
    is_one = len(entries) == 1 and len(found) == 1 and Path(entries[0]) == found[0][0]
    if is_one and output.suffix and not output.is_dir():
        items = [Item(found[0][0], _checked_target(found[0][0], output))]
    elif output.is_file():
        raise UserError(f"output {output} is a file; expected a folder for the label maps of {len(found)} images")
    else:
        items = [Item(path, output / below.parent / f"{below.stem}{_suffix(path)}") for path, below in found]
    refuse_clashes(items)
    return items


def find_files(given: str | Path | Sequence[str | Path], output: Path) -> list[tuple[Path, Path]]:
    """Each file that is meant, and its place below the folder that is given.

    Args:
        given: see `find_items`.
        output: what lies in this folder is not taken of a folder around it.

    Raises:
        UserError: nothing there, no image among it, or a file of another kind.
    """
    entries = [given] if isinstance(given, str | Path) else list(given)
    if not entries:
        raise UserError("input names no file; expected images, folders or patterns such as 'photos/*.jpg'")
    return [found for entry in entries for found in _files(str(entry), output)]


@dataclass(frozen=True, eq=False)
class Picture:
    """An image in memory, of which windows are cut.

    Attributes:
        pixels: uint8 or float32 (C, H, W).
        missing: bool (H, W), where it has no data; None: nowhere.
    """

    pixels: Tensor
    missing: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def read(self, window: Window) -> tuple[Tensor, Tensor | None]:
        """A part (C, h, w), and where it has no data."""
        return window.cut(self.pixels), None if self.missing is None else window.cut(self.missing)


def read_picture(path: Path) -> Picture:
    """An RGB picture of 8 bits, read as training reads it; CMYK, grey and palette pictures become one.

    Raises:
        UserError: missing or broken file, more than 8 bits per channel, or too large to be decoded at once.
    """
    pixels, valid = open_image(path).whole()
    return Picture(pixels, None if valid is None or bool(valid.all()) else ~valid)


def _files(entry: str, output: Path) -> list[tuple[Path, Path]]:
    """Each file that ``entry`` means, and its place below what ``entry`` names."""
    path = Path(entry)
    if path.is_dir():
        inside = output if output.resolve() != path.resolve() else None
        return [(file, file.relative_to(path)) for file in images_below(path, without=inside)]
    if path.exists():
        return [(_checked_kind(path), Path(path.name))]
    there = [Path(match) for match in sorted(glob.glob(entry, recursive=True), key=len) if Path(match).is_file()]
    # `**` follows a link that leads back up again and again.
    matches = sorted({(match.parent.resolve(), match.name): match for match in reversed(there)}.values())
    if not matches:
        pattern = any(character in entry for character in "*?[")
        raise UserError(f"no file matches {entry}" if pattern else f"{path} does not exist")
    return [(_checked_kind(match), Path(match.name)) for match in matches]


def _checked_kind(path: Path) -> Path:
    if path.suffix.lower() not in (*PICTURES, *RASTERS, *VIDEOS):
        known = " ".join((*PICTURES, *RASTERS, *VIDEOS))
        raise UserError(f"{path} ends in '{path.suffix}'; expected an image or a video ending in {known}")
    return path


def _kind(path: Path) -> Kind:
    suffix = path.suffix.lower()
    return "raster" if suffix in RASTERS else "video" if suffix in VIDEOS else "picture"


def _suffix(path: Path) -> str:
    return _TARGETS[_kind(path)][0]


def _checked_target(path: Path, output: Path) -> Path:
    expected = _TARGETS[_kind(path)]
    if output.suffix.lower() not in expected:
        raise UserError(
            f"output {output} ends in '{output.suffix}'; expected {expected[0]} for the label map of {path.name}, "
            "or a folder"
        )
    return output


def refuse_clashes(items: Sequence[Item]) -> None:
    """Raise a `UserError` where two images would have one label map, or a label map would replace an image."""
    images = {item.path.resolve() for item in items}
    owners: dict[Path, Path] = {}
    for item in items:
        target = item.target.resolve()
        if target in images:
            raise UserError(f"the label map {item.target} would replace an image; choose another output")
        if target in owners:
            raise UserError(f"{owners[target]} and {item.path} would both become {item.target}; rename one of them")
        owners[target] = item.path
