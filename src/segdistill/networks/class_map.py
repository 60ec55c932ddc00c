"""Which class of a teacher means which class of the data: read from names or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segdistill.errors import UserError, unknown_name
from segdistill.progress import counted

DROPPED = "ignore"
"""Stands for a class of ours: the teacher's class is left out."""

REST = "*"
"""Stands for a class of theirs: all that are not named."""


def read_class_map(
    given: Mapping[Any, Any], theirs: Sequence[str], ours: Sequence[str], teacher: str = "the teacher"
) -> tuple[int | None, ...]:
    """Read which of our classes each of a teacher's classes means.

    A class that is not named means ours of the same name. Names are compared without regard to case.

    Args:
        given: ``{theirs: ours}``; each a name or a number from 0. ``ignore`` leaves a class out; ``"*"`` as a key
            stands for all classes that neither are named nor bear a name of ours.
        theirs: the teacher's classes.
        ours: the classes of the data.
        teacher: what the teacher is called in messages.

    Returns:
        The number of ours for each of theirs, None for a class that is left out.

    Raises:
        UserError: an unknown or repeated class, one of theirs without a meaning, or one of ours that gets nothing.

    Example:
        >>> mapping = {"car": "vehicle", "bus": "vehicle", "*": "ignore"}
        >>> read_class_map(mapping, ["Road", "car", "bus", "sky"], ["vehicle", "road"])
        (1, 0, 0, None)
    """
    if not isinstance(given, Mapping):
        raise UserError(
            f"teacher_classes is {given!r}, expected a mapping of each class of {teacher} to one of the data"
        )
    found: dict[int, int | None] = {}
    for key, value in given.items():
        if key == REST:
            continue
        meaning = _meaning(value, ours)
        for label in _labels(key, theirs, f"class of {teacher} in teacher_classes:"):
            if label in found:
                raise UserError(f"teacher_classes names class {label} of {teacher} ({theirs[label]}) twice")
            found[label] = meaning
    names = [name.casefold() for name in ours]
    for label, name in enumerate(theirs):
        if label not in found and name.casefold() in names:
            found[label] = names.index(name.casefold())
    left = [label for label in range(len(theirs)) if label not in found]
    if left and REST not in given:
        shown = ", ".join(f"{theirs[label]} ({label})" for label in left[:5]) + (", ..." if left[5:] else "")
        raise UserError(
            f"teacher_classes lacks {counted(len(left), 'class')} of {teacher}: {shown}; name a class of the data or "
            f"{DROPPED} for each, or give all others one as '{REST}': {DROPPED}"
        )
    rest = _meaning(given[REST], ours) if left else None
    meanings = tuple(found.get(label, rest) for label in range(len(theirs)))
    empty = [name for label, name in enumerate(ours) if label not in meanings]
    if empty:
        raise UserError(
            f"teacher_classes gives nothing to '{empty[0]}' of the data: expected at least one class of {teacher} for "
            f"each of {', '.join(ours)}"
        )
    return meanings


def count_of_classes(given: Mapping[Any, Any], teacher: str) -> int:
    """The number of classes of a teacher that is built from its spec, for the class map that numbers them.

    Raises:
        UserError: no class is given by its number.
    """
    numbers = [number for number in map(_number, given) if number is not None]
    if not numbers:
        raise UserError(
            f"teacher_classes has no number, but the classes of {teacher}, a network spec, have no names: number them "
            "from 0 to the last"
        )
    return 1 + max(numbers)


def _meaning(value: Any, ours: Sequence[str]) -> int | None:
    try:
        return _labels(value, ours, "class of the data in teacher_classes:")[0]
    except UserError:
        if value == DROPPED:
            return None
        raise


def _labels(given: Any, names: Sequence[str], kind: str) -> list[int]:
    """The labels of the classes of a name, or the one of a number."""
    labels = [label for label, name in enumerate(names) if name.casefold() == str(given).casefold()]
    number = _number(given)
    if labels or number is None:
        if not labels:
            raise unknown_name(kind, given, names)
        return labels
    if number >= len(names):
        raise UserError(f"unknown {kind} {number}, expected 0 to {len(names) - 1} or one of {', '.join(names)}")
    return [number]


def _number(given: Any) -> int | None:
    # config.yaml writes keys as texts.
    text = str(given)
    return int(text) if type(given) in (int, str) and text.isascii() and text.isdigit() else None
