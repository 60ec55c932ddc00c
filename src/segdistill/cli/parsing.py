"""Turns a command line into one call of one Python function."""

from __future__ import annotations

import importlib
import inspect
import re
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]

from segdistill.arguments import PARSER_MODE, explain
from segdistill.errors import UserError, unknown_name
from segdistill.files import read_yaml
from segdistill.recipe.keywords import field_help, from_values, output_of, signature_of, stored_recipe
from segdistill.recipe.recipes import Recipe

T = TypeVar("T")


class _Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help with defaults, and with the examples' line breaks kept."""


def call(function: Callable[..., T], argv: Sequence[str], *, name: str, first: str | None, examples: str) -> T:
    """Calls ``function`` with what ``argv`` says; every keyword of it is an option, nested ones with dots.

    Args:
        function: annotated, with a Google-style docstring, from which the help is made.
        argv: the arguments after the command's name.
        name: the command's name.
        first: what a leading argument without a dash is: ``"recipe"`` for a YAML file with any of the keywords, or the
            name of a keyword.
        examples: shown below the help.

    Raises:
        UserError: for an unknown, missing or wrong-typed option.
    """
    shown = "" if first is None else f" {first.upper()}"
    parser = ArgumentParser(
        exit_on_error=False,
        parser_mode=PARSER_MODE,
        allow_abbrev=False,  # --overw would overwrite
        prog=f"segdistill {name}",
        usage=f"segdistill {name}{shown} [--option value ...]",
        description=(inspect.getdoc(function) or "").partition("\n")[0],
        epilog=f"examples:\n{examples}",
        formatter_class=_Formatter,
    )
    if first == "recipe":
        parser.add_argument(
            "--recipe",
            action=ActionConfigFile,
            help="YAML file with any of the options below; later ones win",
        )
    kinds: tuple[type[Any], ...] = getattr(function, "kinds", ())
    for kind in kinds:
        _add_fields(parser, kind)
    if not kinds:
        parser.add_function_arguments(function, as_group=False)
    arguments = _resumed(kinds, _with_bare_switches(function, _underscored(argv)))
    if first is not None and arguments and not arguments[0].startswith("-"):
        arguments[0:1] = [f"--{first}", arguments[0]]
    if any(argument in ("-h", "--help") for argument in arguments):
        arguments = ["--help"]  # before anything else on the line is found wrong
    for argument, following in pairwise([*arguments, ""]):
        option, equals, value = argument.partition("=")
        if first == "recipe" and option == "--recipe":
            read_yaml(Path(value if equals else following))  # the parser's own words for a bad file do not name it
    try:
        values = parser.parse_args(arguments).as_dict()
    except ArgumentError as error:
        raise _friendly(error, parser) from error
    values.pop("recipe", None)
    return function(**_typed(function, values))


def imported_later(place: str, summary: str, *kinds: type[Any]) -> Callable[..., Any]:
    """A function that is imported when it is called, so that help and mistakes do not wait for torch and others.

    Args:
        place: its module and name, as ``"segdistill.training.train:train"``; it takes ``kinds``, see `takes_fields`.
        summary: what it does, for the help.
        kinds: the dataclasses whose fields are its options, recipes first.
    """

    def call_it(**values: Any) -> Any:
        made = [
            from_values(kind, {one.name: values[one.name] for one in fields(kind) if one.name in values})
            for kind in kinds
        ]
        if isinstance(made[0], Recipe):
            made[0].check()
        module, _, name = place.partition(":")
        return getattr(importlib.import_module(module), name)(*made)

    call_it.kinds = kinds  # type: ignore[attr-defined]
    call_it.__signature__ = signature_of(kinds)  # type: ignore[attr-defined]
    call_it.__doc__ = summary
    return call_it


