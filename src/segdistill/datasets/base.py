"""What every data set is: images, label maps, and the names and colours of the classes."""

from __future__ import annotations

import colorsys
from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor
from torch.utils.data import Dataset

from segdistill.errors import UserError

Color = tuple[int, int, int]
"""Red, green, blue, each 0..255."""

IGNORE_INDEX = 255
"""The label of pixels that count nowhere: not in losses, not in metrics."""


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]], ABC):
    """Images with one class label per pixel.

    A data set of your own subclasses this, names its samples, and writes ``__getitem__``.

    Args:
        classes: names of the K classes, in the order of their labels 0..K-1; 2 to 255 of them.
        ids: one name per sample, in order.
        palette: one colour per class for pictures, as (red, green, blue) or ``"#rrggbb"``; chosen if not
            given.
        in_channels: channels of the images.

    Attributes:
        classes, ids, palette, in_channels: as given.
        ignore_index: the label of pixels that count nowhere, 255.

    Raises:
        UserError: fewer than 2 or more than 255 classes, a class named twice, or a palette that does not fit
            them.

    Example:
        >>> import torch
        >>> class Halves(SegmentationDataset):
        ...     def __init__(self) -> None:
        ...         super().__init__(classes=("dark", "bright"), ids=("one", "two"))
        ...
        ...     def __getitem__(self, index: int):
        ...         image = torch.zeros(3, 4, 6, dtype=torch.uint8)
        ...         image[..., 3:] = 200
        ...         return image, (image[0] > 100).long()
        >>> image, labels = Halves()[0]
        >>> labels[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        ids: Sequence[str],
        palette: Sequence[str | Sequence[int]] | None = None,
        in_channels: int = 3,
    ) -> None:
        self.classes = _checked_classes(classes)
        self.palette = default_palette(len(classes)) if palette is None else parse_palette(palette, self.classes)
        self.ids = tuple(ids)
        self.ignore_index = IGNORE_INDEX
        self.in_channels = in_channels

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One sample.

        Returns:
            image: uint8 (C, H, W).
            labels: int64 (H, W), values 0..K-1 or ``ignore_index``.
        """

    def labels(self, index: int) -> Tensor:
        """The label map of one sample alone, int64 (H, W); data sets of files read no image for it."""
        return self[index][1]


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


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"classes must be a list of names, found {classes!r}")
    names = tuple(classes)
    if not 2 <= len(names) <= IGNORE_INDEX:
        raise UserError(
            f"classes has {len(names)} names ({', '.join(names[:3])}); expected 2 to {IGNORE_INDEX}, "
            "the background being a class too"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"classes names '{twice[0]}' more than once")
    return names
