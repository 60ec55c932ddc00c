"""`resolve`: a class or function by the name that a recipe gives it, built in or not."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from segdistill.errors import UserError, unknown_name
from segdistill.lazy import LazyTable, argument_names
from segdistill.plugins import PREFIX, entry_point_names, load_entry_point, load_object, name_of

#: How config.yaml writes what was given as an object and has no name.
OBJECT = "object:"

_MISSING = object()


@dataclass(frozen=True)
class _Kind:
    """Where the built-in ones of a kind are listed, and what all of them are derived from.

    Attributes:
        what: the kind, for messages.
        module: where both are, imported when first asked for.
        table: mapping from names to classes or functions.
        base: class that all are derived from; None where any callable will do.
    """

    what: str
    module: str
    table: str
    base: str | None


Kind = Literal["method", "dataset", "loss", "format"]

_KINDS: dict[Kind, _Kind] = {
    "method": _Kind("method", "segdistill.methods", "METHODS", "Method"),
    "dataset": _Kind("data set", "segdistill.datasets", "DATASETS", "SegmentationDataset"),
    "loss": _Kind("task loss", "segdistill.recipe.losses", "TASK_LOSSES", None),
    "format": _Kind("export format", "segdistill.formats", "FORMATS", "Format"),
}

#: Groups of entry points by which installed packages add to the names.
GROUPS: dict[Kind, str] = {
    "method": "segdistill.methods",
    "dataset": "segdistill.datasets",
    "loss": "segdistill.losses",
    "format": "segdistill.formats",
}


def resolve(kind: Kind, name: Any) -> Any:
    """The class or function that a recipe names.

    Args:
        kind: ``"method"``, ``"dataset"``, ``"loss"`` or ``"format"``; networks are made by `load_network`.
        name: a built-in name, ``python:module:Name``, or a name that an installed package adds by an entry point.

    Raises:
        UserError: an unknown name, a module that cannot be imported or lacks the name, or a class of the wrong kind.

    Example:
        >>> resolve("method", "brd").__name__
        'BRD'
    """
    about = _KINDS[kind]
    built_in = _built_in(kind)
    if isinstance(name, str):
        check_nameable(name, about.what)
        if name in built_in:
            return built_in[name]
        found = load_object(name, about.what) if name.startswith(PREFIX) else load_entry_point(GROUPS[kind], name)
        if found is not None:
            _check(found, about, name)
            return found
    raise unknown_name(about.what, name, known_names(kind))


def check_name(kind: Kind, name: str, *others: str) -> None:
    """Check that a name is a known one, without importing what it names; `resolve` looks closer.

    Args:
        kind: as for `resolve`.
        name: the name.
        others: names that are no class but are known too, for the message.

    Raises:
        UserError: an unknown name.
    """
    about = _KINDS[kind]
    check_nameable(name, about.what)
    if name not in _built_in(kind) and not name.startswith(PREFIX) and name not in known_names(kind):
        raise unknown_name(about.what, name, [*known_names(kind), *others])


def check_arguments(kind: Kind, name: Any, values: Any, where: str, skip: Collection[str] = ()) -> None:
    """Check that something has the arguments that a recipe gives it; a built-in one is not imported for that.

    Args:
        kind, name: see `resolve`.
        values: its arguments; anything but a mapping is left to others.
        where: what the values are in the recipe, for messages.
        skip: arguments that somebody else gives.

    Raises:
        UserError: an unknown name, or an argument that it does not have.
    """
    known = [one for one in arguments_of(kind, name) if one not in skip]
    for key in values if isinstance(values, Mapping) else ():
        if key not in known:
            raise unknown_name(f"key in {where}:", key, known)


def arguments_of(kind: Kind, name: Any) -> list[str]:
    """The arguments of a class or function by its name, see `resolve`; a built-in one is not imported for that."""
    built_in = _built_in(kind)
    if isinstance(name, str) and name in built_in:
        return argument_names(built_in.places[name])
    return list(inspect.signature(resolve(kind, name)).parameters)


def check_method_spec(method: Any) -> None:
    """Check methods and hyper-parameters by their names, see `check_arguments`; anything else is left to others."""
    if isinstance(method, str):
        check_name("method", method)
    elif isinstance(method, Mapping):
        for name, values in method.items():
            check_arguments("method", name, values, f"method {name}")
    elif isinstance(method, list | tuple):
        for one in method:
            check_method_spec(one)


def known_names(kind: Kind) -> list[str]:
    """All names of a kind: the built-in ones, and those that installed packages add."""
    return sorted({*_built_in(kind), *entry_point_names(GROUPS[kind])})


def recipe_name(kind: Kind, found: Any) -> str:
    """How a recipe names a class or function, so that `resolve` finds it; ``object:...`` where it has no name."""
    return next((name for name, value in _built_in(kind).items() if value is found), None) or name_of(found)


def written(kind: Kind, made: Any) -> dict[str, dict[str, Any]]:
    """How a recipe writes an object: its class, and its arguments from its attributes of the same names.

    Where the class has no name, or the object does not keep an argument, it is written as ``object:...``.
    """
    arguments = {name: getattr(made, name, _MISSING) for name in inspect.signature(type(made)).parameters}
    if not is_plain(arguments):
        return {f"{OBJECT}{type(made).__module__}.{type(made).__qualname__}": {}}
    return {recipe_name(kind, type(made)): arguments}


def is_plain(value: Any) -> bool:
    """Whether YAML can hold ``value``: mappings, lists, texts, numbers, and paths, which are written as texts."""
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | bool | int | float | Path)


def check_nameable(name: str, what: str) -> None:
    """Refuse what config.yaml could not write down.

    Raises:
        UserError: ``name`` stands for an object.
    """
    if name.startswith(OBJECT):
        raise UserError(
            f"{what} '{name}' was given as an object that a recipe cannot name: give the same object in Python again, "
            "or put its class into a module that can be imported, keep each argument as an attribute, and name it "
            f"{PREFIX}module:Name"
        )


def objects_in(values: Any, where: str = "") -> Iterator[str]:
    """The keys of a written recipe that hold objects without a name, so that it cannot make the same run again."""
    if isinstance(values, str) and values.startswith(OBJECT):
        yield where
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from [where] if str(key).startswith(OBJECT) else objects_in(value, f"{where}.{key}".lstrip("."))
    elif isinstance(values, list):
        for value in values:
            yield from objects_in(value, where)


def _built_in(kind: Kind) -> LazyTable[Any]:
    about = _KINDS[kind]
    table: LazyTable[Any] = getattr(importlib.import_module(about.module), about.table)
    return table


def _check(found: Any, about: _Kind, name: str) -> None:
    if about.base is None:
        if not callable(found):
            raise UserError(f"{about.what} '{name}' is a {type(found).__name__}, expected a function or a class")
        return
    base = getattr(importlib.import_module(about.module), about.base)
    if not (isinstance(found, type) and issubclass(found, base)):
        what = f"the class {found.__name__}" if isinstance(found, type) else f"a {type(found).__name__}"
        raise UserError(f"{about.what} '{name}' is {what}, expected a class derived from {about.module}.{about.base}")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise UserError(f"{about.what} '{name}' lacks {missing}, which a {about.what} must have")
