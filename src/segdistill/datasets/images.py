"""Images that nobody has labelled: a teacher alone says what they show."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segdistill.datasets.base import UNLABELLED, Sample, SegmentationDataset, Window
from segdistill.datasets.reading.files import checked_size, existing_folder, ignored_where_missing
from segdistill.datasets.reading.image_folders import images_below
from segdistill.datasets.reading.images import RGB, ImageFile, open_image, resized
from segdistill.datasets.reading.masks import resized_labels
from segdistill.datasets.reading.rasters import read_header, require_rasterio, with_companions
from segdistill.datasets.reading.tiles import checked_bands
from segdistill.datasets.reading.videos import VIDEOS, FrameAt, VideoFrame, frames_of
from segdistill.errors import NoSplitError, UserError
from segdistill.files import as_path, bytes_of

SPLITS = ("all", "train", "val")

SMALLEST = 8
"""Shortest side of an image in pixels: anything smaller is an icon or a broken file, and teaches nothing."""


@dataclass(frozen=True)
class _Source:
    """Where an image lies: a file, or a frame of one."""

    path: Path
    frame: FrameAt | None = None


class Images(SegmentationDataset):
    """Pictures, rasters and frames of videos without labels: the label of every pixel is `UNLABELLED`.

    All files in and below the folders are taken, linked folders too; each file once. Pixels without data, as a raster's
    mask or nodata value says, have the ignore label.

    Args:
        root: a folder, or a list of folders.
        split: "train" or "val", which share the files between them; or "all".
        classes: names of the classes, if they are known; in a run without labels they are the teacher's.
        resize: (height, width) on reading, see :class:`FileDataset`.
        bands: numbers of the bands to read, the first being 1, from rasters of any type; without it images are RGB
            pictures of 8 bits. Videos have no other bands.
        frame_step: of a video, every so many-th frame is an image.
        held_out: share of the files that are the split "val", chosen by a hash of their names, so that further files
            change nothing about those that are there. All frames of a video are in one split.
        crops_per_image: training samples that an epoch takes from each image, for few large images.
        evaluation_window: longest side, in pixels, of what goes through a network at once in evaluation.

    Raises:
        UserError: a folder that is missing or holds no image, a video that cannot be read, an argument out of its
            range, or a single file of which none can be held out. Reading a sample raises it on a broken file, other
            bands than expected, and an image of less than 8 pixels a side.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> Image.new("RGB", (32, 24)).save(f"{folder.name}/street.png")
        >>> image, labels = Images(folder.name)[0]
        >>> image.shape, labels.unique().item()
        (torch.Size([3, 24, 32]), 254)
    """

    def __init__(
        self,
        root: str | Path | Sequence[str | Path],
        split: str = "all",
        classes: Sequence[str] | None = None,
        resize: Sequence[int] | None = None,
        bands: Sequence[int] | None = None,
        frame_step: int = 25,
        held_out: float = 0.1,
        crops_per_image: int = 1,
        evaluation_window: int | None = None,
    ) -> None:
        _check(split, frame_step, held_out, crops_per_image, evaluation_window)
        files = _of_split(_find(root), split, held_out)
        sources = {name: _Source(path) for name, path in files.items() if path.suffix.lower() not in VIDEOS}
        for name, path in files.items():
            if path.suffix.lower() in VIDEOS:
                if bands is not None:
                    raise UserError(f"{path} is a video, whose frames are RGB; leave out bands, or the video")
                sources |= {
                    f"{name}, frame {frame.number}": _Source(path, frame) for frame in frames_of(path, frame_step)
                }
        super().__init__(classes=classes or ("unknown", "unknown too"), ids=list(sources))
        if classes is None:
            self.classes, self.palette = (), ()
        self.unlabelled_index = UNLABELLED
        self.resize = checked_size(resize)
        self.bands = None if bands is None else checked_bands(bands)
        self.in_channels = len(self.bands or RGB)
        self.crops_per_image = crops_per_image
        self.evaluation_window = evaluation_window
        self._sources = tuple(sources.values())
        self._dtype = torch.uint8
        if self.bands is not None:
            require_rasterio(f"reading {self._sources[0].path} with bands")
            self._dtype = open_image(self._sources[0].path, self.bands).dtype

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = _UnlabelledSample(self._image(index)).whole()
        return resized(image, self.resize), resized_labels(labels, self.resize)

    def open(self, index: int) -> Sample:
        """One image, of which windows are read; with ``resize`` it is read whole."""
        return _UnlabelledSample(self._image(index)) if self.resize is None else super().open(index)

    def labels(self, index: int) -> Tensor:
        """The label map at its full size, int64 (H, W), whatever ``resize``: `UNLABELLED` everywhere."""
        return torch.full(self._image(index).size, UNLABELLED)

    def pixel_type(self) -> str:
        """See `SegmentationDataset.pixel_type`."""
        return "uint8" if self._dtype == torch.uint8 else read_header(self._sources[0].path).dtype

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        return with_companions(self._sources[index].path)

    def _image(self, index: int) -> ImageFile:
        source = self._sources[index]
        image = open_image(source.path, self.bands) if source.frame is None else VideoFrame(source.path, source.frame)
        if image.dtype != self._dtype:
            found, first = (read_header(path).dtype for path in (source.path, self._sources[0].path))
            raise UserError(
                f"{source.path} holds {found} pixels, but {self._sources[0].path} holds {first}; expected 8 bits in "
                "all images or in none"
            )
        height, width = image.size
        if min(height, width) < SMALLEST:
            raise UserError(f"{source.path} is {width} x {height} pixels; expected at least {SMALLEST} x {SMALLEST}")
        return image


class _UnlabelledSample(Sample):
    """An image file, and labels that say that there are none."""

    def __init__(self, image: ImageFile) -> None:
        self._image = image

    @property
    def size(self) -> tuple[int, int]:
        return self._image.size

    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        image, valid = self._image.read(window)
        return image, ignored_where_missing(torch.full((window.height, window.width), UNLABELLED), valid)


def _check(split: str, frame_step: int, held_out: float, crops_per_image: int, evaluation_window: int | None) -> None:
    if split not in SPLITS:
        raise NoSplitError(f"a folder of images has no split '{split}'; expected one of {', '.join(SPLITS)}")
    if frame_step < 1:
        raise UserError(f"frame_step is {frame_step}; expected at least 1")
    if not 0 < held_out < 1:
        raise UserError(f"held_out is {held_out}; expected a share between 0 and 1")
    if crops_per_image < 1:
        raise UserError(f"crops_per_image is {crops_per_image}; expected at least 1")
    if evaluation_window is not None and evaluation_window < 32:
        raise UserError(f"evaluation_window is {evaluation_window}; expected 32 pixels or more")


def _find(root: str | Path | Sequence[str | Path]) -> dict[str, Path]:
    """The files by their names: where they lie below their folder, and below which one where there are several."""
    given = list(root) if isinstance(root, Sequence) and not isinstance(root, str | bytes) else [root]
    roots = [as_path(folder, "root") for folder in given]
    if not roots:
        raise UserError("root is an empty list; expected a folder of images, or several")
    found: dict[str, Path] = {}
    seen: set[Path] = set()
    for folder in roots:
        for path in images_below(existing_folder(folder, "images")):
            # One file may be reached on several ways, by links or from two of the folders.
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            name = path.relative_to(folder).as_posix()
            found[name if len(roots) == 1 else f"{folder.as_posix()}/{name}"] = path
    return found


def _of_split(files: dict[str, Path], split: str, held_out: float) -> dict[str, Path]:
    if split == "all":
        return files
    places = {name: _place(name) for name in files}
    # Of few files one is held out all the same, and one is not.
    ordered = sorted(files, key=lambda name: places[name])
    if len(ordered) < 2:
        raise UserError(
            f"{next(iter(files.values()))} is the only file, so that none can be held out to validate on; add others, "
            "or name the data sets of the splits: {train: {dataset: images, ...}, val: {...}}"
        )
    held = {name for name in files if places[name] < held_out} - {ordered[-1]} | {ordered[0]}
    return {name: path for name, path in files.items() if (name in held) == (split == "val")}


def _place(name: str) -> float:
    """A number from 0 to 1 that only the name decides."""
    return int.from_bytes(hashlib.blake2b(bytes_of(name), digest_size=6).digest(), "big") / 2**48
