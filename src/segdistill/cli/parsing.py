"""Turns a command line into one call of one Python function."""

from __future__ import annotations

import difflib
import json
import re
from argparse import Action, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter  # type: ignore[attr-defined]

from segdistill.arguments import PARSER_MODE, explain
from segdistill.errors import UserError, unknown_name
from segdistill.files import as_typed, read_yaml, recipe_file
from segdistill.lazy import load
from segdistill.recipe.keywords import field_help, from_values, leading_fields, output_of, stored_recipe
from segdistill.recipe.recipes import Recipe


class _Formatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """Help with defaults, with the examples' line breaks kept, and without what only the parser's authors know."""

    def _format_action_invocation(self, action: Action) -> str:
        # --name+ appends to a list, for which nobody asks: a list is written at once.
        return re.sub(r", --\S+\+ \S+| \x08", "", super()._format_action_invocation(action))

    def _get_type_str(self, action: Action) -> str | None:
        text = super()._get_type_str(action)
        return None if text is None else _plain_type(text)

    def _expand_help(self, action: Action) -> str:
        return re.sub(r"default: (True|False)\b", lambda found: found[0].lower(), super()._expand_help(action))


def _plain_type(text: str) -> str | None:
    """A type in help; None for choices, which stand behind the option's name.

    Example:
        >>> _plain_type("Union[int, Literal['auto'], null]"), _plain_type("Optional[Literal['wandb', 'mlflow']]")
        ('int | auto | null', 'wandb | mlflow | null')
        >>> _plain_type("str | list[Any] | dict[str, Any]"), _plain_type("Literal['a', 'b']"), _plain_type("list[int]")
        ('str | list | mapping', None, 'list[int]')
    """
    if text == "bool" or re.fullmatch(r"Literal\[[^]]*\]", text):
        return None
    text = re.sub(r"Literal\[([^]]*)\]", lambda found: found[1].replace("'", "").replace(", ", " | "), text)
    text = re.sub(r"dict\[\w+, \w+\]", "mapping", text.replace("list[Any]", "list"))
    text = re.sub(r"^Optional\[(.*)\]$", r"\1 | null", text)
    return re.sub(r"^Union\[(.*)\]$", lambda found: found[1].replace(", ", " | "), text)


def call(
    place: str,
    argv: Sequence[str],
    *,
    kinds: Sequence[type[Any]] = (),
    name: str,
    summary: str,
    examples: str,
    check: Callable[..., None] | None = None,
    read: Callable[[str], Any] = str,
) -> Any:
    """Call a function with what a command line says; it is imported only when every argument is checked.

    Args:
        place: its module and name, as ``"segdistill.training.train:train"``; it takes ``kinds``, see `takes_fields`.
        argv: the arguments after the command's name.
        kinds: the dataclasses whose fields are its options, with dots where they are dataclasses in turn. Arguments
            without a dash that come first are the values of the fields that are not keyword-only, or a recipe's file.
        name: the command's name.
        summary: the first line of the function's docstring.
        examples: shown below the help.
        check: further checks, called with the dataclasses; by default `Recipe.check` where the first one is a recipe.
        read: what makes a value of each leading argument.

    Raises:
        UserError: an unknown, missing or wrong-typed option.
    """
    parser = _parser(kinds, name, summary, examples)
    takes_recipe = bool(kinds) and issubclass(kinds[0], Recipe)
    arguments = _with_leading(kinds, _with_bare_switches(kinds, _spelled(argv)), read)
    if takes_recipe:
        arguments = _resumed(kinds, arguments)
    if any(argument in ("-h", "--help") for argument in arguments):
        arguments = ["--help"]  # before anything else on the line is found wrong
    for argument, following in pairwise([*arguments, ""]):
        option, equals, value = argument.partition("=")
        if takes_recipe and option == "--recipe":
            read_yaml(Path(value if equals else following))  # the parser's own words for a bad file do not name it
    try:
        values = parser.parse_args(arguments).as_dict()
    except ArgumentError as error:
        raise _friendly(error, parser, kinds) from error
    made = [
        from_values(kind, {one.name: values[one.name] for one in fields(kind) if one.name in values}) for kind in kinds
    ]
    if check is not None:
        check(*made)
    elif takes_recipe:
        made[0].check()
    return load(place)(*made)


