"""One function, called with dataclasses or with their fields as keywords: nothing lists the fields a second time."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from segdistill.arguments import parsed
from segdistill.errors import UserError, unknown_name
from segdistill.files import as_typed, read_yaml, recipe_file
from segdistill.naming import is_plain

_NUMBERS = {bool: "true or false", int: "int", float: "float", NoneType: "null"}
_NAMES = {**_NUMBERS, str: "text", Path: "a path"}

K = TypeVar("K")
T = TypeVar("T", covariant=True)


class Keywords(Protocol[T]):
    """A function that takes dataclasses, or their fields as keywords."""

    kinds: tuple[type[Any], ...]

    def __call__(self, *given: Any, **keywords: Any) -> T:
        """See `takes_fields`."""
        ...


def takes_fields(function: Callable[..., T]) -> Keywords[T]:
    """Let ``function(recipe, options)`` also be called with the fields of its dataclasses as keywords.

    A recipe may also be a YAML file or a mapping, and a keyword replaces what it says:
    ``distill("recipe.yaml", method="brd", output="runs/brd")``. Where the first dataclass has positional fields, they
    come first: ``predict("runs/brd", "photos", output="labels")``. Signature and docstring are made from the
    dataclasses, whose docstrings describe each field once.

    Args:
        function: its parameters are annotated with dataclasses that share no field's name.
    """
    hints = get_type_hints(function)
    kinds: tuple[type[Any], ...] = tuple(hints[name] for name in inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*given: Any, **keywords: Any) -> T:
        return function(*_objects(kinds, given, keywords))

    call.kinds = kinds  # type: ignore[attr-defined]
    call.__signature__ = _signature(function, kinds)  # type: ignore[attr-defined]
    call.__doc__ = _docstring(function, kinds)
    return call  # type: ignore[return-value]


def from_values(kind: type[K], values: Mapping[str, Any], *, where: str = "") -> K:
    """Make a dataclass from the values of its fields, after checking every key and every plain value's type.

    Args:
        kind: a dataclass with annotated fields.
        values: of its fields; a field that is itself a dataclass may be a mapping; objects are taken as they are.
        where: the key that leads there, for messages, e.g. ``"train"``.

    Raises:
        UserError: an unknown, missing or wrong-typed key.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in known:
            raise unknown_name("key", f"{prefix}{key}", [f"{prefix}{name}" for name in known])
    check_required(known.values(), values, prefix)
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    for key, value in {key: as_typed(given) for key, given in values.items()}.items():
        if is_dataclass(hints[key]) and not isinstance(value, hints[key]):
            if not isinstance(value, Mapping):
                raise UserError(f"{prefix}{key} is {value!r}, expected a mapping of keys to values")
            made[key] = from_values(hints[key], value, where=f"{prefix}{key}")
        else:
            _check_kind(value, hints[key], f"{prefix}{key}")
            made[key] = checked(value, hints[key], f"{prefix}{key}") if is_plain(value) else value
    return kind(**made)


def check_required(known: Iterable[Field[Any]], values: Mapping[str, Any], prefix: str = "") -> None:
    """Raise a `UserError` that names every field without a default for which there is no value."""
    missing = [
        f"{prefix}{field.name}"
        for field in known
        if field.default is MISSING and field.default_factory is MISSING and values.get(field.name) is None
    ]
    if missing:
        raise UserError(f"{', '.join(missing)} missing; expected a value for {'each' if missing[1:] else 'it'}")


def _check_kind(value: Any, expected: Any, key: str) -> None:
    """Refuse what the parser takes without a look: null, bytes, and objects where a number is expected, not a name."""
    if isinstance(value, bytes):
        raise UserError(f"{key} is {value!r}, expected text instead of bytes")
    if value is not None and is_plain(value):
        return
    union = get_args(expected) if get_origin(expected) in (Union, UnionType) else (expected,)
    kinds = [str if get_origin(one) is Literal else one for one in union]
    if NoneType in kinds if value is None else not all(kind in _NUMBERS for kind in kinds):
        return
    if Any not in kinds:
        told = " or ".join(_NAMES.get(kind, str(kind)) for kind in kinds)
        raise UserError(f"{key}: expected {told}, found {'null' if value is None else repr(value)}")


def checked(value: Any, expected: Any, key: str) -> Any:
    """A plain value of an annotated type, such as 3.0 for the text "3"; mappings and lists are left as they are.

    Raises:
        UserError: it is of another type.
    """
    choices = get_args(expected) if get_origin(expected) is Literal else ()
    for one in get_args(expected):
        choices += get_args(one) if get_origin(one) is Literal and set(get_args(expected)) == {one, NoneType} else ()
    if choices and isinstance(value, str) and value not in choices:
        raise unknown_name(key, value, choices)
    found = parsed(str(value) if isinstance(value, Path) else value, expected, key)
    return value if isinstance(value, Mapping | list | tuple | Path) else found


