"""The page of all public names, from their signatures and docstrings.

mkdocstrings does not fit: it shows neither signatures that are made when the code is imported (those of `train`,
`predict` and so on come from dataclasses), nor names that are imported when they are first used.
"""

from __future__ import annotations

import inspect
import re
import types
from typing import Any

import segdistill

#: The order of the public names; those that stand nowhere here come last.
GROUPS = {
    "Runs": ("train", "distill", "RunOptions", "RunFolder"),
    "Recipes": ("DistillRecipe", "TrainRecipe", "TrainConfig"),
    "Data": ("check_data", "preview_data", "data_statistics", "datasets"),
    "Networks": ("load_network", "load_run", "as_network", "Network", "NetworkInfo", "Tap", "Features"),
    "A training loop of your own": ("Distiller", "LearnerOutput", "Supervised", "losses", "methods"),
    "Scores and comparisons": ("evaluate", "compare", "load_comparison", "Comparison", "advise", "Advice"),
    "Use": ("predict", "export", "benchmark", "play", "demo"),
    "Errors": ("UserError",),
}
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")


def api() -> str:
    """Return the page of all public names."""
    grouped = {name for names in GROUPS.values() for name in names}
    others = tuple(sorted(set(segdistill.__all__) - grouped - {"__version__"}))
    text = "# Python API\n\nAll names of `import segdistill`, and of its modules `datasets`, `losses` and `methods`.\n"
    for title, names in {**GROUPS, "More": others}.items():
        if names:
            text += f"\n## {title}\n" + "".join(_entry(f"segdistill.{name}", _get(name)) for name in names)
    return text


def _get(name: str) -> Any:
    return getattr(segdistill, name)


def _entry(name: str, thing: Any) -> str:
    """One name with what belongs to it."""
    if isinstance(thing, types.ModuleType):
        members = [(one, getattr(thing, one)) for one in thing.__all__]
        inner = "".join(_entry(f"{name}.{one}", value) for one, value in members if callable(value))
        return f"\n### {name}\n\n{documented(thing)}\n{inner}"
    text = f"\n### {name}\n\n{_signature(name, thing)}{documented(thing)}\n"
    if isinstance(thing, type):
        for one, value in vars(thing).items():
            if not one.startswith("_") and inspect.getdoc(value) and _is_method(value):
                function = getattr(thing, one) if isinstance(value, classmethod | staticmethod) else value
                short = f"{thing.__name__}.{one}"
                shown = "" if isinstance(value, property) else _signature(short, function)
                text += f"\n#### {short}\n\n{shown}{documented(function)}\n"
    return text


def _is_method(value: Any) -> bool:
    return isinstance(value, classmethod | staticmethod | property | types.FunctionType)


def _signature(name: str, thing: Any) -> str:
    """Return a block with the call, an argument a line where it is long."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # an exception class has none
        return ""
    short = name.removeprefix("segdistill.")
    parameters = [
        str(one.replace(annotation=_plain(one))) for one in signature.parameters.values() if one.name != "self"
    ]
    line = f"{short}({', '.join(parameters)})"
    if len(line) > 100:
        line = f"{short}(\n    " + ",\n    ".join(parameters) + "\n)"
    return f"```text\n{line}\n```\n\n"


def _plain(parameter: inspect.Parameter) -> Any:
    """An annotation as it reads in the source."""
    if parameter.annotation is parameter.empty:
        return parameter.empty
    named = parameter.annotation
    text = named if isinstance(named, str) else inspect.formatannotation(named)
    return _Text(re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text))


class _Text(str):
    """A text that `inspect` shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def documented(thing: Any) -> str:
    """Return a docstring in Markdown: sections as lists, examples as code."""
    text = inspect.getdoc(thing) or ""
    parts = re.split(rf"^({'|'.join(_SECTIONS)}):\n", text, flags=re.MULTILINE)
    shown = escaped(parts[0].strip())
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        inner, rest = _indented(body)
        if title == "Example":
            shown += f"\n\n**Example**\n\n```pycon\n{inner.rstrip()}\n```"
        else:
            shown += f"\n\n**{title}**\n\n" + _entries(inner)
        shown += f"\n\n{escaped(rest.strip())}" if rest.strip() else ""
    return shown


def _indented(body: str) -> tuple[str, str]:
    """The indented lines of a section, without their indent, and what follows it."""
    lines = body.split("\n")
    end = next((index for index, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return inspect.cleandoc("\n".join(lines[:end])), "\n".join(lines[end:])


def _entries(text: str) -> str:
    """Each unindented line of a section as an entry of a list."""
    joined = re.sub(r"\n +", " ", text)
    lines = []
    for line in filter(None, joined.split("\n")):
        name, colon, meaning = line.partition(": ")
        named = colon and re.fullmatch(r"[\w.* ]+", name) and " " not in name
        lines.append(f"* `{name}`: {escaped(meaning)}" if named else f"* {escaped(line)}")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return a text whose markup characters stay as they are, but for code between backticks and emphasis by stars."""
    text = re.sub(r":\w+:`([\w.]+)`", r"`\1`", text).replace("``", "`")
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(one if one.startswith("`") else re.sub(r"([_\[\]<{}|])", r"\\\1", one) for one in pieces)