def _parser(kinds: Sequence[type[Any]], name: str, summary: str, examples: str) -> ArgumentParser:
    shown = "".join(f" {word}" for word in _leading_words(kinds))
    parser = ArgumentParser(
        exit_on_error=False,
        parser_mode=PARSER_MODE,
        allow_abbrev=False,  # --overw would overwrite
        prog=f"segdistill {name}",
        usage=f"segdistill {name}{shown} [--option value ...]",
        description=summary,
        epilog=f"examples:\n{examples}",
        formatter_class=_Formatter,
    )
    if kinds and issubclass(kinds[0], Recipe):
        parser.add_argument(
            "--recipe",
            action=ActionConfigFile,
            help="YAML file with any of the options below; options after it on the command line take precedence",
        )
    for kind in kinds:
        _add_fields(parser, kind)
    for action in parser._actions:
        name = action.option_strings[0] if action.option_strings else ""
        if name == "--print_config":
            action.metavar = "\b[=skip_default]"
            action.help = (
                "Print all options as a recipe and exit; skip_default leaves out those that have their default value."
            )
        elif action.help == "Path to a configuration file.":
            action.help = (
                f"all of these options at once: a YAML file, or {{name: value}}; {name}.NAME sets a single one."
            )
    return parser


def _leading_words(kinds: Sequence[type[Any]]) -> list[str]:
    """How the usage shows the arguments that come first; those that may be left out in brackets."""
    if kinds and issubclass(kinds[0], Recipe):
        return ["[RECIPE]"]
    words = {"runs": "RUN"}
    shown = []
    for kind in kinds[:1]:
        defaults = {one.name: one.default for one in fields(kind)}
        for name in leading_fields(kind):
            word = f"{words.get(name, name.upper())}{'...' if _is_list(kind, name) else ''}"
            needed = defaults[name] is MISSING and name != "data"  # the data set's own keywords stand for it
            shown.append(word if needed else "[RECIPE]" if name == "data" else f"[{word}]")
    return shown


def _is_list(kind: type[Any], name: str) -> bool:
    """Whether a field may hold a list."""
    hint = get_type_hints(kind)[name]
    return any(get_origin(one) is list for one in (hint, *get_args(hint)))


def _with_leading(kinds: Sequence[type[Any]], argv: list[str], read: Callable[[str], Any]) -> list[str]:
    """Arguments without a dash that come first, with the options that they are; the last field may take several.

    What is left over stays in its place, where the parser refuses it.
    """
    given = list(takewhile(lambda argument: not argument.startswith("-"), argv))
    names = ["recipe"] if kinds and issubclass(kinds[0], Recipe) else leading_fields(kinds[0]) if kinds else []
    options, left = [], given
    for name in names:
        if not left:
            break
        taken, left = (left, []) if name != "recipe" and _is_list(kinds[0], name) else (left[:1], left[1:])
        taken = [str(recipe_file(Path(one))) for one in taken] if name == "recipe" else taken
        value = [read(one) for one in taken] if name != "recipe" and _is_list(kinds[0], name) else read(taken[0])
        options += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
    return [*options, *left, *argv[len(given) :]]


def _add_fields(parser: ArgumentParser, kind: type[Any]) -> None:
    """Make every field of a dataclass an option; those of a dataclass within it become ``--train.lr`` and the like."""
    hints, texts = get_type_hints(kind), field_help(kind)
    for field in fields(kind):
        required = field.default is MISSING and field.default_factory is MISSING
        default = None if field.default is MISSING else field.default
        more = {"required": True} if required else {} if is_dataclass(hints[field.name]) else {"default": default}
        short = ["-o"] if field.name == "output" else []
        parser.add_argument(*short, f"--{field.name}", type=hints[field.name], help=texts[field.name], **more)


