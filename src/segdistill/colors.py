"""Colours of classes: reading them, writing them, choosing them."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from segdistill.errors import UserError

Color = tuple[int, int, int]
"""Red, green, blue, each 0..255."""


def default_palette(count: int) -> tuple[Color, ...]:
    """``count`` colours that are easy to tell apart: hues spaced by the golden ratio.

    Example:
        >>> default_palette(2)
        ((230, 69, 69), (87, 136, 255))
    """
    colors = []
    for index in range(count):
        # Alternate brightness and saturation, since neighbouring hues come back every few steps.
        saturation, value = ((0.7, 0.9), (0.66, 1.0), (0.8, 0.65))[index % 3]
        red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1.0, saturation, value)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return tuple(colors)


def parse_color(color: str | Sequence[int], *, argument: str) -> Color:
    """A colour as (red, green, blue) or ``"#rrggbb"``.

    Example:
        >>> parse_color("#00ff80", argument="palette")
        (0, 255, 128)
    """
    try:
        if isinstance(color, str):
            digits = color.removeprefix("#")
            channels = list(bytes.fromhex(digits)) if len(digits) == 6 else []
        else:
            channels = [channel for channel in color if isinstance(channel, int) and 0 <= channel <= 255]
            channels = channels if len(channels) == len(color) else []
    except (TypeError, ValueError):
        channels = []
    if len(channels) != 3:
        raise UserError(f"{argument} holds {color!r}; expected [red, green, blue] with values 0 to 255, or '#rrggbb'")
    return channels[0], channels[1], channels[2]


def parse_palette(palette: Sequence[str | Sequence[int]], classes: Sequence[str]) -> tuple[Color, ...]:
    """One colour for each class, all different."""
    colors = tuple(parse_color(color, argument="palette") for color in palette)
    if len(colors) != len(classes):
        raise UserError(f"palette has {len(colors)} colours for {len(classes)} classes ({', '.join(classes)})")
    for index, color in enumerate(colors):
        if color in colors[:index]:
            first = classes[colors.index(color)]
            raise UserError(f"palette gives {hex_color(color)} to both '{first}' and '{classes[index]}'")
    return colors


def hex_color(color: Color) -> str:
    """``"#rrggbb"``."""
    return "#{:02x}{:02x}{:02x}".format(*color)
