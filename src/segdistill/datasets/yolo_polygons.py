"""Your own images with labels as polygons in YOLO's text files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segdistill.datasets.reading.files import existing_folder, files_by_stem, missing_split, refuse_missing
from segdistill.datasets.reading.polygons import Area, PolygonDataset, ring_of
from segdistill.errors import UserError
from segdistill.files import as_path, read_yaml

_BEYOND = 1.0
"""How far from the image's middle a corner may be, in its sides: cut-outs leave some a little outside."""

_CLASSES = "classes"
"""The stem of the list of classes that some tools write among the text files."""


class YOLOPolygons(PolygonDataset):
    """Images and one text file each, as YOLO's segmentation models read them.

    ``images/SPLIT`` and ``labels/SPLIT`` in ``root``, or ``SPLIT/images`` and ``SPLIT/labels``; ``valid`` stands for
    the split val. Each line of a text file is an object: the number of its class, then x and y of each corner as shares
    of the image's width and height. An image without a text file has no object. Where objects overlap, the smaller one
    counts. Needs rasterio.

    Args:
        root: the folder.
        classes: names of the classes, in the order of their numbers; None: those in ``data.yaml`` in ``root``.
        split: which split; any name.
        background: whether pixels in no polygon are the class "background", the first; if not, they are ignored.
        palette: a colour per class, as [red, green, blue] or "#rrggbb".
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, no image, no names, a class that has no name, or a line that is no polygon.
    """

    def __init__(
        self,
        root: str | Path,
        classes: Sequence[str] | None = None,
        split: str = "train",
        background: bool = True,
        palette: Sequence[str | Sequence[int]] | None = None,
        resize: Sequence[int] | None = None,
    ) -> None:
        folder = existing_folder(as_path(root, "root"), "images/ and labels/, or a folder of both for each split")
        images, labels = _folders(folder, split)
        files = files_by_stem(images)
        if not files:
            raise UserError(f"{images} holds no image, so the split is empty")
        _check_labels(existing_folder(labels, "a text file for each image with objects"), images, files)
        names = list(classes) if classes is not None else _names(folder / "data.yaml")
        super().__init__(
            [(image, labels / f"{stem}.txt") for stem, image in files.items()],
            classes=names,
            background=background,
            palette=palette,
            resize=resize,
        )
        self._count = len(names)

    def areas(self, index: int, size: tuple[int, int]) -> list[Area]:
        """See `PolygonDataset.areas`."""
        file = self.pairs[index][1]
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file} cannot be read as a text file: {error}") from None
        return [
            self._area(f"{file}, line {number},", line, size) for number, line in enumerate(lines, 1) if line.strip()
        ]

    def _area(self, where: str, line: str, size: tuple[int, int]) -> Area:
        label, *shares = line.split()
        try:
            number, corners = int(label.removesuffix(".0")), [float(share) for share in shares]
        except ValueError:
            raise UserError(
                f"{where} is '{line[:40]}'; expected numbers: a class, then x and y of each corner"
            ) from None
        if not 0 <= number < self._count:
            raise UserError(f"{where} is of class {number}; expected 0 to {self._count - 1}")
        if len(corners) == 4:
            raise UserError(f"{where} is a box; expected a polygon, x and y of three corners or more")
        if any(abs(share - 0.5) > _BEYOND for share in corners):
            raise UserError(
                f"{where} has a corner at {max(corners, key=lambda share: abs(share - 0.5)):g}; expected shares of the "
                "image's width and height, 0 to 1"
            )
        height, width = size
        return Area(
            number, (ring_of([share * (height if at % 2 else width) for at, share in enumerate(corners)], where),)
        )


def _check_labels(labels: Path, images: Path, files: Mapping[str, Path]) -> None:
    """Raise where text files belong to no image: an image without one would silently hold no object."""
    names = [path.stem for path in sorted(labels.glob("*.txt")) if not path.name.startswith(".")]
    lost = [name for name in names if name != _CLASSES]
    refuse_missing(lost, files, f"text file{{s}} of {labels} without an image of the same stem in {images}")


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    names = [split, "valid"] if split == "val" else [split]
    for name in names:
        for images, labels in (
            (root / "images" / name, root / "labels" / name),
            (root / name / "images", root / name / "labels"),
        ):
            if images.is_dir():
                return images, labels
    raise missing_split(root, split, [path.name for path in (root / "images").glob("*/")])


def _names(file: Path) -> list[str]:
    if not file.is_file():
        raise UserError(f"classes are not given, and there is no {file} that names them")
    names: Any = read_yaml(file).get("names")
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f"{file} holds names {names!r}; expected the classes' names as a list, or by their numbers from 0 on"
        )
    return names
