"""What the heads of image and mask files say, beyond what reading them shows."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from PIL import Image

from segdistill.datasets.reading.images import has_other_colors
from segdistill.datasets.reading.masks import MaskReader
from segdistill.datasets.reading.orientation import exif_orientation
from segdistill.datasets.reading.rasters import has_rasterio, read_by_rasterio, read_header
from segdistill.errors import UserError

Bands = tuple[int, ...] | None
"""Numbers of the bands that are read, the first being 1; None: red, green and blue."""

_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")


@dataclass(frozen=True)
class PixelKind:
    """What the numbers in an image mean, as far as its file says it.

    Attributes:
        dtype: numpy's name of their type.
        scaling: scale and offset of each band that is read, by which the file's numbers become a measured value.
    """

    dtype: str = "uint8"
    scaling: tuple[tuple[float, float], ...] = ()

    def __str__(self) -> str:
        plain = all(scaling == (1, 0) for scaling in self.scaling)
        told = "" if plain else f" to be scaled by {self.scaling[0][0]:g} and shifted by {self.scaling[0][1]:g}"
        return f"{self.dtype}{told}"


@dataclass(frozen=True)
class PictureHeader:
    """What the head of a picture says; empty where PIL cannot read it."""

    mode: str = ""
    format: str = ""
    orientation: int = 1


def picture_header(path: Path) -> PictureHeader:
    """The head of a file that PIL knows."""
    try:
        with Image.open(path) as image:
            return PictureHeader(image.mode, image.format or "", exif_orientation(image, path))
    except Exception:  # whatever PIL raises: what is wrong with the file was told by its reader
        return PictureHeader()


def pixel_kind(path: Path, bands: Bands) -> PixelKind:
    """What the pixels of a readable image are."""
    if bands is None or not has_rasterio():
        return PixelKind()
    header = read_header(path)
    scaling = tuple((header.scales[band - 1], header.offsets[band - 1]) for band in bands)
    return PixelKind(header.dtype, scaling)


def image_remarks(path: Path, bands: Bands, size: tuple[int, int]) -> list[tuple[str, str]]:
    """Remarks on a readable image of ``size``: kind and text of each."""
    remarks = []
    if read_by_rasterio(path):
        header = read_header(path)
        orientation, mode = header.orientation, "CMYK or YCbCr" if has_other_colors(header) else ""
        other_colors = bool(mode) and bands is None
        tagged = header.colors.index("alpha") + 1 if "alpha" in header.colors else None
        if tagged is not None and tagged not in (bands or ()):
            transparent = header.alpha is not None and not header.has_mask
            kind, text = ("alpha", "has an alpha channel") if transparent else ("no-alpha", f"has band {tagged}")
            remarks.append((kind, f"{path} {text}"))
    else:
        picture = picture_header(path)
        orientation, mode = picture.orientation, picture.mode
        other_colors = mode in ("CMYK", "YCbCr", "HSV") and bands is None
        if mode in _TRANSPARENT and (bands is None or len(mode) not in bands):
            remarks.append(("alpha", f"{path} is {mode}"))
    if other_colors:
        remarks.append(("other-colors", f"{path} is {mode}"))
    # By 90 degrees the mask would be of another size than its image, were only one of them turned.
    if orientation in (2, 3, 4) or (orientation > 4 and size[0] == size[1]):
        remarks.append(("turned", f"{path} has the EXIF orientation {orientation}"))
    return remarks


def mask_remarks(path: Path, reader: MaskReader | None) -> list[tuple[str, str]]:
    """Remarks on a readable mask: kind and text of each."""
    remarks = []
    picture = picture_header(path)
    # A WebP file says in its first chunk whether it is the lossy kind.
    if picture.format in ("JPEG", "MPO") or (picture.format == "WEBP" and _start(path)[12:] == b"VP8 "):
        remarks.append(("lossy-mask", str(path)))
    if not read_by_rasterio(path):
        return remarks
    header = read_header(path)
    if header.photometric == 0:
        remarks.append(("white-is-zero", str(path)))
    nodata = header.nodata[0]
    # In colours every channel may be 0 or 255 in some class.
    if header.bands == 1 and nodata is not None and reader is not None and reader.is_class(nodata):
        remarks.append(("nodata-class", f"{path} has the no-data value {nodata:g}"))
    return remarks


def place_remarks(image: Path, mask: Path, size: tuple[int, int]) -> list[tuple[str, str]]:
    """A remark where image and mask, both with a place on the map, lie in different ones or are flipped there."""
    if not (read_by_rasterio(image) and read_by_rasterio(mask)):
        return []
    first, second = read_header(image).transform, read_header(mask).transform
    if first is None or second is None or first == second:
        return []
    a, b, c, d, e, f = first
    area = a * e - b * d
    apart = 0.0
    for row, column in ((0, 0), (0, size[1]), (size[0], 0)):
        x, y = (second[at] * column + second[at + 1] * row + second[at + 2] for at in (0, 3))
        seen = ((e * (x - c) - b * (y - f)) / area, (a * (y - f) - d * (x - c)) / area) if area else (inf, inf)
        apart = max(apart, abs(seen[0] - column), abs(seen[1] - row))
    return [("other-place", f"{mask} lies up to {apart:.0f} pixels from its image")] if apart > 0.5 else []


def fault_of_image(path: Path) -> str:
    """Which remark is due about an image that was refused."""
    try:
        header = read_header(path) if has_rasterio() else None
    except UserError:
        header = None
    if picture_header(path).mode.startswith(("I", "F")):
        return "deep-image"
    if header is None or header.pages > 1:
        return "unreadable"
    if header.dtype == "uint8":
        return "other-bands" if header.bands > 3 else "unreadable"
    return "deep-image" if header.bands in (1, 3) and not read_by_rasterio(path) else "other-bands"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)