def _spelled(argv: Sequence[str]) -> list[str]:
    """``-o`` means ``--output``, and ``--teacher-cache`` ``--teacher_cache``; values are left as they are.

    Example:
        >>> _spelled(["--teacher-cache", "a-b", "--train.batch-size=8", "--data.root=a-b", "-o=x", "-h"])
        ['--teacher_cache', 'a-b', '--train.batch_size=8', '--data.root=a-b', '--output=x', '-h']
    """
    options = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if name == "-o":
            name = "--output"
        is_option = re.fullmatch(r"--[a-z][\w.-]*", name) is not None
        options.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if is_option else argument)
    return options


def _with_bare_switches(kinds: Sequence[type[Any]], argv: Sequence[str]) -> list[str]:
    """``--resume`` alone means ``--resume true``, as everywhere else; ``--threads 1,2`` means ``[1, 2]``."""
    hints = {f"--{name}": hint for kind in kinds for name, hint in get_type_hints(kind).items()}

    def is_bare(argument: str, after: str) -> bool:
        if hints.get(argument) is bool:
            return after not in ("true", "false")
        return bool in get_args(hints.get(argument)) and (not after or after.startswith("-"))

    def is_list(option: str) -> bool:
        kinds_of_list = [one for one in get_args(hints.get(option)) if one is not NoneType]
        return bool(kinds_of_list) and all(get_origin(one) is list for one in kinds_of_list)

    options = []
    for before, argument, after in zip(["", *argv], argv, [*argv[1:], ""], strict=False):
        option, equals, value = argument.partition("=")
        if is_bare(argument, after):
            options.append(f"{argument}=true")
        elif is_list(before) and not argument.startswith("-"):
            options.append(_as_list(argument))
        else:
            options.append(f"{option}={_as_list(value)}" if equals and is_list(option) else argument)
    return options


def _as_list(text: str) -> str:
    return text if text.startswith("[") else f"[{text}]"


def _resumed(kinds: Sequence[type[Any]], argv: list[str]) -> list[str]:
    """``--resume RUN`` stands for the run's own recipe and output folder."""
    options = dict(pairwise([*argv, ""])) | dict(argument.split("=", 1) for argument in argv if "=" in argument)
    run = as_typed(options.get("--resume"))
    if run is None or run in ("true", "false"):
        return argv
    stored_recipe(kinds[0], run)
    output = output_of(run, options.get("--output"))
    kept = [
        argument
        for before, argument in pairwise(["", *argv])
        if not argument.startswith(("--resume", "--output")) and before not in ("--resume", "--output")
    ]
    return ["--recipe", str(Path(run) / "config.yaml"), *kept, "--output", str(output), "--resume=true"]


def _friendly(error: ArgumentError, parser: ArgumentParser, kinds: Sequence[type[Any]]) -> UserError:
    text = explain(error)
    choice = re.search(r"expected one of (.+), found ([\w.-]+)$", text)
    if choice:
        close = difflib.get_close_matches(choice[2], re.findall(r"'([^']+)'", choice[1]), n=1, cutoff=0.5)
        return UserError(f"{text}; did you mean '{close[0]}'?" if close else text)
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
        expected = _as_written(missing[1].split(", "), kinds, parser.prog)
        return UserError(f"{missing[1]} missing; expected {expected}; {parser.prog} --help shows examples")
    return UserError(text.replace("unrecognized arguments:", "expected options such as --name value, found"))


def _as_written(missing: Sequence[str], kinds: Sequence[type[Any]], prog: str) -> str:
    """How options that are missing are given: by place those that come first, by name the others."""
    if kinds and issubclass(kinds[0], Recipe):
        return f"{', '.join(f'--{name}' for name in missing)}, or a recipe that has them"
    first = leading_fields(kinds[0]) if kinds else []
    options = [f"--{name} {name.upper()}" for name in missing if name not in first]
    return " ".join([prog, *(word.strip("[]") for word in _leading_words(kinds)), *options])
