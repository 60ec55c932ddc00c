"""The format of a name, and of a file by how it ends: built in, or of an installed package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segdistill.formats import FORMATS
from segdistill.formats.format import Format
from segdistill.naming import known_names, resolve


def format_named(name: str) -> Format:
    """The format that the user calls so.

    Raises:
        UserError: an unknown name, or one whose class cannot be imported or is no format.
    """
    kind: type[Format] = resolve("format", name)
    return kind()


def all_formats() -> Iterator[Format]:
    """Every format, the built-in ones first.

    Raises:
        UserError: that of an installed package cannot be imported, or is no format.
    """
    built_in = list(FORMATS)
    yield from map(format_named, [*built_in, *(name for name in known_names("format") if name not in built_in)])


def format_of(path: Path) -> Format | None:
    """The format of a file, by how its name ends; None where no format's files end so."""
    return next((kind for kind in all_formats() if kind.suffix == path.suffix.lower()), None)
