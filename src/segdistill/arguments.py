"""Plain values (YAML, command line, keywords) checked against the signature of a class or function."""

from __future__ import annotations

import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser, set_loader
from jsonargparse._loaders_dumpers import get_yaml_default_loader

from segdistill.errors import UserError, unknown_name
from segdistill.files import only_true_and_false

T = TypeVar("T")

#: Mode of parsers whose YAML knows true and false alone; other users of the parser's library are left alone.
PARSER_MODE = "segdistill"


def load_yaml(text: str) -> Any:
    """Read a value of a command line or a recipe."""
    return yaml.load(text, _TrueAndFalse)


_TrueAndFalse = type("_TrueAndFalse", (get_yaml_default_loader(),), {})  # type: ignore[no-untyped-call]
only_true_and_false(_TrueAndFalse)
set_loader(PARSER_MODE, load_yaml, exceptions=(yaml.YAMLError,))


def parse_options(query: str, what: str) -> dict[str, Any]:
    """Parse ``key=value&key=value``, each value as YAML.

    Args:
        query: what follows the ``?`` of the spec of a network or a method.
        what: whose options they are, for messages.

    Raises:
        UserError: a part without "=", a key twice, or a value that is no YAML.

    Example:
        >>> parse_options("depths=[2, 2]&dropout=0.1&norm=null", what="")
        {'depths': [2, 2], 'dropout': 0.1, 'norm': None}
        >>> parse_options("dropout=1e-1", what="")
        {'dropout': 0.1}
    """
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, equals, value = part.partition("=")
        if not key or not equals:
            raise UserError(f"option '{part}' of {what} cannot be read: expected key=value")
        if key in options:
            raise UserError(f"option '{key}' of {what} is given twice")
        try:
            options[key] = _numbers(yaml.safe_load(value))
        except yaml.YAMLError as error:
            raise UserError(f"option '{key}' of {what}: '{value}' is no YAML value") from error
    return options


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-1 as text, for it wants a point and a sign: ``1.0e-1``."""
    if isinstance(value, list):
        return [_numbers(one) for one in value]
    if isinstance(value, dict):
        return {key: _numbers(one) for key, one in value.items()}
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.IGNORECASE)
    return float(value) if is_number else value


def construct(kind: Callable[..., T], values: Mapping[str, Any], where: str) -> T:
    """Call ``kind`` with ``values``, after checking every key and type against its signature.

    Args:
        kind: a class with an annotated ``__init__``.
        values: its arguments as plain values; lists become tuples and so on, as annotated.
        where: what the values are in the recipe, for messages, e.g. ``"data"``.

    Raises:
        UserError: an unknown, missing or wrong-typed key.
    """
    return kind(**checked_arguments(kind, values, where))


def checked_arguments(
    kind: Callable[..., Any], values: Mapping[str, Any], where: str, skip: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments of a class or function, each brought to the type that it is annotated with.

    Args:
        kind: a class or function.
        values: its arguments as plain values.
        where: what the values are in the recipe, for messages.
        skip: arguments that somebody else gives.

    Raises:
        UserError: an unknown, missing or wrong-typed key.
    """
    every = inspect.signature(kind).parameters.values()
    known = {
        one.name: one for one in every if one.name not in skip and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
    }
    for key in values:
        if key not in known:
            raise unknown_name(f"key in {where}:", key, known)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and values.get(key) is None:
            raise UserError(f"{where}: the key '{key}' is missing")
    parser_of = _kept_parser if isinstance(kind, Hashable) else _parser
    try:
        arguments: dict[str, Any] = parser_of(kind, frozenset(skip)).parse_object(dict(values)).as_dict()
    except ArgumentError as error:
        raise UserError(f"{where}: {explain(error)}") from error
    return arguments


def refuse_wrong_types(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Name the argument of a class that is of the wrong type, where its ``__init__`` has failed for some reason.

    Args:
        kind: the class.
        values: the arguments that it was given.

    Raises:
        UserError: one of them is not what the signature says. Nothing is raised where all are.

    Example:
        >>> from segdistill.methods import CWD
        >>> refuse_wrong_types(CWD, {"temperature": [4]})
        Traceback (most recent call last):
        segdistill.errors.UserError: CWD: temperature: expected float, found [4]
    """
    try:
        hints = get_type_hints(kind.__init__)
    except NameError:  # of a type that only type checkers know
        return
    for name, parameter in inspect.signature(kind).parameters.items():
        if name not in hints or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint, value = hints[name], values.get(name, parameter.empty)
        if value is None and not (hint in (Any, object) or NoneType in get_args(hint)):
            raise UserError(f"{kind.__name__}: {name} is None, expected {inspect.formatannotation(hint)}")
        if isinstance(value, bool | int | float | str | bytes | list | tuple | dict):
            try:
                parsed(value, hint, f"{kind.__name__}: {name}")
            except UserError:
                raise
            except ValueError:  # a type that the parser does not know
                continue


def parsed(value: Any, expected: Any, name: str) -> Any:
    """A plain value brought to an annotated type, such as 3.0 for the text "3".

    Raises:
        UserError: it is of another type.
        ValueError: the parser does not know the type.
    """
    parser = ArgumentParser(exit_on_error=False, parser_mode=PARSER_MODE)
    parser.add_argument("--value", type=expected)
    try:
        return parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise UserError(explain(error).replace("value:", f"{name}:", 1)) from error


def _parser(kind: Callable[..., Any], skip: frozenset[str]) -> ArgumentParser:
    """What checks the arguments of a class or function."""
    parser = ArgumentParser(exit_on_error=False, parser_mode=PARSER_MODE)
    if isinstance(kind, type):
        parser.add_class_arguments(kind, skip=set(skip), fail_untyped=False)
    else:
        parser.add_function_arguments(kind, skip=set(skip), fail_untyped=False)
    return parser


# Making one takes as long as a small network's training step.
_kept_parser = lru_cache(maxsize=128)(_parser)


def explain(error: Exception) -> str:
    """Write a parser's message as one sentence.

    Example:
        >>> explain(ValueError('Parser key "train.lr":\\n  Expected a <class \\'float\\'>. Got value: hello'))
        'train.lr: expected float, found hello'
    """
    text = str(error).replace("<class 'bool'>", "true or false")
    text = re.sub(r"<class '([\w.]+)'>", r"\1", " ".join(text.split())).replace("NoneType", "null")
    for long, short in (("collections.abc.Sequence", "list"), ("pathlib.", "")):
        text = text.replace(long, short)
    text = re.sub(r"\bdict\b(\[[\w., ]*\])?", "mapping", text)
    text = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", text)
    text = re.sub(r'^Parser key "([^"]*)":', r"\1:", text)
    text = re.sub(
        r"Does not validate against any of the Union subtypes Subtypes: \[(.*?)\] Errors: .*? Given value: ",
        lambda match: f"expected {match[1].replace(', null', ' or null')}, found ",
        text,
    )
    return re.sub(r"Expected an? (.*?)\. Got value: ", r"expected \1, found ", text)
