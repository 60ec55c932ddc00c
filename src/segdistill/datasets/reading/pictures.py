"""Decoding pictures by PIL, with every way a file can be broken turned into one sentence."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from segdistill.datasets.reading.orientation import exif_orientation
from segdistill.errors import UserError, missing_package

# What PIL's decoders raise on damaged files; UnidentifiedImageError and most truncations are OSErrors.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_RAW_MODE = "raw mode"

_ANIMATED = ("PNG", "WEBP", "GIF")
"""Kinds of which each image counts; a second one in a telephone's JPEG is a preview or a depth map."""

_NODATA = 42113
"""GDAL's TIFF tag."""

_SUBFILE, _SMALLER_OR_MASK = 254, 0b101
"""The TIFF tag that says what a page is, and its bits for a smaller copy of another page and for a mask."""


@contextmanager
def opened_picture(path: Path) -> Iterator[Image.Image]:
    """The picture in ``path``, of which only the header is read.

    Raises:
        UserError: missing or broken file, no regular one, or one too large to be decoded at once.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise UserError(f"{path} cannot be read, it is truncated or no image: it is no regular file")
    try:
        with warnings.catch_warnings():
            # From half the size on at which it refuses, PIL warns of what may be an attack on the memory.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                yield image
    except FileNotFoundError:
        raise UserError(f"{path} does not exist (any more)") from None
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} is too large to be read at once, cut it up or make it a tiled GeoTIFF: {error}"
        ) from None
    except UnidentifiedImageError:  # whose text repeats the path
        raise UserError(f"{path} cannot be read, it is truncated or no image: no known kind of image") from None
    except _BROKEN as error:
        raise UserError(f"{path} cannot be read, it is truncated or no image: {error}") from None


def decoded(path: Path) -> Image.Image:
    """The picture in ``path``, fully decoded, the right way up by its EXIF orientation.

    Raises:
        UserError: see `opened_picture`; several images in one file, or a GeoTIFF, which needs rasterio.
    """
    with opened_picture(path) as image:
        if image.format == "TIFF":
            _refuse_geotiff(image, path)
        elif image.format in _ANIMATED:
            _refuse_several(getattr(image, "n_frames", 1), path)
        turn = _TURNS.get(exif_orientation(image, path))
        raw_mode = _raw_mode(image)
        image.load()
        upright = image if turn is None else image.transpose(turn)
        upright.info[_RAW_MODE] = raw_mode
        return upright


def refuse_deep(image: Image.Image, path: Path) -> None:
    """Raise for more than 8 bits per channel, of which PIL would keep the upper ones alone, or clip them to white."""
    deep = re.search(r";(12|16|32)", image.info.get(_RAW_MODE, "")) is not None
    if image.mode.startswith(("I", "F")) or deep:
        kind = f"the kind {image.mode}" if image.mode.startswith(("I", "F")) else "16 bits per channel"
        raise UserError(f"{path} has pixels of {kind}; expected 8 bits per channel, or the argument bands")


def stored_numbers(image: Image.Image) -> np.ndarray:
    """The numbers (H, W) of a picture of one channel as they stand in the file.

    PIL spreads 2 and 4 bits over 0..255, and reverses the numbers of a TIFF that shows 0 as white.

    Args:
        image: what `decoded` gave, of mode 1, L, P or I.
    """
    numbers = np.asarray(image)
    match = re.fullmatch(r"(1|L)(?:;(\d?)(I?)R?)?", image.info.get(_RAW_MODE, ""))
    if match is None or image.mode not in ("1", "L"):
        return numbers
    bits = 1 if match[1] == "1" else int(match[2] or 8)
    numbers = numbers.astype(np.uint8)
    if match[1] == "L" and bits < 8:
        numbers = numbers // (255 // (2**bits - 1))
    return 2**bits - 1 - numbers if match[3] else numbers


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, in PIL's words, such as "RGB;16B"; known until they are decoded."""
    tile = getattr(image, "tile", None)
    if not tile:
        return ""
    arguments = tile[0][3]
    first = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return first if isinstance(first, str) else ""


def _refuse_geotiff(image: Image.Image, path: Path) -> None:
    """Raise for what only rasterio reads rightly of a TIFF."""
    if _NODATA in getattr(image, "tag_v2", {}):
        raise missing_package(f"{path} is a GeoTIFF with a no-data value, which", "rasterio", "geo")
    images = 0
    for page in range(getattr(image, "n_frames", 1)):
        image.seek(page)
        images += not image.tag_v2.get(_SUBFILE, 0) & _SMALLER_OR_MASK  # type: ignore[attr-defined]
    image.seek(0)
    _refuse_several(images, path)


def _refuse_several(images: int, path: Path) -> None:
    if images > 1:
        raise UserError(f"{path} holds {images} images; expected one, save each in a file of its own")
