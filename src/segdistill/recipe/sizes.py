"""Sizes of images as a user writes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from segdistill.errors import UserError

Resize = tuple[int, int] | Literal["auto"] | None
"""(height, width) that images are resized to, None for the size that they have, "auto" for what the model asks for."""


def parse_size(size: str | Sequence[int], argument: str) -> tuple[int, int]:
    """Parse (height, width) from ``"512x768"``, ``"512"`` for a square, or two numbers.

    Raises:
        UserError: for anything else.

    Example:
        >>> parse_size("512x768", "size"), parse_size("512", "size"), parse_size([96, 128], "size")
        ((512, 768), (512, 512), (96, 128))
    """
    sides: list[Any] = size.lower().split("x") if isinstance(size, str) else list(size)
    if all(str(side).isdecimal() and int(side) > 0 for side in sides) and len(sides) in (1, 2):
        return int(sides[0]), int(sides[-1])
    raise UserError(f"{argument} is {size!r}, expected height and width in pixels, such as 512x512")


def parse_resize(resize: str | Sequence[int]) -> Resize:
    """Parse ``"auto"``, ``"none"``, or a size such as ``"512x1024"`` or ``[512, 1024]``.

    Raises:
        UserError: for anything else.
    """
    if resize == "auto":
        return "auto"
    if resize == "none":
        return None
    try:
        return parse_size(resize, "resize")
    except UserError:
        raise UserError(
            f"resize is {resize!r}, expected auto, none, or height and width in pixels, such as 512x1024"
        ) from None
