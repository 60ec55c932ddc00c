"""`Description`: all that must be known of a network to use it, beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from segdistill.colors import Color, default_palette
from segdistill.errors import UserError

PIXEL_TYPES = ("uint8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64", "int8")
"""numpy's names of the types that pixels of image files may have."""


@dataclass(frozen=True)
class Description:
    """What a network takes, what it returns and how it was validated; network.json and exported files hold it.

    Attributes:
        spec: what `load_network` builds the network from; None for one that was wrapped by hand.
        classes: the names of the K classes, in the order of the labels; ``class 0`` and so on where nobody named them.
        palette: a colour per class.
        in_channels: channels of the images.
        mean: per channel, subtracted inside the network; None: nothing is. The unit is that of ``pixels``.
        std: per channel, divided by; given with ``mean``.
        stride: the scores of a part of an image agree with those of the whole where the part begins at a multiple of
            this, in pixels.
        pixels: the type of the pixels in the training files, numpy's name. ``"uint8"``: images are scaled to 0..1
            inside. Any other: images are float32 in the files' own unit. None: nobody said.
        value_range: lowest and highest value in the training images, in the files' own unit; None: not known.
        bands: which bands of the files are the channels, the first being 1; None: red, green and blue.
        resize: (height, width) to which images were brought for training and validation; None: they were not.
        window: longest side in pixels of what goes through the network at once; larger images were validated in
            overlapping windows. None: images were validated whole.
        ignore_index: the label of pixels that count nowhere.
    """

    spec: str | None
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    in_channels: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    stride: int = 1
    pixels: str | None = None
    value_range: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    resize: tuple[int, int] | None = None
    window: int | None = None
    ignore_index: int = 255

    @property
    def num_classes(self) -> int:
        """The number of classes, K."""
        return len(self.classes)

    @classmethod
    def unnamed(cls, spec: str | None, num_classes: int, in_channels: int, stride: int) -> Description:
        """The description of a network of which nobody said what its classes are.

        Example:
            >>> Description.unnamed(None, num_classes=2, in_channels=3, stride=8).classes
            ('class 0', 'class 1')
        """
        names = tuple(f"class {label}" for label in range(num_classes))
        return cls(spec, names, default_palette(num_classes), in_channels, stride=stride)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str) -> Description:
        """Read `as_dict` back from JSON; other keys are left alone.

        Args:
            values: by name.
            where: the file that holds them, for messages.

        Raises:
            UserError: a key is missing, or its value is of another kind or does not fit the others.
        """
        missing = [name for name in _READERS if name not in values]
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}; expected {', '.join(_READERS)}")
        read: dict[str, Any] = {}
        for name, (reader, expected) in _READERS.items():
            try:
                read[name] = reader(values[name])
            except (TypeError, ValueError, KeyError):
                raise UserError(f"{where}: {name} is {values[name]!r}, expected {expected}") from None
        found = cls(**read)
        channels, classes = found.in_channels, found.num_classes
        for name, value, count in (
            ("palette", found.palette, classes),
            ("mean", found.mean, channels),
            ("std", found.std, channels),
        ):
            if value is not None and len(value) != count:
                raise UserError(f"{where}: {name} has {len(value)} entries, expected {count}")
        if (found.mean is None) != (found.std is None):
            raise UserError(f"{where}: mean is {found.mean} and std is {found.std}, expected both or neither")
        return found

    def check_pixels(self, pixels: str, what: str, network: str = "the model") -> None:
        """Check that images are of the kind that the network was trained on: 8 bits, or the files' own unit.

        Args:
            pixels: the type of their pixels, numpy's name.
            what: what the images are called in the message.
            network: what the network is called there.

        Raises:
            UserError: the one is of 8 bits and the other is not.
        """
        if self.pixels is None or (pixels == "uint8") == (self.pixels == "uint8"):
            return
        kinds = {True: "8 bits (uint8)", False: "type {}"}
        found, expected = (kinds[one == "uint8"].format(one) for one in (pixels, self.pixels))
        raise UserError(
            f"{what} holds pixels of {found}, but {network} was trained on pixels of {expected}; its labels would be "
            "wrong, and nothing would show it"
        )

    def check_classes(self, classes: Sequence[str], network: str, data: str = "the data", remedy: str = "") -> None:
        """Check that the network's classes are ``classes``: as many, and in the same order.

        Names that only one side knows are not compared: a class may have been renamed.

        Args:
            classes: the names of the other side.
            network: what the network is called in the message.
            data: what the other side is called there.
            remedy: what to do about another order, the end of the message.

        Raises:
            UserError: another number of classes, or a name that stands at another place.
        """
        if len(classes) != self.num_classes:
            raise UserError(f"{network} has {self.num_classes} classes, but {data} has {len(classes)}")
        own, other = ([name.casefold() for name in names] for names in (self.classes, classes))
        if len(set(own)) < len(own) or len(set(other)) < len(other):  # capitals alone tell some classes apart
            own, other = list(self.classes), list(classes)
        moved = [label for label, name in enumerate(other) if name in own and own.index(name) != label]
        if moved:
            label = moved[0]
            raise UserError(
                f"{network} has the classes in another order than {data}: '{classes[label]}' is class "
                f"{own.index(other[label])} of {network} ({_few(self.classes)}), but class {label} of {data} "
                f"({_few(classes)}){remedy and '; '}{remedy}"
            )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:8])}, ..."


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _whole(least: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or value < least:
            raise ValueError
        return value

    return read


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise TypeError
    return float(value)


def _list(of: Callable[[Any], Any], count: int | None = None, empty: bool = False) -> Callable[[Any], tuple[Any, ...]]:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or (count is not None and len(value) != count):
            raise ValueError
        if not value and not empty:
            raise ValueError
        return tuple(of(one) for one in value)

    return read


def _or_null(of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else of(value)


def _pixel_type(value: Any) -> str:
    if value not in PIXEL_TYPES:
        raise ValueError
    return str(value)


def _channel(value: Any) -> int:
    if _whole(0)(value) > 255:
        raise ValueError
    return int(value)


_POSITIVE = _whole(1)

_READERS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "spec": (_or_null(_text), "a network spec or null"),
    "classes": (_list(_text, empty=True), "a list of names"),
    "palette": (_list(_list(_channel, 3), empty=True), "a list of colours [red, green, blue], each 0 to 255"),
    "in_channels": (_POSITIVE, "a whole number of at least 1"),
    "mean": (_or_null(_list(_number)), "a list of numbers or null"),
    "std": (_or_null(_list(_number)), "a list of numbers or null"),
    "stride": (_POSITIVE, "a whole number of at least 1"),
    "pixels": (_or_null(_pixel_type), f"one of {', '.join(PIXEL_TYPES)} or null"),
    "value_range": (_or_null(_list(_number, 2)), "[lowest, highest] or null"),
    "bands": (_or_null(_list(_POSITIVE)), "a list of band numbers from 1 or null"),
    "resize": (_or_null(_list(_POSITIVE, 2)), "[height, width] in pixels or null"),
    "window": (_or_null(_POSITIVE), "a number of pixels or null"),
    "ignore_index": (_whole(-(2**31)), "a whole number"),
}
assert list(_READERS) == [field.name for field in fields(Description)]
