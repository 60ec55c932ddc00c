"""Things that are imported when they are first used; their names are known without torch, which takes seconds."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")


def load(place: str) -> Any:
    """Import what ``"module:name"`` names.

    Example:
        >>> load("fractions:Fraction")(1, 2)
        Fraction(1, 2)
    """
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def argument_names(place: str) -> list[str]:
    """The arguments of a class or function of this package, read from its source: nothing is imported.

    Args:
        place: ``"module:name"``; a class without an ``__init__`` of its own has none.

    Example:
        >>> argument_names("segdistill.lazy:load")
        ['place']
    """
    module, _, name = place.partition(":")
    file = Path(__file__).parent.joinpath(*module.split(".")[1:]).with_suffix(".py")
    [found] = [one for one in ast.parse(file.read_text(encoding="utf-8")).body if getattr(one, "name", None) == name]
    functions = [found]
    if isinstance(found, ast.ClassDef):
        functions = [one for one in found.body if getattr(one, "name", None) == "__init__"]
    arguments = [one.args for one in functions if isinstance(one, ast.FunctionDef)]
    return [one.arg for each in arguments for one in (*each.args, *each.kwonlyargs) if one.arg != "self"]


class LazyTable(Mapping[str, T]):
    """A mapping whose names are there at once, and whose values are imported when they are asked for.

    Args:
        places: ``"module:name"`` of each value, by its name in the table.

    Example:
        >>> table = LazyTable({"fraction": "fractions:Fraction"})
        >>> list(table), "fraction" in table, table["fraction"].__name__
        (['fraction'], True, 'Fraction')
    """

    def __init__(self, places: Mapping[str, str]) -> None:
        self.places = dict(places)

    def __getitem__(self, name: str) -> T:
        value: T = load(self.places[name])
        return value

    def __contains__(self, name: object) -> bool:  # that of Mapping would import it
        return name in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


def attributes_of(package: str, *places: str) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a package whose names are imported when they are first asked for.

    Args:
        package: the package.
        places: ``"module:name"`` of each name.
    """
    homes = {place.partition(":")[2]: place for place in places}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return load(homes[name])

    return get
