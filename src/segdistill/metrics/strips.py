"""Large label maps taken strip by strip, so that counting needs memory for a strip and not for all of an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

STRIP_PIXELS = 2**24
"""About how many pixels are counted at once."""


def strips(size: Sequence[int], halo: int = 0) -> Iterator[tuple[int, int]]:
    """First row and last row + 1 of each strip of a map of ``size`` (height, width).

    Args:
        size: of the map.
        halo: rows that are read above and below each strip; strips are at least twice as high.
    """
    height, width = size
    rows = max(1, 2 * halo, STRIP_PIXELS // max(1, width))
    for first in range(0, height, rows):
        yield first, min(first + rows, height)
