"""Your own images with labels as polygons in a JSON file of COCO's format."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segdistill.datasets.reading.files import existing_folder, refuse_missing
from segdistill.datasets.reading.polygons import Area, PolygonDataset, ring_of
from segdistill.errors import NoSplitError, UserError, missing_package
from segdistill.files import as_path


class COCOPolygons(PolygonDataset):
    """Images and one JSON file per split in the format of COCO's instances, as annotation tools export it.

    The file is ``annotations/SPLIT.json``, ``annotations/instances_SPLIT*.json``, ``SPLIT.json`` or
    ``SPLIT/_annotations.coco.json`` in ``root``; images lie beside it, in ``images/``, ``images/SPLIT/``, ``SPLIT/`` or
    ``SPLIT*/``. Classes are the categories in the order of their ids. Where objects overlap, the smaller one counts.
    A crowd counts as its class. Needs rasterio, and for run-length masks, as COCO has them for crowds, pycocotools.

    Args:
        root: the folder.
        split: which split; any name.
        background: whether pixels in no polygon are the class "background", the first; if not, they are ignored.
        palette: a colour per class, as [red, green, blue] or "#rrggbb".
        resize: (height, width) on reading, see :class:`FileDataset`.

    Raises:
        UserError: missing folder, file or image, no COCO file, an unknown category, or an outline or run-length
            mask that cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        background: bool = True,
        palette: Sequence[str | Sequence[int]] | None = None,
        resize: Sequence[int] | None = None,
    ) -> None:
        file = _annotations(existing_folder(as_path(root, "root"), "images and a COCO file per split"), split)
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            categories = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            images = {entry["id"]: entry for entry in content["images"]}
            names = [str(entry["file_name"]) for entry in images.values()]
            _refuse_twice(file, "category id", [int(entry["id"]) for entry in content["categories"]])
            _refuse_twice(file, "image id", [entry["id"] for entry in content["images"]])
            _refuse_twice(file, "image", names)
            sizes = [(int(entry["height"]), int(entry["width"])) for entry in images.values()]
            objects = [
                (entry["image_id"], entry["category_id"], entry["segmentation"]) for entry in content["annotations"]
            ]
        except OSError as error:
            raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            what = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{file} is no COCO file of images, categories and annotations: {what}") from None
        # Roboflow adds a category that holds the others and has no object. COCO's "person" is in a "person" of its own.
        used = Counter(category for _, category, _ in objects)
        holders = ((str(entry.get("supercategory")), str(entry["name"])) for entry in content["categories"])
        supers = {holder for holder, name in holders if holder != name}
        order = [number for number in sorted(categories) if used[number] or categories[number] not in supers]
        super().__init__(
            [(image, file) for image in _images(as_path(root, "root"), file, split, names)],
            classes=[categories[number] for number in order],
            background=background,
            palette=palette,
            resize=resize,
        )
        self._sizes = sizes
        self._labels_of = {number: label for label, number in enumerate(order)}
        self._objects: dict[Any, list[tuple[Any, Any]]] = {number: [] for number in images}
        for image, category, shape in objects:
            if category not in self._labels_of or image not in self._objects:
                raise UserError(
                    f"{file} has an annotation of image {image!r} and category {category!r}; one is not in it"
                )
            self._objects[image].append((category, shape))
        self._numbers = list(images)

    def areas(self, index: int, size: tuple[int, int]) -> list[Area]:
        """See `PolygonDataset.areas`."""
        image, file = self.pairs[index]
        told = self._sizes[index]
        if told != size:
            raise UserError(
                f"{file} says that {image.name} is {told[1]} x {told[0]} pixels, but it is {size[1]} x {size[0]}, "
                "turned by its EXIF orientation if it has one"
            )
        found = []
        for category, shape in self._objects[self._numbers[index]]:
            where, label = f"{file}, {image.name},", self._labels_of[category]
            if isinstance(shape, Mapping):
                found.append(Area(label, (), mask=_decoded(shape, size, where)))
            elif isinstance(shape, list) and shape:
                found.append(Area(label, tuple(ring_of(part, where) for part in shape)))
            else:
                raise UserError(f"{where} holds an object without a polygon; expected its outline")
        return found


def _decoded(run_lengths: Mapping[str, Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The pixels, bool (H, W), of a run-length mask, compressed or not, as COCO has it for crowds."""
    if importlib.util.find_spec("pycocotools") is None:
        raise missing_package("reading run-length masks", "pycocotools", "coco")
    masks = importlib.import_module("pycocotools.mask")
    counts = run_lengths.get("counts")
    try:
        if run_lengths.get("size") != list(size):
            raise ValueError(f"its size is {run_lengths.get('size')}, expected that of the image, {list(size)}")
        if not counts:  # of no character pycocotools makes pixels of what the memory holds
            raise ValueError("it has no counts")
        if isinstance(counts, list) and (min(counts) < 0 or sum(counts) != size[0] * size[1]):
            raise ValueError(f"it has {sum(counts)} pixels, expected {size[0] * size[1]}")
        packed = masks.frPyObjects(run_lengths, *size) if isinstance(counts, list) else dict(run_lengths)
        pixels: NDArray[np.uint8] = masks.decode(packed)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{where} holds a run-length mask that cannot be read: {error}") from None
    return pixels.astype(bool)


def _refuse_twice(file: Path, what: str, given: Sequence[Any]) -> None:
    for one, count in Counter(given).items():
        if count > 1:
            raise UserError(f"{file} has the {what} {one!r} {count} times; expected each once")


def _annotations(root: Path, split: str) -> Path:
    candidates = [
        root / "annotations" / f"{split}.json",
        *sorted((root / "annotations").glob(f"instances_{split}*.json")),
        root / f"{split}.json",
        root / split / "_annotations.coco.json",
    ]
    for file in candidates:
        if file.is_file():
            return file
    raise NoSplitError(
        f"{root} has no split '{split}': there is no annotations/{split}.json, {split}.json or "
        f"{split}/_annotations.coco.json"
    )


def _images(root: Path, file: Path, split: str, names: Sequence[str]) -> list[Path]:
    images = root / "images"
    folders = [images / split, images, root / split, file.parent, *sorted(root.glob(f"{split}*/")), root]
    found = {name: next((folder / name for folder in folders if (folder / name).is_file()), None) for name in names}
    refuse_missing(names, {name: path for name, path in found.items() if path}, f"image{{s}} named in {file} not there")
    return [path for path in found.values() if path]
