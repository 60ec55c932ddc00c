"""Reading image files with every way a file can be broken turned into one sentence."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segdistill.errors import UserError

# What PIL's decoders raise on damaged files; UnidentifiedImageError and most truncations are OSErrors.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, RuntimeError, struct.error, zlib.error)


def decoded(path: Path) -> Image.Image:
    """The image in ``path``, fully decoded."""
    with _told(path), Image.open(path) as image:
        image.load()
        return image


def image_size(path: Path) -> tuple[int, int]:
    """(height, width), from the header alone."""
    with _told(path), Image.open(path) as image:
        return image.height, image.width


def read_rgb(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The image as uint8 (3, H, W), resized to ``size`` (height, width) if given: bilinear, antialiased.

    Raises:
        UserError: missing or broken file, or pixels of more than 8 bits.
    """
    image = decoded(path)
    if image.mode.startswith(("I", "F")):
        # PIL's conversion to RGB would clip these to white without a word.
        raise UserError(
            f"{path} has pixels of the kind {image.mode}; expected 8 bits per channel, or the argument bands"
        )
    image = image.convert("RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell what is wrong with ``path`` in one sentence."""
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise UserError(f"{path} cannot be read, it is truncated or no image: it is no regular file")
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist (any more)") from None
    except Image.DecompressionBombError as error:
        raise UserError(
            f"{path} is too large to be read at once, cut it up or make it a tiled GeoTIFF: {error}"
        ) from None
    except _BROKEN as error:
        raise UserError(f"{path} cannot be read, it is truncated or no image: {error}") from None
