"""Classes and functions from outside this package: ``python:module:Name``, and entry points of installed packages."""

from __future__ import annotations

import importlib
import os
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from segdistill.errors import UserError, unknown_name

PREFIX = "python:"


def load_object(name: str, what: str) -> Any:
    """Import what ``python:module:Name`` names; the current folder is looked in too.

    Args:
        name: as a recipe writes it; the last part may have dots, as in ``python:models:Factory.small``.
        what: what it is, for messages, e.g. ``"method"``.

    Raises:
        UserError: it is not written like that, the module cannot be imported, or it has no such name.
    """
    module_name, colon, path = name.removeprefix(PREFIX).partition(":")
    if not module_name or not colon or not path:
        raise UserError(f"{what} '{name}' cannot be read: expected {PREFIX}module:Name")
    folder = os.getcwd()
    if folder not in sys.path:  # it is there with "python -m", but not for an installed command
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the module itself does wrong
        raise UserError(f"{what} '{name}': module '{module_name}' cannot be imported ({_reason(error)})") from error
    for part in path.split("."):
        if not hasattr(found, part):
            known = [known for known, value in vars(found).items() if callable(value) and not known.startswith("_")]
            raise unknown_name(f"name in module '{module_name}':", part, known)
        found = getattr(found, part)
    return found


def entry_point_names(group: str) -> list[str]:
    """The names that installed packages add to a group such as ``segdistill.methods``."""
    return sorted(_installed(group, _places()).names)


def load_entry_point(group: str, name: str) -> Any | None:
    """What an installed package adds to a group under a name; None where there is no such name.

    Raises:
        UserError: it cannot be imported.
    """
    point: EntryPoint | None = next(iter(_installed(group, _places()).select(name=name)), None)
    if point is None:
        return None
    try:
        return point.load()
    except Exception as error:  # whatever the package itself does wrong
        package = "" if point.dist is None else f" of the package {point.dist.name}"
        raise UserError(f"entry point '{name}' in {group}{package} cannot be loaded ({_reason(error)})") from error


def name_of(found: Any) -> str:
    """How a recipe writes a class or function: ``python:module:Name``; one without a name is ``object:module.Name``.

    Example:
        >>> from fractions import Fraction
        >>> name_of(Fraction), name_of(lambda: 0)
        ('python:fractions:Fraction', 'object:segdistill.plugins.<lambda>')
    """
    module, path = getattr(found, "__module__", "?"), getattr(found, "__qualname__", type(found).__qualname__)
    place: Any = sys.modules.get(module)
    for part in path.split("."):
        place = getattr(place, part, None)
    # What __main__ holds is another script's when the recipe is read.
    return f"{PREFIX}{module}:{path}" if place is found and module != "__main__" else f"object:{module}.{path}"


def _places() -> tuple[tuple[str, int], ...]:
    """Where Python looks for packages, and when each place was changed last; 0 where there is none."""

    def changed(place: str) -> int:
        try:
            return os.stat(place).st_mtime_ns
        except OSError:
            return 0

    return tuple((place, changed(place)) for place in (place or os.getcwd() for place in sys.path))


@lru_cache(maxsize=16)
def _installed(group: str, places: tuple[tuple[str, int], ...]) -> EntryPoints:
    """The entry points of a group. Reading those of every installed package takes as long as several training steps."""
    return entry_points(group=group)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