def _add_fields(parser: ArgumentParser, kind: type[Any]) -> None:
    """Make every field of a dataclass an option; those of a dataclass within it become ``--train.lr`` and the like."""
    hints, texts = get_type_hints(kind), field_help(kind)
    for field in fields(kind):
        required = field.default is MISSING and field.default_factory is MISSING
        default = None if field.default is MISSING else field.default
        more = {"required": True} if required else {} if is_dataclass(hints[field.name]) else {"default": default}
        parser.add_argument(f"--{field.name}", type=hints[field.name], help=texts[field.name], **more)


def _underscored(argv: Sequence[str]) -> list[str]:
    """``--teacher-cache`` means ``--teacher_cache``; values, and names in front of a dot, are left as they are.

    Example:
        >>> _underscored(["--teacher-cache", "a-b", "--train.batch-size=8", "--data.root=a-b", "-h"])
        ['--teacher_cache', 'a-b', '--train.batch_size=8', '--data.root=a-b', '-h']
    """
    options = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        is_option = re.fullmatch(r"--[a-z][\w.-]*", name) is not None
        options.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if is_option else argument)
    return options


def _with_bare_switches(function: Callable[..., Any], argv: Sequence[str]) -> list[str]:
    """``--resume`` alone means ``--resume true``, as everywhere else on a command line."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    kinds = {f"--{parameter.name}": parameter.annotation for parameter in parameters}

    def is_bare(argument: str, after: str) -> bool:
        if kinds.get(argument) is bool:
            return after not in ("true", "false")
        return bool in get_args(kinds.get(argument)) and (not after or after.startswith("-"))

    return [f"{argument}=true" if is_bare(argument, after) else argument for argument, after in pairwise([*argv, ""])]


def _resumed(kinds: tuple[type[Any], ...], argv: list[str]) -> list[str]:
    """``--resume RUN`` stands for the run's own recipe and output folder."""
    options = dict(pairwise([*argv, ""])) | dict(argument.split("=", 1) for argument in argv if "=" in argument)
    run = options.get("--resume")
    if not kinds or run is None or run in ("true", "false"):
        return argv
    stored_recipe(kinds[0], run)
    output = output_of(run, options.get("--output"))
    kept = [
        argument
        for before, argument in pairwise(["", *argv])
        if not argument.startswith(("--resume", "--output")) and before not in ("--resume", "--output")
    ]
    at = 1 if kept and not kept[0].startswith("-") else 0
    own = ["--recipe", str(Path(run) / "config.yaml"), "--output", str(output), "--resume=true"]
    given = ["--recipe", kept[0]] if at else []
    return [*own[:2], *given, *kept[at:], *own[2:]]


def _typed(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """Dataclass parameters arrive as mappings of checked values; their classes make them whole."""
    made = dict(values)
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if hasattr(parameter.annotation, "__dataclass_fields__"):
            if not isinstance(values[name], Mapping):
                raise UserError(f"{name} is {values[name]!r}, expected a mapping of keys to values")
            made[name] = parameter.annotation(**values[name])
    return made


def _friendly(error: ArgumentError, parser: ArgumentParser) -> UserError:
    text = explain(error)
    known = [
        option.removeprefix("--")
        for action in parser._actions
        for option in action.option_strings
        if option[:2] == "--" and not option.startswith(("--help", "--print_")) and not option.endswith("+")
    ]
    group = re.search(r"Group '([\w.]+)' does not accept option '([\w.]+)'", text)
    option = re.search(r"Option '([\w.]+)' is not accepted", text) or re.search(
        r"unrecognized arguments: --([\w.]+)", text
    )
    if group:
        return unknown_name("key", f"{group[1]}.{group[2]}", [key for key in known if key.startswith(f"{group[1]}.")])
    if option:
        return unknown_name("key", option[1], known if "." in option[1] else {key.partition(".")[0] for key in known})
    missing = re.search(r"arguments are required: (.+)", text)
    if missing:
        options = ", ".join(f"--{name}" for name in missing[1].split(", "))
        also = ", or in the recipe" if "recipe" in known else ""
        return UserError(f"{missing[1]} missing; expected {options}{also}")
    return UserError(text.replace("unrecognized arguments:", "expected options such as --seed 1, found"))
