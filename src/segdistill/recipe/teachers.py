"""The teachers of a recipe, one by one: ``teacher`` and the keys that go with it, checked and brought together."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segdistill.errors import UserError, unknown_name

if typing.TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class GivenTeacher:
    """One teacher as a recipe gives it.

    Attributes:
        source: a run folder, a spec, or a network.
        share: of its probabilities in the mean of all; they add up to 1.
        weights: file of the weights of a spec.
        classes: which of the data's classes each of its classes means, see `read_class_map`; None: they are the same.
        bands: which channels of the data it sees, from 1; None: all.
    """

    source: str | Path | nn.Module
    share: float = 1.0
    weights: str | Path | None = None
    classes: Mapping[Any, Any] | None = None
    bands: tuple[int, ...] | None = None


def given_teachers(teacher: Any, weights: Any = None, classes: Any = None, bands: Any = None) -> list[GivenTeacher]:
    """The teachers of a recipe.

    Args:
        teacher: a teacher, a list of them, or ``{teacher: share}``.
        weights: the recipe's ``teacher_weights``: of the one teacher; a list in their order, null where one has its
            own; or ``{teacher: file}``.
        classes: the recipe's ``teacher_classes``: of every teacher, or ``{teacher: {theirs: ours}}``.
        bands: the recipe's ``teacher_bands``: of every teacher, or ``{teacher: [numbers]}``.

    Raises:
        UserError: a value of another kind, or one for a teacher that is not there.
    """
    shares = _shares(teacher)
    sources = [source for source, _ in shares]
    files = _by_teacher("teacher_weights", weights, sources, _files)
    maps = _by_teacher("teacher_classes", classes, sources, _maps)
    seen = _by_teacher("teacher_bands", bands, sources, _bands)
    for source, file in zip(sources, files, strict=True):
        if file is not None and not isinstance(source, str | Path):
            raise UserError(
                "teacher_weights go with a teacher that is given by its spec; load them into the network object"
            )
    total = sum(share for _, share in shares)
    return [
        GivenTeacher(source, share / total, file, mapping, chosen)
        for (source, share), file, mapping, chosen in zip(shares, files, maps, seen, strict=True)
    ]


def _shares(teacher: Any) -> list[tuple[Any, float]]:
    """(teacher, share) of each."""
    if not isinstance(teacher, Mapping | list | tuple):
        return [(teacher, 1.0)]
    if not teacher:
        raise UserError(f"teacher is {teacher!r}, expected a run folder, a network spec, or several of them")
    if isinstance(teacher, Mapping):
        for name, share in teacher.items():
            is_number = isinstance(share, int | float) and not isinstance(share, bool)
            if not isinstance(name, str | Path) or not is_number or not 0 < share < math.inf:
                raise UserError(
                    f"teacher gives {name} the weight {share!r}, expected a number above 0 for each teacher: "
                    "{runs/a: 2.0, runs/b: 1.0}"
                )
        return [(name, float(share)) for name, share in teacher.items()]
    for number, one in enumerate(teacher):
        if isinstance(one, Mapping | list | tuple) or one is None or isinstance(one, bool | int | float):
            raise UserError(f"teacher holds {one!r}, expected run folders, network specs or networks")
        if any(other is one or (isinstance(one, str | Path) and other == one) for other in teacher[:number]):
            raise UserError(f"teacher holds {one} twice; give it once, or a weight: {{{one}: 2.0, ...}}")
    return [(one, 1.0) for one in teacher]


def _by_teacher(key: str, given: Any, sources: Sequence[Any], read: Callable[..., list[Any]]) -> list[Any]:
    """A value of each teacher; ``read`` gives them, or None where they are by the teachers' names."""
    if given is None:
        return [None] * len(sources)
    names = [str(source) for source in sources if isinstance(source, str | Path)]
    if isinstance(given, Mapping) and given and any(str(name) in names for name in given):
        for name in given:
            if str(name) not in names:
                raise unknown_name(f"teacher in {key}:", name, names)
        own = {str(name): value for name, value in given.items()}
        found = [own.get(str(source)) if isinstance(source, str | Path) else None for source in sources]
        return [
            None if value is None else read(key, value, 1, name)[0] for value, name in zip(found, sources, strict=True)
        ]
    return read(key, given, len(sources), None)


def _files(key: str, given: Any, count: int, name: Any) -> list[Any]:
    if isinstance(given, str | Path) and count == 1:
        return [given]
    fine = isinstance(given, list | tuple) and all(one is None or isinstance(one, str | Path) for one in given)
    if not fine or len(given) != count:
        wanted = "a file" if count == 1 else f"a list of {count} files, null for a teacher that has its own weights"
        raise UserError(f"{_told(key, name)} is {given!r}, expected {wanted}, or {{teacher: file}}")
    return list(given)


def _maps(key: str, given: Any, count: int, name: Any) -> list[Any]:
    fine = isinstance(given, Mapping) and bool(given)
    if not fine or any(isinstance(value, Mapping | list | tuple) or value is None for value in given.values()):
        raise UserError(
            f"{_told(key, name)} is {given!r}, expected {{class of the teacher: class of the data, or ignore}}, or "
            "{teacher: such a mapping} for several teachers"
        )
    return [given] * count


def _bands(key: str, given: Any, count: int, name: Any) -> list[Any]:
    if not isinstance(given, list | tuple) or not given or not all(type(one) is int and one > 0 for one in given):
        raise UserError(
            f"{_told(key, name)} is {given!r}, expected numbers of the data's channels, the first being 1, such as "
            "[1, 2, 3], or such a list for each teacher by its name in teacher"
        )
    return [tuple(given)] * count


def _told(key: str, name: Any) -> str:
    return key if name is None else f"{key} of {name}"
