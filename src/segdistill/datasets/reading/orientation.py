"""Which way up an image is stored: the orientation tag of EXIF and TIFF."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

ORIENTATION = 274
PHOTOMETRIC = 262

TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""By orientation: whether rows and columns are exchanged, and then whether rows, and columns, are put in reverse."""


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (..., H, W) as they are shown.

    Example:
        >>> turned(np.array([[1, 2], [3, 4]]), 6).tolist()  # stored on its left side
        [[3, 1], [4, 2]]
    """
    transposed, rows_flipped, columns_flipped = TURNS[orientation]
    if transposed:
        pixels = pixels.swapaxes(-1, -2)
    if rows_flipped:
        pixels = pixels[..., ::-1, :]
    if columns_flipped:
        pixels = pixels[..., ::-1]
    return np.ascontiguousarray(pixels)


def of_display_matrix(matrix: tuple[int, ...]) -> int:
    """The orientation, 1 to 8, that a video's display matrix stands for, rounded to quarter turns.

    Args:
        matrix: nine numbers, row by row, as MP4 stores them: of the first two rows the first two numbers count.
    """
    a, b, _, c, d = matrix[:5]
    is_upright = abs(a) + abs(d) >= abs(b) + abs(c)
    turn = (False, d < 0, a < 0) if is_upright else (True, b < 0, c < 0)
    return next(number for number, flags in TURNS.items() if flags == turn)


def exif_orientation(image: Image.Image, path: Path) -> int:
    """The orientation, 1 to 8, of a file that PIL has opened; no pixel is decoded for it."""
    if image.format == "TIFF":
        return 1  # PIL turns these on its own
    if image.format == "PNG" and "exif" not in image.info:
        # PIL would decode all pixels to see whether such a chunk comes after them.
        exif = _png_exif(path)
        if exif is not None:
            image.info["exif"] = b"Exif\x00\x00" + exif
    try:
        value = Image.Image.getexif(image).get(ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # a damaged tag turns nothing
        return 1
    return value if value in TURNS else 1


def tiff_tags(path: Path) -> dict[int, int]:
    """Orientation and photometric interpretation of the first image of a TIFF; nothing for any other file."""
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if head[:4] in (b"II+\x00", b"MM\x00+"):
                head += file.read(8)
            tags = TiffImagePlugin.ImageFileDirectory_v2(head)
            file.seek(tags.next)
            tags.load(file)
            found = {tag: tags.get(tag) for tag in (ORIENTATION, PHOTOMETRIC)}
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return {}
    numbers = {tag: value for tag, value in found.items() if isinstance(value, int)}
    if numbers.get(ORIENTATION, 1) not in TURNS:
        del numbers[ORIENTATION]
    return numbers


def _png_exif(path: Path) -> bytes | None:
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind == b"eXIf":
                return file.read(length)
            file.seek(length + 4, 1)
    return None