def _objects(kinds: tuple[type[Any], ...], given: tuple[Any, ...], keywords: Mapping[str, Any]) -> list[Any]:
    """One object of each kind, from those that were given and the fields among the keywords."""
    given, keywords = _named(kinds, given, as_typed(dict(keywords)))
    known = [field.name for kind in kinds for field in fields(kind)]
    for key in keywords:
        if key not in known:
            raise unknown_name("key", key, known)
    run = next((one.resume for one in given if isinstance(getattr(one, "resume", None), str | Path)), None)
    run = keywords.get("resume", run)
    stored: dict[str, Any] = {}
    if isinstance(run, str | Path):
        stored = stored_recipe(kinds[0], run)
        keywords = {**keywords, "output": output_of(run, keywords.get("output")), "resume": True}
    made = []
    for kind, one in zip(kinds, [*given, *[None] * (len(kinds) - len(given))], strict=True):
        own = {field.name: keywords[field.name] for field in fields(kind) if field.name in keywords}
        if isinstance(one, kind):
            made.append(
                replace(one, **{field.name: as_typed(getattr(one, field.name)) for field in fields(kind)} | own)
            )
            continue
        values = read_yaml(recipe_file(Path(as_typed(one)))) if isinstance(one, str | Path) else one
        if not isinstance(values, Mapping | None):
            raise UserError(f"a {type(one).__name__} is given, expected a {kind.__name__}, a mapping or a YAML file")
        base = stored if kind is kinds[0] else {}
        made.append(from_values(kind, {**base, **(values or {}), **own}))
    return made


def leading_fields(kind: type[Any]) -> list[str]:
    """The fields of a dataclass that may be given without their names, in order."""
    return [field.name for field in fields(kind) if not field.kw_only]


def _named(
    kinds: tuple[type[Any], ...], given: tuple[Any, ...], keywords: Mapping[str, Any]
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The objects among positional arguments, and the others as keywords of the leading fields."""
    leading = leading_fields(kinds[0])
    if leading and given and not isinstance(given[0], kinds[0]):
        if len(given) > len(leading):
            raise UserError(f"{len(given)} values without names, expected at most {len(leading)}: {', '.join(leading)}")
        named = dict(zip(leading, given, strict=False))
        for key in named:
            if key in keywords:
                raise UserError(f"{key} is given twice, as {named[key]!r} and as {keywords[key]!r}")
        return (), {**named, **keywords}
    if len(given) > len(kinds):
        raise UserError(f"{len(given)} arguments, expected {' and '.join(kind.__name__ for kind in kinds)}")
    return given, keywords


def stored_recipe(kind: type[Any], run: str | Path) -> dict[str, Any]:
    """The recipe in the config.yaml of a run that shall be resumed.

    Args:
        kind: class of the recipe that is expected.
        run: the run folder.

    Raises:
        UserError: the folder holds no run, or one that another command makes.
    """
    file = Path(run) / "config.yaml"
    if not file.exists():
        raise UserError(f"cannot resume {run}: it is not a run folder, since it has no config.yaml")
    values: dict[str, Any] = read_yaml(file)
    if not set(values) <= {field.name for field in fields(kind)}:
        command = "distill" if "teacher" in values else "train" if "network" in values else None
        hint = f"it was made by segdistill {command}" if command else f"{file} is no recipe of this command"
        raise UserError(f"cannot resume {run}: {hint}")
    return values


def output_of(run: str | Path, output: str | Path | None) -> str | Path:
    """The output folder of a run that shall be resumed: the run itself.

    Raises:
        UserError: another folder is asked for.
    """
    if output is not None and Path(output).resolve() != Path(run).resolve():
        raise UserError(f"resume is {run} and output is {output}: a run is resumed in its own folder; leave output out")
    return run


def signature_of(kinds: tuple[type[Any], ...]) -> inspect.Signature:
    """The fields of dataclasses as arguments."""
    return inspect.Signature(
        [parameter for kind in kinds for parameter in inspect.signature(kind, eval_str=True).parameters.values()]
    )


def _signature(function: Callable[..., Any], kinds: tuple[type[Any], ...]) -> inspect.Signature:
    first = [
        inspect.Parameter(parameter.name, inspect.Parameter.POSITIONAL_ONLY, default=None)
        for parameter in inspect.signature(function).parameters.values()
        if not leading_fields(kinds[0])
    ]
    own = signature_of(kinds).parameters.values()
    return inspect.Signature([*first, *own], return_annotation=get_type_hints(function).get("return"))


def _docstring(function: Callable[..., Any], kinds: tuple[type[Any], ...]) -> str:
    """The function's docstring, with the fields of the dataclasses as its Args."""
    lines = (inspect.getdoc(function) or "").splitlines()
    sections = [index for index, line in enumerate(lines) if line in ("Returns:", "Raises:", "Example:")]
    place = sections[0] if sections else len(lines)
    texts = [f"{name}: {text}" for kind in kinds for name, text in field_help(kind).items()]
    own = [line for text in texts for line in _indented(text)]
    return "\n".join([*lines[:place], "Args:", *own, "", *lines[place:]])


def _indented(text: str) -> list[str]:
    return textwrap.wrap(
        text, 120, initial_indent=" " * 4, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
    )


def field_help(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of each field, as one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        name = ""
        for line in _documented(base):
            if line.startswith(" " * 8):
                texts[name] += f" {line.strip()}"
            else:
                name, _, text = line.strip().partition(": ")
                texts[name] = text
    return texts


def _documented(kind: type[Any]) -> list[str]:
    """The lines of a class's Args, indented by 4."""
    text = inspect.cleandoc(kind.__doc__ or "") if "__doc__" in vars(kind) else ""
    _, _, after = text.partition("Args:\n")
    lines = []
    for line in after.splitlines():
        if line and not line.startswith(" "):
            break
        if line:
            lines.append(line)
    return lines
