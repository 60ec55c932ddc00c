"""Data sets that are pairs of files: finding the pairs, refusing half of one, reading them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from segdistill.datasets.base import IGNORE_INDEX, SegmentationDataset
from segdistill.datasets.reading.images import SUFFIXES, image_size, is_turned, open_image, resized
from segdistill.datasets.reading.masks import MaskReader, resized_labels
from segdistill.datasets.reading.rasters import with_companions
from segdistill.errors import NoSplitError, UserError, reason

Pair = tuple[Path, Path]


class FileDataset(SegmentationDataset):
    """A data set of (image file, mask file) pairs; the reader of all data sets on disk.

    Args:
        pairs: image and mask file of every sample; a sample is named by its image's stem.
        reader: turns mask files into labels.
        classes, palette: see :class:`SegmentationDataset`.
        resize: (height, width) to which images (bilinear, antialiased) and masks (nearest) are brought on
            reading.

    Reading a sample raises :class:`UserError` on a missing, truncated or unreadable file, a mask of another
    size than its image, and a label value outside the classes.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        reader: MaskReader,
        *,
        classes: Sequence[str],
        palette: Sequence[str | Sequence[int]] | None = None,
        resize: Sequence[int] | None = None,
    ) -> None:
        super().__init__(classes=classes, palette=palette, ids=[image.stem for image, _ in pairs])
        self.pairs = tuple(pairs)
        self.resize = checked_size(resize)
        self._reader = reader

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image_path, mask_path = self.pairs[index]
        self._check_sizes(index)
        image, valid = open_image(image_path).whole()
        labels = ignored_where_missing(self._reader.read(mask_path), valid)
        return resized(image, self.resize), resized_labels(labels, self.resize)

    def labels(self, index: int) -> Tensor:
        """The label map at its full size, int64 (H, W), whatever ``resize``; the image's header is read.

        Pixels where the image is not valid keep their label here.
        """
        self._check_sizes(index)
        return self._reader.read(self.pairs[index][1])

    def files(self, index: int) -> tuple[Path, ...]:
        """See `SegmentationDataset.files`."""
        image, mask = self.pairs[index]
        return with_companions(image) + with_companions(mask)

    def _check_sizes(self, index: int) -> None:
        image_path, mask_path = self.pairs[index]
        refuse_other_size(image_path, image_size(image_path), mask_path, self._reader.size(mask_path))


def refuse_other_size(image_path: Path, image: tuple[int, int], mask_path: Path, mask: tuple[int, int]) -> None:
    """Raise if ``mask`` is of another (height, width) than ``image``."""
    if image == mask:
        return
    turned = " as it is stored; save both upright" if image == mask[::-1] and is_turned(image_path) else ""
    raise UserError(
        f"{mask_path} is {mask[1]} x {mask[0]} pixels but its image {image_path} is {image[1]} x {image[0]}"
        + (f" by its EXIF orientation, and {image[0]} x {image[1]}{turned}" if turned else "")
    )


def ignored_where_missing(labels: Tensor, valid: Tensor | None) -> Tensor:
    """Labels (H, W) with the ignore label where the image is not ``valid``."""
    return labels if valid is None else labels.masked_fill(~valid, IGNORE_INDEX)


def existing_folder(path: Path, holding: str) -> Path:
    """``path`` if it is a folder; ``holding`` says what it should hold."""
    if not path.is_dir():
        found = "is no folder" if path.exists() else "does not exist"
        raise UserError(f"the folder {path} {found}; expected {holding}")
    return path


def missing_split(root: Path, split: str, known: Iterable[str]) -> NoSplitError:
    """The error for a split that a data set does not have."""
    names = sorted(known)
    return NoSplitError(f"{root} has no split '{split}'; it has {', '.join(names) if names else 'none at all'}")


def files_by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder by their stem, sorted."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        # Names with a leading dot are droppings of file systems ("._x.png" on a disk that saw a Mac).
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in files:
            raise UserError(f"{folder} holds both {files[path.stem].name} and {path.name}; expected one file per stem")
        files[path.stem] = path
    return files


def pair_folders(images: Path, masks: Path) -> list[Pair]:
    """Every image of one folder with the mask of equal stem in the other.

    Raises:
        UserError: a folder is missing or holds no image, two files share a stem, an image has no mask, or a
            mask no image.
    """
    image_files = files_by_stem(existing_folder(images, "the images"))
    mask_files = files_by_stem(existing_folder(masks, "the masks"))
    if not image_files:
        raise UserError(
            f"{images} holds no image, so the split is empty; expected files ending in {' '.join(SUFFIXES)}"
        )
    refuse_missing(image_files, mask_files, f"image{{s}} of {images} without a mask of the same stem in {masks}")
    refuse_missing(mask_files, image_files, f"mask{{s}} of {masks} without an image of the same stem in {images}")
    return [(image_files[stem], mask_files[stem]) for stem in image_files]


def refuse_missing(names: Iterable[str], present: Mapping[str, Path], what: str) -> None:
    """Raise for those ``names`` that are not ``present``, with their number and the first few."""
    missing = [name for name in names if name not in present]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(f"{len(missing)} {what.format(s='s' * (len(missing) > 1))}: {shown}")


def read_lines(path: Path) -> list[str]:
    """The lines of a split file that are not blank.

    Raises:
        UserError: the file is not readable text, or holds nothing.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a text file: {reason(error)}") from None
    if not lines:
        raise UserError(f"{path} is an empty file, so the split is empty; expected one sample per line")
    return lines


def checked_size(size: Sequence[int] | None) -> tuple[int, int] | None:
    """``resize`` as an argument of a data set, if it is [height, width] or None."""
    if size is None:
        return None
    if len(size) != 2 or not all(isinstance(length, int) and length > 0 for length in size):
        raise UserError(f"resize is {size!r}; expected [height, width] in pixels")
    return size[0], size[1]
